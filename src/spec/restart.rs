//! `--restart`: whether a container that has ended is started again.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use crate::error::{Error, Result};

/// What happens once a container has ended that nobody has stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again where its exit code is not 0, or nobody knows it.
    OnFailure {
        /// So many times at most; any number where absent.
        most: Option<NonZeroU32>,
    },
    /// It is started again; after a reboot, also where it had been stopped.
    Always,
    /// It is started again; after a reboot, unless it had been stopped.
    UnlessStopped,
}

impl RestartPolicy {
    /// Whether a container that nobody has stopped runs again after `code`, `None` where that is unknown,
    /// and after so many restarts.
    pub fn wants_again(self, code: Option<i32>, restarts: u32) -> bool {
        match self {
            Self::No => false,
            Self::OnFailure { most } => code != Some(0) && most.is_none_or(|most| restarts < most.get()),
            Self::Always | Self::UnlessStopped => true,
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("--restart {text:?}"), "is none that podrun knows")
                .hint("no, on-failure, on-failure:TIMES, always or unless-stopped")
        };
        Ok(match text.split_once(':').map_or((text, None), |(policy, most)| (policy, Some(most))) {
            ("no", None) => Self::No,
            ("on-failure", None) => Self::OnFailure { most: None },
            // 0 is any number, as docker has it.
            ("on-failure", Some(most)) => {
                Self::OnFailure { most: NonZeroU32::new(most.parse().map_err(|_| wrong())?) }
            }
            ("always", None) => Self::Always,
            ("unless-stopped", None) => Self::UnlessStopped,
            _ => return Err(wrong()),
        })
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { most: None } => f.write_str("on-failure"),
            Self::OnFailure { most: Some(most) } => write!(f, "on-failure:{most}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_policy() -> impl Strategy<Value = RestartPolicy> {
        prop_oneof![
            Just(RestartPolicy::No),
            any::<Option<NonZeroU32>>().prop_map(|most| RestartPolicy::OnFailure { most }),
            Just(RestartPolicy::Always),
            Just(RestartPolicy::UnlessStopped),
        ]
    }

    proptest! {
        #[test]
        fn a_policy_is_read_as_it_is_written(policy in any_policy()) {
            prop_assert_eq!(policy.to_string().parse::<RestartPolicy>().unwrap(), policy);
        }
    }

    #[test]
    fn what_is_no_policy_is_refused() {
        for wrong in ["", "yes", "always:1", "on-failure:", "on-failure:x", "on-failure:-1", "no:0"] {
            assert!(wrong.parse::<RestartPolicy>().is_err(), "{wrong}");
        }
        assert_eq!("on-failure:0".parse::<RestartPolicy>().unwrap(), RestartPolicy::OnFailure { most: None });
    }

    #[test]
    fn on_failure_means_failures_and_so_many_of_them() {
        let twice = RestartPolicy::OnFailure { most: NonZeroU32::new(2) };
        assert!(twice.wants_again(Some(1), 1) && twice.wants_again(None, 0));
        assert!(!twice.wants_again(Some(1), 2) && !twice.wants_again(Some(0), 0));
        assert!(RestartPolicy::OnFailure { most: None }.wants_again(Some(137), u32::MAX));
        assert!(RestartPolicy::Always.wants_again(Some(0), 9) && !RestartPolicy::No.wants_again(Some(1), 0));
    }
}

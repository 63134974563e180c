//! podrun's own settings: what an OCI configuration has no field for. They travel as annotations
//! under `dev.podrun.`, so that `spec.json` stays one valid OCI configuration.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU64;

use oci_spec::runtime::Spec;

use crate::error::{Error, Result};
use crate::spec::health::Health;
use crate::spec::logging::Logging;
use crate::spec::manager::Manager;
use crate::spec::restart::RestartPolicy;

/// The annotations that are podrun's own.
const PREFIX: &str = "dev.podrun.";
const LABEL: &str = "dev.podrun.label.";
/// What the names of those about health begin with, behind that.
const HEALTH: &str = "health-";

/// Seconds between the stop signal and SIGKILL where nothing else is said.
pub const STOP_TIMEOUT: u64 = 10;

/// Which system calls a container may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Seccomp {
    /// What `linux.seccomp` says; where that is absent, every one.
    #[default]
    Configured,
    /// What podrun's own filter allows.
    Default,
}

/// What podrun does with a container beyond what OCI describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A writable overlay above the root filesystem (`--rootfs DIR:O`).
    pub overlay: bool,
    /// The root filesystem is shown with the owners that the user namespace expects (`--userns`).
    pub idmap_root: bool,
    /// A minimal PID 1 that forwards signals and reaps (`--init`).
    pub init: bool,
    /// The shim deletes the container once it has ended (`--rm`).
    pub rm: bool,
    /// Stdin is a pipe that stays open (`-i`) rather than `/dev/null`.
    pub interactive: bool,
    /// The signal that `stop` sends first.
    pub stop_signal: i32,
    /// Seconds between that signal and SIGKILL.
    pub stop_timeout: u64,
    /// Who makes its cgroup.
    pub cgroups: Manager,
    /// The seccomp filter.
    pub seccomp: Seccomp,
    /// Supplementary groups of every process, by name or number: OCI has numbers only.
    pub groups: Vec<String>,
    /// `--label KEY=VALUE`.
    pub labels: BTreeMap<String, String>,
    /// `--log-driver` and `--log-opt`.
    pub logging: Logging,
    /// Seconds that the command may run before it is killed (`--timeout`); any number where absent.
    pub timeout: Option<NonZeroU64>,
    /// Whether it is started again once it has ended (`--restart`).
    pub restart: RestartPolicy,
    /// How it is found out whether it does its work (`--health-cmd`).
    pub health: Option<Health>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            overlay: false,
            idmap_root: false,
            init: false,
            rm: false,
            interactive: false,
            stop_signal: nix::libc::SIGTERM,
            stop_timeout: STOP_TIMEOUT,
            cgroups: Manager::default(),
            seccomp: Seccomp::Configured,
            groups: Vec::new(),
            labels: BTreeMap::new(),
            logging: Logging::default(),
            timeout: None,
            restart: RestartPolicy::No,
            health: None,
        }
    }
}

impl Settings {
    /// The settings that `spec` carries; what it does not name has its default, and a name under
    /// `dev.podrun.` that this build does not know is an error.
    pub fn of(spec: &Spec) -> Result<Self> {
        let mut settings = Self::default();
        let (mut log_driver, mut log_options) = (Vec::new(), Vec::new());
        for (key, value) in spec.annotations().iter().flatten() {
            if let Some(label) = key.strip_prefix(LABEL) {
                settings.labels.insert(label.to_owned(), value.clone());
                continue;
            }
            let Some(name) = key.strip_prefix(PREFIX) else { continue };
            let wrong =
                || Error::usage(format!("annotation {key}"), format!("{value:?} is not a legal value"));
            match name {
                "overlay" => settings.overlay = value.parse().map_err(|_| wrong())?,
                "idmap-root" => settings.idmap_root = value.parse().map_err(|_| wrong())?,
                "init" => settings.init = value.parse().map_err(|_| wrong())?,
                "rm" => settings.rm = value.parse().map_err(|_| wrong())?,
                "interactive" => settings.interactive = value.parse().map_err(|_| wrong())?,
                "stop-signal" => settings.stop_signal = value.parse().map_err(|_| wrong())?,
                "log-driver" => log_driver.push(value),
                "log-opt" => log_options.push(value),
                "restart" => settings.restart = value.parse().map_err(|_| wrong())?,
                "timeout" => settings.timeout = Some(value.parse().map_err(|_| wrong())?),
                "stop-timeout" => settings.stop_timeout = value.parse().map_err(|_| wrong())?,
                "groups" => settings.groups = value.split(',').map(str::to_owned).collect(),
                "cgroups" if value == "disabled" => settings.cgroups = Manager::Disabled,
                "cgroups" if value == "systemd" => settings.cgroups = Manager::Systemd,
                "cgroups" => return Err(wrong()),
                "seccomp" if value == "default" => settings.seccomp = Seccomp::Default,
                "seccomp" => return Err(wrong()),
                _ if name.starts_with(HEALTH) => {
                    let health = settings.health.get_or_insert_default();
                    health.set(&name[HEALTH.len()..], value).ok_or_else(wrong)?;
                }
                _ => return Err(Error::usage(format!("annotation {key}"), "is not one that podrun knows")),
            }
        }
        settings.logging = Logging::parse(&log_driver, &log_options)?;
        settings.check()?;
        Ok(settings)
    }

    /// Whether they fit together.
    pub fn check(&self) -> Result<()> {
        if self.rm && self.restart != RestartPolicy::No {
            return Err(Error::usage("--rm", format!("cannot be combined with --restart {}", self.restart))
                .hint("a container that is started again is not deleted at its end"));
        }
        self.health.as_ref().map_or(Ok(()), Health::check)
    }

    /// Adds these settings to `annotations`; what has its default is left out.
    pub fn write_to(&self, annotations: &mut HashMap<String, String>) {
        let default = Self::default();
        let mut put = |name: &str, value: String| {
            annotations.insert(format!("{PREFIX}{name}"), value);
        };
        for (name, value) in [
            ("overlay", self.overlay),
            ("idmap-root", self.idmap_root),
            ("init", self.init),
            ("rm", self.rm),
            ("interactive", self.interactive),
        ] {
            if value {
                put(name, value.to_string());
            }
        }
        if self.stop_signal != default.stop_signal {
            put("stop-signal", self.stop_signal.to_string());
        }
        if self.stop_timeout != default.stop_timeout {
            put("stop-timeout", self.stop_timeout.to_string());
        }
        if self.restart != RestartPolicy::No {
            put("restart", self.restart.to_string());
        }
        for (name, value) in self.health.iter().flat_map(Health::settings) {
            put(&format!("{HEALTH}{name}"), value);
        }
        if let Some(timeout) = self.timeout {
            put("timeout", timeout.to_string());
        }
        match self.cgroups {
            Manager::Cgroupfs => {}
            Manager::Systemd => put("cgroups", "systemd".to_owned()),
            Manager::Disabled => put("cgroups", "disabled".to_owned()),
        }
        if self.seccomp == Seccomp::Default {
            put("seccomp", "default".to_owned());
        }
        if !self.groups.is_empty() {
            put("groups", self.groups.join(","));
        }
        let logging = [("log-driver", self.logging.driver_text()), ("log-opt", self.logging.option_text())];
        for (name, text) in logging {
            if let Some(text) = text {
                put(name, text);
            }
        }
        for (label, value) in &self.labels {
            put(&format!("label.{label}"), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::health::tests::any_health;
    use crate::spec::logging::tests::any_logging;
    use crate::spec::restart::tests::any_policy;
    use proptest::prelude::*;

    fn any_manager() -> impl Strategy<Value = Manager> {
        prop::sample::select(vec![Manager::Cgroupfs, Manager::Systemd, Manager::Disabled])
    }

    proptest! {
        #[test]
        fn settings_come_back_from_the_annotations_they_became(
            overlay: bool, idmap_root: bool, init: bool, rm: bool, interactive: bool, stop_signal in 1..65i32,
            stop_timeout: u64, filtered: bool, groups in prop::collection::vec("[a-z0-9]{1,9}", 0..3),
            labels in prop::collection::btree_map(".{0,9}", ".{0,9}", 0..4), logging in any_logging(),
            timeout: Option<NonZeroU64>, restart in any_policy(), cgroups in any_manager(),
            health in prop::option::of(any_health()),
        ) {
            let rm = rm && restart == RestartPolicy::No;
            let seccomp = if filtered { Seccomp::Default } else { Seccomp::Configured };
            let settings = Settings {
                overlay, idmap_root, init, rm, interactive, stop_signal, stop_timeout, seccomp, groups, labels,
                logging, timeout, restart, health, cgroups,
            };
            let mut annotations = HashMap::new();
            settings.write_to(&mut annotations);
            let mut spec = Spec::default();
            spec.set_annotations(Some(annotations));
            prop_assert_eq!(Settings::of(&spec).unwrap(), settings);
        }
    }

    #[test]
    fn an_unknown_setting_is_refused() {
        let mut spec = Spec::default();
        spec.set_annotations(Some(HashMap::from([("dev.podrun.colour".to_owned(), "red".to_owned())])));
        assert!(Settings::of(&spec).is_err());
    }
}

//! `--cap-add`, `--security-opt`, `--ulimit` and their kin: who the container's processes are and what
//! stands between them and the host.

use std::collections::HashSet;
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::runtime::{
    Capability, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Spec,
};
use rustix::thread::CapabilitySet;

use crate::error::{Error, Result};
use crate::spec::defaults;

/// What `create` and `run` may be told of a container's walls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walls {
    /// Every capability and device, and none of the walls that keep a root inside from the host.
    pub privileged: bool,
    /// Capabilities by name, with or without `CAP_`, or `ALL`.
    pub cap_add: Vec<String>,
    /// Likewise.
    pub cap_drop: Vec<String>,
    /// `--security-opt`, read.
    pub security: Security,
    /// Supplementary groups, by name or number.
    pub group_add: Vec<String>,
    /// `NAME=SOFT[:HARD]`.
    pub ulimits: Vec<String>,
    /// `KEY=VALUE`.
    pub sysctls: Vec<String>,
    /// What the OOM killer adds to its score: -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// The pid namespace.
    pub pid: Share,
    /// The ipc namespace.
    pub ipc: Share,
    /// The uts namespace.
    pub uts: Share,
}

/// `private|host|ns:PATH`: whose namespace the container has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Share {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// The one that this file stands for.
    Path(PathBuf),
}

impl FromStr for Share {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match (text, text.strip_prefix("ns:")) {
            ("private", _) => Ok(Self::Private),
            ("host", _) => Ok(Self::Host),
            (_, Some(path)) if path.starts_with('/') => Ok(Self::Path(path.into())),
            _ => Err(Error::usage(format!("namespace {text:?}"), "is none that podrun knows")
                .hint("private, host, or ns:PATH with an absolute path such as ns:/proc/PID/ns/ipc")),
        }
    }
}

/// Which seccomp filter is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// podrun's own, unless the container is privileged.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// The one in this file, in the engines' format.
    File(PathBuf),
}

/// All `--security-opt` together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// `seccomp=FILE|unconfined`.
    pub seccomp: Profile,
    /// `no-new-privileges`.
    pub no_new_privileges: bool,
    /// `apparmor=PROFILE`.
    pub apparmor: Option<String>,
    /// `label=…`: the SELinux labels of processes and of mounts.
    pub labels: Option<(String, String)>,
}

impl Security {
    /// Reads the values of `--security-opt`; a later one overrides an earlier one.
    pub fn parse(options: &[String]) -> Result<Self> {
        let mut security = Self::default();
        // What engines give a container that SELinux confines.
        let mut label = ["system_u", "system_r", "container_t", "s0"].map(str::to_owned);
        let mut labelled = false;
        for option in options {
            let wrong = |why: &str| {
                Error::usage(format!("--security-opt {option:?}"), why).hint(
                    "seccomp=FILE|unconfined, no-new-privileges, apparmor=PROFILE|unconfined, \
                     label=disable|user:U|role:R|type:T|level:L",
                )
            };
            let (key, value) = match option.split_once(['=', ':']) {
                Some((key, value)) => (key, Some(value)),
                None => (option.as_str(), None),
            };
            match (key, value) {
                ("seccomp", Some("unconfined")) => security.seccomp = Profile::Unconfined,
                ("seccomp", Some("default")) => security.seccomp = Profile::Default,
                ("seccomp", Some(file)) if !file.is_empty() => security.seccomp = Profile::File(file.into()),
                ("no-new-privileges", None | Some("true")) => security.no_new_privileges = true,
                ("no-new-privileges", Some("false")) => security.no_new_privileges = false,
                ("apparmor", Some("unconfined")) => security.apparmor = None,
                ("apparmor", Some(profile)) if !profile.is_empty() => {
                    security.apparmor = Some(profile.to_owned());
                }
                ("label", Some("disable")) => labelled = false,
                ("label", Some(part)) => {
                    let (name, value) = part.split_once(':').ok_or_else(|| wrong("has no value"))?;
                    let place = ["user", "role", "type", "level"].iter().position(|known| *known == name);
                    let place = place.filter(|_| !value.is_empty()).ok_or_else(|| wrong("is no label"))?;
                    label[place] = value.to_owned();
                    labelled = true;
                }
                _ => return Err(wrong("is none that podrun knows")),
            }
        }
        if labelled {
            let mounts = format!("{}:object_r:container_file_t:{}", label[0], label[3]);
            security.labels = Some((label.join(":"), mounts));
        }
        Ok(security)
    }
}

/// Every capability that this build knows.
fn all() -> HashSet<Capability> {
    CapabilitySet::all().iter_names().filter_map(|(name, _)| name.parse().ok()).collect()
}

impl Walls {
    /// The bounding, effective and permitted set. Ambient and inheritable stay empty: nothing is gained
    /// by executing a file (CVE-2022-29162).
    pub(super) fn capabilities(&self) -> Result<LinuxCapabilities> {
        let named = |flag: &str, names: &[String]| -> Result<Option<HashSet<Capability>>> {
            let mut set = HashSet::new();
            for name in names {
                let upper = name.to_uppercase();
                let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
                if short == "ALL" {
                    return Ok(None);
                }
                let known = short.parse().map_err(|_| {
                    Error::usage(format!("{flag} {name:?}"), "is no capability that podrun knows")
                        .hint("capabilities(7) has their names; ALL is every one")
                });
                set.insert(known?);
            }
            Ok(Some(set))
        };
        let set = match (named("--cap-add", &self.cap_add)?, named("--cap-drop", &self.cap_drop)?) {
            (None, None) => return Err(Error::usage("--cap-add ALL", "contradicts --cap-drop ALL")),
            _ if self.privileged => all(),
            (None, Some(drop)) => all().difference(&drop).copied().collect(),
            (Some(add), None) => add,
            (Some(add), Some(drop)) => {
                defaults::CAPABILITIES.into_iter().filter(|one| !drop.contains(one)).chain(add).collect()
            }
        };
        Ok(bounded_by(set))
    }

    /// The limits of `setrlimit(2)`; a later one of the same name overrides an earlier one.
    pub(super) fn rlimits(&self) -> Result<Option<Vec<PosixRlimit>>> {
        let mut limits: Vec<PosixRlimit> = Vec::new();
        for text in &self.ulimits {
            let limit = ulimit(text).map_err(|why| {
                Error::usage(format!("--ulimit {text:?}"), why)
                    .hint("NAME=SOFT[:HARD], such as nofile=1024:4096; -1 is no limit")
            })?;
            limits.retain(|earlier| earlier.typ() != limit.typ());
            limits.push(limit);
        }
        Ok(Some(limits).filter(|limits| !limits.is_empty()))
    }

    /// The kernel settings, as `KEY` and `VALUE`. Whether they are the container's to set is for
    /// validation to say.
    pub(super) fn sysctls(&self) -> Result<Option<std::collections::HashMap<String, String>>> {
        let pair = |text: &String| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Error::usage(format!("--sysctl {text:?}"), "is not KEY=VALUE")),
        };
        let map: std::collections::HashMap<_, _> = self.sysctls.iter().map(pair).collect::<Result<_>>()?;
        Ok(Some(map).filter(|map| !map.is_empty()))
    }

    /// The score, where it is one.
    pub(super) fn oom_score(&self) -> Result<Option<i32>> {
        match self.oom_score_adj {
            Some(score) if !(-1000..=1000).contains(&score) => {
                Err(Error::usage(format!("--oom-score-adj {score}"), "is not between -1000 and 1000"))
            }
            score => Ok(score),
        }
    }
}

/// Adds to `spec` the `limits`, as `--ulimit` writes them, that it does not name itself.
pub fn inherit(spec: &mut Spec, limits: &[String]) -> Result<()> {
    let walls = Walls { ulimits: limits.to_vec(), ..Walls::default() };
    let (Some(mut process), Some(limits)) = (spec.process().clone(), walls.rlimits()?) else { return Ok(()) };
    let mut all = process.rlimits().clone().unwrap_or_default();
    for limit in limits {
        if !all.iter().any(|own| own.typ() == limit.typ()) {
            all.push(limit);
        }
    }
    process.set_rlimits(Some(all));
    spec.set_process(Some(process));
    Ok(())
}

/// The capabilities of a privileged process.
pub fn every_capability() -> LinuxCapabilities {
    bounded_by(all())
}

/// The sets of a process that has all of `set`, and passes none of it on but by being root.
fn bounded_by(set: HashSet<Capability>) -> LinuxCapabilities {
    let mut capabilities = LinuxCapabilities::default();
    capabilities
        .set_bounding(Some(set.clone()))
        .set_effective(Some(set.clone()))
        .set_permitted(Some(set))
        .set_inheritable(Some(HashSet::new()))
        .set_ambient(Some(HashSet::new()));
    capabilities
}

fn ulimit(text: &str) -> Result<PosixRlimit, &'static str> {
    let (name, values) = text.split_once('=').ok_or("has no value")?;
    let kind: PosixRlimitType =
        format!("RLIMIT_{}", name.to_uppercase()).parse().map_err(|_| "is no limit that Linux has")?;
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| "has a value that is no number"),
    };
    let (soft, hard) = match values.split_once(':') {
        Some((soft, hard)) => (value(soft)?, value(hard)?),
        None => (value(values)?, value(values)?),
    };
    if soft > hard {
        return Err("has a soft limit above the hard one");
    }
    let limit = PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build();
    limit.map_err(|_| "is no limit")
}

/// Whether the container that `spec` describes shares its pid namespace with others: then the end of its
/// init is not the end of its processes.
pub fn shares_pids(spec: &Spec) -> bool {
    let named = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own =
        |namespace: &LinuxNamespace| namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none();
    !named.into_iter().flatten().any(own)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set(add: &[&str], drop: &[&str]) -> Result<HashSet<Capability>> {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let walls = Walls { cap_add: words(add), cap_drop: words(drop), ..Walls::default() };
        walls.capabilities().map(|sets| sets.bounding().clone().unwrap())
    }

    #[test]
    fn capabilities_are_added_and_dropped_by_any_spelling() {
        let default = set(&[], &[]).unwrap();
        let changed = set(&["cap_sys_admin", "Net_Admin"], &["CHOWN"]).unwrap();
        assert!(changed.contains(&Capability::SysAdmin) && changed.contains(&Capability::NetAdmin));
        assert!(!changed.contains(&Capability::Chown));
        assert_eq!(changed.len(), default.len() + 1);
        assert_eq!(set(&["KILL"], &["all"]).unwrap(), HashSet::from([Capability::Kill]));
        assert_eq!(set(&["ALL"], &["KILL"]).unwrap().len(), 40);
        assert!(set(&["ALL"], &["ALL"]).is_err());
        assert_eq!(set(&["FLY"], &[]).unwrap_err().what, "--cap-add \"FLY\"");
    }

    #[test]
    fn limits_have_a_soft_and_a_hard_value() {
        let limit = |text| ulimit(text).map(|limit| (limit.soft(), limit.hard()));
        assert_eq!(limit("nofile=5:6"), Ok((5, 6)));
        assert_eq!(limit("core=-1"), Ok((u64::MAX, u64::MAX)));
        for wrong in ["nofile", "nofile=", "nofile=6:5", "nofile=a", "wings=1"] {
            assert!(limit(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn security_options_are_read_as_engines_write_them() {
        let parse = |options: &[&str]| {
            Security::parse(&options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        };
        let security = parse(&["no-new-privileges:true", "seccomp=/a", "apparmor=p"]).unwrap();
        assert!(security.no_new_privileges && security.apparmor.as_deref() == Some("p"));
        assert_eq!(security.seccomp, Profile::File("/a".into()));
        let labels = parse(&["label=type:svirt_t", "label=level:s0:c1,c2"]).unwrap().labels.unwrap();
        assert_eq!(labels.0, "system_u:system_r:svirt_t:s0:c1,c2");
        assert_eq!(labels.1, "system_u:object_r:container_file_t:s0:c1,c2");
        for wrong in ["", "seccomp", "seccomp=", "label=x", "label=colour:red", "sandbox=1"] {
            assert!(parse(&[wrong]).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_user_writes_breaks_the_parsers(text: String) {
            let _ = (ulimit(&text), text.parse::<Share>(), Security::parse(std::slice::from_ref(&text)));
            let walls = Walls { cap_add: vec![text.clone()], sysctls: vec![text], ..Walls::default() };
            let _ = (walls.capabilities(), walls.sysctls());
        }
    }
}

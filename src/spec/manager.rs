//! Who makes a container's cgroup, and what that means for its configuration.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxNamespaceType;
use serde::{Deserialize, Serialize};

use super::{Spec, bundle, limits};
use crate::cgroup::limits::plan;
use crate::cgroup::systemd::{Scope, property};
use crate::cgroup::{self, v1::Bound};
use crate::error::{Error, Result};
use crate::paths::{ContainerId, Roots};
use crate::sys::clone::Waiting;

/// `--cgroup-manager`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// podrun makes it, in the file system.
    #[default]
    Cgroupfs,
    /// systemd makes it, as a transient scope.
    Systemd,
    /// Nobody does: the container has none, so no limits, no pause, and no walls around devices but the
    /// capabilities. Its processes end with the init of its pid namespace.
    Disabled,
}

impl Manager {
    /// Where the container's cgroup is; empty where it has none. An error where it cannot do without.
    pub fn cgroup_path(self, roots: &Roots, id: &ContainerId, spec: &Spec) -> Result<PathBuf> {
        match self {
            Self::Cgroupfs => cgroup::container_path(roots, id, bundle::cgroups_path(spec)),
            Self::Systemd => Scope::of(roots, id, bundle::cgroups_path(spec))?.path(),
            Self::Disabled => needs_none(spec).map(|()| PathBuf::new()),
        }
    }

    /// What `--cgroup-parent` makes of the container's `linux.cgroupsPath`.
    pub fn below_parent(self, roots: &Roots, id: &ContainerId, parent: &str) -> Result<PathBuf> {
        match self {
            Self::Systemd => Scope::below_parent(roots, id, parent),
            _ => cgroup::below_parent(roots, id, parent),
        }
    }

    /// Has the cgroup at `path` made where podrun does not make it itself: it is there once this returns, as
    /// long as a process is in it, which is the one returned until the container's own is.
    pub fn begin(self, path: &Path, id: &ContainerId, spec: &Spec) -> Result<Option<Waiting>> {
        let Some(scope) = Scope::at(path).filter(|_| self == Self::Systemd) else { return Ok(None) };
        let settings = match limits::resources(spec) {
            Some(resources) => plan(resources, &Bound::of_host()?)?,
            None => Vec::new(),
        };
        let more = property::of_annotations(spec.annotations().as_ref())?;
        let waiting = scope.start(id, &settings, more)?;
        match path.is_dir() {
            true => Ok(Some(waiting)),
            false => {
                Err(Error::failed(format!("find {}", path.display()), "systemd has its units elsewhere")
                    .hint("podrun and systemd must see the same cgroup file system"))
            }
        }
    }

    /// Whether it is podrun, which need not be written down.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

fn needs_none(spec: &Spec) -> Result<()> {
    let wrong = |why: &str, hint: &str| Err(Error::usage("--cgroup-manager disabled", why).hint(hint));
    let limits = match limits::resources(spec) {
        Some(resources) => plan(resources, &Bound::of_host()?)?,
        None => Vec::new(),
    };
    if let Some(setting) = limits.first() {
        return wrong(&format!("the limit {} needs a cgroup", setting.file), "leave the limits out");
    }
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let own_pids = |namespace: &oci_spec::runtime::LinuxNamespace| {
        namespace.typ() == LinuxNamespaceType::Pid && namespace.path().is_none()
    };
    if !namespaces.into_iter().flatten().any(own_pids) {
        let why = "without a pid namespace of its own nothing ends all of the container's processes";
        return wrong(why, "leave --pid out, or give it a cgroup");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_without_a_cgroup_has_no_limit_and_a_pid_namespace() {
        let check = |linux: serde_json::Value| {
            needs_none(&serde_json::from_value(json!({"ociVersion": "1.0.2", "linux": linux})).unwrap())
        };
        let pid = json!([{"type": "pid"}]);
        check(json!({"namespaces": pid, "resources": {"devices": [{"allow": false}]}})).unwrap();
        assert!(check(json!({"namespaces": pid, "resources": {"pids": {"limit": 5}}})).is_err());
        assert!(check(json!({"namespaces": [{"type": "pid", "path": "/proc/1/ns/pid"}]})).is_err());
        assert!(check(json!({})).is_err());
    }
}

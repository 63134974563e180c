//! Where cgroups are: the mount, podrun's own below it, and what somebody asked for instead.

use std::path::{Component, Path, PathBuf};

use super::CGROUP2;
use super::systemd::Scope;
use crate::error::{Error, Result};
use crate::paths::{ContainerId, Roots};

/// Where the host has its cgroup v2 tree.
pub fn mount() -> Result<PathBuf> {
    // The usual place, and where systemd puts it beside cgroup v1: no file has to be parsed.
    for place in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        if rustix::fs::statfs(place).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(CGROUP2)) {
            return Ok(place.into());
        }
    }
    let mounts = procfs::mounts().map_err(|error| Error::failed("read /proc/mounts", error.to_string()))?;
    let mount = mounts.into_iter().find(|mount| mount.fs_vfstype == "cgroup2");
    mount.map(|mount| mount.fs_file.into()).ok_or_else(|| {
        Error::failed("find the cgroup v2 file system", "none is mounted")
            .hint("mount it: `mount -t cgroup2 none /sys/fs/cgroup`")
    })
}

/// The cgroup of container `id`: where `wanted` (`linux.cgroupsPath`) says, which is below the mount if
/// absolute, else below podrun's own; in podrun's own where that is absent.
pub fn container_path(roots: &Roots, id: &ContainerId, wanted: Option<&Path>) -> Result<PathBuf> {
    let mount = mount()?;
    let Some(wanted) = wanted else { return Ok(mount.join(own(roots, id))) };
    let wrong = |why: &str| Error::usage(format!("linux.cgroupsPath {}", wanted.display()), why);
    if wanted.components().any(|part| part == Component::ParentDir) {
        return Err(wrong("contains `..`"));
    }
    if wanted.components().any(|part| part.as_os_str() == "_shims") {
        return Err(wrong("is one of podrun's own"));
    }
    match wanted.strip_prefix("/") {
        Ok(below) if below.as_os_str().is_empty() => Err(wrong("is the root of all cgroups")),
        Ok(below) => Ok(mount.join(below)),
        Err(_) => Ok(mount.join(roots.cgroup_name()).join(wanted)),
    }
}

/// What `--cgroup-parent` makes of container `id`'s `linux.cgroupsPath`: what would be below the mount is below
/// `parent`, which is below the mount.
pub fn below_parent(roots: &Roots, id: &ContainerId, parent: &str) -> Result<PathBuf> {
    let path = Path::new(parent);
    let wrong = |why: &str| Error::usage(format!("--cgroup-parent {parent:?}"), why);
    let legal = |part: Component<'_>| matches!(part, Component::RootDir | Component::Normal(_));
    if parent.is_empty() || parent.contains('\0') || !path.components().all(legal) {
        return Err(wrong("is no cgroup").hint("a path below the mount of cgroup v2, such as /tenants/a"));
    }
    Ok(Path::new("/").join(path).join(own(roots, id)))
}

/// Whether `path` can be the cgroup of the supervised container `id`: in one of podrun's own, whatever that is below,
/// or its scope of systemd.
pub fn is_of(roots: &Roots, id: &ContainerId, path: &Path) -> bool {
    path.ends_with(own(roots, id)) || path.ends_with(Scope::own_unit(roots, id))
}

/// Below the mount, or a parent.
fn own(roots: &Roots, id: &ContainerId) -> PathBuf {
    Path::new(&roots.cgroup_name()).join(format!("ctr-{id}"))
}

/// The cgroup of every shim.
pub fn shims_path(roots: &Roots) -> Result<PathBuf> {
    Ok(mount()?.join(roots.cgroup_name()).join("_shims"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_has_podruns_own_below_it_and_nothing_else_is_one() {
        let (roots, id) = (Roots::new(None, None).unwrap(), "a".parse().unwrap());
        for parent in ["/tenants/x", "tenants/x"] {
            let path = below_parent(&roots, &id, parent).unwrap();
            assert_eq!(path, Path::new("/tenants/x/podrun/ctr-a"));
            assert!(is_of(&roots, &id, &path));
        }
        assert!(!is_of(&roots, &id, Path::new("/tenants/x")));
        for wrong in ["", "../x", "/x/../y", "a\0"] {
            assert!(below_parent(&roots, &id, wrong).is_err(), "{wrong:?}");
        }
    }
}

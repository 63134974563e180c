//! Controllers: which a cgroup has, and how it comes by those it lacks.
//!
//! A controller is there in a cgroup where every cgroup above has handed it down, by its
//! `cgroup.subtree_control`. Those that only count are handed down when podrun's own cgroup is made;
//! the others when a limit needs them.

use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::limits::Setting;
use super::{Cgroup, mount};
use crate::error::{Error, Result};

/// What `stats`, the exit record and the OOM killer's count need.
const COUNTING: [&str; 3] = ["memory", "pids", "io"];

/// Sees to it that `cgroup` has every controller that `settings` need.
pub(super) fn provide(cgroup: &Cgroup, settings: &[Setting]) -> Result<()> {
    let mut wanted: Vec<&Setting> = Vec::new();
    for setting in settings {
        if wanted.iter().all(|other| other.controller() != setting.controller()) {
            wanted.push(setting);
        }
    }
    wanted.retain(|setting| setting.v1.is_none() && setting.controller().is_some());
    if wanted.is_empty() {
        return Ok(());
    }
    let has = cgroup.read("cgroup.controllers")?;
    wanted.retain(|setting| !lists(&has, setting.controller()));
    if wanted.is_empty() {
        return Ok(());
    }
    let top = mount()?;
    let there = open(&top)?.read("cgroup.controllers")?;
    if let Some(missing) = wanted.iter().find(|setting| !lists(&there, setting.controller())) {
        return Err(unavailable(missing));
    }
    let names: Vec<&str> = wanted.iter().filter_map(|setting| setting.controller()).collect();
    above(&top, cgroup.path()).iter().try_for_each(|level| hand_down(level, &names))
}

/// Has the counting controllers handed down to what is below `path`, as far as that is possible:
/// nobody has asked for them.
pub(super) fn count_below(path: &Path) {
    let Ok(top) = mount() else { return };
    let Ok(there) = open(&top).and_then(|top| top.read("cgroup.controllers")) else { return };
    let names: Vec<&str> = COUNTING.into_iter().filter(|name| lists(&there, Some(name))).collect();
    for level in above(&top, &path.join("below")) {
        for name in &names {
            let _ = hand_down(&level, &[name]);
        }
    }
}

/// Every cgroup above `path`, from the mount on.
fn above(top: &Path, path: &Path) -> Vec<PathBuf> {
    let mut levels: Vec<PathBuf> =
        path.ancestors().skip(1).take_while(|level| level.starts_with(top)).map(Path::to_owned).collect();
    levels.reverse();
    levels
}

fn hand_down(level: &Path, controllers: &[&str]) -> Result<()> {
    let cgroup = open(level)?;
    let has = cgroup.read("cgroup.subtree_control")?;
    let missing: Vec<String> =
        controllers.iter().filter(|name| !lists(&has, Some(name))).map(|name| format!("+{name}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    cgroup.write("cgroup.subtree_control", &missing.join(" ")).map_err(|error| match error.errno() {
        // "No internal processes": cgroup-v2.rst.
        Some(Errno::BUSY) => error.hint(format!(
            "processes are in {} itself: move them to a cgroup below it, or let podrun begin elsewhere",
            level.display(),
        )),
        _ => error,
    })
}

fn open(path: &Path) -> Result<Cgroup> {
    Cgroup::open(path)?.ok_or_else(|| Error::at("open cgroup", path, Errno::NOENT))
}

fn lists(text: &str, controller: Option<&str>) -> bool {
    text.split_ascii_whitespace().any(|name| Some(name) == controller)
}

/// That the cgroup v2 tree does not have the controller, and where it is instead.
fn unavailable(setting: &Setting) -> Error {
    let controller = setting.controller().unwrap_or_default();
    let what = format!("limit {} = {}", setting.file, setting.value);
    // v1 calls this one by another name.
    let old = if controller == "io" { "blkio" } else { controller };
    let v1 = procfs::mounts()
        .into_iter()
        .flatten()
        .find(|mount| mount.fs_vfstype == "cgroup" && mount.fs_mntops.contains_key(old));
    match v1 {
        Some(mount) => Error::failed(
            what,
            format!("the {controller} controller is bound to cgroup v1 at {}", mount.fs_file),
        )
        .hint(format!(
            "boot with systemd.unified_cgroup_hierarchy=1 (or cgroup_no_v1={old}), or leave the limit out"
        )),
        None => Error::failed(what, format!("the kernel offers no {controller} controller")).hint(format!(
            "it may have been disabled at boot (cgroup_disable={old}); or leave the limit out"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_by_their_whole_name() {
        assert!(lists("cpuset cpu io\n", Some("cpu")));
        assert!(!lists("cpuset io\n", Some("cpu")));
    }

    #[test]
    fn the_way_down_begins_at_the_mount_and_ends_above_the_cgroup() {
        let levels = above(Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/podrun/ctr-a"));
        assert_eq!(levels, [Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup/podrun")]);
    }
}

//! Nothing may be left: what a podrun with its own roots could leave, and how to find it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Instant;

use super::{Podrun, busybox, hang_limit, process};

/// Where this host's cgroup v2 hierarchy is mounted.
pub(crate) fn cgroup2_mount() -> &'static Path {
    static MOUNT: OnceLock<PathBuf> = OnceLock::new();
    MOUNT.get_or_init(|| {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("read /proc/self/mounts");
        let found = mounts.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let place = fields.next()?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
        });
        found.expect("a cgroup2 mount")
    })
}

/// Where the v1 hierarchy of a controller is mounted, which is named as in v2 or as in v1.
pub(crate) fn v1_hierarchy(controller: &str) -> Option<PathBuf> {
    let name = if controller == "io" { "blkio" } else { controller };
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read /proc/self/mounts");
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields[2] == "cgroup" && fields[3].split(',').any(|option| option == name)).then(|| fields[1].into())
    })
}

/// The cgroups above all containers of these roots: in v2 and in every hierarchy of v1.
fn tops(podrun: &Podrun) -> Vec<PathBuf> {
    let own = podrun.cgroup();
    let name = own.file_name().expect("a name");
    let v1 = ["memory", "pids", "cpu", "cpuacct", "cpuset", "blkio"].into_iter().filter_map(v1_hierarchy);
    v1.map(|top| top.join(name)).chain([own.clone()]).collect()
}

/// Every cgroup at and below `path`, the deepest first.
fn tree(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    let children = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let mut found: Vec<_> = children.flat_map(|entry| tree(&entry.path())).collect();
    found.push(path.to_owned());
    found
}

/// Every process in the cgroups at and below `path`.
pub(crate) fn processes_of(path: &Path) -> Vec<i32> {
    let read = |dir: PathBuf| fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    let text: String = tree(path).into_iter().map(read).collect();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Every file under `dir`, but for directories that may stay and are empty.
fn files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .flat_map(|entry| {
            let path = entry.path();
            let below = files(&path);
            if below.is_empty() { vec![path] } else { below }
        })
        .collect()
}

fn mentions(file: &str, dir: &Path) -> Vec<String> {
    let needle = dir.to_str().expect("a path in UTF-8");
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| line.contains(needle)).map(str::to_owned).collect()
}

/// Processes that belong to these roots: by cgroup, or because their command line or
/// environment names the roots.
fn processes(podrun: &Podrun) -> BTreeSet<i32> {
    let needle = podrun.dir().to_str().expect("a path in UTF-8");
    let own = std::process::id().cast_signed();
    let named = process::all().into_iter().filter(|pid| {
        let names = |file: &str| {
            let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            memchr::memmem::find(&text, needle.as_bytes()).is_some()
        };
        names("cmdline") || names("environ")
    });
    processes_of(&podrun.cgroup()).into_iter().chain(named).filter(|pid| *pid != own).collect()
}

/// What the busybox root has, as `tests/rootfs` makes it.
const BUSYBOX: [&str; 12] =
    ["bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "tmp", "usr", "var"];

/// Everything that is left of `podrun`, a line each. Processes that are about to end may do so.
fn left(podrun: &Podrun) -> Vec<String> {
    let mut left = Vec::new();
    let deadline = Instant::now() + hang_limit() / 4;
    for pid in processes(podrun) {
        if process::Pidfd::open(pid).is_some_and(|process| !process.wait(deadline)) {
            left.push(format!("process {}", process::describe(pid)));
        }
    }
    // The cgroup of all containers and the one of all shims may stay, empty, with what keeps the usual device program.
    let (tops, shims) = (tops(podrun), podrun.cgroup().join("_shims"));
    let keeps = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str());
        path.parent() == Some(&shims) && name.is_some_and(|name| name.starts_with("devices-"))
    };
    let stays = |path: &PathBuf| tops.contains(path) || *path == shims || keeps(path);
    let cgroups = tops.iter().flat_map(|top| tree(top)).filter(|path| path.exists() && !stays(path));
    left.extend(cgroups.map(|path| format!("cgroup {}", path.display())));
    left.extend(mentions("/proc/self/mountinfo", podrun.dir()).iter().map(|line| format!("mount {line}")));
    left.extend(mentions("/proc/net/unix", podrun.dir()).iter().map(|line| format!("socket {line}")));
    let stays = [podrun.root().join("containers"), podrun.run_root().join("locks"), podrun.run_root().into()];
    let found = files(podrun.root()).into_iter().chain(files(podrun.run_root()));
    let found: BTreeSet<_> = found.filter(|path| !stays.contains(path)).collect();
    left.extend(found.iter().map(|path| format!("file {}", path.display())));
    // The root that all tests share, and that a second run begins with.
    let names = fs::read_dir(busybox()).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let made = names.filter(|name| !BUSYBOX.iter().any(|known| name == known));
    left.extend(made.map(|name| format!("{} in the shared root", name.display())));
    left
}

/// Asserts that nothing is left.
#[track_caller]
pub(crate) fn check(podrun: &Podrun) {
    let left = left(podrun);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

/// Writes what podrun's own logs say, for a scenario that failed.
pub(crate) fn tell(podrun: &Podrun) {
    let interesting = ["shim.log", "state.json", "exit.json"];
    for path in files(podrun.root()).into_iter().chain(files(podrun.run_root())) {
        if path.file_name().is_some_and(|name| interesting.iter().any(|known| name == *known)) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            eprintln!("--- {}\n{}", path.display(), text.trim_end());
        }
    }
    for pid in processes(podrun) {
        eprintln!("--- process {}", process::describe(pid));
    }
}

/// Removes whatever is there, by force and without podrun.
pub(crate) fn clear(podrun: &Podrun) {
    for pid in processes(podrun) {
        if let Some(pid) = rustix::process::Pid::from_raw(pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    let _ = fs::write(podrun.cgroup().join("cgroup.kill"), "1");
    let deadline = Instant::now() + hang_limit() / 4;
    for pid in processes(podrun) {
        process::Pidfd::open(pid).map(|process| process.wait(deadline));
    }
    for line in mentions("/proc/self/mountinfo", podrun.dir()).iter().rev() {
        if let Some(place) = line.split(' ').nth(4) {
            let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
        }
    }
    for cgroup in tops(podrun).iter().flat_map(|top| tree(top)) {
        let _ = fs::remove_dir(cgroup);
    }
}

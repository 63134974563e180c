//! `podrun doctor`: whether this host can run containers, and for each gap what to do.
//!
//! Each check asks the kernel itself where it can, and leaves nothing behind.

use std::path::Path;

use podrun::error::Error;
use podrun::paths::Roots;
use rustix::thread::{CapabilitySet, capabilities};
use serde::Serialize;

use super::{Format, Outcome, host, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Check whether this host can run containers";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun doctor\nExample: podrun doctor --format json | jq '.[] | select(.verdict != \"ok\")'")]
pub(super) struct Args {
    /// How the checks are printed
    #[arg(long, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Containers run, but something that can be asked for does not.
    Limited,
    /// No container runs.
    Missing,
    /// Only said.
    Info,
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Self {
        Self { name, verdict, found: found.into(), hint: None }
    }

    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self::new(name, Verdict::Ok, found)
    }

    /// A gap of that severity, and what to do about it.
    fn gap(name: &'static str, verdict: Verdict, found: impl Into<String>, hint: &str) -> Self {
        Self { hint: Some(hint.to_owned()), ..Self::new(name, verdict, found) }
    }

    fn failed(name: &'static str, verdict: Verdict, error: &Error, hint: &str) -> Self {
        Self::gap(name, verdict, error.to_string(), error.hint.as_deref().unwrap_or(hint))
    }
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let mut checks = vec![kernel(), root()];
    checks.extend(cgroups());
    checks.extend([mounts(), overlay(), seccomp(), user_namespaces(), idmapped(roots), pidfd(), io_uring()]);
    checks.push(shim());
    checks.extend([directory("root directory", &roots.containers()), directory("run root", &roots.locks())]);
    checks.push(security_modules());
    match args.format {
        Format::Json => out::json(&checks)?,
        Format::Table => print(&checks)?,
    }
    Ok(u8::from(checks.iter().any(|check| check.verdict == Verdict::Missing)))
}

fn print(checks: &[Check]) -> Result<(), Error> {
    let mut rows = Vec::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Limited => "limited",
            Verdict::Missing => "MISSING",
            Verdict::Info => "-",
        };
        rows.push(format!("{verdict}\t{}\t{}", check.name, check.found));
        rows.extend(check.hint.iter().map(|hint| format!("\t\thint: {hint}")));
    }
    out::table(&rows)
}

fn kernel() -> Check {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let found = format!("Linux {release}");
    match host::version(&release) {
        Some(version) if version < host::KERNEL => {
            let (major, minor) = host::KERNEL;
            Check::gap(
                "kernel",
                Verdict::Missing,
                found,
                &format!("podrun needs Linux {major}.{minor} or newer"),
            )
        }
        _ => Check::ok("kernel", found),
    }
}

/// What podrun itself makes use of.
const NEEDED: [CapabilitySet; 10] = [
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::SYS_CHROOT,
    CapabilitySet::SETUID,
    CapabilitySet::SETGID,
    CapabilitySet::SETPCAP,
    CapabilitySet::CHOWN,
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::FOWNER,
    CapabilitySet::KILL,
    CapabilitySet::NET_ADMIN,
];
/// Without these something less is possible.
const USEFUL: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::MKNOD, "devices are bound from the host"),
    (CapabilitySet::SYS_RESOURCE, "limits cannot be raised, nor the OOM score lowered"),
    (CapabilitySet::SYS_PTRACE, "what other users' processes wait for cannot be seen"),
];

fn root() -> Check {
    if !rustix::process::geteuid().is_root() {
        return Check::gap("root", Verdict::Missing, "not root", "run podrun as root, for example with sudo");
    }
    let ours = capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    let names = |set: CapabilitySet| -> Vec<String> {
        set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
    };
    let missing =
        NEEDED.into_iter().filter(|set| !ours.contains(*set)).fold(CapabilitySet::empty(), |a, b| a | b);
    if !missing.is_empty() {
        let found = format!("without {}", names(missing).join(", "));
        let hint = "start podrun where root has them: not inside a container without --privileged";
        return Check::gap("root", Verdict::Missing, found, hint);
    }
    let lacks: Vec<_> = USEFUL.into_iter().filter(|(set, _)| !ours.contains(*set)).collect();
    if lacks.is_empty() {
        return Check::ok("root", "with every capability that podrun uses");
    }
    let found: Vec<_> =
        lacks.iter().map(|(set, what)| format!("without {}: {what}", names(*set).join(""))).collect();
    Check::gap("root", Verdict::Limited, found.join("; "), "start podrun where root has every capability")
}

/// What limits need, as v2 and v1 name it, and the limits that do.
const CONTROLLERS: [(&str, &str, &str); 5] = [
    ("memory", "memory", "--memory and its kin"),
    ("pids", "pids", "--pids-limit"),
    ("cpu", "cpu", "--cpus and --cpu-weight"),
    ("cpuset", "cpuset", "--cpuset-cpus"),
    ("io", "blkio", "--io-weight"),
];

fn cgroups() -> Vec<Check> {
    let hint = "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1";
    let mount = match podrun::cgroup::mount() {
        Ok(mount) => mount,
        Err(error) => return vec![Check::failed("cgroup v2", Verdict::Missing, &error, hint)],
    };
    let writable = rustix::fs::access(&mount, rustix::fs::Access::WRITE_OK);
    let mut checks = vec![match writable {
        Ok(()) => Check::ok("cgroup v2", mount.display().to_string()),
        Err(errno) => Check::failed("cgroup v2", Verdict::Missing, &Error::at("write", &mount, errno), hint),
    }];
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let available = read(&mount.join("cgroup.controllers"));
    let mounts = read(Path::new("/proc/self/mounts"));
    for (name, v1_name, limits) in CONTROLLERS {
        checks.push(if available.split_whitespace().any(|word| word == name) {
            Check::ok(name, format!("for {limits}"))
        } else if let Some(place) = podrun::cgroup::v1::hierarchy(v1_name) {
            as_v1(name, limits, &place)
        } else {
            let found = match v1_mount(&mounts, v1_name) {
                Some(place) => format!("its controller is bound as v1 at {place}"),
                None => "its controller is bound nowhere".to_owned(),
            };
            let hint = format!(
                "{limits} are refused; boot with systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=all, and \
                 without cgroup_disable={name}"
            );
            Check::gap(name, Verdict::Limited, found, &hint)
        });
    }
    checks
}

/// That limits are set in the v1 hierarchy at `place`.
fn as_v1(name: &'static str, limits: &str, place: &Path) -> Check {
    let found = format!("for {limits}, as cgroup v1 at {}", place.display());
    match name {
        "memory" => {
            let hint = "v1 has nothing like --memory-high and --memory-low: for these boot with \
                        systemd.unified_cgroup_hierarchy=1 or cgroup_no_v1=memory";
            Check::gap(name, Verdict::Limited, found, hint)
        }
        _ => Check::ok(name, found),
    }
}

/// Where the v1 hierarchy of `controller` is mounted.
fn v1_mount<'a>(mounts: &'a str, controller: &str) -> Option<&'a str> {
    mounts.lines().find_map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [_, place, "cgroup", options, ..] = fields[..] else { return None };
        options.split(',').any(|option| option == controller).then_some(place)
    })
}

fn mounts() -> Check {
    let hint = "podrun mounts by descriptor (fsopen, open_tree, mount_setattr): a seccomp filter around this \
                process may forbid it";
    match podrun::launch::probe::mounts() {
        Ok(()) => Check::ok("mounts", "fsopen, open_tree, mount_setattr"),
        Err(error) => Check::failed("mounts", Verdict::Missing, &error, hint),
    }
}

fn overlay() -> Check {
    match podrun::launch::probe::file_system("overlay") {
        Ok(()) => Check::ok("overlayfs", "for `--rootfs DIR:O`"),
        Err(error) => {
            let hint = "`--rootfs DIR:O` needs it: modprobe overlay, or a kernel with CONFIG_OVERLAY_FS";
            Check::failed("overlayfs", Verdict::Limited, &error, hint)
        }
    }
}

fn seccomp() -> Check {
    let hint = "the default filter needs it: a kernel with CONFIG_SECCOMP_FILTER, or --security-opt seccomp=unconfined";
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.contains("errno") => Check::ok("seccomp", "filters"),
        // A kernel may be without the list and still filter.
        _ if std::fs::read_to_string("/proc/self/status").is_ok_and(|text| text.contains("\nSeccomp:")) => {
            Check::ok("seccomp", "filters")
        }
        _ => Check::gap("seccomp", Verdict::Limited, "none", hint),
    }
}

fn user_namespaces() -> Check {
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    match most.trim().parse::<u64>() {
        Ok(1..) => Check::ok("user namespaces", "for `--userns`"),
        Ok(0) => {
            let hint = "`--userns` needs them: sysctl user.max_user_namespaces=65536";
            Check::gap("user namespaces", Verdict::Limited, "forbidden", hint)
        }
        Err(_) => {
            let hint = "`--userns` needs a kernel with CONFIG_USER_NS";
            Check::gap("user namespaces", Verdict::Limited, "none", hint)
        }
    }
}

fn idmapped(roots: &Roots) -> Check {
    let containers = roots.containers();
    let dir = existing(&containers);
    let kind = file_system(dir);
    match podrun::launch::probe::idmap(dir) {
        Ok(()) => Check::ok("idmapped mounts", format!("on {kind}, for example {}", dir.display())),
        Err(error) => {
            let hint = "`--userns` and the mount option idmap need a root filesystem on ext4, xfs, btrfs, or tmpfs \
                        since Linux 6.3";
            let error = Error { hint: None, ..error };
            Check::failed("idmapped mounts", Verdict::Limited, &error, hint)
        }
    }
}

fn pidfd() -> Check {
    let open = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty());
    if let Err(errno) = open {
        let hint = "a seccomp filter around this process forbids pidfd_open";
        return Check::failed("pidfd", Verdict::Missing, &Error::os("pidfd_open", errno), hint);
    }
    let uname = rustix::system::uname();
    let exit = host::version(&uname.release().to_string_lossy()).is_some_and(|version| version >= (6, 15));
    match exit {
        true => Check::ok("pidfd", "also tells how a process ended that nobody waited for"),
        false => Check::new(
            "pidfd",
            Verdict::Info,
            "does not tell how a process ended that nobody waited for (Linux 6.15): after the loss of keeper and \
             shim at once an exit status may be unknown",
        ),
    }
}

fn io_uring() -> Check {
    let found = match std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").as_deref().map(str::trim)
    {
        Ok("0") => "enabled",
        Ok(_) => "disabled by kernel.io_uring_disabled",
        Err(_) => "not known to this kernel's settings",
    };
    Check::new("io_uring", Verdict::Info, found)
}

fn shim() -> Check {
    let hint = "install podrun-shim of the same release beside podrun, or name it in PODRUN_SHIM";
    let program = match podrun::client::shim_program() {
        Ok(program) => program,
        Err(error) => return Check::failed("podrun-shim", Verdict::Missing, &error, hint),
    };
    let output = match std::process::Command::new(&program).arg("--version").output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(error) => {
            return Check::failed("podrun-shim", Verdict::Missing, &Error::io("run", &program, &error), hint);
        }
    };
    let ours = env!("CARGO_PKG_VERSION");
    let found = format!("{output} at {}", program.display());
    if output.split(' ').any(|word| word == ours) {
        Check::ok("podrun-shim", found)
    } else {
        Check::gap("podrun-shim", Verdict::Limited, format!("{found}, this is podrun {ours}"), hint)
    }
}

/// `statfs(2)`: an overlay cannot be the upper layer of another.
const OVERLAYFS_MAGIC: rustix::fs::FsWord = 0x794c_7630;

/// A directory that podrun keeps things in.
fn directory(name: &'static str, dir: &Path) -> Check {
    let dir = dir.parent().unwrap_or(dir);
    let there = existing(dir);
    // Only the attempt tells: root is let through by the mode of every directory.
    let probe = there.join(format!(".podrun-doctor-{}", std::process::id()));
    if let Err(errno) = rustix::fs::mkdir(&probe, rustix::fs::Mode::RWXU) {
        let hint = "`--root DIR` and `--run-root DIR` choose other places";
        return Check::failed(name, Verdict::Missing, &Error::at("write", there, errno), hint);
    }
    let _ = rustix::fs::rmdir(&probe);
    let found = format!("{} on {}", dir.display(), file_system(there));
    let overlay = rustix::fs::statfs(there).is_ok_and(|fs| fs.f_type == OVERLAYFS_MAGIC);
    if overlay && name == "root directory" {
        let hint = "what a container writes above `DIR:O` is kept in memory; `--root DIR` on another file system keeps it";
        return Check::gap(name, Verdict::Limited, found, hint);
    }
    Check::ok(name, found)
}

/// The nearest directory above `dir` that exists.
fn existing(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"))
}

/// The type of the file system that holds `dir`, as the kernel names it.
fn file_system(dir: &Path) -> String {
    let unknown = || "an unknown file system".to_owned();
    let Ok(stat) = rustix::fs::stat(dir) else { return unknown() };
    let mounts = procfs::process::Process::myself().and_then(|process| process.mountinfo());
    let number = format!("{}:{}", rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
    let found = mounts.ok().and_then(|mounts| {
        mounts.into_iter().find(|mount| mount.majmin == number).map(|mount| mount.fs_type)
    });
    found.unwrap_or_else(unknown)
}

fn security_modules() -> Check {
    let list = std::fs::read_to_string("/sys/kernel/security/lsm");
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let enforce = std::fs::read_to_string("/sys/fs/selinux/enforce");
    let mut found = match &list {
        Ok(list) => list.trim().replace(',', " "),
        Err(_) if read("/sys/module/apparmor/parameters/enabled").starts_with('Y') => "apparmor".to_owned(),
        Err(_) if enforce.is_ok() => "selinux".to_owned(),
        Err(_) => "neither AppArmor nor SELinux".to_owned(),
    };
    if let Ok(enforce) = enforce {
        // Without a policy a process has no context, but the kernel's own name.
        let policy = read("/proc/thread-self/attr/current").contains(':');
        match (policy, enforce.trim()) {
            (false, _) => found.push_str("; SELinux has no policy loaded"),
            (true, "0") => found.push_str("; SELinux is permissive and denies nothing"),
            (true, _) => {}
        }
    }
    Check::new("security modules", Verdict::Info, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v1_controller_is_found_where_it_is_mounted() {
        let mounts = "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nx\n";
        assert_eq!(v1_mount(mounts, "cpu"), Some("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(v1_mount(mounts, "memory"), None);
    }
}

//! What every container has unless told otherwise.

use std::path::Path;

use oci_spec::runtime::{Capability, Mount};

/// Where commands are looked up where the user said nothing.
pub(super) const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `tty` in the groups of every distribution: what a terminal in `/dev/pts` belongs to, see [`mounts`].
pub(super) const TTY_GROUP: u32 = 5;

/// What a program inside believes its terminal to be: what every terminal of today can be taken for.
pub(crate) const TERM: &str = "TERM=xterm";

/// Interfaces under `/proc` and `/sys` that tell about the host or reach into it.
pub(super) const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Interfaces under `/proc` that may be read.
pub(super) const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The small set of capabilities that containers usually have.
pub(super) const CAPABILITIES: [Capability; 13] = [
    Capability::AuditWrite,
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

/// The kernel's own file systems, parents first.
pub(super) fn mounts() -> Vec<Mount> {
    let one = |destination: &str, kind, source: &str, options: &[&str]| {
        let options: Vec<String> = options.iter().copied().map(str::to_owned).collect();
        mount(Path::new(destination), kind, Path::new(source), &options)
    };
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    vec![
        one("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        one("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        one("/dev/pts", "devpts", "devpts", &pts),
        one("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=64m"]),
        one("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        one("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        one("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ]
}

/// One OCI mount.
pub(super) fn mount(destination: &Path, kind: &str, source: &Path, options: &[String]) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.to_owned()))
        .set_options(Some(options.to_vec()));
    mount
}

//! Rights that nobody gave.

use std::path::{Path, PathBuf};

use rustix::fs::XattrFlags;

use super::image;
use crate::harness::{Podrun, busybox, debian, overlay};
use crate::userns::can_idmap;

/// A program that shows its capabilities, of which the file says that what is inheritable becomes
/// permitted and effective (`capabilities(7)`, "File capabilities").
fn show_capabilities(image: &Path) -> PathBuf {
    let program = image.join("show/grep");
    std::fs::create_dir(image.join("show")).expect("make a directory");
    std::fs::copy(image.join("bin/busybox"), &program).expect("copy a program");
    // Revision 2 with the effective bit; permitted and inheritable, low words then high ones.
    let words: [u32; 5] = [0x0200_0001, 0, u32::MAX, 0, 0x1ff];
    let value: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    rustix::fs::setxattr(&program, "security.capability", &value, XattrFlags::CREATE)
        .expect("set capabilities");
    "/show/grep".into()
}

/// CVE-2022-29162, CVE-2022-27650, CVE-2025-27612: an ordinary user executes a file with inheritable
/// capabilities, and gains those that the process was started with as inheritable.
#[test]
fn no_capability_is_inherited() {
    let podrun = Podrun::new();
    let image = image(&podrun, &[]);
    let program = show_capabilities(&image);
    let program = program.to_str().expect("a path in UTF-8");
    let root = image.to_str().expect("a path in UTF-8");
    let show = [program, "-E", "^Cap(Inh|Prm|Eff|Amb):", "/proc/self/status"];
    let none: String = ["Inh", "Prm", "Eff", "Amb"].map(|set| format!("Cap{set}:\t{:016x}\n", 0)).concat();
    let run = ["run", "--rm", "--user", "1000", "--rootfs", root, "--"];
    podrun.cmd(run.into_iter().chain(show)).prints(&none);
    podrun.run_detached("c", root, ["sleep", "100000"]);
    let exec = ["exec", "--user", "1000", "c", "--"];
    podrun.cmd(exec.into_iter().chain(show)).prints(&none);
    // And root, who has some, has none that a program could inherit.
    let own = ["grep", "-E", "^Cap(Inh|Amb):", "/proc/self/status"];
    let none: String = ["Inh", "Amb"].map(|set| format!("Cap{set}:\t{:016x}\n", 0)).concat();
    podrun.cmd(["exec", "c", "--"].into_iter().chain(own)).prints(&none);
    podrun.cmd(["run", "--rm", "--rootfs", root, "--"].into_iter().chain(own)).prints(&none);
}

/// CVE-2026-30892: `exec` as a user that is a number ran as root.
#[test]
fn a_user_by_number_is_that_user() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "100000"]);
    let script = "grep -E '^(Uid|Gid|Groups|CapEff):' /proc/self/status";
    let who = |id: &str, groups: &str| {
        format!(
            "Uid:\t{id}\t{id}\t{id}\t{id}\nGid:\t{groups}\t{groups}\t{groups}\t{groups}\nGroups:\t \nCapEff:\t{:016x}\n",
            0
        )
    };
    for (user, uid, gid) in [("1", "1", "0"), ("1:1", "1", "1"), ("7777:8", "7777", "8")] {
        podrun.cmd(["exec", "-u", user, "c", "--", "sh", "-c", script]).prints(&who(uid, gid));
        let run = ["run", "--rm", "-u", user, "--rootfs", &busybox(), "--", "sh", "-c", script];
        podrun.cmd(run).prints(&who(uid, gid));
    }
    // An image that calls root by that number.
    let passwd = podrun.dir().join("passwd");
    std::fs::write(&passwd, "1:x:0:0::/:/bin/sh\nroot:x:0:0::/:/bin/sh\n").expect("write a file");
    let volume = format!("{}:/etc/passwd", passwd.display());
    let rootfs = overlay(busybox());
    let run = ["run", "--rm", "-u", "1", "-v", &volume, "--rootfs", &rootfs, "--", "sh", "-c", script];
    podrun.cmd(run).prints(&who("1", "0"));
}

/// CVE-2022-0492: a hierarchy of cgroups is mounted, with and without a user namespace of one's own, and its
/// release agent set: a program of the host's that runs as root outside. Each step is refused, for init and
/// for a process that joins.
#[test]
fn no_release_agent_is_set_from_inside() {
    let podrun = Podrun::new();
    let script = r#"
        export LC_ALL=C
        mkdir -p /tmp/c
        for kind in "cgroup -o rdma" "cgroup -o memory" "cgroup -o devices" "cgroup -o none,name=x" cgroup2; do
            mount -t $kind x /tmp/c 2>/tmp/why && echo "mounted $kind"
            grep -q "permission denied" /tmp/why || cat /tmp/why
            for agent in $(find /tmp/c -name release_agent); do
                (echo /evil >$agent) 2>/dev/null && echo "set $agent"
            done
        done
        for agent in $(find /sys -name release_agent 2>/dev/null); do
            (echo /evil >$agent) 2>/dev/null && echo "set $agent"
        done
        for namespace in --user --mount --cgroup; do
            unshare $namespace echo "unshared $namespace" 2>/tmp/why
            sed 's/unshare: //' /tmp/why
        done
        unshare --user --map-root-user --mount --cgroup mount -t cgroup -o rdma x /tmp/c 2>/dev/null && echo mounted
        echo tried
    "#;
    let refused = "unshare failed: Operation not permitted\n".repeat(3) + "tried\n";
    let rootfs = overlay(debian());
    podrun.cmd(["run", "--rm", "--rootfs", &rootfs, "--", "sh", "-c", script]).prints(&refused);
    podrun.run_detached("c", &rootfs, ["sleep", "100000"]);
    podrun.cmd(["exec", "c", "--", "sh", "-c", script]).prints(&refused);
}

/// The host's null device is everybody's: what a container has of it, as a mask or as what it reads from, lets
/// nobody change its mode, owner and times. (The mode is the one that it has: nothing comes of it if that works.)
#[test]
fn the_hosts_null_device_cannot_be_changed_from_inside() {
    let podrun = Podrun::new();
    let script = r#"
        for file in /proc/keys /proc/self/fd/0; do
            chmod 0666 $file 2>&1 | grep -q "Read-only file system" || echo "changed $file"
        done
        echo x >/proc/keys && wc -c </proc/keys && wc -c
        grep -c " / /proc/keys ro\| /null /proc/keys ro" /proc/self/mountinfo
    "#;
    let expected = "0\n0\n1\n";
    podrun
        .cmd(["run", "--rm", "--cap-add", "FOWNER", "--rootfs", &busybox(), "--", "sh", "-c", script])
        .prints(expected);
    podrun.run_detached("c", &busybox(), ["sleep", "100000"]);
    podrun.cmd(["exec", "c", "--", "sh", "-c", script]).prints(expected);
    podrun.sh(&format!("podrun exec -i c -- sh -c '{script}' </dev/null")).prints(expected);
}

/// The same where the device is the host's because nobody may make one.
#[test]
fn nor_where_the_container_has_the_hosts_devices() {
    if !can_idmap() {
        return;
    }
    let podrun = Podrun::new();
    let count = r#"grep -c " /dev/[a-z]* ro,nosuid,noexec" /proc/self/mountinfo; echo x >/dev/null; head -c 1 /dev/zero | wc -c"#;
    let args = ["run", "--rm", "--userns", "auto", "--rootfs", &busybox(), "--", "sh", "-c", count];
    podrun.cmd(args).prints("6\n1\n");
}

//! The walls of a container: what a process inside may be and do, and what the host keeps from it.
//!
//! Each wall is looked at from init and once more through `exec`: a process that joins must find the
//! same ones.

use crate::harness::{Output, Podrun, busybox, debian, overlay};

/// Runs `script` as init of a container with `options`, and again through `exec` in one.
#[track_caller]
fn both(rootfs: &str, options: &[&str], shell: &str, script: &str, check: impl Fn(&Output)) {
    let podrun = Podrun::new();
    let with = |first: &[&'static str], command: &[&str]| {
        let words = first.iter().chain(options).copied().chain(["--rootfs", rootfs, "--"]);
        podrun.cmd(words.chain(command.iter().copied()).map(str::to_owned).collect::<Vec<_>>())
    };
    let mut output = with(&["run", "--rm", "a"], &[shell, "-c", script]).run();
    output.what.insert_str(0, "init: ");
    check(&output);
    with(&["run", "-d", "b"], &["sleep", "100000"]).prints("b\n");
    let mut output = podrun.cmd(["exec", "b", "--", shell, "-c", script]).run();
    output.what.insert_str(0, "exec: ");
    check(&output);
}

#[track_caller]
fn both_print(options: &[&str], script: &str, expected: &str) {
    both(&busybox(), options, "sh", script, |output| {
        assert_eq!((output.out(), output.err()), (expected.to_owned(), String::new()), "{output}");
    });
}

const STATUS: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr '\\t' ' '";

/// What [`STATUS`] prints for a process of root.
fn status(capabilities: u64, no_new_privileges: u8, seccomp: u8) -> String {
    format!(
        "CapInh: 0000000000000000\nCapPrm: {capabilities:016x}\nCapEff: {capabilities:016x}\n\
         CapBnd: {capabilities:016x}\nCapAmb: 0000000000000000\nNoNewPrivs: {no_new_privileges}\n\
         Seccomp: {seccomp}\n"
    )
}

/// The default set: thirteen capabilities (`spec::defaults`).
const DEFAULT: u64 = 0xa004_25fb;
const CHOWN: u64 = 1;
const SYS_ADMIN: u64 = 1 << 21;
const NET_ADMIN: u64 = 1 << 12;

#[test]
fn a_default_container_has_a_small_set_of_capabilities_and_a_filter() {
    both_print(&[], STATUS, &status(DEFAULT, 0, 2));
    both_print(&["--init"], STATUS, &status(DEFAULT, 0, 2));
}

#[test]
fn capabilities_are_added_and_dropped() {
    let added = ["--cap-add", "sys_admin", "--cap-add", "CAP_NET_ADMIN", "--cap-drop", "Chown"];
    both_print(&added, STATUS, &status((DEFAULT | SYS_ADMIN | NET_ADMIN) & !CHOWN, 0, 2));
    both_print(&["--cap-drop", "ALL"], STATUS, &status(0, 0, 2));
    both_print(&["--cap-drop=all", "--cap-add=CHOWN"], STATUS, &status(CHOWN, 0, 2));
}

#[test]
fn what_is_asked_of_security_is_done() {
    both_print(&["--security-opt", "no-new-privileges"], STATUS, &status(DEFAULT, 1, 2));
    both_print(&["--security-opt", "seccomp=unconfined"], STATUS, &status(DEFAULT, 0, 0));
}

#[test]
fn somebody_who_is_not_root_has_no_capability_and_the_same_filter() {
    let script = "grep -E '^(Cap(Inh|Prm|Eff|Amb)|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t'; id";
    let zero = "0".repeat(16);
    let expected = format!(
        "CapInh:{zero}\nCapPrm:{zero}\nCapEff:{zero}\nCapAmb:{zero}\nNoNewPrivs:0\nSeccomp:2\n\
         uid=1000(user) gid=1000(user) groups=50(staff),77\n"
    );
    let options = ["--user", "user", "--group-add", "staff", "--group-add", "77", "--cap-add", "SYS_ADMIN"];
    both_print(&options, script, &expected);
}

#[test]
fn an_init_of_podruns_is_behind_the_same_walls() {
    let script = "grep -E '^(CapEff|Seccomp:)' /proc/1/status | tr -d '\\t'";
    both_print(&["--init"], script, &format!("CapEff:{DEFAULT:016x}\nSeccomp:2\n"));
    let script = "grep -E '^(CapEff|Seccomp:)' /proc/1/status | tr -d '\\t'";
    both_print(&["--init", "--user", "1000"], script, "CapEff:0000000000000000\nSeccomp:2\n");
}

#[test]
fn the_kernels_files_cannot_be_written() {
    let script = "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger /proc/irq/default_smp_affinity \
                  /sys/kernel/mm/ksm/run /sys/fs/cgroup/cgroup.procs; do \
                  [ -e $f ] && (echo 1 > $f) 2>/dev/null && echo $f; done; \
                  cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls -A /sys/firmware /proc/acpi 2>/dev/null | grep -v :";
    both(&busybox(), &[], "sh", script, |output| assert_eq!(output.out().trim(), "0", "{output}"));
}

/// Calls that belong to the host's administrator, each with what it says; a digit is an errno.
const REFUSED: &str = r#"
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(number, *args)
    print(name, 0 if result >= 0 else ctypes.get_errno())
path = ctypes.c_char_p(b"/mnt")
call("mount", 165, ctypes.c_char_p(b"none"), path, ctypes.c_char_p(b"tmpfs"), 0, None)
call("umount", 166, path, 0)
call("fsopen", 430, ctypes.c_char_p(b"tmpfs"), 0)
call("unshare-user", 272, 0x10000000)
call("unshare-files", 272, 0x400)
call("clone-user", 56, 0x10000000 | 17, 0, 0, 0, 0)
call("clone3", 435, None, 0)
call("setns", 308, 0, 0)
call("bpf", 321, 0, None, 0)
call("keyctl", 250, 0, -3, 0)
call("add_key", 248, None, None, None, 0, 0)
call("kexec_load", 246, 0, 0, None, 0)
call("reboot", 169, 0xfee1dead, 672274793, 0x89abcdef)
call("init_module", 175, None, 0, None)
call("swapon", 167, path, 0)
call("io_uring_setup", 425, 1, None)
call("userfaultfd", 323, 0)
call("perf_event_open", 298, None, 0, -1, -1, 0)
call("sethostname", 170, path, 4)
call("settimeofday", 164, None, None)
call("iopl", 172, 3)
call("ptrace-host", 101, 16, 999999, 0, 0)
call("vsock", 41, 40, 1, 0)
call("alg", 41, 38, 5, 0)
call("personality", 135, 0x0040000)
call("tiocsti", 16, 0, 0x5412, path)
call("tomorrow", 600)
"#;

#[test]
fn calls_that_change_the_host_are_refused() {
    let expected = "mount 1\numount 1\nfsopen 1\nunshare-user 1\nunshare-files 0\nclone-user 1\nclone3 38\n\
         setns 1\nbpf 1\nkeyctl 1\nadd_key 1\nkexec_load 1\nreboot 1\ninit_module 1\nswapon 1\n\
         io_uring_setup 1\nuserfaultfd 1\nperf_event_open 1\nsethostname 1\nsettimeofday 1\niopl 1\n\
         ptrace-host 3\nvsock 97\nalg 97\npersonality 1\ntiocsti 1\ntomorrow 38\n";
    let script = format!("exec python3 -c '{REFUSED}'");
    both(&debian(), &[], "sh", &script, |output| assert_eq!(output.out(), expected, "{output}"));
}

#[test]
fn no_mount_of_the_host_is_visible_and_no_descriptor_is_left() {
    let script =
        "cut -d' ' -f5 /proc/self/mountinfo | grep -vE '^/($|proc|sys|dev)' ; ls /proc/self/fd | wc -l";
    // The listing's own makes four.
    both_print(&[], script, "4\n");
}

#[test]
fn a_privileged_container_has_no_walls_but_its_namespaces() {
    let script = "grep Seccomp: /proc/self/status | tr -d '\\t'; mount -t tmpfs none /mnt && echo mounted; \
                  [ -w /proc/sys/kernel/core_pattern ] && grep -c ' /sys sysfs rw' /proc/mounts; \
                  [ -c /dev/kmsg ] && echo kmsg; grep CapBnd /proc/self/status | cut -f2";
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim().to_owned();
    both(&busybox(), &["--privileged"], "sh", script, |output| {
        let out = output.out();
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines[..3], ["Seccomp:0", "mounted", "1"], "{output}");
        assert_eq!(lines.last(), Some(&own.as_str()), "{output}");
        if std::path::Path::new("/dev/kmsg").exists() {
            assert!(lines.contains(&"kmsg"), "{output}");
        }
    });
}

#[test]
fn a_privileged_exec_has_every_capability_and_no_filter_and_leaves_the_container_as_it_was() {
    let podrun = Podrun::new();
    let args = ["run", "-d", "c", "--security-opt", "no-new-privileges", "--rootfs", &busybox()];
    podrun.cmd(args.into_iter().chain(["--", "sleep", "100000"])).prints("c\n");
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim().to_owned();
    let all = u64::from_str_radix(&own, 16).unwrap();
    podrun.cmd(["exec", "--privileged", "c", "--", "sh", "-c", STATUS]).prints(&status(all, 0, 0));
    // What it may do that others may not: here a mount, in the container's namespace.
    let mount = "mount -t tmpfs none /mnt && grep -c ' /mnt tmpfs ' /proc/mounts && umount /mnt";
    podrun.cmd(["exec", "--privileged", "c", "--", "sh", "-c", mount]).prints("1\n");
    podrun.cmd(["exec", "c", "--", "sh", "-c", STATUS]).prints(&status(DEFAULT, 1, 2));
    // Somebody who is not root gains nothing by it but the way without a filter.
    let as_user = ["exec", "--privileged", "-u", "1000", "c", "--", "grep", "CapEff", "/proc/self/status"];
    podrun.cmd(as_user).prints(&format!("CapEff:\t{:016x}\n", 0));
    podrun.cmd(["exec", "--privileged", "--cap", "CHOWN", "c", "--", "true"]).run().expect(125);
}

#[test]
fn a_device_node_of_ones_own_opens_nothing_unless_privileged() {
    // A number of the range that is nobody's: what is allowed finds no driver.
    let script = "mknod /dev/x c 240 77; dd if=/dev/x count=1 2>&1 | sed 's/.*: //'";
    both_print(&["--cap-add", "MKNOD"], script, "Operation not permitted\n");
    both_print(&["--privileged"], script, "No such device or address\n");
}

#[test]
fn limits_of_processes_and_settings_of_namespaces_are_set() {
    let script = "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/sys/kernel/msgmax /proc/self/oom_score_adj";
    let options = [
        "--ulimit",
        "nofile=100:200",
        "--ulimit",
        "core=0",
        "--sysctl",
        "kernel.msgmax=9999",
        "--oom-score-adj",
        "300",
    ];
    both_print(&options, script, "100\n200\n0\n9999\n300\n");
}

#[test]
fn a_limit_is_given_as_it_was_asked_for_or_refused() {
    let podrun = Podrun::new();
    let with = |option: &str, value: &str, script: &str| {
        let args = ["run", "--rm", "c", option, value, "--rootfs", &busybox(), "--", "sh", "-c", script];
        podrun.cmd(args).run()
    };
    // More than any kernel gives, and what takes a capability that a host may lack.
    with("--ulimit", "nofile=999999999999", "true").is_a_failure(125, "--ulimit nofile=999999999999");
    let limit = "nofile=100:1000000";
    for (option, value, script, reason, held) in [
        ("--ulimit", limit, "ulimit -Hn", "--ulimit nofile=100:1000000", "1000000\n"),
        ("--oom-score-adj", "-500", "cat /proc/self/oom_score_adj", "--oom-score-adj -500", "-500\n"),
    ] {
        let output = with(option, value, script);
        if output.code == Some(125) {
            output.is_a_failure(125, reason);
            assert!(output.err().contains("CAP_SYS_RESOURCE"), "{output}");
        } else {
            assert_eq!((output.code, output.out().as_str()), (Some(0), held), "{output}");
        }
    }
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn namespaces_can_be_the_hosts_or_anothers() {
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    let script = "for n in pid ipc uts; do readlink /proc/self/ns/$n; done; hostname";
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let expected = format!("{}\n{}\n{}\n{name}\n", own("pid"), own("ipc"), own("uts"));
    both_print(&["--pid", "host", "--ipc", "host", "--uts", "host"], script, &expected);

    let podrun = Podrun::new();
    podrun.run_detached("one", &busybox(), ["sleep", "100000"]);
    let pid = podrun.pid("one");
    let of = |name: &str| {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
        link.display().to_string()
    };
    let path = |name: &str| format!("ns:/proc/{pid}/ns/{name}");
    let (pids, ipc, uts) = (path("pid"), path("ipc"), path("uts"));
    let args = ["run", "--rm", "two", "--pid", &pids, "--ipc", &ipc, "--uts", &uts, "--rootfs", &busybox()];
    let output = podrun.cmd(args.into_iter().chain(["--", "sh", "-c", script])).ok();
    assert_eq!(output, format!("{}\n{}\n{}\none\n", of("pid"), of("ipc"), of("uts")));
}

#[test]
fn the_end_of_init_is_the_end_of_all_also_among_the_hosts_processes() {
    let podrun = Podrun::new();
    let script = "sleep 100000 & sleep 100001 & echo $!; exit 7";
    let args = ["run", "c", "--pid", "host", "--rootfs", &busybox(), "--", "sh", "-c", script];
    let output = podrun.cmd(args).run();
    output.expect(7);
    let left: i32 = output.out().trim().parse().expect("a pid of the host");
    podrun.settle();
    assert!(!std::path::Path::new(&format!("/proc/{left}")).exists(), "{left} is still there");

    // A signal acts as on any process: nothing of PID 1's deafness.
    let args = ["run", "-d", "d", "--pid", "host", "--rootfs", &busybox(), "--", "sleep", "100000"];
    podrun.cmd(args).prints("d\n");
    podrun.cmd(["kill", "d"]).exits(0);
    podrun.cmd(["wait", "d"]).prints("143\n");
}

#[test]
fn bad_walls_are_refused_and_nothing_is_left() {
    let podrun = Podrun::new();
    let profile = podrun.dir().join("profile.json");
    std::fs::write(&profile, "{\"defaultAction\": \"SCMP_ACT_SHRUG\"}").unwrap();
    let broken = format!("seccomp={}", profile.display());
    let name = profile.to_str().unwrap();
    let rootfs = busybox();
    for (options, reason) in [
        (&["--cap-add", "FLY"][..], "FLY"),
        (&["--cap-drop", "CAP_"], "CAP_"),
        (&["--cap-add", "ALL", "--cap-drop", "ALL"], "contradicts"),
        (&["--security-opt", "sandbox=yes"], "sandbox"),
        (&["--security-opt", "seccomp=/no/such/file"], "/no/such/file"),
        (&["--security-opt", &broken], "SCMP_ACT_SHRUG"),
        (&["--security-opt", &broken], name),
        (&["--user", "nosuch"], "nosuch"),
        (&["-u", "-1"], "user -1"),
        (&["--sysctl", "net.core.somaxconn=1"], "hint: with --network none"),
        (&["--group-add", "nosuch"], "nosuch"),
        (&["--group-add", "a,b"], "a,b"),
        (&["--ulimit", "wings=2"], "wings"),
        (&["--ulimit", "nofile=5:4"], "soft limit above"),
        (&["--sysctl", "kernel.msgmax"], "KEY=VALUE"),
        (&["--sysctl", "kernel.core_pattern=|/x"], "kernel.core_pattern"),
        (&["--sysctl", "net.ipv4.ip_forward=1"], "net.ipv4.ip_forward"),
        (&["--sysctl", "kernel.msgmax=1", "--ipc", "host"], "kernel.msgmax"),
        (&["--oom-score-adj", "2000"], "2000"),
        (&["--pid", "ns:relative"], "relative"),
        (&["--ipc", "shared"], "shared"),
        (&["--pid", "ns:/no/such/ns"], "/no/such/ns"),
        (&["--pid", "ns:/proc/self/ns/net"], "/proc/self/ns/net"),
        (&["--uts", "host", "--hostname", "x"], "uts namespace"),
    ] {
        let args = ["run", "c"].iter().chain(options).copied().chain(["--rootfs", &rootfs, "--", "true"]);
        let output = podrun.cmd(args.map(str::to_owned).collect::<Vec<_>>()).run();
        output.expect(125);
        assert!(output.err().starts_with("podrun: ") && output.err().contains(reason), "{output}");
    }
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn a_label_that_the_host_cannot_enforce_is_refused() {
    let podrun = Podrun::new();
    let with = |option: &str| {
        podrun.cmd(["run", "c", "--security-opt", option, "--rootfs", &busybox(), "--", "true"])
    };
    let apparmor = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !apparmor.is_ok_and(|text| text.starts_with('Y')) {
        with("apparmor=podrun-test").fails(125, "AppArmor");
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        with("label=type:svirt_t").fails(125, "SELinux");
    }
    with("apparmor=unconfined").exits(0);
    podrun.cmd(["delete", "c"]).prints("c\n");
    with("label=disable").exits(0);
}

#[test]
fn an_exec_as_somebody_has_that_ones_groups() {
    let podrun = Podrun::new();
    let args =
        ["run", "-d", "c", "--group-add", "77", "--rootfs", &overlay(busybox()), "--", "sleep", "100000"];
    podrun.cmd(args).prints("c\n");
    let id = |user: &str| podrun.cmd(["exec", "-u", user, "c", "--", "id"]).ok();
    assert_eq!(id("user"), "uid=1000(user) gid=1000(user) groups=50(staff),77\n");
    assert_eq!(id("1:2"), "uid=1 gid=2 groups=77\n");
}

//! What a container sees from inside.
//!
//! Each scenario runs in both modes from one table entry: *supervised*, from the options of
//! `podrun run`, and *OCI*, from a bundle with the same content under an engine. The two must not
//! drift apart.

use std::os::unix::fs::MetadataExt;

use serde_json::json;

use crate::harness::bundle::{Engine, config};
use crate::harness::peer::peer;
use crate::harness::{Output, Podrun, busybox, debian, overlay};

/// One scenario: what is asked for, however it is asked for.
#[derive(Default)]
struct Inside {
    rootfs: String,
    argv: Vec<String>,
    hostname: Option<String>,
    env: Vec<String>,
    cwd: Option<String>,
    user: Option<(u32, u32)>,
    /// Source on the host, place inside, read-only.
    volumes: Vec<(String, String, bool)>,
    tmpfs: Option<String>,
    read_only: bool,
    no_network: bool,
}

impl Inside {
    fn command(rootfs: String, argv: &[&str]) -> Self {
        Self { rootfs, argv: argv.iter().map(|word| (*word).to_owned()).collect(), ..Self::default() }
    }

    /// A busybox shell script.
    fn sh(script: &str) -> Self {
        Self::command(busybox(), &["sh", "-c", script])
    }

    /// A bash script on Debian.
    fn bash(script: &str) -> Self {
        Self::command(debian(), &["bash", "-c", script])
    }

    /// The options of `podrun run`.
    fn flags(&self) -> Vec<String> {
        let mut flags = vec!["--rootfs".to_owned(), self.rootfs.clone()];
        let mut add = |flag: &str, value: String| flags.extend([flag.to_owned(), value]);
        self.hostname.iter().for_each(|name| add("--hostname", name.clone()));
        self.env.iter().for_each(|pair| add("--env", pair.clone()));
        self.cwd.iter().for_each(|dir| add("--cwd", dir.clone()));
        self.user.iter().for_each(|(uid, gid)| add("--user", format!("{uid}:{gid}")));
        for (source, place, read_only) in &self.volumes {
            let options = if *read_only { ":ro" } else { "" };
            add("--volume", format!("{source}:{place}{options}"));
        }
        self.tmpfs.iter().for_each(|place| add("--tmpfs", place.clone()));
        if self.no_network {
            add("--network", "none".to_owned());
        }
        if self.read_only {
            flags.push("--read-only".to_owned());
        }
        flags
    }

    /// The OCI configuration that says the same.
    fn config(&self) -> serde_json::Value {
        let argv: Vec<_> = self.argv.iter().map(String::as_str).collect();
        let mut config = config(&self.rootfs, &argv);
        if let Some(name) = &self.hostname {
            config["hostname"] = json!(name);
        }
        let mut push = |pointer: &str, value| {
            config.pointer_mut(pointer).and_then(|list| list.as_array_mut()).expect("a list").push(value);
        };
        for pair in &self.env {
            push("/process/env", json!(pair));
        }
        for (source, place, read_only) in &self.volumes {
            let access = if *read_only { "ro" } else { "rw" };
            push(
                "/mounts",
                json!({"destination": place, "type": "bind", "source": source, "options": ["rbind", access]}),
            );
        }
        if let Some(place) = &self.tmpfs {
            push("/mounts", json!({"destination": place, "type": "tmpfs", "source": "tmpfs", "options": []}));
        }
        if self.no_network {
            push("/linux/namespaces", json!({"type": "network"}));
        }
        if let Some(dir) = &self.cwd {
            config["process"]["cwd"] = json!(dir);
        }
        if let Some((uid, gid)) = self.user {
            config["process"]["user"] = json!({"uid": uid, "gid": gid});
        }
        config["root"]["readonly"] = json!(self.read_only);
        config
    }

    /// Runs it in each mode, and lets `check` judge what it wrote and how it ended.
    #[track_caller]
    fn check(&self, check: impl Fn(&Output)) {
        let podrun = Podrun::new();
        if peer().is_none() {
            let args = ["run", "c"].map(str::to_owned).into_iter().chain(self.flags());
            let args = args.chain(["--".to_owned()]).chain(self.argv.iter().cloned());
            let mut output = podrun.cmd(args).run();
            output.what.insert_str(0, "supervised: ");
            check(&output);
            podrun.cmd(["delete", "c"]).prints("c\n");
        }
        // A bundle's root is a directory.
        if !self.rootfs.ends_with(":O") {
            // What an engine ignores is its own affair.
            let creator = r#"trap '' USR2; exec podrun "$@""#;
            let engine = Engine::create_by(&podrun, "o", &self.config(), creator);
            podrun.cmd(["start", "o"]).run().expect(0);
            let mut output = engine.wait();
            output.what.insert_str(0, "OCI: ");
            check(&output);
            podrun.cmd(["delete", "o"]).run().expect(0);
        }
    }

    /// Runs it in each mode; it succeeds, writes exactly `expected`, and nothing on stderr.
    #[track_caller]
    fn prints(&self, expected: &str) {
        self.check(|output| {
            let got = (output.out(), output.err(), output.code);
            assert_eq!(got, (expected.to_owned(), String::new(), Some(0)), "{output}");
        });
    }
}

#[test]
fn its_namespaces_are_its_own_and_it_is_pid_1() {
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
    Inside::sh("echo $$; for n in pid mnt uts ipc cgroup net; do readlink /proc/self/ns/$n; done").check(
        |output| {
            let out = output.out();
            let lines: Vec<_> = out.lines().collect();
            assert_eq!(lines[0], "1", "{output}");
            for (line, name) in lines[1..].iter().zip(["pid", "mnt", "uts", "ipc", "cgroup"]) {
                assert!(line.starts_with(name) && *line != own(name), "{name}: {output}");
            }
            assert_eq!(lines[6], own("net"), "the network is shared unless told otherwise: {output}");
        },
    );
}

#[test]
fn it_has_its_hostname() {
    let mut inside = Inside::sh("hostname; cat /proc/sys/kernel/hostname");
    inside.hostname = Some("web-1".to_owned());
    inside.prints("web-1\nweb-1\n");
    assert_ne!(rustix::system::uname().nodename().to_bytes(), b"web-1");
}

#[test]
fn its_root_is_the_rootfs_and_the_old_root_is_gone() {
    Inside::sh("cat /proc/self/mountinfo").check(|output| {
        let out = output.out();
        let points: Vec<_> = out.lines().filter_map(|line| line.split(' ').nth(4)).collect();
        assert_eq!(points.iter().filter(|point| **point == "/").count(), 1, "one root: {output}");
        for point in points {
            let known =
                point == "/" || ["/proc", "/sys", "/dev", "/etc/"].iter().any(|top| point.starts_with(top));
            assert!(known, "{point} is mounted: {output}");
        }
        for line in out.lines() {
            let propagation = line.split(" - ").next().unwrap_or_default();
            assert!(!propagation.contains("shared:"), "propagates to the host: {line}");
        }
    });
    Inside::sh("ls -a / | tr '\\n' ' '; stat -c %i /; cd /..; pwd").check(|output| {
        assert!(
            output.out().starts_with(". .. bin dev etc home mnt proc root run sys tmp usr var "),
            "{output}"
        );
        let inode = std::fs::metadata(busybox()).unwrap().ino();
        assert!(output.out().ends_with(&format!("{inode}\n/\n")), "{output}");
    });
}

#[test]
fn its_dev_has_what_shells_and_tools_expect() {
    let script = "for f in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$f; done; \
                  for f in fd stdin stdout stderr; do readlink /dev/$f; done; \
                  ls -d /dev/pts /dev/shm /dev/mqueue; stat -Lc '%F %t:%T' /dev/ptmx";
    Inside::sh(script).prints(
        "/dev/null character special file 1:3 666\n/dev/zero character special file 1:5 666\n\
         /dev/full character special file 1:7 666\n/dev/random character special file 1:8 666\n\
         /dev/urandom character special file 1:9 666\n/dev/tty character special file 5:0 666\n\
         /proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\n\
         /dev/mqueue\n/dev/pts\n/dev/shm\ncharacter special file 5:2\n",
    );
    let script = "echo x > /dev/null; head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; \
                  (echo x > /dev/full) 2>/dev/null || echo full; ls -A /dev/pts; : > /dev/file && echo writable";
    Inside::sh(script).prints("4\n4\nfull\nptmx\nwritable\n");
}

#[test]
fn shared_memory_and_message_queues_work_and_are_its_own() {
    let mark = format!("podrun-test-{}", std::process::id());
    let script = format!(
        "set -e; echo x > /dev/shm/{mark}; cat /dev/shm/{mark}; : > /dev/mqueue/{mark}; \
         ls /dev/mqueue; grep -E ' /dev/(shm|mqueue|pts) ' /proc/mounts | cut -d' ' -f2,3 | sort; \
         stat -c %a /dev/shm"
    );
    Inside::sh(&script)
        .prints(&format!("x\n{mark}\n/dev/mqueue mqueue\n/dev/pts devpts\n/dev/shm tmpfs\n1777\n"));
    assert!(!std::path::Path::new("/dev/shm").join(mark).exists());
}

#[test]
fn programs_that_open_a_terminal_get_one() {
    Inside::bash("script -qefc 'tty; test -t 0 && echo terminal' /dev/null </dev/null").check(|output| {
        assert!(output.out().contains("/dev/pts/0") && output.out().contains("terminal"), "{output}");
        output.expect(0);
    });
    Inside::command(debian(), &["python3", "-c", "import pty; pty.spawn(['sh', '-c', 'tty'])"]).check(
        |output| {
            assert!(output.out().contains("/dev/pts/0"), "{output}");
        },
    );
}

#[test]
fn bash_has_job_control_on_a_terminal_inside() {
    let script = r#"script -qefc 'bash --norc -ic "sleep 1000 & jobs; kill %1; wait %1; echo code \$?"' /dev/null </dev/null"#;
    Inside::bash(script).check(|output| {
        let out = output.out();
        assert!(!out.contains("no job control"), "{output}");
        assert!(out.contains("Running") && out.contains("code 143"), "{output}");
    });
}

#[test]
fn only_its_three_descriptors_are_open() {
    Inside::sh("ls /proc/1/fd; :").prints("0\n1\n2\n");
    // Also without a shell's own doings.
    Inside::command(busybox(), &["ls", "/proc/self/fd"]).prints("0\n1\n2\n3\n");
}

#[test]
fn no_signal_is_ignored_or_blocked_and_no_capability_is_inheritable() {
    Inside::command(busybox(), &["grep", "-E", "^(Sig(Blk|Ign)|Cap(Inh|Amb)|Threads):", "/proc/self/status"])
        .check(|output| {
            let out = output.out();
            let values: Vec<_> = out.lines().filter_map(|line| line.split_once('\t')).collect();
            assert_eq!(values.len(), 5, "{output}");
            for (key, value) in values {
                // Two that the C library keeps to itself: who uses it cannot take them back from its caller.
                let value = match (peer(), key) {
                    (Some(_), "SigIgn:") => {
                        let ignored = u64::from_str_radix(value, 16).expect("a number") & !0x1_8000_0000;
                        format!("{ignored:016x}")
                    }
                    _ => value.to_owned(),
                };
                let expected = if key == "Threads:" { "1" } else { "0000000000000000" };
                assert_eq!(value, expected, "{key} {output}");
            }
        });
}

#[test]
fn sys_is_read_only_and_proc_is_its_own() {
    let script = "mkdir /sys/kernel/x 2>/dev/null || echo refused; grep -c ' /sys sysfs ro' /proc/mounts; \
                  ls /proc | grep -E '^[0-9]+$' | head -n 1; cat /proc/1/comm; :";
    Inside::sh(script).prints("refused\n1\n1\nsh\n");
}

#[test]
fn its_cgroup_is_the_root_of_what_it_sees() {
    Inside::sh("grep ^0:: /proc/self/cgroup").prints("0::/\n");
}

#[test]
fn without_a_network_there_is_loopback_and_it_is_up() {
    let mut inside = Inside::sh(
        "ls /sys/class/net; ip link show lo | grep -c UP; ping -c 1 -W 5 127.0.0.1 >/dev/null && echo pong",
    );
    inside.no_network = true;
    inside.check(|output| {
        // Modules of the host may add tunnel devices to every new namespace.
        assert!(output.out().lines().any(|line| line == "lo"), "{output}");
        assert!(output.out().contains("1\n"), "{output}");
        let own = Inside::sh("readlink /proc/self/ns/net");
        assert!(!own.argv.is_empty());
    });
    let mut inside = Inside::sh("readlink /proc/self/ns/net");
    inside.no_network = true;
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    inside.check(|output| assert_ne!(output.out().trim(), host.display().to_string()));
}

#[test]
fn volumes_are_there_and_read_only_ones_cannot_be_written() {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "of the host").unwrap();
    let source = host.path().to_str().unwrap().to_owned();
    // The places do not all exist in the image; podrun makes them, but never in a shared rootfs.
    let mut inside = Inside::sh(
        "cat /mnt/file; echo; echo inside > /mnt/new; cat /home/file; echo; (: > /home/other) 2>/dev/null || echo refused",
    );
    inside.volumes = vec![(source.clone(), "/mnt".to_owned(), false), (source, "/home".to_owned(), true)];
    inside.prints("of the host\nof the host\nrefused\n");
    assert_eq!(std::fs::read_to_string(host.path().join("new")).unwrap(), "inside\n");
    assert!(!host.path().join("other").exists());
}

#[test]
fn one_file_can_be_a_volume() {
    let host = tempfile::tempdir().unwrap();
    let file = host.path().join("file");
    std::fs::write(&file, "host\n").unwrap();
    let mut inside = Inside::sh("cat /etc/group");
    inside.volumes = vec![(file.to_str().unwrap().to_owned(), "/etc/group".to_owned(), true)];
    inside.prints("host\n");
}

#[test]
fn a_place_for_a_volume_is_made_in_the_overlay_only() {
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "host\n").unwrap();
    let mut inside = Inside::sh("cat /new/place/file");
    inside.rootfs = overlay(inside.rootfs);
    inside.volumes = vec![(host.path().to_str().unwrap().to_owned(), "/new/place".to_owned(), true)];
    inside.prints("host\n");
    assert!(!std::path::Path::new(&busybox()).join("new").exists());
}

#[test]
fn a_tmpfs_is_empty_and_writable() {
    let mut inside =
        Inside::sh("ls -A /home; echo x > /home/x && cat /home/x; grep -c ' /home tmpfs ' /proc/mounts");
    inside.tmpfs = Some("/home".to_owned());
    inside.read_only = true;
    inside.prints("x\n1\n");
}

#[test]
fn a_read_only_root_cannot_be_written_but_what_is_mounted_on_it_can() {
    let mut inside = Inside::sh(
        "(: > /x) 2>/dev/null || echo refused; (: > /etc/x) 2>/dev/null || echo refused; : > /dev/shm/x && echo fine",
    );
    inside.read_only = true;
    inside.prints("refused\nrefused\nfine\n");
}

#[test]
fn user_and_directory_are_what_was_asked() {
    let mut inside = Inside::sh(
        "id -u; id -g; pwd; grep -E '^Cap(Prm|Eff):' /proc/self/status | cut -f2; (: > /etc/x) 2>/dev/null || echo refused",
    );
    inside.user = Some((1000, 1000));
    inside.cwd = Some("/home/user".to_owned());
    inside.prints("1000\n1000\n/home/user\n0000000000000000\n0000000000000000\nrefused\n");
}

#[test]
fn the_environment_is_what_was_asked_and_not_the_callers() {
    let mut inside = Inside::command(busybox(), &["env"]);
    inside.env = vec!["FOO=bar baz".to_owned(), "EMPTY=".to_owned()];
    inside.check(|output| {
        let out = output.out();
        let lines: Vec<_> = out.lines().collect();
        assert!(lines.contains(&"FOO=bar baz") && lines.contains(&"EMPTY="), "{output}");
        assert!(lines.iter().any(|line| line.starts_with("PATH=/")), "{output}");
        for line in &lines {
            let known =
                ["FOO", "EMPTY", "PATH", "HOME", "HOSTNAME"].contains(&line.split('=').next().unwrap());
            assert!(known, "{line} is the caller's: {output}");
        }
    });
}

#[test]
fn the_command_is_looked_up_inside() {
    Inside::command(busybox(), &["busybox", "echo", "found"]).prints("found\n");
    let mut inside = Inside::command(busybox(), &["where"]);
    let host = tempfile::tempdir().unwrap();
    crate::harness::executable(&host.path().join("where"), "#!/bin/sh\necho by PATH\n");
    inside.volumes = vec![(host.path().to_str().unwrap().to_owned(), "/mnt".to_owned(), true)];
    inside.env = vec!["PATH=/nowhere:/mnt".to_owned()];
    // The later entry wins in a bundle: the configuration of the test has one of its own.
    inside.prints("by PATH\n");
}

#[test]
fn exit_codes_and_signals_come_out() {
    Inside::sh("exit 42").check(|output| assert_eq!(output.code, Some(42), "{output}"));
    Inside::bash("exit 0").check(|output| assert_eq!(output.code, Some(0), "{output}"));
}

/// Only a supervised container's output is podrun's own pipe.
#[test]
fn anyone_may_open_its_output_again() {
    let podrun = Podrun::new();
    let script = "echo one > /dev/stdout; echo two > /dev/stderr; echo three > /proc/self/fd/1";
    for user in ["0", "1000"] {
        let args = ["run", "c", "--rm", "--user", user, "--rootfs", &busybox(), "--", "sh", "-c", script];
        let output = podrun.cmd(args).run();
        assert_eq!((output.out(), output.err()), ("one\nthree\n".into(), "two\n".into()), "{output}");
    }
}

/// Only podrun's own options have defaults to speak of.
#[test]
fn the_default_environment_has_home_and_hostname() {
    let podrun = Podrun::new();
    let run = |user: &str| {
        let script = "echo $HOME; echo $HOSTNAME; hostname; id -G";
        let args = ["run", "c", "--rm", "--hostname", "h", "--user", user, "--rootfs", &busybox()];
        podrun.cmd(args.into_iter().chain(["--", "sh", "-c", script])).ok()
    };
    assert_eq!(run("0"), "/root\nh\nh\n0\n");
    assert_eq!(run("user"), "/home/user\nh\nh\n1000 50\n");
}

#[test]
fn the_host_sees_it_in_the_cgroup_that_state_names() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let state = podrun.state("c");
    let path = state["cgroupPath"].as_str().expect("a path");
    let procs = std::fs::read_to_string(format!("{path}/cgroup.procs")).expect("the cgroup exists");
    assert_eq!(procs.trim(), podrun.pid("c").to_string());
    assert!(path.ends_with("/ctr-c"), "{path}");
}

#[test]
fn an_env_file_gives_variables() {
    let podrun = Podrun::new();
    std::fs::write(podrun.dir().join("env"), "# a comment\nA=1\n\nB=two words\n").unwrap();
    let args = ["run", "c", "--rm", "--env-file", "env", "--env", "B=3", "--rootfs", &busybox()];
    podrun.cmd(args.into_iter().chain(["--", "sh", "-c", "echo $A $B"])).prints("1 3\n");
}

#[test]
fn a_network_namespace_can_be_joined_by_path() {
    let podrun = Podrun::new();
    podrun
        .cmd(["run", "a", "-d", "--network", "none", "--rootfs", &busybox(), "--", "sleep", "1000"])
        .prints("a\n");
    let path = format!("/proc/{}/ns/net", podrun.pid("a"));
    let namespace = std::fs::read_link(&path).unwrap();
    let network = format!("ns:{path}");
    let args = ["run", "b", "--rm", "--network", &network, "--rootfs", &busybox()];
    podrun
        .cmd(args.into_iter().chain(["--", "readlink", "/proc/self/ns/net"]))
        .prints(&format!("{}\n", namespace.display()));
}

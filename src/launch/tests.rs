//! A container on a busybox root, looked at from inside.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::json;

use super::*;
use crate::cgroup::{self, Cgroup};
use crate::error::Kind;
use crate::paths::Roots;
use crate::spec::settings::Settings;
use crate::sys::clone::tests::alone;

/// A root filesystem and a cgroup that go with it.
struct Host {
    dir: tempfile::TempDir,
    cgroup: PathBuf,
}

/// What a process wrote and how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    output: String,
    code: i32,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let rootfs = dir.path().join("rootfs");
        for sub in ["bin", "etc", "tmp", "home"] {
            std::fs::create_dir_all(rootfs.join(sub)).unwrap();
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).unwrap();
        for applet in
            ["sh", "cat", "ls", "id", "true", "sleep", "mount", "readlink", "stat", "ip", "grep", "touch"]
        {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(applet)).unwrap();
        }
        std::fs::write(rootfs.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:34::/home:/bin/sh\n")
            .unwrap();
        std::fs::write(rootfs.join("etc/group"), "root:x:0:\nlogs:x:4:web\n").unwrap();
        let cgroup = cgroup::mount().unwrap().join(format!("podrun-launch-test-{}", std::process::id()));
        Self { dir, cgroup }
    }

    fn rootfs(&self) -> PathBuf {
        self.dir.path().join("rootfs")
    }

    fn spec(&self, args: &[&str]) -> serde_json::Value {
        json!({
            "ociVersion": "1.0.2",
            "root": { "path": "rootfs" },
            "hostname": "inside",
            "process": {
                "user": { "uid": 0, "gid": 0 },
                "args": args,
                "env": ["PATH=/bin"],
                "cwd": "/",
                "capabilities": {
                    "bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN", "CAP_KILL"],
                    "permitted": ["CAP_CHOWN", "CAP_KILL"],
                },
            },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
                  "options": ["nosuid", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777"] },
                { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid"] },
                { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] },
            ],
            "linux": {
                "namespaces": [
                    { "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" },
                    { "type": "cgroup" }, { "type": "network" },
                ],
                "maskedPaths": ["/proc/kcore", "/proc/timer_list", "/sys/firmware", "/none"],
                "readonlyPaths": ["/proc/sys"],
            },
        })
    }

    fn plan(&self, spec: &serde_json::Value, settings: &Settings) -> Result<Plan> {
        let spec: Spec = serde_json::from_value(spec.clone()).unwrap();
        let roots = Roots::new(Some(&self.dir.path().join("state")), None).unwrap();
        let paths = roots.container(&"c".parse().unwrap());
        std::fs::create_dir_all(&paths.dir).unwrap();
        super::plan(&spec, settings, &paths, self.dir.path())
    }

    fn create(&self, spec: &serde_json::Value, settings: &Settings) -> Result<(Init, OwnedFd)> {
        let cgroup = Cgroup::create(&self.cgroup).unwrap();
        let (output, stdio) = stdio();
        let init = create(self.plan(spec, settings)?, Some(&cgroup), stdio, Gate::Socketpair)?;
        Ok((init, output))
    }

    fn run_with(&self, spec: &serde_json::Value, settings: &Settings) -> Result<Seen> {
        let (init, output) = self.create(spec, settings)?;
        start(&init)?;
        let code = wait(&init.pidfd);
        Ok(Seen { output: read(output), code })
    }

    fn run(&self, spec: &serde_json::Value) -> Result<Seen> {
        self.run_with(spec, &Settings::default())
    }

    fn sh(&self, script: &str) -> String {
        let seen = self.run(&self.spec(&["sh", "-c", script])).unwrap();
        assert_eq!(seen.code, 0, "{seen:?}");
        seen.output
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Also after a failed assertion.
        if let Ok(Some(cgroup)) = Cgroup::open(&self.cgroup) {
            let _ = cgroup.kill();
        }
        let _ = cgroup::remove(&self.cgroup);
    }
}

use crate::error::Result;

fn stdio() -> (OwnedFd, Stdio) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let stderr = write.try_clone().unwrap();
    (read, Stdio::Files([File::open("/dev/null").unwrap().into(), write, stderr]))
}

fn start(init: &Init) -> Result<()> {
    let gate = init.gate.as_ref().unwrap();
    gate::go(gate)?;
    gate::outcome(&read_bytes(gate.try_clone().unwrap()))
}

fn wait(pidfd: &OwnedFd) -> i32 {
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().or(status.terminating_signal().map(|signal| 128 + signal)).unwrap()
}

fn read_bytes(fd: OwnedFd) -> Vec<u8> {
    let mut bytes = Vec::new();
    File::from(fd).read_to_end(&mut bytes).unwrap();
    bytes
}

fn read(fd: OwnedFd) -> String {
    String::from_utf8(read_bytes(fd)).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/bin/busybox").exists()
}

#[test]
fn a_container_sees_itself_and_nothing_else() {
    if !is_root() {
        return;
    }
    alone(|| {
        let host = Host::new();
        assert_eq!(host.sh("echo $$; cat /proc/sys/kernel/hostname"), "1\ninside\n");
        assert_eq!(
            host.sh("ls -x /; ls -x /dev").split_whitespace().collect::<Vec<_>>().join(" "),
            "bin dev etc home proc sys tmp fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
        );
        assert_eq!(host.sh("cat /proc/self/cgroup | grep ^0"), "0::/\n");
        assert_eq!(host.sh("ls -x /proc/1/fd; true").split_whitespace().count(), 3);
        assert_eq!(
            host.sh("echo *; ls /sys/fs/cgroup/cgroup.procs").lines().last(),
            Some("/sys/fs/cgroup/cgroup.procs")
        );
        let mounts = host.sh("cat /proc/mounts");
        let places: Vec<&str> = mounts.lines().filter_map(|line| line.split(' ').nth(1)).collect();
        assert_eq!(
            places[..8],
            ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/sys", "/sys/fs/cgroup"]
        );
        let covered = ["/proc/sys", "/proc/kcore", "/proc/timer_list", "/sys/firmware"];
        assert!(places[8..].iter().all(|place| covered.contains(place)), "{mounts}");
        assert!(host.sh("ip link show lo").contains("UP"), "lo is up");
        assert_eq!(host.sh("cat /proc/timer_list; ls /sys/firmware"), "");
        let refused = host.sh("echo 1 2>&1 > /proc/sys/vm/swappiness || echo no");
        assert!(refused.contains("Read-only") && refused.ends_with("no\n"), "{refused}");
        assert_eq!(host.sh("echo x >/dev/null; echo y >/dev/stdout; stat -c %t,%T /dev/ptmx -L"), "y\n5,2\n");
    });
}

#[test]
fn a_process_starts_with_clean_signals_and_the_given_rights() {
    if !is_root() {
        return;
    }
    alone(|| {
        let host = Host::new();
        let mut spec =
            host.spec(&["grep", "-E", "Sig(Blk|Ign|Cgt)|Cap|Groups|Uid|NoNew", "/proc/self/status"]);
        spec["process"]["noNewPrivileges"] = true.into();
        let root = host.run(&spec).unwrap().output;
        for line in [
            "SigBlk:\t0000000000000000",
            "SigIgn:\t0000000000000000",
            "CapInh:\t0000000000000000",
            "CapAmb:\t0000000000000000",
            "CapBnd:\t0000000000000021",
            "CapEff:\t0000000000000021",
            "NoNewPrivs:\t1",
        ] {
            assert!(root.contains(line), "{line}: {root}");
        }
        spec["process"]["user"]["username"] = "web".into();
        let web = host.run(&spec).unwrap().output;
        for line in ["Uid:\t33\t33\t33\t33", "Groups:\t4 \n", "CapEff:\t0000000000000000"] {
            assert!(web.contains(line), "{line}: {web}");
        }
        spec["process"]["args"] = json!(["sh", "-c", "echo $HOME > /dev/stdout"]);
        assert_eq!(host.run(&spec).unwrap().output, "/home\n", "a user's stdout can be opened again");
    });
}

#[test]
fn a_command_that_cannot_run_is_refused_with_its_own_code() {
    if !is_root() {
        return;
    }
    alone(|| {
        let host = Host::new();
        std::fs::write(host.rootfs().join("plain"), "x").unwrap();
        for (name, text) in [("script", "#!/none\n"), ("garbage", "\x7fELFnonsense")] {
            std::fs::write(host.rootfs().join(name), text).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(host.rootfs().join(name), mode).unwrap();
        }
        for (command, kind, why) in [
            ("none", Kind::CommandNotFound, "executable file not found in $PATH"),
            ("/none", Kind::CommandNotFound, "no such file or directory"),
            ("/plain", Kind::CannotExecute, "permission denied"),
            ("/etc", Kind::CannotExecute, "is a directory"),
        ] {
            let error = host.create(&host.spec(&[command]), &Settings::default()).unwrap_err();
            assert_eq!((error.kind, error.why.as_str()), (kind, why), "{command}");
        }
        for (command, kind, why) in [
            ("/script", Kind::CommandNotFound, "no such file or directory"),
            ("/garbage", Kind::CannotExecute, "exec format error"),
        ] {
            let (init, _output) = host.create(&host.spec(&[command]), &Settings::default()).unwrap();
            let error = start(&init).unwrap_err();
            assert_eq!((error.kind, error.why.as_str()), (kind, why), "{command}");
            assert_eq!(wait(&init.pidfd), i32::from(error.launch_exit_code()));
        }
        let mut spec = host.spec(&["true"]);
        spec["process"]["cwd"] = "/nowhere".into();
        let error = host.run(&spec).unwrap_err();
        assert_eq!((error.kind, error.why.as_str()), (Kind::Failed, "no such file or directory"));
        let mut spec = host.spec(&["true"]);
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .push(json!({ "destination": "/x", "type": "bind", "source": "/nowhere", "options": ["bind"] }));
        let error = host.run(&spec).unwrap_err();
        assert_eq!((error.kind, error.what.as_str()), (Kind::Failed, "mount /nowhere on /x"));
    });
}

#[test]
fn links_in_the_image_lead_nowhere_outside() {
    if !is_root() {
        return;
    }
    alone(|| {
        let host = Host::new();
        let outside = host.dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        for name in ["proc", "sys", "dev"] {
            let path = host.rootfs().join(name);
            let _ = std::fs::remove_dir(&path);
            std::os::unix::fs::symlink(&outside, &path).unwrap();
            let error = host.run(&host.spec(&["true"])).unwrap_err();
            assert!(error.why.contains("symbolic link"), "{error}");
            std::fs::remove_file(&path).unwrap();
        }
        std::os::unix::fs::symlink(&outside, host.rootfs().join("data")).unwrap();
        let mut spec = host.spec(&["true"]);
        let file = json!({ "destination": "/data/f", "type": "bind", "source": "/etc/hostname", "options": ["bind"] });
        spec["mounts"].as_array_mut().unwrap().push(file);
        let _ = host.run(&spec);
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        spec["process"]["cwd"] = "/proc/self/fd/3".into();
        assert!(host.run(&spec).is_err());
    });
}

#[test]
fn volumes_are_what_their_options_say_and_an_overlay_keeps_the_root_as_it_was() {
    if !is_root() {
        return;
    }
    alone(|| {
        let host = Host::new();
        let volume = host.dir.path().join("volume");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(volume.join("file"), "data\n").unwrap();
        let mut spec =
            host.spec(&["sh", "-c", "cat /v/file /f; touch /v/new 2>&1; touch /new && ls -d /new"]);
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({ "destination": "/v", "type": "bind", "source": volume, "options": ["rbind", "ro"] }),
        );
        mounts.push(json!({ "destination": "/f", "source": volume.join("file"), "options": ["bind"] }));
        let settings = Settings { overlay: true, ..Settings::default() };
        let seen = host.run_with(&spec, &settings).unwrap().output;
        assert_eq!(seen, "data\ndata\ntouch: /v/new: Read-only file system\n/new\n");
        assert!(!host.rootfs().join("new").exists() && !host.rootfs().join("v").exists());

        spec["root"]["readonly"] = true.into();
        spec["process"]["args"] = json!(["sh", "-c", "touch /new 2>&1"]);
        assert!(host.run_with(&spec, &settings).unwrap().output.contains("Read-only"));
    });
}

#[test]
fn the_hosts_own_root_is_a_root_filesystem() {
    if !is_root() {
        return;
    }
    alone(|| {
        let host = Host::new();
        let mut spec = host.spec(&["/bin/sh", "-c", "touch /podrun-test-new && ls / && ls -A $0"]);
        let state = host.dir.path().join("state");
        spec["process"]["args"].as_array_mut().unwrap().push(state.to_str().unwrap().into());
        spec["root"]["path"] = "/".into();
        let settings = Settings { overlay: true, ..Settings::default() };
        let seen = host.run_with(&spec, &settings).unwrap();
        assert_eq!(seen.code, 0, "{seen:?}");
        assert!(seen.output.contains("podrun-test-new") && seen.output.contains("usr"), "{seen:?}");
        assert!(!seen.output.contains("containers"), "podrun's own directory is empty inside: {seen:?}");
        assert!(!Path::new("/podrun-test-new").exists());
    });
}

#[test]
fn a_starter_that_dies_before_go_changes_nothing() {
    if !is_root() {
        return;
    }
    alone(|| {
        let host = Host::new();
        let path = host.dir.path().join("gate.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let cgroup = Cgroup::create(&host.cgroup).unwrap();
        let (output, stdio) = stdio();
        let plan = host.plan(&host.spec(&["sh", "-c", "echo ran"]), &Settings::default()).unwrap();
        let init = create(plan, Some(&cgroup), stdio, Gate::Listen(listener.into())).unwrap();
        assert!(init.gate.is_none());
        let connect = || std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(connect());
        let starter = connect();
        gate::go(&starter).unwrap();
        gate::outcome(&read_bytes(starter.into())).unwrap();
        assert_eq!((wait(&init.pidfd), read(output)), (0, "ran\n".to_owned()));
    });
}

#[test]
fn an_init_hands_signals_on_and_ends_as_its_command() {
    if !is_root() {
        return;
    }
    alone(|| {
        let host = Host::new();
        let settings = Settings { init: true, ..Settings::default() };
        let script = "trap 'echo heard; exit 7' TERM; echo $$; while :; do sleep 1000 & wait; done";
        let (init, output) = host.create(&host.spec(&["sh", "-c", script]), &settings).unwrap();
        start(&init).unwrap();
        let mut first = [0; 2];
        rustix::io::read(&output, &mut first).unwrap();
        assert_eq!(&first, b"2\n", "PID 1 is podrun's");
        crate::sys::signal::send(&init.pidfd, nix::libc::SIGTERM).unwrap();
        assert_eq!(wait(&init.pidfd), 7);
        let ending = read_bytes(init.ending.unwrap());
        assert_eq!(i32::from_le_bytes(ending.try_into().unwrap()), 7 << 8);
        assert_eq!(read(output), "heard\n");

        let (init, _output) = host.create(&host.spec(&["sh", "-c", "kill -9 $$"]), &settings).unwrap();
        start(&init).unwrap();
        assert_eq!(wait(&init.pidfd), 137);
        assert_eq!(i32::from_le_bytes(read_bytes(init.ending.unwrap()).try_into().unwrap()), 9);

        let error = host.create(&host.spec(&["none"]), &settings).unwrap_err();
        assert_eq!(error.kind, Kind::CommandNotFound);
    });
}

#[test]
fn a_process_joins_with_the_containers_view_and_its_own_identity() {
    if !is_root() {
        return;
    }
    alone(|| {
        let host = Host::new();
        let spec = host.spec(&["sleep", "1000"]);
        let (init, _output) = host.create(&spec, &Settings::default()).unwrap();
        start(&init).unwrap();
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let cgroup = Cgroup::open(&host.cgroup).unwrap().unwrap();
        let join = |process: Process| -> Result<Seen> {
            let (output, stdio) = stdio();
            let execed = exec(plan_exec(&spec, &process)?, init.pidfd.as_fd(), Some(&cgroup), stdio, None)?;
            let report = gate::outcome(&read_bytes(execed.report));
            let code = wait(&execed.pidfd);
            report?;
            Ok(Seen { output: read(output), code })
        };
        let process = |args: &[&str]| Process {
            args: args.iter().map(|arg| (*arg).into()).collect(),
            ..Process::default()
        };
        let seen = join(process(&[
            "sh",
            "-c",
            "cat /proc/sys/kernel/hostname; ls -x /proc/1/fd; cat /proc/self/cgroup | grep ^0; exit 3",
        ]))
        .unwrap();
        assert_eq!(seen.code, 3, "{seen:?}");
        assert!(seen.output.starts_with("inside\n") && seen.output.ends_with("0::/\n"), "{seen:?}");
        let seen = join(Process {
            env: vec!["FOO=bar".into()],
            cwd: Some("/tmp".into()),
            user: Some("web".into()),
            ..process(&["sh", "-c", "pwd; echo $FOO $HOME; id -u; id -G"])
        });
        assert_eq!(seen.unwrap().output, "/tmp\nbar /home\n33\n34 4\n");
        let seen = join(process(&[
            "grep",
            "-cE",
            "(SigBlk|SigIgn|CapInh|CapAmb):.0000000000000000",
            "/proc/self/status",
        ]));
        assert_eq!(seen.unwrap().output, "4\n");
        assert_eq!(join(process(&["none"])).unwrap_err().kind, Kind::CommandNotFound);
        assert_eq!(join(process(&["/etc"])).unwrap_err().kind, Kind::CannotExecute);
        assert!(join(Process { cwd: Some("/proc/self/fd/3".into()), ..process(&["true"]) }).is_err());

        cgroup.kill().unwrap();
        assert_eq!(wait(&init.pidfd), 137);
        assert_eq!(join(process(&["true"])).unwrap_err().why, "container not running");
    });
}

/// `PODRUN_MEASURE=1 cargo test --lib -- --nocapture measure`
#[test]
fn measure() {
    if !is_root() || std::env::var_os("PODRUN_MEASURE").is_none() {
        return;
    }
    alone(|| {
        let host = Host::new();
        let mut spec = host.spec(&["true"]);
        for network in [true, false] {
            if !network {
                spec["linux"]["namespaces"].as_array_mut().unwrap().pop();
            }
            let (mut built, mut all) = (Vec::new(), Vec::new());
            for _ in 0..200 {
                let begin = std::time::Instant::now();
                let (init, _output) = host.create(&spec, &Settings::default()).unwrap();
                built.push(begin.elapsed());
                start(&init).unwrap();
                wait(&init.pidfd);
                all.push(begin.elapsed());
            }
            built.sort();
            all.sort();
            println!(
                "network {network}: built {:?} (best {:?}), ended {:?} (best {:?})",
                built[100], built[0], all[100], all[0],
            );
        }
    });
}

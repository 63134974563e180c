//! OCI bundles, and an engine to run them with.
//!
//! In OCI mode podrun leaves init to its caller's subreaper. [`Engine`] is such a caller: a process
//! of its own (this test program again, with the hidden "test" [`engine`] selected), so that no
//! other scenario's orphans come to it.
//!
//! ```text
//!  scenario ── spawn ──▶ engine (subreaper) ── create --bundle ──▶ podrun ── clone ──▶ init
//!      │ ◀── "created N" ────┤ ◀───────────────── reparented ─────────────────────────────┘
//!      │ ── start, kill, …   │ waitpid(init)
//!      ▼ ◀── "ended exit 0" ─┘
//! ```

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, WaitOptions};
use serde_json::{Value, json};

use super::{Cmd, Output, Podrun, Running, busybox};

/// In a bundle's directory, the socket on which its scenario waits for the terminal.
pub(crate) const CONSOLE: &str = "console.sock";

/// A minimal OCI configuration that engines, crun and runc accept: five namespaces, the usual
/// mounts, no capabilities beyond the usual ones, the network shared.
pub(crate) fn config(rootfs: &str, argv: &[&str]) -> Value {
    let caps = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"];
    let mount = |place: &str, kind: &str, source: &str, options: &[&str]| json!({"destination": place, "type": kind, "source": source, "options": options});
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": rootfs},
        "hostname": "bundle",
        "process": {
            "cwd": "/",
            "user": {"uid": 0, "gid": 0},
            "args": argv,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
            "noNewPrivileges": true,
        },
        "mounts": [
            mount("/proc", "proc", "proc", &[]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "cgroup"},
            ],
        },
    })
}

/// Writes `config` as a bundle directory.
#[track_caller]
pub(crate) fn bundle(dir: &Path, config: &Value) -> PathBuf {
    fs::create_dir_all(dir).expect("make the bundle");
    fs::write(dir.join("config.json"), config.to_string()).expect("write config.json");
    dir.to_owned()
}

/// What `script` prints in a container whose configuration `change` has changed.
#[track_caller]
pub(crate) fn inside(podrun: &Podrun, rootfs: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
    inside_by(podrun, rootfs, script, r#"exec podrun "$@""#, change)
}

/// The same, created by a shell script, which has podrun's arguments as its own.
#[track_caller]
pub(crate) fn inside_by(
    podrun: &Podrun,
    rootfs: &str,
    script: &str,
    creator: &str,
    change: impl FnOnce(&mut Value),
) -> String {
    let mut config = config(rootfs, &["sh", "-c", script]);
    change(&mut config);
    let engine = Engine::create_by(podrun, "o", &config, creator);
    podrun.cmd(["start", "o"]).run().expect(0);
    let output = engine.wait();
    podrun.cmd(["delete", "o"]).run().expect(0);
    output.expect(0);
    assert_eq!(output.err(), "", "{output}");
    output.out()
}

/// `podrun create` of the bundle at `dir`. What is created after all would hold our descriptors open.
#[track_caller]
pub(crate) fn create(podrun: &Podrun, dir: &Path) -> Output {
    let redirected = "</dev/null >/dev/null 2>said || { code=$?; cat said >&2; exit $code; }";
    podrun.sh(&format!("podrun create --bundle {} o {redirected}", dir.display())).run()
}

/// The refusal of a configuration that `change` has changed.
#[track_caller]
pub(crate) fn refused(podrun: &Podrun, reason: &str, change: impl FnOnce(&mut Value)) {
    let mut config = config(&busybox(), &["true"]);
    change(&mut config);
    let output = create(podrun, &bundle(&podrun.dir().join("bundle"), &config));
    output.is_a_failure(output.code.filter(|code| *code == 1 || *code == 2).expect("a failure"), reason);
    podrun.cmd(["state", "o"]).fails(1, "does not exist");
}

/// Puts one more mount into a configuration.
pub(crate) fn push_mount(config: &mut Value, mount: Value) {
    config["mounts"].as_array_mut().expect("mounts").push(mount);
}

/// Puts one more namespace into a configuration.
pub(crate) fn push_namespace(config: &mut Value, namespace: Value) {
    config["linux"]["namespaces"].as_array_mut().expect("namespaces").push(namespace);
}

/// The container's cgroup is the engine's choice; here it is the one that is looked through for leaks.
pub(crate) fn choose_cgroup(podrun: &Podrun, id: &str, config: &mut Value) {
    if config["linux"]["cgroupsPath"].is_null() {
        let name = podrun.cgroup().file_name().expect("a name").to_str().expect("UTF-8").to_owned();
        config["linux"]["cgroupsPath"] = json!(format!("/{name}/ctr-{id}"));
    }
}

/// A caller of OCI commands, with one container of its own.
pub(crate) struct Engine {
    process: Running,
    dir: PathBuf,
    /// Init's pid, as `--pid-file` told it.
    pub(crate) pid: i32,
}

impl Engine {
    /// Runs `podrun create --bundle` for `config`.
    #[track_caller]
    pub(crate) fn create(podrun: &Podrun, id: &str, config: &Value) -> Self {
        Self::create_by(podrun, id, config, r#"exec podrun "$@""#)
    }

    /// The same by a shell script, which has podrun's arguments as its own.
    #[track_caller]
    pub(crate) fn create_by(podrun: &Podrun, id: &str, config: &Value, script: &str) -> Self {
        let mut config = config.clone();
        choose_cgroup(podrun, id, &mut config);
        let dir = bundle(&podrun.dir().join(format!("bundle-{id}")), &config);
        let test = "harness::bundle::engine";
        let own = std::env::current_exe().expect("the path of this program");
        let args = ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"];
        let mut process = Cmd::new(own, args)
            .env("PODRUN_TEST_ENGINE_ID", id)
            .env("PODRUN_TEST_ENGINE_SCRIPT", script)
            .env("PODRUN_TEST_ENGINE_PATH", podrun.program_dir())
            .env("PODRUN_ROOT", podrun.root())
            .env("PODRUN_RUN_ROOT", podrun.run_root())
            .cwd(&dir)
            .spawn();
        loop {
            let line = process.line().expect("the engine answers");
            if let Some(pid) = line.strip_prefix("engine: created ") {
                return Self { process, dir, pid: pid.parse().expect("a pid") };
            }
            if let Some(code) = line.strip_prefix("engine: failed ") {
                panic!("create failed with {code}: {}", read(&dir));
            }
        }
    }

    /// Waits for init's end, and gives what it wrote and how it ended.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Output {
        loop {
            let line = self.process.line().expect("the engine answers");
            let Some(ending) = line.strip_prefix("engine: ended ") else { continue };
            let mut output = read(&self.dir);
            match ending.split_once(' ') {
                Some(("exit", code)) => output.code = code.parse().ok(),
                Some(("signal", signal)) => output.signal = signal.parse().ok(),
                _ => panic!("{line}"),
            }
            self.process.finish();
            return output;
        }
    }
}

fn read(dir: &Path) -> Output {
    let file = |name: &str| fs::read(dir.join(name)).unwrap_or_default();
    let what = format!("the container of {}", dir.display());
    Output { what, stdout: file("stdout"), stderr: file("stderr"), ..Output::default() }
}

/// Not a test: what [`Engine::create`] runs in a process of its own.
#[test]
#[ignore = "the engine of the OCI scenarios, not a test"]
fn engine() {
    let Ok(id) = std::env::var("PODRUN_TEST_ENGINE_ID") else { return };
    let say = |line: String| {
        let mut out = std::io::stdout();
        writeln!(out, "engine: {line}").and_then(|()| out.flush()).expect("tell the scenario");
    };
    rustix::process::set_child_subreaper(Pid::from_raw(1)).expect("become a subreaper");
    let script = std::env::var("PODRUN_TEST_ENGINE_SCRIPT").expect("a script");
    let own = std::env::var("PODRUN_TEST_ENGINE_PATH").expect("a directory");
    let created = Command::new("/bin/sh")
        .env("PATH", format!("{own}:/usr/sbin:/usr/bin:/sbin:/bin"))
        .args(["-euc", &script, "sh"])
        .args(["create", "--bundle", ".", "--pid-file", "pid"])
        .args(Path::new(CONSOLE).exists().then_some(["--console-socket", CONSOLE]).into_iter().flatten())
        .arg(&id)
        .stdin(Stdio::null())
        .stdout(fs::File::create("stdout").expect("create a file"))
        .stderr(fs::File::create("stderr").expect("create a file"))
        .status()
        .expect("run podrun");
    // libtest has written "test … ... " without a newline.
    println!();
    if !created.success() {
        return say(format!("failed {}", created.code().unwrap_or(-1)));
    }
    let pid: i32 = fs::read_to_string("pid").expect("the pid file").parse().expect("a number, no newline");
    say(format!("created {pid}"));
    let (_, status) = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty())
        .expect("init is a child of the subreaper")
        .expect("it has ended");
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => say(format!("ended exit {code}")),
        (_, Some(signal)) => say(format!("ended signal {signal}")),
        _ => unreachable!("waited for an end"),
    }
}

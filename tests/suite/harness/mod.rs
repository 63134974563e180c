//! What every scenario stands on.
//!
//! Each test has a [`Podrun`] of its own: a temporary directory with its own durable and volatile
//! root, hence its own cgroup. When it goes out of scope, everything left is deleted with
//! `delete -f`, and then *nothing* may be left: no process, mount, cgroup, socket or file.
//!
//! ```text
//!  Podrun::new() ── cmd / sh / run_detached ──▶ scenario ──▶ drop: delete -f, then `leaks::check`
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::Value;
use tempfile::TempDir;

pub(crate) mod bundle;
pub(crate) mod command;
pub(crate) mod leaks;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod screen;
pub(crate) mod tracer;

pub(crate) use command::{Cmd, Output, Running, hang_limit};

/// The program under test.
pub(crate) const PODRUN: &str = env!("CARGO_BIN_EXE_podrun");

/// The supervisor beside it.
pub(crate) fn shim() -> PathBuf {
    Path::new(PODRUN).with_file_name("podrun-shim")
}

/// `cargo test --test suite` alone builds no other package's program: a supervisor that is older than
/// its sources would be tested instead of them.
#[track_caller]
fn shim_is_current() {
    static STALE: OnceLock<Option<PathBuf>> = OnceLock::new();
    let stale = STALE.get_or_init(|| {
        let built = shim().metadata().and_then(|metadata| metadata.modified()).ok();
        let top = Path::new(env!("CARGO_MANIFEST_DIR"));
        newer_source(&top.join("supervisor/src"), built).or_else(|| newer_source(&top.join("src"), built))
    });
    if let Some(source) = stale
        && !in_guest()
    {
        panic!("{} is older than {}: `cargo build` first", shim().display(), source.display());
    }
}

/// A source file below `dir` that was changed after `built`.
fn newer_source(dir: &Path, built: Option<std::time::SystemTime>) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).find_map(|path| match path.is_dir() {
        // The command line is no part of the supervisor.
        true => (!path.ends_with("src/cli")).then(|| newer_source(&path, built)).flatten(),
        false => {
            let changed = path.metadata().and_then(|metadata| metadata.modified()).ok();
            let is_newer = built.is_none() || changed > built;
            (is_newer && !path.ends_with("src/main.rs")).then_some(path)
        }
    })
}

/// Whether this is the slow guest with one CPU that `tests/guest/run` boots.
pub(crate) fn in_guest() -> bool {
    std::env::var_os("PODRUN_TEST_GUEST").is_some()
}

/// Whether this host's cgroup v2 tree has these controllers. Where it has not, what needs them is
/// tested in the guest.
pub(crate) fn has_controllers<const N: usize>(names: [&str; N]) -> bool {
    let file = leaks::cgroup2_mount().join("cgroup.controllers");
    let text = std::fs::read_to_string(file).expect("read cgroup.controllers");
    names.iter().all(|name| text.split_whitespace().any(|has| has == *name))
}

/// Whether this host can set these limits, by their controllers' names in v2: as v2 or as v1.
pub(crate) fn has_limits<const N: usize>(names: [&str; N]) -> bool {
    names.into_iter().all(|name| has_controllers([name]) || leaks::v1_hierarchy(name).is_some())
}

/// How many of `full` rounds this run makes: `PODRUN_ROUNDS` is the factor, a twentieth by default.
pub(crate) fn rounds(full: usize) -> usize {
    let factor = std::env::var("PODRUN_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(0.05);
    // `as`: a count of rounds is far from where floats lose integers.
    ((full as f64 * factor).ceil() as usize).max(1)
}

/// Random numbers for a campaign, from `PODRUN_SEED` or a seed that the output names.
pub(crate) fn seeded(campaign: &str) -> fastrand::Rng {
    let given = std::env::var("PODRUN_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("{campaign}: PODRUN_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}

fn rootfs(name: &str) -> String {
    static CACHE: OnceLock<PathBuf> = OnceLock::new();
    let cache = CACHE.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rootfs");
        let output = std::process::Command::new(script).output().expect("run tests/rootfs");
        assert!(output.status.success(), "tests/rootfs: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("a path").trim_end().into()
    });
    cache.join(name).to_str().expect("a path in UTF-8").to_owned()
}

/// A root with nothing but busybox. Shared: what writes takes [`overlay`].
pub(crate) fn busybox() -> String {
    rootfs("busybox")
}

/// A minimal Debian with bash, procps and python3. Shared: what writes takes [`overlay`].
pub(crate) fn debian() -> String {
    rootfs("debian")
}

/// The same root with a writable overlay above it.
pub(crate) fn overlay(rootfs: String) -> String {
    rootfs + ":O"
}

/// A podrun that nobody else uses.
pub(crate) struct Podrun {
    dir: TempDir,
    root: PathBuf,
    run_root: PathBuf,
    program: PathBuf,
}

impl Podrun {
    /// With roots in a new temporary directory.
    pub(crate) fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("podrun-test-").tempdir().expect("a temporary directory");
        let (root, run_root) = (dir.path().join("root"), dir.path().join("run"));
        shim_is_current();
        let program = peer::peer().map_or_else(|| PODRUN.into(), |peer| peer::program(dir.path(), &peer));
        Self { dir, root, run_root, program }
    }

    /// With a volatile root whose path is longer than a unix socket's may be.
    pub(crate) fn with_long_run_root() -> Self {
        let mut podrun = Self::new();
        podrun.run_root = podrun.dir.path().join("r".repeat(120)).join("run");
        podrun
    }

    /// A directory that lives as long as this, for whatever the scenario needs.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The directory of the program under test.
    pub(crate) fn program_dir(&self) -> &Path {
        self.program.parent().expect("a program is in a directory")
    }

    /// The durable root.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The volatile root.
    pub(crate) fn run_root(&self) -> &Path {
        &self.run_root
    }

    /// The durable directory of one container.
    pub(crate) fn container_dir(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// The cgroup above all containers of these roots.
    pub(crate) fn cgroup(&self) -> PathBuf {
        let roots = podrun::paths::Roots::new(Some(&self.root), Some(&self.run_root)).expect("roots");
        leaks::cgroup2_mount().join(roots.cgroup_name())
    }

    /// `podrun ARGS`.
    pub(crate) fn cmd<I, S>(&self, args: I) -> Cmd
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.around(Cmd::new(&self.program, args))
    }

    /// A shell script that calls `podrun` as its user types it.
    pub(crate) fn sh(&self, script: &str) -> Cmd {
        self.around(Cmd::new("/bin/sh", ["-euc", script]))
    }

    /// Any program that will call `podrun`.
    pub(crate) fn program<I, S>(&self, program: &str, args: I) -> Cmd
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.around(Cmd::new(program, args))
    }

    fn around(&self, cmd: Cmd) -> Cmd {
        let path = std::env::var("PATH").unwrap_or_default();
        cmd.env("PATH", format!("{}:{path}", self.program_dir().display()))
            .env("PODRUN_ROOT", &self.root)
            .env("PODRUN_RUN_ROOT", &self.run_root)
            .env("BUSYBOX", busybox())
            .env("ROOTFS", debian())
            .cwd(self.dir.path())
    }

    /// A running container with nobody attached.
    #[track_caller]
    pub(crate) fn run_detached<const N: usize>(&self, id: &str, rootfs: &str, argv: [&str; N]) {
        let args = ["run", id, "-d", "--rootfs", rootfs, "--"];
        self.cmd(args.into_iter().chain(argv)).prints(&format!("{id}\n"));
    }

    /// A running container whose shell has executed its first lines up to `echo ready`.
    #[track_caller]
    pub(crate) fn run_script(&self, id: &str, script: &str) {
        self.run_detached(id, &busybox(), ["sh", "-c", script]);
        self.says(id, "ready");
    }

    /// Waits until the container has written the line `wanted` to its stdout.
    #[track_caller]
    pub(crate) fn says(&self, id: &str, wanted: &str) {
        self.cmd(["logs", "-f", id]).spawn().until(wanted);
    }

    /// The OCI state with podrun's own fields.
    #[track_caller]
    pub(crate) fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.cmd(["state", id]).ok()).expect("state prints JSON")
    }

    /// The status word of a container.
    #[track_caller]
    pub(crate) fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().expect("a status").to_owned()
    }

    /// The pid of a container's init.
    #[track_caller]
    pub(crate) fn pid(&self, id: &str) -> i32 {
        number(&self.state(id)["pid"])
    }

    /// The pid of a container's shim.
    #[track_caller]
    pub(crate) fn shim_pid(&self, id: &str) -> i32 {
        number(&self.state(id)["shim"]["pid"])
    }

    /// A file of a container's cgroup in the hierarchy of a v1 controller, without its last newline; `None` where
    /// there is none.
    #[track_caller]
    pub(crate) fn v1_file(&self, id: &str, file: &str) -> Option<String> {
        let controller = file.split('.').next().expect("a name");
        let path = self.cgroup_of(id);
        let below = path.strip_prefix(leaks::cgroup2_mount()).expect("below the mount");
        let text = std::fs::read_to_string(leaks::v1_hierarchy(controller)?.join(below).join(file)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// How many processes of a container the kernel has killed for want of memory, by its own count.
    #[track_caller]
    pub(crate) fn oom_kills(&self, id: &str) -> Option<u64> {
        let text =
            self.cgroup_file(id, "memory.events").or_else(|| self.v1_file(id, "memory.oom_control"))?;
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
    }

    /// A file of a container's cgroup, without its last newline; `None` where the kernel has no such file.
    #[track_caller]
    pub(crate) fn cgroup_file(&self, id: &str, file: &str) -> Option<String> {
        std::fs::read_to_string(self.cgroup_of(id).join(file)).ok().map(|text| text.trim_end().to_owned())
    }

    /// Where a container's cgroup is in the tree of v2.
    #[track_caller]
    fn cgroup_of(&self, id: &str) -> PathBuf {
        if peer::peer().is_some() {
            // Others do not tell.
            return leaks::cgroup2_mount().join(process::cgroup(self.pid(id)).trim_start_matches('/'));
        }
        self.state(id)["cgroupPath"].as_str().expect("a path").into()
    }

    /// Every process of podrun itself, keepers and shims, under these roots.
    pub(crate) fn supervisors(&self) -> Vec<i32> {
        self.own(false)
    }

    /// Every process that is writing a log.
    pub(crate) fn log_writers(&self) -> Vec<i32> {
        self.own(true)
    }

    fn own(&self, writes_log: bool) -> Vec<i32> {
        let is_writer = |pid: &i32| {
            std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "podrun-log\n")
        };
        let all = leaks::processes_of(&self.cgroup().join("_shims"));
        all.into_iter().filter(|pid| is_writer(pid) == writes_log).collect()
    }

    /// Waits until every shim has ended: what a stopped container's shim still does after it has
    /// answered its waiters is done then.
    #[track_caller]
    pub(crate) fn settle(&self) {
        self.supervisors().into_iter().for_each(process::wait_for_end);
    }

    /// Ends and removes everything, then asserts that nothing is left.
    #[track_caller]
    pub(crate) fn delete_all(&self) {
        let left = self.cmd(["list", "-q"]).run();
        for id in left.out().lines() {
            self.cmd(["delete", "-f", id]).ok();
        }
        leaks::check(self);
    }
}

impl Drop for Podrun {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The scenario has failed already: say what the shims had to say, and clear the table.
            leaks::tell(self);
            leaks::clear(self);
        } else {
            // `delete_all` panics where something is left; clear the table then, too.
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.delete_all()));
            if let Err(panic) = result {
                leaks::tell(self);
                leaks::clear(self);
                std::panic::resume_unwind(panic);
            }
            leaks::clear(self);
        }
    }
}

/// A JSON number as a pid or code.
#[track_caller]
pub(crate) fn number(value: &Value) -> i32 {
    let number = value.as_i64().unwrap_or_else(|| panic!("not a number: {value}"));
    i32::try_from(number).expect("a small number")
}

/// A file with these bytes, executable.
#[track_caller]
pub(crate) fn executable(path: &Path, bytes: impl AsRef<[u8]>) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, bytes).expect("write a file");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("make it executable");
}

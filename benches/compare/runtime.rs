//! podrun and its peers, each asked for the same things.

use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::{Value, json};

/// What a runtime can be asked for. `None`: it has no such thing.
pub(crate) trait Runtime {
    /// The head of its column.
    fn name(&self) -> String;

    /// create + start + wait + delete of `/bin/true`.
    fn lifecycle(&self) -> Option<Duration> {
        None
    }

    /// One command that runs `/bin/true` and leaves nothing.
    fn run(&self) -> Option<Duration> {
        None
    }

    /// The same without a seccomp filter, where it has one otherwise.
    fn run_unfiltered(&self) -> Option<Duration> {
        None
    }

    /// create + start + delete of `/bin/true` in a bundle, as an engine has it done.
    fn life_of_a_bundle(&self) -> Option<Duration> {
        None
    }

    /// Starts a container that runs `argv` with nobody attached; true where it can.
    fn background(&self, _id: &str, _argv: &[&str]) -> bool {
        false
    }

    /// `/bin/true` inside a running container.
    fn exec(&self, _id: &str) -> Option<Duration> {
        None
    }

    /// The state of a running container.
    fn state(&self, _id: &str) -> Option<Duration> {
        None
    }

    /// Starts one whose processes no filter judges; true where it has one otherwise.
    fn background_unfiltered(&self, _id: &str, _argv: &[&str]) -> bool {
        false
    }

    /// `/bin/true` in that one.
    fn exec_unfiltered(&self, _id: &str) -> Option<Duration> {
        None
    }

    /// The list of all containers.
    fn list(&self) -> Option<Duration> {
        None
    }

    /// The pid of a container's init.
    fn init(&self, _id: &str) -> Option<i32> {
        None
    }

    /// From init's end until whoever waits has been told.
    fn end_to_wait(&self, _id: &str) -> Option<Duration> {
        None
    }

    /// From start until the whole output of `argv` is in the log; bytes of log, to be sure.
    fn log(&self, _id: &str, _argv: &[&str]) -> Option<(Duration, u64)> {
        None
    }

    /// The processes that stay beside each container.
    fn supervisors(&self) -> Vec<i32> {
        Vec::new()
    }

    /// Ends and removes a container.
    fn remove(&self, _id: &str) {}
}

/// Runs a command to its successful end, and takes the time.
fn time(command: &mut Command) -> Duration {
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let begin = Instant::now();
    let status = command.status().unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    let elapsed = begin.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    elapsed
}

pub(crate) fn kill(pid: i32) -> Instant {
    let process = rustix::process::Pid::from_raw(pid).expect("a pid");
    let begin = Instant::now();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).expect("it lives");
    begin
}

/// A bundle with what podrun makes by itself: the same namespaces and the same mounts.
pub(crate) fn bundle(dir: &Path, rootfs: &Path, cgroup: &str, argv: &[&str]) {
    let mount = |place: &str, kind: &str, options: &[&str]| json!({"destination": place, "type": kind, "source": kind, "options": options});
    let caps = [
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    ];
    let namespaces = ["pid", "mount", "ipc", "uts", "cgroup"].map(|kind| json!({"type": kind}));
    let config = json!({
        "ociVersion": "1.0.2",
        "root": {"path": rootfs},
        "hostname": "bench",
        "process": {
            "cwd": "/", "user": {"uid": 0, "gid": 0}, "args": argv,
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {"namespaces": namespaces, "cgroupsPath": cgroup},
    });
    fs::create_dir_all(dir).expect("make a bundle");
    fs::write(dir.join("config.json"), config.to_string()).expect("write config.json");
}

/// podrun, supervised, and as an engine's OCI runtime.
pub(crate) struct Podrun {
    pub(crate) oci: Oci,
    pub(crate) program: PathBuf,
    pub(crate) root: PathBuf,
    pub(crate) rootfs: PathBuf,
}

impl Podrun {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.root).args(args);
        command
    }

    fn new_container(&self, verb: &[&str], argv: &[&str]) -> Command {
        let mut command = self.command(verb);
        command.arg("--rootfs").arg(&self.rootfs).arg("--").args(argv);
        command
    }

    fn json(&self, id: &str) -> Value {
        let output = self.command(&["state", id]).output().expect("run podrun");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn waiter(&self, id: &str) -> Child {
        self.command(&["wait", id]).stdout(Stdio::piped()).spawn().expect("run podrun wait")
    }
}

impl Runtime for Podrun {
    fn name(&self) -> String {
        "podrun".to_owned()
    }

    fn lifecycle(&self) -> Option<Duration> {
        let steps = [
            time(&mut self.new_container(&["create", "life"], &["/bin/true"])),
            time(&mut self.command(&["start", "life"])),
            time(&mut self.command(&["wait", "life"])),
            time(&mut self.command(&["delete", "life"])),
        ];
        Some(steps.iter().sum())
    }

    fn run(&self) -> Option<Duration> {
        Some(time(&mut self.new_container(&["run", "once", "--rm"], &["/bin/true"])))
    }

    fn run_unfiltered(&self) -> Option<Duration> {
        let run = ["run", "once", "--rm", "--security-opt", "seccomp=unconfined"];
        Some(time(&mut self.new_container(&run, &["/bin/true"])))
    }

    fn life_of_a_bundle(&self) -> Option<Duration> {
        self.oci.life_of_a_bundle()
    }

    fn background(&self, id: &str, argv: &[&str]) -> bool {
        time(&mut self.new_container(&["run", id, "-d"], argv));
        true
    }

    fn background_unfiltered(&self, id: &str, argv: &[&str]) -> bool {
        let run = ["run", id, "-d", "--security-opt", "seccomp=unconfined"];
        time(&mut self.new_container(&run, argv));
        true
    }

    fn exec(&self, id: &str) -> Option<Duration> {
        Some(time(&mut self.command(&["exec", id, "--", "/bin/true"])))
    }

    fn exec_unfiltered(&self, id: &str) -> Option<Duration> {
        self.exec(id)
    }

    fn state(&self, id: &str) -> Option<Duration> {
        Some(time(&mut self.command(&["state", id])))
    }

    fn list(&self) -> Option<Duration> {
        Some(time(&mut self.command(&["list"])))
    }

    fn init(&self, id: &str) -> Option<i32> {
        self.json(id)["pid"].as_i64().and_then(|pid| pid.try_into().ok())
    }

    fn end_to_wait(&self, id: &str) -> Option<Duration> {
        assert!(self.background(id, &["sleep", "1000"]));
        let init = self.init(id)?;
        let mut waiter = self.waiter(id);
        // Until the waiter waits: it sleeps in a system call that has no other end.
        while !blocked(waiter.id()) {
            std::thread::yield_now();
        }
        let mut first = [0];
        let begin = kill(init);
        waiter.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("it prints the code");
        let elapsed = begin.elapsed();
        waiter.wait().expect("it ends");
        self.remove(id);
        Some(elapsed)
    }

    fn log(&self, id: &str, argv: &[&str]) -> Option<(Duration, u64)> {
        time(&mut self.new_container(&["create", id], argv));
        let mut waiter = self.waiter(id);
        let begin = Instant::now();
        time(&mut self.command(&["start", id]));
        waiter.wait().expect("it ends");
        let elapsed = begin.elapsed();
        let files = fs::read_dir(self.root.join("containers").join(id).join("log")).expect("a log");
        let size = files.flatten().filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum();
        self.remove(id);
        Some((elapsed, size))
    }

    fn supervisors(&self) -> Vec<i32> {
        let roots = podrun::paths::Roots::new(Some(&self.root), None).expect("roots");
        let path = Path::new("/sys/fs/cgroup").join(roots.cgroup_name()).join("_shims/cgroup.procs");
        let text = fs::read_to_string(path).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn remove(&self, id: &str) {
        time(&mut self.command(&["delete", "-f", id]));
    }
}

/// Whether a process sleeps and has used no time for a moment: it waits for what it was started for.
fn blocked(pid: u32) -> bool {
    let read = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let switches = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let switches = switches.lines().filter(|line| line.contains("ctxt_switches")).collect::<String>();
        (stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S')), switches)
    };
    let before = read();
    std::thread::sleep(Duration::from_millis(5));
    before.0 && before == read()
}

/// crun or runc, or podrun in their place, which supervise nothing.
pub(crate) struct Oci {
    pub(crate) program: &'static str,
    /// Where it is installed: a search through PATH would be measured, too.
    pub(crate) path: PathBuf,
    pub(crate) dir: PathBuf,
    pub(crate) rootfs: PathBuf,
    /// The cgroup above its containers.
    pub(crate) cgroup: String,
}

impl Oci {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.arg("--root").arg(self.dir.join("state")).args(args);
        command
    }

    fn bundle(&self, id: &str, argv: &[&str]) -> String {
        let dir = self.dir.join("bundle").join(id);
        bundle(&dir, &self.rootfs, &format!("{}/{id}", self.cgroup), argv);
        dir.to_str().expect("UTF-8").to_owned()
    }
}

impl Runtime for Oci {
    fn name(&self) -> String {
        self.program.to_owned()
    }

    fn run(&self) -> Option<Duration> {
        let bundle = self.bundle("once", &["/bin/true"]);
        Some(time(&mut self.command(&["run", "--bundle", &bundle, "once"])))
    }

    fn life_of_a_bundle(&self) -> Option<Duration> {
        let bundle = self.bundle("life", &["/bin/true"]);
        let file = self.dir.join("life.pid");
        let args = ["create", "--bundle", &bundle, "--pid-file", file.to_str().expect("UTF-8"), "life"];
        let create = time(&mut self.command(&args));
        let pid = fs::read_to_string(file).ok().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        let init = pidfd_open(pid.expect("a pid"), PidfdFlags::empty()).expect("it is created");
        let start = time(&mut self.command(&["start", "life"]));
        poll(&mut [PollFd::new(&init, PollFlags::IN)], None).expect("wait for its end");
        Some(create + start + time(&mut self.command(&["delete", "life"])))
    }

    fn background(&self, id: &str, argv: &[&str]) -> bool {
        let bundle = self.bundle(id, argv);
        time(&mut self.command(&["run", "--detach", "--bundle", &bundle, id]));
        true
    }

    fn exec(&self, id: &str) -> Option<Duration> {
        Some(time(&mut self.command(&["exec", id, "/bin/true"])))
    }

    fn state(&self, id: &str) -> Option<Duration> {
        Some(time(&mut self.command(&["state", id])))
    }

    fn list(&self) -> Option<Duration> {
        Some(time(&mut self.command(&["list"])))
    }

    fn log(&self, id: &str, argv: &[&str]) -> Option<(Duration, u64)> {
        // No log at all: what the container and its pipe cost by themselves.
        if self.program != "crun" {
            return None;
        }
        let bundle = self.bundle(id, argv);
        let mut child = self
            .command(&["run", "--bundle", &bundle, id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run crun");
        let begin = Instant::now();
        let mut output = child.stdout.take().expect("a pipe");
        let null = fs::OpenOptions::new().write(true).open("/dev/null").expect("open /dev/null");
        let size = std::io::copy(&mut output, &mut &null).expect("read it");
        child.wait().expect("it ends");
        Some((begin.elapsed(), size))
    }

    fn remove(&self, id: &str) {
        time(&mut self.command(&["delete", "--force", id]));
    }
}

/// conmon above crun or runc: what podrun replaces.
pub(crate) struct Conmon {
    pub(crate) program: PathBuf,
    pub(crate) oci: Oci,
}

impl Conmon {
    /// Starts conmon, and waits until it says that the container is created.
    fn create(&self, id: &str, argv: &[&str]) -> (Duration, i32) {
        let (oci, bundle) = (&self.oci, self.oci.bundle(id, argv));
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        // Only the writing end is conmon's.
        rustix::io::fcntl_setfd(&read, rustix::io::FdFlags::CLOEXEC).expect("set CLOEXEC");
        let file = |name: &str| oci.dir.join(format!("{id}.{name}"));
        for name in ["exits", "sockets"] {
            fs::create_dir_all(oci.dir.join(name)).expect("make a directory");
        }
        let mut command = Command::new(&self.program);
        command
            .args(["--cid", id, "--cuuid", id, "--name", id, "--log-level", "error", "--bundle", &bundle])
            .arg("--runtime")
            .arg(&oci.path)
            .arg("--runtime-arg=--root")
            .arg(format!("--runtime-arg={}", oci.dir.join("state").display()))
            .arg("--container-pidfile")
            .arg(file("pid"))
            .arg("--conmon-pidfile")
            .arg(file("conmon-pid"))
            .arg("--log-path")
            .arg(format!("k8s-file:{}", file("log").display()))
            .arg("--exit-dir")
            .arg(oci.dir.join("exits"))
            .arg("--socket-dir-path")
            .arg(oci.dir.join("sockets"))
            .env("_OCI_SYNCPIPE", write.as_raw_fd().to_string());
        let begin = Instant::now();
        time(&mut command);
        drop::<OwnedFd>(write);
        let mut answer = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(fs::File::from(read)), &mut answer)
            .expect("conmon answers");
        let elapsed = begin.elapsed();
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        // The key depends on the version of its protocol.
        let pid = answer
            .get("pid")
            .unwrap_or(&answer["data"])
            .as_i64()
            .and_then(|pid| pid.try_into().ok())
            .filter(|pid| *pid > 0);
        let pid = pid.unwrap_or_else(|| panic!("conmon: {answer}"));
        (elapsed, pid)
    }

    /// A watch for the file that conmon writes when the container has ended.
    fn watch(&self) -> OwnedFd {
        use rustix::fs::inotify;
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).expect("inotify");
        let dir = self.oci.dir.join("exits");
        fs::create_dir_all(&dir).expect("make a directory");
        inotify::add_watch(&watch, dir, inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::CLOSE_WRITE)
            .expect("watch a directory");
        watch
    }

    fn wait(&self, watch: &OwnedFd, id: &str) {
        let mut buffer = [0; 4096];
        while !self.oci.dir.join("exits").join(id).exists() {
            rustix::io::read(watch, &mut buffer).expect("an event");
        }
    }

    fn clear(&self, id: &str) {
        for name in ["log", "pid", "conmon-pid"] {
            let _ = fs::remove_file(self.oci.dir.join(format!("{id}.{name}")));
        }
        let _ = fs::remove_file(self.oci.dir.join("exits").join(id));
    }
}

impl Runtime for Conmon {
    fn name(&self) -> String {
        format!("conmon + {}", self.oci.program)
    }

    fn lifecycle(&self) -> Option<Duration> {
        let watch = self.watch();
        let (create, _) = self.create("life", &["/bin/true"]);
        let begin = Instant::now();
        time(&mut self.oci.command(&["start", "life"]));
        self.wait(&watch, "life");
        time(&mut self.oci.command(&["delete", "life"]));
        let rest = begin.elapsed();
        self.clear("life");
        Some(create + rest)
    }

    fn background(&self, id: &str, argv: &[&str]) -> bool {
        self.create(id, argv);
        time(&mut self.oci.command(&["start", id]));
        true
    }

    fn end_to_wait(&self, id: &str) -> Option<Duration> {
        let watch = self.watch();
        let (_, init) = self.create(id, &["sleep", "1000"]);
        time(&mut self.oci.command(&["start", id]));
        let begin = kill(init);
        self.wait(&watch, id);
        let elapsed = begin.elapsed();
        self.remove(id);
        Some(elapsed)
    }

    fn log(&self, id: &str, argv: &[&str]) -> Option<(Duration, u64)> {
        let watch = self.watch();
        self.create(id, argv);
        let begin = Instant::now();
        time(&mut self.oci.command(&["start", id]));
        self.wait(&watch, id);
        let elapsed = begin.elapsed();
        let size = fs::metadata(self.oci.dir.join(format!("{id}.log"))).expect("a log").len();
        self.remove(id);
        Some((elapsed, size))
    }

    fn supervisors(&self) -> Vec<i32> {
        let files = fs::read_dir(&self.oci.dir).into_iter().flatten().flatten().map(|entry| entry.path());
        let files = files.filter(|path| path.extension().is_some_and(|name| name == "conmon-pid"));
        files.filter_map(|path| fs::read_to_string(path).ok()?.trim().parse().ok()).collect()
    }

    fn remove(&self, id: &str) {
        self.oci.remove(id);
        self.clear(id);
    }
}

/// bubblewrap, which runs one command in namespaces and knows no container.
pub(crate) struct Bwrap {
    pub(crate) program: PathBuf,
    pub(crate) rootfs: PathBuf,
}

impl Runtime for Bwrap {
    fn name(&self) -> String {
        "bwrap".to_owned()
    }

    fn run(&self) -> Option<Duration> {
        let mut command = Command::new(&self.program);
        command.args(["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup", "--bind"]);
        command.arg(&self.rootfs).args(["/", "--proc", "/proc", "--dev", "/dev", "--mqueue", "/dev/mqueue"]);
        Some(time(command.args(["--ro-bind", "/sys", "/sys", "/bin/true"])))
    }
}

/// Where a program is installed, if it is.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places = std::env::split_paths(&path).map(|dir| dir.join(program));
    places.find(|place| place.is_file())
}

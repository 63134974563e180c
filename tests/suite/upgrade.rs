//! `podrun upgrade`: a running shim becomes another program, and nobody notices.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::harness::process::{self, descriptors, wait_for_end};
use crate::harness::{Cmd, Podrun, busybox, number, rounds, shim};
use crate::log_exact::{Chatter, assert_complete};
use crate::restart::is_pending;

impl Podrun {
    /// A podrun-shim of its own, with `change` made to its bytes.
    fn install(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let dir = self.dir().join(name);
        std::fs::create_dir(&dir).expect("make a directory");
        let mut bytes = std::fs::read(shim()).expect("read podrun-shim");
        change(&mut bytes);
        let (written, path) = (dir.join("bytes"), dir.join("podrun-shim"));
        crate::harness::executable(&written, bytes);
        // By another process: a test that forks at this moment must not hold the writing end.
        Cmd::new("/bin/cp", [&written, &path]).ok();
        path
    }

    /// `podrun upgrade ID` to the program at `path`.
    fn upgrade_to(&self, path: &Path, id: &str) -> Cmd {
        self.cmd(["upgrade", id]).env("PODRUN_SHIM", path)
    }

    /// The inodes of the programs that shim and keeper of a container run.
    fn programs(&self, id: &str) -> [u64; 2] {
        [self.shim_pid(id), self.keeper_pid(id)].map(program)
    }
}

fn program(pid: i32) -> u64 {
    std::fs::metadata(format!("/proc/{pid}/exe")).expect("its program").ino()
}

fn inode(path: &Path) -> u64 {
    path.metadata().expect("a file").ino()
}

const TALKER: &str = "trap 'echo heard; exit 7' USR1; echo ready; while :; do sleep 0.02; done";

#[test]
fn everything_goes_on_in_the_new_program_under_the_same_pid() {
    let podrun = Podrun::new();
    let new = podrun.install("new", |_| ());
    podrun.run_script("c", TALKER);
    let pids = [podrun.pid("c"), podrun.shim_pid("c"), podrun.keeper_pid("c")];
    let mut events = podrun.listen(["--format", "json"]);
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    let mut follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    follower.until("ready");
    // One of an earlier shim's, one of this one's, and one that ends unseen.
    let exec = ["exec", "-i", "c", "--", "sh", "-c", "echo in; read code; exit $code"];
    let mut first = podrun.cmd(exec).open_stdin().spawn();
    first.until("in");
    podrun.kill_shim("c");
    podrun.answered("c");
    let shim = podrun.shim_pid("c");
    let mut second = podrun.cmd(exec).open_stdin().spawn();
    second.until("in");
    podrun.cmd(["exec", "-d", "c", "--", "true"]).ok();
    assert_ne!(podrun.programs("c"), [inode(&new); 2]);
    podrun.upgrade_to(&new, "c").prints("c\n");
    assert_eq!(podrun.programs("c"), [inode(&new); 2]);
    assert_eq!([podrun.pid("c"), podrun.shim_pid("c"), podrun.keeper_pid("c")], [pids[0], shim, pids[2]]);
    assert_eq!(number(&podrun.state("c")["shim"]["adoptions"]), 1);
    first.write(b"3\n");
    second.write(b"4\n");
    first.finish().expect(3);
    second.finish().expect(4);
    podrun.answered("c");
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    assert_eq!(waiter.finish().out(), "7\n");
    assert_eq!(follower.finish().out(), "ready\nheard\n");
    podrun.cmd(["logs", "c"]).prints("ready\nheard\n");
    let told = std::iter::from_fn(|| Some(crate::events::event(&mut events)));
    let upgrade = told.into_iter().find(|event| event["event"] == "upgrade").expect("it is told");
    assert!(upgrade["build"].as_str().expect("text").starts_with("podrun "), "{upgrade}");
    podrun.settle();
    assert!(podrun.supervisors().is_empty());
}

#[test]
fn a_program_that_cannot_go_on_is_refused_and_the_old_shim_goes_on() {
    let podrun = Podrun::new();
    podrun.run_script("c", TALKER);
    let before = (podrun.programs("c"), podrun.shim_pid("c"), podrun.keeper_pid("c"));
    let mut waiter = Some(podrun.cmd(["wait", "c"]).spawn());
    let unexecutable = podrun.install("unexecutable", |_| ());
    std::fs::set_permissions(&unexecutable, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let foreign = podrun.install("foreign", |bytes| {
        let form = b"podrun-shim state 1";
        let places: Vec<_> = memchr::memmem::find_iter(bytes, form).collect();
        assert!(!places.is_empty());
        places.into_iter().for_each(|at| bytes[at + form.len() - 1] = b'9');
    });
    let cases = [
        (unexecutable, "permission denied"),
        // The machine of an ELF header: SPARC.
        (podrun.install("machine", |bytes| bytes[18] = 2), "exec format error"),
        (podrun.install("text", |bytes| *bytes = b"just a text\n".to_vec()), "exec format error"),
        (
            podrun.install("false", |bytes| *bytes = std::fs::read("/bin/false").expect("read it")),
            "not a podrun-shim",
        ),
        (podrun.install("cut", |bytes| bytes.truncate(50_000)), "program"),
        (foreign, "understands podrun-shim state 9, not podrun-shim state 1"),
    ];
    for (path, why) in &cases {
        podrun.upgrade_to(path, "c").fails(1, why);
        assert_eq!((podrun.programs("c"), podrun.shim_pid("c"), podrun.keeper_pid("c")), before);
        podrun.answered("c");
    }
    podrun.upgrade_to(Path::new("/nonexistent"), "c").fails(1, "/nonexistent");
    assert_eq!(podrun.supervisors().len(), 2, "no probe is left");
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    assert_eq!(waiter.take().expect("it").finish().out(), "7\n");
    podrun.cmd(["logs", "c"]).prints("ready\nheard\n");
}

#[test]
fn a_shim_that_dies_after_its_upgrade_is_replaced_by_the_new_program() {
    let podrun = Podrun::new();
    let new = podrun.install("new", |_| ());
    podrun.run_script("c", TALKER);
    podrun.upgrade_to(&new, "c").prints("c\n");
    podrun.kill_shim("c");
    podrun.answered("c");
    assert_eq!(podrun.programs("c"), [inode(&new); 2]);
    assert_eq!(number(&podrun.state("c")["shim"]["adoptions"]), 1);
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("7\n");
    podrun.cmd(["logs", "c"]).prints("ready\nheard\n");
}

#[test]
fn a_shim_without_a_keeper_is_upgraded_alone() {
    let podrun = Podrun::new();
    let new = podrun.install("new", |_| ());
    podrun.run_script("c", TALKER);
    let keeper = podrun.keeper_pid("c");
    process::send(keeper, Signal::KILL);
    wait_for_end(keeper);
    podrun.answered("c");
    podrun.upgrade_to(&new, "c").prints("c\n");
    assert_eq!(program(podrun.shim_pid("c")), inode(&new));
    assert_eq!(podrun.keeper_pid("c"), 0);
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("7\n");
}

#[test]
fn every_container_that_runs_is_upgraded_in_whatever_state_it_is() {
    let podrun = Podrun::new();
    let new = podrun.install("new", |_| ());
    let root = busybox();
    podrun
        .cmd(["create", "created", "--rootfs", &root, "--", "sh", "-c", "echo x; exit 3"])
        .prints("created\n");
    podrun.run_script("paused", TALKER);
    podrun.cmd(["pause", "paused"]).prints("paused\n");
    let script = "read line; echo \"got $line\"; exit 5";
    podrun.cmd(["run", "stdin", "-d", "-i", "--rootfs", &root, "--", "sh", "-c", script]).prints("stdin\n");
    podrun.cmd(["run", "terminal", "-d", "-t", "--rootfs", &root, "--", "sh", "-c", TALKER]).ok();
    // Deaf to TERM: the moment of its end was set before the upgrade.
    let deaf = "trap 'echo no' TERM; echo ready; while :; do sleep 0.02; done";
    let args = ["run", "deaf", "-d", "--stop-timeout", "2", "--rootfs", &root, "--", "sh", "-c", deaf];
    podrun.cmd(args).prints("deaf\n");
    podrun.says("deaf", "ready");
    process::send(podrun.shim_pid("deaf"), Signal::TERM);
    podrun.says("deaf", "no");
    podrun.cmd(["run", "stopped", "--rootfs", &root, "--", "true"]).exits(0);
    podrun
        .cmd(["upgrade", "--all"])
        .env("PODRUN_SHIM", &new)
        .prints("created\ndeaf\npaused\nstdin\nterminal\n");
    podrun.cmd(["upgrade", "stopped"]).prints("");
    podrun.cmd(["upgrade", "x"]).fails(1, "container x: does not exist");
    podrun.cmd(["upgrade"]).fails(2, "upgrade");
    podrun.cmd(["wait", "deaf"]).prints("137\n");
    podrun.cmd(["start", "created"]).prints("created\n");
    podrun.cmd(["wait", "created"]).prints("3\n");
    podrun.cmd(["logs", "created"]).prints("x\n");
    assert_eq!(podrun.status("paused"), "paused");
    podrun.cmd(["resume", "paused"]).prints("paused\n");
    podrun.cmd(["kill", "paused", "USR1"]).exits(0);
    podrun.cmd(["wait", "paused"]).prints("7\n");
    podrun.cmd(["attach", "stdin"]).stdin("hello\n").run();
    podrun.cmd(["wait", "stdin"]).prints("5\n");
    podrun.cmd(["logs", "stdin"]).prints("got hello\n");
    podrun.cmd(["kill", "terminal", "USR1"]).exits(0);
    podrun.cmd(["wait", "terminal"]).prints("7\n");
    assert!(podrun.cmd(["logs", "terminal"]).ok().contains("heard"));
}

#[test]
fn a_container_between_two_runs_is_upgraded_and_runs_again() {
    let podrun = Podrun::new();
    let new = podrun.install("new", |_| ());
    let args = ["run", "c", "-d", "--restart", "on-failure:3", "--rootfs", &busybox(), "--"];
    podrun.cmd(args.into_iter().chain(["sh", "-c", "echo run; exit 3"])).prints("c\n");
    // The pauses grow: in the last of them there is time for all this.
    podrun.state_until("c", |state| is_pending(state) && state["restartCount"] == 2);
    podrun.upgrade_to(&new, "c").ok();
    podrun.cmd(["wait", "c"]).prints("3\n");
    podrun.cmd(["logs", "c"]).prints("run\nrun\nrun\nrun\n");
}

#[test]
fn upgrades_under_load_lose_no_line_and_leave_nothing_open_campaign() {
    let podrun = Podrun::new();
    let programs = [podrun.install("a", |_| ()), podrun.install("b", |_| ())];
    let chatter = Chatter::start(&podrun, &[]);
    let (pid, shim, keeper) = (podrun.pid("c"), podrun.shim_pid("c"), podrun.keeper_pid("c"));
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    let follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    let exec = ["exec", "-i", "c", "--", "sh", "-c", "echo in; read code; exit $code"];
    let mut held = podrun.cmd(exec).open_stdin().spawn();
    held.until("in");
    let open = || [shim, keeper].map(|pid| descriptors(pid).len());
    podrun.upgrade_to(&programs[1], "c").prints("c\n");
    let mut most = open();
    let count = rounds(1000);
    for round in 0..count {
        let program = &programs[round % 2];
        podrun.upgrade_to(program, "c").prints("c\n");
        if round % 10 == 0 {
            podrun.cmd(["exec", "c", "--", "echo", "x"]).prints("x\n");
            assert_eq!(podrun.programs("c"), [inode(program); 2]);
        }
        if round < count / 2 {
            let now = open();
            most = [most[0].max(now[0]), most[1].max(now[1])];
        }
    }
    assert_eq!((podrun.pid("c"), podrun.shim_pid("c"), podrun.keeper_pid("c")), (pid, shim, keeper));
    assert_eq!(number(&podrun.state("c")["shim"]["adoptions"]), 0);
    held.write(b"6\n");
    held.finish().expect(6);
    // What an upgrade left open would be there fifty times by now.
    let now = open();
    assert!(now[0] <= most[0] + 8 && now[1] <= most[1], "{now:?} descriptors, {most:?} in the first half");
    let lines = chatter.finish();
    assert_eq!(waiter.finish().out(), "0\n");
    let followed = follower.finish();
    followed.expect(0);
    assert_eq!(assert_complete(&followed.stdout, &followed.stderr), lines);
    eprintln!("{count} upgrades, {lines} lines on each stream");
}

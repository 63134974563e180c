//! `podrun events`: what happens to containers, as it happens, to whoever listens.

use std::os::unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt};
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::bundle::{Engine, config};
use crate::harness::process;
use crate::harness::{Podrun, Running, busybox, hang_limit, has_controllers, number};

impl Podrun {
    /// `podrun events ARGS`, once it listens.
    #[track_caller]
    pub(crate) fn listen<const N: usize>(&self, args: [&str; N]) -> Running {
        let listener = self.cmd(["events"].into_iter().chain(args)).spawn();
        let prefix = format!("{}-", listener.pid());
        let deadline = Instant::now() + hang_limit();
        while !self.listeners().iter().any(|name| name.starts_with(&prefix)) {
            assert!(Instant::now() < deadline, "it does not listen");
            std::thread::yield_now();
        }
        listener
    }

    /// The FIFOs of those who listen.
    fn listeners(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.run_root().join(".events")).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().into_string().expect("UTF-8"));
        names.filter(|name| !name.contains('.')).collect()
    }
}

/// The next event.
#[track_caller]
pub(crate) fn event(listener: &mut Running) -> Value {
    let line = listener.line().expect("an event");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

/// The next event of a container, without its time, which must be one.
#[track_caller]
fn untimed(listener: &mut Running) -> Value {
    let mut event = event(listener);
    let time = event.as_object_mut().expect("an object").remove("time").expect("a time");
    time.as_str().expect("text").parse::<jiff::Timestamp>().expect("a time");
    event
}

/// Has a listener end by `signal`.
#[track_caller]
fn end(listener: Running, signal: Signal) {
    listener.signal(signal);
    listener.finish().expect(0);
}

/// A hook that hangs holds up whoever deletes, but not those who only look on.
#[test]
fn a_deletion_is_told_before_the_hooks_that_follow_it() {
    let podrun = Podrun::new();
    let gate = podrun.dir().join("gate");
    nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).expect("make a FIFO");
    let mut config = config(&busybox(), &["true"]);
    let script = format!("read x <{}", gate.display());
    config["hooks"] = json!({"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).exits(0);
    engine.wait().expect(0);
    let mut listener = podrun.listen(["--format", "json", "o"]);
    let delete = podrun.cmd(["delete", "o"]).spawn();
    assert_eq!(untimed(&mut listener), json!({"id": "o", "event": "delete"}));
    std::fs::write(&gate, "\n").expect("open the gate");
    delete.finish().expect(0);
    end(listener, Signal::INT);
}

#[test]
fn the_life_of_a_container_is_told_in_its_order() {
    let podrun = Podrun::new();
    let mut json = podrun.listen(["--format", "json"]);
    let mut text = podrun.listen([]);
    podrun.run_detached("c", &busybox(), ["sh", "-c", "sleep 1000; exit 5"]);
    let pid = podrun.pid("c");
    podrun.cmd(["exec", "c", "--", "echo", "a b"]).prints("a b\n");
    podrun.cmd(["exec", "c", "--", "/nonexistent"]).run().expect(127);
    podrun.cmd(["pause", "c"]).prints("c\n");
    podrun.cmd(["resume", "c"]).prints("c\n");
    podrun.cmd(["exec", "c", "--", "killall", "sleep"]).run();
    podrun.cmd(["wait", "c"]).prints("5\n");
    podrun.cmd(["delete", "c"]).prints("c\n");
    assert_eq!(untimed(&mut json), json!({"id": "c", "event": "create"}));
    assert_eq!(untimed(&mut json), json!({"id": "c", "event": "start", "pid": pid}));
    let exec = untimed(&mut json);
    assert_eq!((&exec["event"], &exec["command"]), (&"exec".into(), &"echo a b".into()));
    assert!(number(&exec["pid"]) > 0);
    assert_eq!(untimed(&mut json), json!({"id": "c", "event": "pause"}));
    assert_eq!(untimed(&mut json), json!({"id": "c", "event": "resume"}));
    assert_eq!(untimed(&mut json)["command"], "killall sleep");
    let die = json!({"id": "c", "event": "die", "exitCode": 5, "oomKilled": false});
    assert_eq!(untimed(&mut json), die);
    assert_eq!(untimed(&mut json), json!({"id": "c", "event": "delete"}));
    let words = ["create c", &format!("start c pid={pid}"), "exec c command=\"echo a b\" pid="];
    let words = words.into_iter().chain(["pause c", "resume c", "exec c command=\"killall sleep\" pid="]);
    for wanted in words.chain(["die c exitCode=5 oomKilled=false", "delete c"]) {
        let line = text.line().expect("a line");
        let (time, rest) = line.split_once(' ').expect("a time");
        assert!(time.parse::<jiff::Timestamp>().is_ok() && rest.starts_with(wanted), "{line}: {wanted}");
    }
    end(json, Signal::TERM);
    end(text, Signal::INT);
    assert!(!podrun.run_root().join(".events").exists(), "nothing is left");
}

#[test]
fn a_foreground_run_with_rm_is_told_to_its_end_and_a_second_run_from_its_start() {
    let podrun = Podrun::new();
    let mut listener = podrun.listen(["--format", "json"]);
    podrun.cmd(["run", "a", "--rm", "--rootfs", &busybox(), "--", "sh", "-c", "kill -9 $$; exit 3"]).run();
    let told: Vec<_> = (0..4).map(|_| untimed(&mut listener)).collect();
    let names: Vec<_> = told.iter().map(|event| event["event"].as_str().expect("a name")).collect();
    assert_eq!(names, ["create", "start", "die", "delete"]);
    podrun.cmd(["run", "b", "--rootfs", &busybox(), "--", "true"]).exits(0);
    podrun.settle();
    podrun.cmd(["start", "b"]).prints("b\n");
    podrun.cmd(["wait", "b"]).prints("0\n");
    let told: Vec<_> = (0..5).map(|_| untimed(&mut listener)).collect();
    let names: Vec<_> = told.iter().map(|event| event["event"].as_str().expect("a name")).collect();
    assert_eq!(names, ["create", "start", "die", "start", "die"]);
    // What could not be built was never there.
    podrun.cmd(["run", "x", "--rootfs", "/nonexistent", "--", "true"]).fails(125, "/nonexistent");
    podrun.settle();
    podrun.cmd(["delete", "b"]).prints("b\n");
    assert_eq!(untimed(&mut listener), json!({"id": "b", "event": "delete"}));
    end(listener, Signal::TERM);
}

#[test]
fn restarts_and_health_are_told() {
    let podrun = Podrun::new();
    let mut listener = podrun.listen(["--format", "json"]);
    let mut names = |until: &str| {
        let mut names = Vec::new();
        while names.last().map(String::as_str) != Some(until) {
            names.push(event(&mut listener)["event"].as_str().expect("a name").to_owned());
        }
        names
    };
    let args = ["run", "a", "--restart", "on-failure:1", "--rootfs", &busybox(), "--", "false"];
    podrun.cmd(args).run().expect(1);
    podrun.cmd(["delete", "a"]).prints("a\n");
    assert_eq!(names("delete"), ["create", "start", "die", "restart", "start", "die", "delete"]);
    let health = ["--health-cmd", "true", "--health-interval", "1s"];
    let args = ["run", "b", "-d"].into_iter().chain(health);
    podrun.cmd(args.chain(["--rootfs", &busybox(), "--", "sleep", "1000"])).prints("b\n");
    assert_eq!(names("health"), ["create", "start", "health"]);
    end(listener, Signal::TERM);
}

#[test]
fn only_what_was_asked_for_is_told_also_before_it_exists() {
    let podrun = Podrun::new();
    let mut listener = podrun.listen(["b", "c", "--format", "json"]);
    for id in ["a", "b"] {
        podrun.cmd(["create", id, "--rootfs", &busybox(), "--", "true"]).prints(&format!("{id}\n"));
        podrun.cmd(["delete", id]).prints(&format!("{id}\n"));
    }
    let told: Vec<_> = (0..3).map(|_| untimed(&mut listener)).collect();
    assert_eq!(told[0], json!({"id": "b", "event": "create"}));
    assert_eq!((&told[1]["event"], &told[1]["exitSignal"]), (&"die".into(), &9.into()));
    assert_eq!(told[2], json!({"id": "b", "event": "delete"}));
    end(listener, Signal::HUP);
}

#[test]
fn an_engines_container_is_told_too() {
    let podrun = Podrun::new();
    let mut listener = podrun.listen(["--format", "json"]);
    let engine = Engine::create(&podrun, "c", &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["start", "c"]).exits(0);
    podrun.cmd(["exec", "c", "true"]).exits(0);
    podrun.cmd(["pause", "c"]).ok();
    podrun.cmd(["resume", "c"]).ok();
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    assert_eq!(engine.wait().signal, Some(9));
    podrun.cmd(["delete", "c"]).exits(0);
    let told: Vec<_> = (0..6).map(|_| untimed(&mut listener)).collect();
    let names: Vec<_> = told.iter().map(|event| event["event"].as_str().expect("a name")).collect();
    assert_eq!(names, ["create", "start", "exec", "pause", "resume", "delete"]);
    assert_eq!(told[2]["command"], "true");
    end(listener, Signal::TERM);
}

#[test]
fn new_shims_and_lost_output_are_told() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let mut listener = podrun.listen(["--format", "json"]);
    podrun.kill_shim("c");
    assert_eq!(untimed(&mut listener), json!({"id": "c", "event": "adopt", "adoptions": 1}));
    podrun.answered("c");
    assert_eq!(untimed(&mut listener)["event"], "exec");
    podrun.lose("c");
    podrun.cmd(["recover", "c"]).prints("c\n");
    assert_eq!(untimed(&mut listener), json!({"id": "c", "event": "adopt", "adoptions": 2}));
    podrun.lose("c");
    let init = podrun.pid("c");
    process::send(init, Signal::KILL);
    process::wait_for_end(init);
    podrun.cmd(["wait", "c"]).run();
    assert_eq!(untimed(&mut listener)["event"], "log-gap");
    assert_eq!(untimed(&mut listener)["event"], "die");
    end(listener, Signal::TERM);
}

#[test]
fn a_stalled_or_dead_listener_delays_nobody_and_the_stalled_one_learns_what_it_missed() {
    let podrun = Podrun::new();
    let dead = podrun.listen([]);
    // Somebody reads its output who does not: the pipe between them fills, then its FIFO.
    let script =
        r#"exec 3<&0; podrun events --format json | { read -r first; echo "$first"; read go <&3; cat; }"#;
    let stalled = podrun.sh(script);
    let mut stalled = stalled.open_stdin().spawn();
    let deadline = Instant::now() + hang_limit();
    while podrun.listeners().len() < 2 {
        assert!(Instant::now() < deadline, "it does not listen");
        std::thread::yield_now();
    }
    dead.kill();
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "sleep", "1000"]).prints("c\n");
    assert_eq!(event(&mut stalled)["event"], "create");
    assert_eq!(podrun.listeners().len(), 1, "the dead one was removed");
    podrun.cmd(["start", "c"]).prints("c\n");
    let lost = || {
        let entries = std::fs::read_dir(podrun.run_root().join(".events")).expect("the directory").flatten();
        let file = entries.map(|entry| entry.path()).find(|path| path.extension().is_some());
        file.expect("its count").metadata().expect("it").len()
    };
    // One by one it would take thousands of commands; a process that fills its FIFO is the same to it.
    let fifo = podrun.run_root().join(".events").join(&podrun.listeners()[0]);
    let filler =
        std::fs::File::options().write(true).custom_flags(libc_nonblock()).open(&fifo).expect("open");
    let line = format!("{{\"id\":\"c\",\"event\":\"filler\",\"text\":\"{}\"}}\n", "x".repeat(4000));
    let mut filled = 0;
    while lost() < 5 {
        match rustix::io::write(&filler, line.as_bytes()) {
            Ok(_) => filled += 1,
            Err(rustix::io::Errno::AGAIN) => {
                podrun.cmd(["pause", "c"]).prints("c\n");
                podrun.cmd(["resume", "c"]).prints("c\n");
            }
            Err(errno) => panic!("{errno}"),
        }
    }
    let lost = lost();
    stalled.write(b"go\n");
    // It may have been told of the first ones before it stalled.
    let (mut seen, mut missed) = (0, 0);
    while (seen, missed) != (filled, lost) {
        let event = event(&mut stalled);
        match event["event"].as_str().expect("a name") {
            "filler" => seen += 1,
            "lost" => missed += event["count"].as_u64().expect("a count"),
            _ => {}
        }
        assert!(seen <= filled && missed <= lost, "{seen} of {filled}, {missed} of {lost}");
    }
    podrun.cmd(["pause", "c"]).prints("c\n");
    assert_eq!(event(&mut stalled)["event"], "pause");
    let name = podrun.listeners().remove(0);
    let (pid, _) = name.split_once('-').expect("a pid");
    process::send(pid.parse().expect("a number"), Signal::TERM);
    stalled.finish().expect(0);
}

fn libc_nonblock() -> i32 {
    rustix::fs::OFlags::NONBLOCK.bits().cast_signed()
}

#[test]
fn a_listener_whose_reader_went_away_ends_at_once_and_leaves_nothing() {
    let podrun = Podrun::new();
    podrun.sh("podrun events | true").exits(0);
    assert!(!podrun.run_root().join(".events").exists());
    let listener = podrun.listen([]);
    let dir = podrun.run_root().join(".events");
    let modes = |path: &std::path::Path| path.metadata().expect("it").permissions().mode() & 0o777;
    let fifo = dir.join(&podrun.listeners()[0]);
    assert!(fifo.metadata().expect("it").file_type().is_fifo());
    assert_eq!((modes(&dir), modes(&fifo)), (0o700, 0o600));
    end(listener, Signal::QUIT);
    assert!(!dir.exists());
}

#[test]
fn work_of_the_oom_killer_is_told_when_it_happens() {
    if !has_controllers(["memory"]) {
        return; // in the guest
    }
    let podrun = Podrun::new();
    let mut listener = podrun.listen(["--format", "json"]);
    let eat = "echo ready; while :; do sleep 0.05; done";
    let args = ["run", "c", "-d", "--memory", "32m", "--memory-swap", "32m", "--rootfs", &busybox(), "--"];
    podrun.cmd(args.into_iter().chain(["sh", "-c", eat])).prints("c\n");
    let bomb = "x=x; while :; do x=$x$x$x$x; done";
    let code = podrun.cmd(["exec", "c", "--", "sh", "-c", bomb]).run().code;
    assert_eq!(code, Some(137));
    let told = loop {
        let event = untimed(&mut listener);
        if event["event"] == "oom" {
            break event;
        }
    };
    assert_eq!(told, json!({"id": "c", "event": "oom", "kills": 1}));
    assert_eq!(podrun.status("c"), "running");
    end(listener, Signal::TERM);
}

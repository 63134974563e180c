//! Whatever of podrun is killed, at whatever moment: container, log and everybody who waits lose nothing.
//!
//! ```text
//!  container: 1 2 3 … on stdout, on stderr, and how far it came into a file (the truth)
//!  clients:   two waiters, a follower, an exec that is held, execs that come and go
//!       │ a random moment
//!       ▼ SIGKILL: the shim · the shim, then init · keeper and shim · keeper and shim, then init
//!  the end ──▶ log, follower, waiters and exit codes against the truth; nothing more than before
//! ```

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::harness::process::{self, descriptors, wait_for_end};
use crate::harness::{Podrun, Running, busybox, hang_limit, rounds, seeded};
use crate::keeper::freeze;

/// Each number is written to stdout, to stderr, and then to the file that knows: whenever it is killed,
/// both streams have what the file says, or one number more.
const COUNTER: &str = r#"BEGIN { while ((getline x < "/mnt/stop") <= 0) { close("/mnt/stop")
    for (k = 0; k < 50; k++) { print ++i; fflush(); printf "%d\n", i > "/dev/stderr"
        print i > "/mnt/count"; fflush("/mnt/count") } } exit 7 }"#;

/// How the container ends, and what `wait` may then say.
type Verdict = &'static [&'static str];

/// A container under load, with everybody who wants something of it.
struct Load<'a> {
    podrun: &'a Podrun,
    volume: PathBuf,
    init: i32,
    waiters: [Running; 2],
    follower: Running,
    held: Running,
    brief: Vec<(Running, i32)>,
}

/// What of a container must not grow: descriptors of its supervisors, its processes, its files.
#[derive(Debug, PartialEq, Eq)]
struct Possessions {
    descriptors: usize,
    processes: usize,
    files: BTreeSet<PathBuf>,
}

/// At once and without a word: the process may have ended already.
fn kill(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL);
}

/// Lets a random time pass: what happens meanwhile is the point.
fn a_moment(random: &mut fastrand::Rng, most: Duration) {
    let end = std::time::Instant::now() + most.mul_f64(random.f64());
    while std::time::Instant::now() < end {
        std::thread::yield_now();
    }
}

impl<'a> Load<'a> {
    #[track_caller]
    fn start(podrun: &'a Podrun, random: &mut fastrand::Rng) -> Self {
        let volume = podrun.dir().join("volume");
        // Of the round before.
        let _ = std::fs::remove_dir_all(&volume);
        std::fs::create_dir(&volume).expect("make a directory");
        let bind = format!("{}:/mnt", volume.display());
        let rootfs = busybox();
        let run = ["run", "c", "-d", "--rootfs", &rootfs, "-v", &bind, "--", "awk", COUNTER];
        podrun.cmd(run).prints("c\n");
        let waiters = [(); 2].map(|()| podrun.cmd(["wait", "c"]).spawn());
        let follower = podrun.cmd(["logs", "-f", "c"]).spawn();
        let script = "echo in; read x; echo got $x; exit 9";
        let mut held = podrun.cmd(["exec", "-i", "c", "--", "sh", "-c", script]).open_stdin().spawn();
        if random.bool() {
            held.until("in");
        }
        let init = podrun.pid("c");
        let mut load = Self { podrun, volume, init, waiters, follower, held, brief: Vec::new() };
        load.exec_briefly(random);
        load
    }

    /// Waits until everybody who is there to stay is connected, and nobody else.
    #[track_caller]
    fn is_complete(&mut self) {
        self.finish_brief();
        let clients = || self.waiters.iter().chain([&self.follower, &self.held]);
        let is_connected = |client: &Running| {
            descriptors(client.pid()).iter().any(|end| end.to_string_lossy().starts_with("socket:"))
        };
        let deadline = Instant::now() + hang_limit();
        while !clients().all(is_connected) {
            assert!(Instant::now() < deadline, "not all clients are connected");
            std::thread::yield_now();
        }
        // They are accepted in the order they came in.
        self.podrun.answered("c");
    }

    /// Every exec that is about to end has ended as it should.
    #[track_caller]
    fn finish_brief(&mut self) {
        for (exec, code) in self.brief.drain(..) {
            let exec = exec.finish();
            assert_eq!((exec.code, exec.out()), (Some(code), "out\n".to_owned()), "{exec}");
        }
    }

    /// One more process inside, that is about to end with a code that we know.
    fn exec_briefly(&mut self, random: &mut fastrand::Rng) {
        let (code, micros) = (random.i32(1..100), random.u32(..20_000));
        let script = format!("usleep {micros}; echo out; exit {code}");
        self.brief.push((self.podrun.cmd(["exec", "c", "--", "sh", "-c", &script]).spawn(), code));
    }

    fn supervisors(&self) -> [i32; 2] {
        [self.podrun.keeper_pid("c"), self.podrun.shim_pid("c")]
    }

    #[track_caller]
    fn before(&mut self) -> Possessions {
        self.is_complete();
        self.possessions()
    }

    fn possessions(&self) -> Possessions {
        let podrun = self.podrun;
        let dirs = [podrun.container_dir("c"), podrun.run_root().join("c")];
        let files = dirs.iter().flat_map(|dir| std::fs::read_dir(dir).into_iter().flatten().flatten());
        // A shim that takes over says so in its log.
        let files = files.map(|file| file.path()).filter(|path| !path.ends_with("shim.log")).collect();
        let supervisors = podrun.supervisors();
        Possessions {
            descriptors: supervisors.iter().map(|pid| descriptors(*pid).len()).sum(),
            processes: supervisors.len() + podrun.log_writers().len(),
            files,
        }
    }

    /// Waits until there is no more than there was `before`: clients of the dead shim come again, and
    /// the writer of its log may take a moment to die.
    #[track_caller]
    fn has_no_more_than(&self, before: &Possessions) {
        let deadline = Instant::now() + hang_limit() / 3;
        loop {
            let now = self.possessions();
            if now.descriptors <= before.descriptors
                && now.processes <= before.processes
                && now.files.is_subset(&before.files)
            {
                return;
            }
            if Instant::now() > deadline {
                let all = self.podrun.supervisors();
                let held: Vec<_> =
                    all.iter().map(|pid| (process::describe(*pid), descriptors(*pid))).collect();
                panic!("{now:?}, but {before:?} before: {held:#?}");
            }
            std::thread::yield_now();
        }
    }

    /// Nothing was lost but supervisors: there is no more than `before`, who waits is served, and the end is
    /// told as it was.
    #[track_caller]
    fn goes_on(mut self, before: Option<&Possessions>, random: &mut fastrand::Rng) {
        self.podrun.answered("c");
        if let Some(before) = before {
            self.has_no_more_than(before);
        }
        self.held.write(b"it\n");
        self.held.until("got it");
        let verdict = self.end(random);
        self.settle(verdict, false);
    }

    /// Has init end in one of three ways; what `wait` must say of it.
    fn end(&self, random: &mut fastrand::Rng) -> Verdict {
        match random.u8(..3) {
            0 => {
                std::fs::write(self.volume.join("stop"), "stop\n").expect("write a file");
                &["7\n"]
            }
            1 => {
                self.podrun.cmd(["kill", "c"]).exits(0);
                &["143\n"]
            }
            _ => {
                kill(self.init);
                &["137\n"]
            }
        }
    }

    /// Everybody gets what they are owed. `lossy`: init ended while nobody of podrun's was there, which
    /// the record must then say.
    #[track_caller]
    fn settle(self, verdict: Verdict, lossy: bool) {
        let Self { podrun, volume, waiters, follower, held, brief, .. } = self;
        let mut code = None;
        for waiter in waiters {
            let waiter = waiter.finish();
            let said = waiter.out();
            assert!(verdict.contains(&&*said) || lossy && said == "unknown\n", "not {verdict:?}: {waiter}");
            assert!(code.as_ref().is_none_or(|code| *code == said), "both the same, not {code:?}: {waiter}");
            code = Some(said);
        }
        let record = podrun.cmd(["wait", "--json", "c"]).run();
        let record: Value = serde_json::from_str(&record.out()).expect("a record");
        let whole = record["logsDrained"] == true;
        assert!(whole || lossy && record["reason"].is_string(), "{record}");
        for (exec, code) in brief {
            let exec = exec.finish();
            // It may have come too late, been ended with init, or ended unseen.
            let ended = matches!(exec.code, Some(137)) || exec.code == Some(125) && !exec.err().is_empty();
            let fine = exec.code == Some(code) && exec.out() == "out\n";
            assert!(fine || ended, "{exec}");
        }
        let held = held.finish();
        assert!(matches!(held.code, Some(137 | 9 | 125)), "{held}");

        let truth = std::fs::read_to_string(volume.join("count")).unwrap_or_default();
        // A process that is killed as it writes across the border of a page may have written the first part.
        let whole_lines = truth.rsplit_once('\n').map_or("", |(lines, _)| lines);
        let truth: usize = whole_lines.lines().last().map_or(0, |line| line.parse().expect("a number"));
        let log = podrun.cmd(["logs", "c"]).run();
        log.expect(0);
        for (what, bytes) in [("stdout", &log.stdout), ("stderr", &log.stderr)] {
            let count = counted(what, bytes);
            let right = if whole { (truth..=truth + 1).contains(&count) } else { count <= truth + 1 };
            assert!(right, "{count} numbers on {what}, {truth} were written: {record}");
        }
        let follower = follower.finish();
        follower.expect(0);
        assert!(follower.stdout == log.stdout && follower.stderr == log.stderr, "{follower}\nand the {log}");
        podrun.cmd(["delete", "c"]).prints("c\n");
        podrun.delete_all();
    }
}

/// How many numbers there are: from 1 on, each once.
#[track_caller]
fn counted(what: &str, bytes: &[u8]) -> usize {
    let text = std::str::from_utf8(bytes).expect("numbers");
    assert!(text.is_empty() || text.ends_with('\n'), "{what} ends in the middle of a line");
    let lines = text.lines().enumerate();
    lines.inspect(|(i, line)| assert_eq!(*line, (i + 1).to_string(), "line {} of {what}", i + 1)).count()
}

#[test]
fn a_shim_killed_under_load_costs_nothing_campaign() {
    let podrun = Podrun::new();
    let mut random = seeded("a_shim_killed_under_load_costs_nothing_campaign");
    let mut left = rounds(1000);
    while left > 0 {
        let mut load = Load::start(&podrun, &mut random);
        let before = random.bool().then(|| load.before());
        // More of them would have to wait for the keeper, which brakes those that crash again and again.
        for _ in 0..left.min(3) {
            left -= 1;
            let [keeper, shim] = load.supervisors();
            load.exec_briefly(&mut random);
            a_moment(&mut random, Duration::from_millis(20));
            kill(shim);
            wait_for_end(shim);
            if random.bool() {
                podrun.answered("c");
            }
            assert_eq!(podrun.keeper_pid("c"), keeper);
        }
        load.finish_brief();
        load.goes_on(before.as_ref(), &mut random);
    }
}

#[test]
fn an_init_that_ends_before_the_next_shim_is_up_is_told_as_it_was_campaign() {
    let podrun = Podrun::new();
    let mut random = seeded("an_init_that_ends_before_the_next_shim_is_up_is_told_as_it_was_campaign");
    for _ in 0..rounds(1000) {
        let load = Load::start(&podrun, &mut random);
        let [keeper, shim] = load.supervisors();
        a_moment(&mut random, Duration::from_millis(20));
        let verdict: Verdict = match random.u8(..4) {
            // In the same instant.
            0 => {
                kill(shim);
                kill(load.init);
                &["137\n"]
            }
            1 => {
                kill(load.init);
                kill(shim);
                &["137\n"]
            }
            // Some time before the keeper reaps what was inside and makes another one.
            2 => {
                freeze(keeper);
                kill(shim);
                wait_for_end(shim);
                kill(load.init);
                a_moment(&mut random, Duration::from_millis(10));
                process::send(keeper, Signal::CONT);
                &["137\n"]
            }
            // By its own deed, if its pipe has room enough until then.
            _ => {
                freeze(keeper);
                std::fs::write(load.volume.join("stop"), "stop\n").expect("write a file");
                kill(shim);
                wait_for_end(shim);
                a_moment(&mut random, Duration::from_millis(5));
                kill(load.init);
                process::send(keeper, Signal::CONT);
                &["7\n", "137\n"]
            }
        };
        load.settle(verdict, false);
    }
}

#[test]
fn keeper_and_shim_killed_under_load_cost_nothing_while_init_lives_campaign() {
    let podrun = Podrun::new();
    let mut random = seeded("keeper_and_shim_killed_under_load_cost_nothing_while_init_lives_campaign");
    for _ in 0..rounds(500) {
        let mut load = Load::start(&podrun, &mut random);
        let before = random.bool().then(|| load.before());
        strike(&load, &mut random);
        match random.u8(..4) {
            0 => podrun.answered("c"),
            1 => podrun.cmd(["kill", "c", "WINCH"]).exits(0),
            2 => drop(podrun.cmd(["recover", "c"]).ok()),
            // Those who waited do it by themselves.
            _ => {}
        }
        load.goes_on(before.as_ref(), &mut random);
    }
}

#[test]
fn an_end_that_nobody_of_podruns_saw_is_right_or_unknown_with_its_reason_campaign() {
    let podrun = Podrun::new();
    let mut random = seeded("an_end_that_nobody_of_podruns_saw_is_right_or_unknown_with_its_reason_campaign");
    for _ in 0..rounds(500) {
        let load = Load::start(&podrun, &mut random);
        strike(&load, &mut random);
        kill(load.init);
        load.settle(&["137\n"], true);
    }
}

/// Kills keeper and shim in the same instant, and waits until both are gone.
fn strike(load: &Load<'_>, random: &mut fastrand::Rng) {
    let mut both = load.supervisors();
    if random.bool() {
        both.reverse();
    }
    a_moment(random, Duration::from_millis(20));
    both.into_iter().for_each(kill);
    both.into_iter().for_each(wait_for_end);
}

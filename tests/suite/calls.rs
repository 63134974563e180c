//! Any process of podrun may be killed at any of its system calls: what a command has answered stays true,
//! what failed leaves nothing, `delete -f` cleans.

use rustix::io::Errno;

use crate::harness::bundle::{bundle, config};
use crate::harness::tracer::{Blow, Role, Strike, Traced, traced};
use crate::harness::{Podrun, busybox, in_guest, leaks, overlay, rounds, seeded};

/// One command that is struck.
struct Scenario {
    name: &'static str,
    /// What is there before.
    before: fn(&Podrun),
    args: fn(&Podrun) -> Vec<String>,
    /// The supervisors that are there before are struck, too.
    seizes: bool,
    /// Until every supervisor has ended.
    whole: bool,
    /// What must be true afterwards. `harmed`: whoever was struck decides how the command ends.
    after: fn(&Podrun, &Traced, harmed: bool),
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn created(podrun: &Podrun) {
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "sleep", "1000"]).prints("c\n");
}

fn running(podrun: &Podrun) {
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
}

/// Nothing is left of a command that failed by its own account.
#[track_caller]
fn nothing_is_left(podrun: &Podrun, traced: &Traced) {
    let code = traced.output.code.filter(|code| (125..=127).contains(code));
    traced.output.is_a_failure(code.unwrap_or(125), "");
    podrun.cmd(["list", "-q"]).prints("");
    leaks::check(podrun);
}

const CREATE: Scenario = Scenario {
    name: "create",
    before: |_| {},
    args: |_| words(&["create", "c", "--rootfs", &overlay(busybox()), "--", "sh", "-c", "exit 3"]),
    seizes: false,
    whole: false,
    after: |podrun, traced, harmed| match traced.output.code {
        Some(0) => {
            assert_eq!(traced.output.out(), "c\n", "{}", traced.output);
            let started = podrun.cmd(["start", "c"]).run();
            if harmed && started.code != Some(0) {
                return started.is_a_failure(1, "");
            }
            started.expect(0);
            podrun.cmd(["wait", "c"]).prints("3\n");
        }
        Some(_) => nothing_is_left(podrun, traced),
        None => {}
    },
};

const START: Scenario = Scenario {
    name: "start",
    before: created,
    args: |_| words(&["start", "c"]),
    seizes: true,
    whole: false,
    after: |podrun, traced, harmed| match traced.output.code {
        Some(0) if harmed && podrun.status("c") == "stopped" => {}
        Some(0) => {
            assert_eq!(podrun.status("c"), "running", "{}", traced.output);
            podrun.answered("c");
        }
        Some(_) => {
            assert!(harmed, "{}", traced.output);
            traced.output.is_a_failure(1, "");
        }
        None => {}
    },
};

const EXEC: Scenario = Scenario {
    name: "exec",
    before: running,
    args: |_| words(&["exec", "c", "--", "sh", "-c", "echo hi; exit 4"]),
    seizes: true,
    whole: false,
    after: |podrun, traced, harmed| {
        match traced.output.code {
            Some(4) => assert_eq!(traced.output.out(), "hi\n", "{}", traced.output),
            Some(137) if harmed => {}
            // An usher may have been killed when it had shown the process in: what that has written counts.
            Some(125) if harmed => assert!(traced.output.err().starts_with("podrun: "), "{}", traced.output),
            Some(code) => {
                assert!(harmed, "{}", traced.output);
                traced.output.is_a_failure(code, "");
            }
            None => {}
        }
        podrun.answered("c");
    },
};

const KILL: Scenario = Scenario {
    name: "the exit path",
    before: running,
    args: |_| words(&["kill", "c", "KILL"]),
    seizes: true,
    whole: true,
    after: |podrun, traced, _| {
        if traced.output.code != Some(0) {
            assert_eq!(traced.output.code, None, "{}", traced.output);
            podrun.cmd(["kill", "c", "KILL"]).run();
        }
        podrun.cmd(["wait", "c"]).prints("137\n");
        assert_eq!(podrun.status("c"), "stopped");
    },
};

/// Both supervisors become the installed program anew, where they are.
const UPGRADE: Scenario = Scenario {
    name: "upgrade",
    before: running,
    args: |_| words(&["upgrade", "c"]),
    seizes: true,
    whole: false,
    after: |podrun, traced, harmed| {
        match traced.output.code {
            Some(0) => assert_eq!(traced.output.out(), "c\n", "{}", traced.output),
            Some(code) => {
                assert!(harmed, "{}", traced.output);
                traced.output.is_a_failure(code, "");
            }
            None => {}
        }
        podrun.answered("c");
        assert_eq!(podrun.status("c"), "running");
        podrun.cmd(["exec", "c", "--", "true"]).exits(0);
        podrun.cmd(["kill", "c", "KILL"]).exits(0);
        podrun.cmd(["wait", "c"]).prints("137\n");
    },
};

const DELETE: Scenario = Scenario {
    name: "delete -f",
    before: running,
    args: |_| words(&["delete", "-f", "c"]),
    seizes: true,
    whole: false,
    after: |podrun, traced, _| match traced.output.code {
        Some(0) => {
            podrun.cmd(["list", "-q"]).prints("");
            leaks::check(podrun);
        }
        Some(_) => panic!("{}", traced.output),
        None => {}
    },
};

/// Its log is rotated some ten times.
const RUN: Scenario = Scenario {
    name: "run --rm, and rotation",
    before: |_| {},
    args: |_| {
        let options = ["--log-opt", "max-size=128k,max-file=100"];
        let rootfs = busybox();
        let run = ["run", "--rm", "c", "--rootfs", &rootfs];
        words(&[&run[..], &options, &["--", "seq", "1", "20000"]].concat())
    },
    seizes: false,
    whole: true,
    after: |podrun, traced, harmed| match traced.output.code {
        Some(0) => {
            let lines: String = (1..=20_000).map(|i| format!("{i}\n")).collect();
            assert!(traced.output.out() == lines, "{}", traced.output);
            podrun.cmd(["list", "-q"]).prints("");
            leaks::check(podrun);
        }
        // Init, before it was the command.
        Some(137) if harmed => {}
        Some(code) => traced.output.is_a_failure(code, ""),
        None => {}
    },
};

/// A bundle for `c`, in the cgroup of these roots.
fn make_bundle(podrun: &Podrun) {
    let mut config = config(&busybox(), &["sleep", "1000"]);
    let name = podrun.cgroup().file_name().expect("a name").to_string_lossy().into_owned();
    config["linux"]["cgroupsPath"] = format!("/{name}/ctr-c").into();
    bundle(&podrun.dir().join("bundle"), &config);
}

fn oci_created(podrun: &Podrun) {
    make_bundle(podrun);
    let created = podrun.sh("podrun create --bundle bundle c >out 2>&1").run();
    created.expect(0);
}

fn oci_running(podrun: &Podrun) {
    oci_created(podrun);
    podrun.cmd(["start", "c"]).run().expect(0);
}

const OCI: [Scenario; 4] = [
    Scenario {
        name: "create --bundle",
        before: make_bundle,
        args: |_| words(&["create", "--bundle", "bundle", "c"]),
        seizes: false,
        whole: false,
        after: |podrun, traced, _| match traced.output.code {
            Some(0) => assert!(["created", "stopped"].contains(&podrun.status("c").as_str())),
            Some(code) => {
                traced.output.is_a_failure(code, "");
                podrun.cmd(["list", "-q"]).prints("");
                leaks::check(podrun);
            }
            None => {}
        },
    },
    Scenario {
        name: "start of a bundle",
        before: oci_created,
        args: |_| words(&["start", "c"]),
        seizes: false,
        whole: false,
        after: |podrun, traced, _| match traced.output.code {
            Some(0) => assert_eq!(podrun.status("c"), "running"),
            Some(code) => {
                traced.output.is_a_failure(code, "");
                assert_ne!(podrun.status("c"), "running");
            }
            None => {}
        },
    },
    Scenario {
        name: "exec in a bundle",
        before: oci_running,
        args: |_| words(&["exec", "c", "--", "sh", "-c", "echo hi; exit 4"]),
        seizes: false,
        whole: false,
        after: |podrun, traced, harmed| {
            match traced.output.code {
                Some(4) => assert_eq!(traced.output.out(), "hi\n", "{}", traced.output),
                Some(137) if harmed => {}
                // As with a shim.
                Some(125) if harmed => {
                    assert!(traced.output.err().starts_with("podrun: "), "{}", traced.output)
                }
                Some(code) => {
                    assert!(harmed, "{}", traced.output);
                    traced.output.is_a_failure(code, "");
                }
                None => {}
            }
            podrun.cmd(["exec", "c", "--", "true"]).exits(0);
        },
    },
    Scenario {
        name: "delete -f of a bundle",
        before: oci_running,
        args: |_| words(&["delete", "-f", "c"]),
        seizes: false,
        whole: false,
        after: DELETE.after,
    },
];

fn once(podrun: &Podrun, scenario: &Scenario, strike: Option<Strike>) -> Traced {
    (scenario.before)(podrun);
    let seize = match scenario.seizes {
        true => vec![(podrun.keeper_pid("c"), Role::Keeper), (podrun.shim_pid("c"), Role::Shim)],
        false => vec![],
    };
    traced(podrun, &(scenario.args)(podrun), seize, strike, scenario.whole)
}

/// Every `blow` there is, or a sample of them; how many there were of how many calls.
fn strike_everywhere(podrun: &Podrun, scenario: &Scenario, blow: Blow, random: &mut fastrand::Rng) {
    let unstruck = match blow {
        Blow::Kill => None,
        // A call that nobody makes: what counts for this blow is counted.
        Blow::Fail(_) => Some(Strike { role: Role::Command, nth: usize::MAX, blow }),
    };
    let calls = once(podrun, scenario, unstruck).calls;
    podrun.cmd(["delete", "-f", "c"]).run().expect(0);
    podrun.delete_all();
    // What a supervisor cannot do may cost it its life, which the other campaigns are about.
    let asks = |role| blow == Blow::Kill || matches!(role, Role::Command | Role::Init);
    for (role, total) in calls.into_iter().filter(|(role, _)| asks(*role)) {
        let mut all: Vec<usize> = (1..=total).collect();
        if rounds(100) < 100 {
            random.shuffle(&mut all);
            all.truncate(rounds(total.min(200)));
        }
        let struck = all.len();
        for nth in all {
            let traced = once(podrun, scenario, Some(Strike { role, nth, blow }));
            let _told =
                Told(format!("{role:?}, call {nth} of {total}: {:?}: {}", traced.struck, traced.output));
            // An init that is killed, and a command, decide for themselves; a call that fails, always.
            let harmed = matches!(role, Role::Init | Role::Command | Role::Helper) || blow != Blow::Kill;
            (scenario.after)(podrun, &traced, harmed);
            podrun.cmd(["delete", "-f", "c"]).run().expect(0);
            podrun.delete_all();
        }
        eprintln!("{}: {blow:?} at {struck} of {total} calls of {role:?}", scenario.name);
    }
}

/// What is told of a strike whose consequences are not as they should be.
struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("struck: {}", self.0);
        }
    }
}

fn campaign(name: &str, scenarios: &[&Scenario], blows: &[Blow]) {
    if in_guest() {
        return; // too slow to be traced
    }
    let podrun = Podrun::new();
    let mut random = seeded(name);
    for scenario in scenarios {
        let mut blows = blows.to_vec();
        if rounds(100) < 100 {
            random.shuffle(&mut blows);
            blows.truncate(1);
        }
        for blow in blows {
            strike_everywhere(&podrun, scenario, blow, &mut random);
        }
    }
}

#[test]
fn create_and_start_killed_at_any_call_campaign() {
    campaign("create_and_start_killed_at_any_call_campaign", &[&CREATE, &START], &[Blow::Kill]);
}

#[test]
fn exec_killed_at_any_call_campaign() {
    campaign("exec_killed_at_any_call_campaign", &[&EXEC], &[Blow::Kill]);
}

#[test]
fn the_exit_path_killed_at_any_call_campaign() {
    campaign("the_exit_path_killed_at_any_call_campaign", &[&KILL, &DELETE], &[Blow::Kill]);
}

#[test]
fn a_run_with_rotation_killed_at_any_call_campaign() {
    campaign("a_run_with_rotation_killed_at_any_call_campaign", &[&RUN], &[Blow::Kill]);
}

#[test]
fn commands_for_engines_killed_at_any_call_campaign() {
    let all: Vec<&Scenario> = OCI.iter().collect();
    campaign("commands_for_engines_killed_at_any_call_campaign", &all, &[Blow::Kill]);
}

#[test]
fn any_call_that_fails_is_told_and_leaves_nothing_campaign() {
    // What the commands and init ask of the kernel.
    let blows = [Errno::NOMEM, Errno::MFILE, Errno::NOSPC, Errno::ACCESS]
        .map(|errno| Blow::Fail(errno.raw_os_error()));
    campaign(
        "any_call_that_fails_is_told_and_leaves_nothing_campaign",
        &[&CREATE, &EXEC, &START, &OCI[0], &OCI[1], &OCI[2]],
        &blows,
    );
}

#[test]
fn an_upgrade_killed_at_any_call_campaign() {
    campaign("an_upgrade_killed_at_any_call_campaign", &[&UPGRADE], &[Blow::Kill]);
}

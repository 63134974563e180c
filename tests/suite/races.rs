//! Two commands on one container at once: one legal end state, two clear answers, nothing left.

use crate::harness::{Output, Podrun, Running, busybox, rounds, seeded};

/// What is done to container `c`, each twice at once and each against each.
const COMMANDS: [&[&str]; 14] = [
    &["create", "c", "--rootfs", "ROOTFS", "--", "sleep", "1000"],
    &["run", "c", "-d", "--rootfs", "ROOTFS", "--", "sleep", "1000"],
    &["run", "c", "-d", "--rm", "--rootfs", "ROOTFS", "--", "true"],
    &["start", "c"],
    &["exec", "c", "--", "true"],
    &["kill", "c", "KILL"],
    &["kill", "c", "TERM"],
    &["stop", "-t", "1", "c"],
    &["restart", "c"],
    &["delete", "c"],
    &["delete", "-f", "c"],
    &["state", "c"],
    &["list", "-q"],
    &["logs", "c"],
];

/// Commands that wait for the container's end.
const WAITERS: [&[&str]; 2] = [&["wait", "c"], &["logs", "-f", "c"]];

fn spawn(podrun: &Podrun, rootfs: &str, command: &[&str]) -> Running {
    podrun.cmd(command.iter().map(|word| if *word == "ROOTFS" { rootfs } else { word })).spawn()
}

/// Either it did what it says, or it says in one line why not.
#[track_caller]
fn is_clear(output: &Output) {
    match output.code {
        Some(0) => assert_eq!(output.err(), "", "{output}"),
        // `wait` on an end that cannot be known; an exec that the container's end cut short.
        Some(1) if output.out() == "unknown\n" => {}
        Some(137 | 143) if output.what.starts_with("podrun exec") => assert_eq!(output.err(), "", "{output}"),
        Some(code @ (1 | 125)) => output.is_a_failure(code, ""),
        _ => panic!("neither success nor a clear failure: {output}"),
    }
}

/// One round: a container in some state, two commands at once, a moment apart.
fn round(podrun: &Podrun, rootfs: &str, random: &mut fastrand::Rng, first: &[&str], second: &[&str]) {
    match random.u8(..4) {
        0 => {}
        1 => podrun.cmd(["create", "c", "--rootfs", rootfs, "--", "sleep", "1000"]).prints("c\n"),
        2 => podrun.run_detached("c", rootfs, ["sleep", "1000"]),
        _ => podrun.cmd(["run", "c", "--rootfs", rootfs, "--", "true"]).exits(0),
    }
    let waiter = random.bool().then(|| spawn(podrun, rootfs, WAITERS[random.usize(..WAITERS.len())]));
    let one = spawn(podrun, rootfs, first);
    // A random interleaving, not a wait for anything: it may well be none.
    (0..random.u32(..8000)).for_each(|_| std::thread::yield_now());
    let other = spawn(podrun, rootfs, second);
    for command in [one, other] {
        is_clear(&command.finish());
    }
    let state = podrun.cmd(["state", "c"]).run();
    if state.code == Some(0) {
        let state: serde_json::Value = serde_json::from_str(&state.out()).expect("JSON");
        let status = state["status"].as_str().expect("a status");
        assert!(["created", "running", "stopped"].contains(&status), "{first:?} and {second:?}: {state}");
    } else {
        state.is_a_failure(1, "does not exist");
    }
    podrun.cmd(["delete", "-f", "c"]).run().expect(0);
    if let Some(waiter) = waiter {
        is_clear(&waiter.finish());
    }
    podrun.delete_all();
}

#[test]
fn each_command_against_itself() {
    let podrun = Podrun::new();
    let rootfs = busybox();
    let mut random = seeded("each_command_against_itself");
    for command in COMMANDS {
        round(&podrun, &rootfs, &mut random, command, command);
    }
}

#[test]
fn any_two_commands_at_once_campaign() {
    let podrun = Podrun::new();
    let rootfs = busybox();
    let mut random = seeded("any_two_commands_at_once_campaign");
    for _ in 0..rounds(200 * COMMANDS.len() / 4) {
        let (first, second) = (random.usize(..COMMANDS.len()), random.usize(..COMMANDS.len()));
        round(&podrun, &rootfs, &mut random, COMMANDS[first], COMMANDS[second]);
    }
}

#[test]
fn of_many_that_create_one_wins() {
    let podrun = Podrun::new();
    let rootfs = busybox();
    let all: Vec<_> = (0..8).map(|_| spawn(&podrun, &rootfs, COMMANDS[0])).collect();
    let outputs: Vec<_> = all.into_iter().map(Running::finish).collect();
    let won = outputs.iter().filter(|output| output.code == Some(0)).count();
    assert_eq!(won, 1, "{outputs:?}");
    for output in outputs.iter().filter(|output| output.code != Some(0)) {
        output.is_a_failure(125, "c");
    }
    let all: Vec<_> = (0..8).map(|_| podrun.cmd(["start", "c"]).spawn()).collect();
    let won = all.into_iter().map(Running::finish).filter(|output| output.code == Some(0)).count();
    assert_eq!(won, 1, "only one started it");
    let all: Vec<_> = (0..8).map(|_| podrun.cmd(["delete", "-f", "c"]).spawn()).collect();
    for one in all {
        one.finish().expect(0);
    }
}

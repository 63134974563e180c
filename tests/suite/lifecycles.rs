//! Many lives, many deaths, and nothing left of them.

use std::time::{Duration, Instant};

use crate::harness::process::{Pidfd, descriptors, status_field};
use crate::harness::{Cmd, Podrun, busybox, hang_limit, overlay, rounds, seeded};

/// Runs a command and kills it after at most `limit`, at a random moment.
fn cut_short(cmd: Cmd, random: &mut fastrand::Rng, limit: Duration) {
    let running = cmd.spawn();
    let moment = Instant::now() + limit.mul_f64(random.f64());
    if let Some(process) = Pidfd::open(running.pid()) {
        process.wait(moment);
    }
    running.kill();
}

#[test]
fn whole_lives_leave_nothing_campaign() {
    let podrun = Podrun::new();
    let mut random = seeded("whole_lives_leave_nothing_campaign");
    for _ in 0..rounds(1000) {
        let rootfs = if random.bool() { busybox() } else { overlay(busybox()) };
        match random.u8(..3) {
            0 => podrun.cmd(["run", "c", "--rm", "--rootfs", &rootfs, "--", "true"]).exits(0),
            1 => {
                podrun.cmd(["create", "c", "--rootfs", &rootfs, "--", "true"]).prints("c\n");
                podrun.cmd(["start", "c"]).prints("c\n");
                podrun.cmd(["wait", "c"]).prints("0\n");
                podrun.cmd(["delete", "c"]).prints("c\n");
            }
            _ => {
                podrun.run_detached("c", &rootfs, ["sleep", "1000"]);
                podrun.cmd(["exec", "c", "--", "true"]).exits(0);
                podrun.cmd(["delete", "-f", "c"]).prints("c\n");
            }
        }
        podrun.delete_all();
    }
}

#[test]
fn commands_killed_at_random_leave_what_delete_can_clean_campaign() {
    let podrun = Podrun::new();
    let mut random = seeded("commands_killed_at_random_leave_what_delete_can_clean_campaign");
    let limit = Duration::from_millis(if crate::harness::in_guest() { 200 } else { 25 });
    for _ in 0..rounds(400) {
        let rootfs = if random.bool() { busybox() } else { overlay(busybox()) };
        let victim: &[&str] = match random.u8(..6) {
            0 | 1 => &["create", "c", "--rootfs", &rootfs, "--", "sleep", "1000"],
            2 => &["run", "c", "-d", "--rootfs", &rootfs, "--", "sleep", "1000"],
            choice => {
                podrun.cmd(["create", "c", "--rootfs", &rootfs, "--", "sleep", "1000"]).prints("c\n");
                match choice {
                    3 => &["start", "c"],
                    4 => &["delete", "-f", "c"],
                    _ => &["kill", "c", "KILL"],
                }
            }
        };
        cut_short(podrun.cmd(victim.iter()), &mut random, limit);
        podrun.cmd(["delete", "-f", "c"]).run().expect(0);
        podrun.delete_all();
    }
}

#[test]
fn the_creating_command_may_die_at_any_system_call_campaign() {
    if crate::harness::in_guest() {
        return; // system calls are not injected there
    }
    let podrun = Podrun::new();
    let rootfs = overlay(busybox());
    let create = ["create", "c", "--rootfs", &rootfs, "--", "true"];
    // How many there are, then a death at each of some of them.
    let trace = podrun.dir().join("trace");
    let strace = |options: &[&str]| {
        let output = ["-qq", "-o", trace.to_str().expect("UTF-8")];
        let own = [crate::harness::PODRUN];
        let words: Vec<_> =
            output.iter().chain(options).chain(&own).chain(&create).map(|word| (*word).to_owned()).collect();
        Cmd::new("strace", words).env("PODRUN_ROOT", podrun.root()).env("PODRUN_RUN_ROOT", podrun.run_root())
    };
    strace(&[]).prints("c\n");
    let total = std::fs::read_to_string(&trace).expect("a trace").lines().count();
    podrun.delete_all();
    let mut random = seeded("the_creating_command_may_die_at_any_system_call_campaign");
    for _ in 0..rounds(400) {
        let nth = random.usize(1..=total);
        strace(&[&format!("--inject=all:signal=SIGKILL:when={nth}")]).run();
        podrun.cmd(["delete", "-f", "c"]).run().expect(0);
        podrun.delete_all();
    }
}

#[test]
fn a_shim_keeps_no_descriptor_and_no_memory_of_its_clients() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "100000"]);
    let supervisors = podrun.supervisors();
    let mut random = seeded("a_shim_keeps_no_descriptor_and_no_memory_of_its_clients");
    let mut serve = |count: usize| {
        for _ in 0..count {
            podrun.cmd(["exec", "c", "--", "true"]).exits(0);
            for waiter in [&["wait", "c"][..], &["logs", "-f", "c"], &["exec", "c", "--", "true"]] {
                cut_short(podrun.cmd(waiter), &mut random, Duration::from_millis(10));
            }
        }
        // Whatever they left was noticed before this is answered.
        podrun.cmd(["exec", "c", "--", "true"]).exits(0);
    };
    let held = || supervisors.iter().map(|pid| descriptors(*pid).len()).collect::<Vec<_>>();
    let size = || {
        let sizes = supervisors.iter().filter_map(|pid| status_field(*pid, "VmData"));
        sizes.map(|text| text.trim_end_matches(" kB").trim().parse::<u64>().expect("a number")).sum::<u64>()
    };
    serve(3);
    let (before, memory) = (held(), size());
    serve(rounds(400));
    // What was cut short last may have been still there at the first look, and may be at this: a leak stays.
    let is_less = |after: &[usize]| after.iter().zip(&before).all(|(now, then)| now <= then);
    let deadline = Instant::now() + hang_limit();
    let mut after = held();
    while !is_less(&after) && Instant::now() < deadline {
        std::thread::yield_now();
        after = held();
    }
    assert!(is_less(&after), "{after:?}, {before:?} before");
    assert!(size() < memory + 512, "{} kB of data, {memory} before", size());
}

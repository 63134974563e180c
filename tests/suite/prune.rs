//! `podrun prune`: what is stopped goes, and nothing else.

use crate::harness::bundle::{Engine, config};
use crate::harness::{Podrun, busybox};

#[test]
fn every_stopped_container_goes_and_no_other() {
    let podrun = Podrun::new();
    podrun.cmd(["prune"]).prints("");
    let root = busybox();
    for id in ["b", "a"] {
        podrun.cmd(["run", id, "--rootfs", &root, "--", "true"]).exits(0);
    }
    podrun.cmd(["create", "created", "--rootfs", &root, "--", "true"]).prints("created\n");
    podrun.run_detached("runs", &root, ["sleep", "1000"]);
    podrun.run_detached("paused", &root, ["sleep", "1000"]);
    podrun.cmd(["pause", "paused"]).prints("paused\n");
    podrun.run_detached("lost", &root, ["sleep", "1000"]);
    podrun.lose("lost");
    let engine = Engine::create(&podrun, "e", &config(&root, &["true"]));
    podrun.cmd(["start", "e"]).exits(0);
    engine.wait();
    // At once, though its shim may still be about to go.
    podrun.run_detached("c", &root, ["sleep", "1000"]);
    podrun.cmd(["kill", "c"]).exits(0);
    podrun.cmd(["prune"]).prints("a\nb\nc\ne\n");
    podrun.cmd(["list", "-q"]).prints("created\nlost\npaused\nruns\n");
    podrun.cmd(["start", "created"]).prints("created\n");
    podrun.cmd(["wait", "created"]).prints("0\n");
    podrun.cmd(["prune"]).prints("created\n");
    podrun.cmd(["exec", "lost", "--", "echo", "x"]).prints("x\n");
}

#[test]
fn what_recover_would_start_stays_until_it_is_stopped() {
    let podrun = Podrun::new();
    let ids = ["always", "no", "unless-stopped"];
    for policy in ids {
        let run = ["run", policy, "-d", "--restart", policy, "--rootfs", &busybox(), "--", "sleep", "1000"];
        podrun.cmd(run).prints(&format!("{policy}\n"));
    }
    podrun.reboot(&ids);
    podrun.cmd(["prune"]).prints("no\n");
    podrun.cmd(["stop", "unless-stopped"]).prints("unless-stopped\n");
    podrun.cmd(["recover", "--all"]).prints("always\n");
    podrun.cmd(["prune"]).prints("unless-stopped\n");
    podrun.cmd(["list", "-q"]).prints("always\n");
}

#[test]
fn what_a_crash_left_half_made_goes_and_what_is_in_use_does_not() {
    let podrun = Podrun::new();
    for command in [&["prune"][..], &["recover", "--all"]] {
        podrun.run_detached("runs", &busybox(), ["sleep", "1000"]);
        let containers = podrun.container_dir("runs").parent().unwrap().to_owned();
        for name in [".new-never-17", ".old-gone-18", ".old-runs-19"] {
            std::fs::create_dir_all(containers.join(name).join("log")).expect("make");
        }
        podrun.cmd(command).prints("");
        let left = || {
            let names = std::fs::read_dir(&containers).unwrap().flatten();
            let mut names: Vec<_> = names.map(|name| name.file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        // Its shim has the lock, and may be doing something with that.
        assert_eq!(left(), [".old-runs-19", "runs"], "{command:?}");
        podrun.cmd(["delete", "-f", "runs"]).prints("runs\n");
        podrun.cmd(command).prints("");
        assert_eq!(left(), [""; 0], "{command:?}");
    }
}

#[test]
fn what_cannot_be_read_is_told_and_the_others_go_all_the_same() {
    let podrun = Podrun::new();
    for id in ["a", "b"] {
        podrun.cmd(["run", id, "--rootfs", &busybox(), "--", "true"]).exits(0);
    }
    podrun.settle();
    std::fs::write(podrun.container_dir("a").join("state.json"), "{").expect("write");
    let left = podrun.container_dir("a").with_file_name(".new-never-17");
    std::fs::create_dir(&left).expect("make");
    let output = podrun.cmd(["prune"]).run();
    assert_eq!((output.out().as_str(), output.code), ("b\n", Some(1)), "{output}");
    assert!(output.err().contains("a/state.json"), "{output}");
    assert!(!left.exists(), "what a crash left stays where another one is damaged");
}

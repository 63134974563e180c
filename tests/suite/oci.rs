//! OCI mode: no shim; the caller supervises.

use serde_json::json;

use crate::harness::bundle::{Engine, bundle, config};
use crate::harness::peer::peer;
use crate::harness::process::{descriptors, is_alive, parent, wait_for_end};
use crate::harness::{Podrun, busybox};

#[test]
fn create_start_state_kill_and_delete_as_an_engine_calls_them() {
    let podrun = Podrun::new();
    let argv =
        ["sh", "-c", "trap 'echo got; exit 3' TERM; echo out; echo err >&2; while :; do sleep 0.05; done"];
    let engine = Engine::create(&podrun, "o", &config(&busybox(), &argv));
    let state = podrun.state("o");
    assert_eq!(state["status"], "created", "{state}");
    assert_eq!(state["pid"], engine.pid);
    assert_eq!(state["bundle"], podrun.dir().join("bundle-o").to_str().unwrap());
    assert_ne!(parent(engine.pid), 1, "init came to the caller's subreaper");
    assert!(podrun.supervisors().is_empty(), "there is no shim");

    podrun.cmd(["start", "o"]).run().expect(0);
    assert_eq!(podrun.status("o"), "running");
    // Output is the engine's own file: nothing to follow, so until the shell has set its trap.
    let deadline = std::time::Instant::now() + crate::harness::hang_limit();
    while !std::fs::read_to_string(podrun.dir().join("bundle-o/stdout")).is_ok_and(|text| text == "out\n") {
        assert!(std::time::Instant::now() < deadline);
        std::thread::yield_now();
    }
    podrun.cmd(["kill", "o", "15"]).exits(0);
    let output = engine.wait();
    assert_eq!((output.code, output.out(), output.err()), (Some(3), "out\ngot\n".into(), "err\n".into()));
    let state = podrun.state("o");
    assert_eq!(state["status"], "stopped");
    assert_eq!(state["pid"], 0, "{state}");
    podrun.cmd(["delete", "o"]).run().expect(0);
    podrun.cmd(["state", "o"]).fails(1, "does not exist");
}

#[test]
fn the_engine_learns_the_real_status() {
    let podrun = Podrun::new();
    for code in [0, 1, 42, 255] {
        let argv = ["sh", "-c", &format!("exit {code}")];
        let engine = Engine::create(&podrun, "o", &config(&busybox(), &argv));
        podrun.cmd(["start", "o"]).run().expect(0);
        assert_eq!(engine.wait().code, Some(code));
        podrun.cmd(["delete", "o"]).run().expect(0);
    }
}

#[test]
fn a_signal_is_sent_as_it_is() {
    let podrun = Podrun::new();
    let engine = Engine::create(&podrun, "o", &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["start", "o"]).run().expect(0);
    // The kernel drops it: PID 1 has no handler, and the engine is who decides.
    podrun.cmd(["kill", "o", "TERM"]).exits(0);
    assert!(is_alive(engine.pid));
    podrun.cmd(["kill", "o", "KILL"]).exits(0);
    assert_eq!(engine.wait().signal, Some(9));
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn what_outlives_init_in_a_shared_pid_namespace_is_ended_with_all() {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!; exit 3"]);
    config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != "pid");
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).run().expect(0);
    let output = engine.wait();
    assert_eq!(output.code, Some(3), "{output}");
    let left = output.out().trim().parse().expect("a pid");
    assert_eq!(podrun.status("o"), "stopped");
    assert!(is_alive(left));
    // As containerd's shim does when init has ended.
    podrun.cmd(["kill", "o", "KILL"]).fails(1, "container not running");
    podrun.cmd(["kill", "--all", "o", "KILL"]).exits(0);
    wait_for_end(left);
    podrun.cmd(["kill", "--all", "o", "KILL"]).exits(0);
    if peer().is_none() {
        podrun.cmd(["kill", "--all", "o", "TERM"]).fails(1, "container not running");
    }
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn delete_by_force_ends_it() {
    let podrun = Podrun::new();
    let engine = Engine::create(&podrun, "o", &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["start", "o"]).run().expect(0);
    podrun.cmd(["delete", "o"]).fails(1, "");
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    assert_eq!(engine.wait().signal, Some(9));
    podrun.cmd(["delete", "--force", "o"]).exits(0);
}

#[test]
fn a_created_one_that_is_deleted_never_ran() {
    let podrun = Podrun::new();
    let engine = Engine::create(&podrun, "o", &config(&busybox(), &["echo", "never"]));
    let pid = engine.pid;
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    wait_for_end(pid);
    assert_eq!(engine.wait().out(), "");
}

#[test]
fn init_holds_only_what_it_was_given() {
    let podrun = Podrun::new();
    let engine = Engine::create(&podrun, "o", &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["start", "o"]).run().expect(0);
    assert_eq!(descriptors(engine.pid).len(), 3, "{:?}", descriptors(engine.pid));
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    engine.wait();
}

#[test]
fn an_environment_that_is_empty_is_enough() {
    let podrun = Podrun::new();
    let engine = Engine::create(&podrun, "o", &config(&busybox(), &["sleep", "1000"]));
    let (root, run_root) = (podrun.root().to_str().unwrap(), podrun.run_root().to_str().unwrap());
    for args in [&["start", "o"][..], &["state", "o"], &["kill", "o", "9"], &["delete", "--force", "o"]] {
        let global = ["--root", root, "--run-root", run_root];
        podrun.cmd(global.into_iter().chain(args.iter().copied())).only_env([]).run().expect(0);
    }
    engine.wait();
}

#[test]
fn a_bad_bundle_is_refused_and_leaves_nothing() {
    let podrun = Podrun::new();
    // 1 where podrun could not, 2 where what the caller wrote is wrong.
    let create = |dir: &std::path::Path, reason: &str| {
        let output = crate::harness::bundle::create(&podrun, dir);
        assert!(output.code.is_some_and(|code| code != 0), "{output}");
        output.is_a_failure(output.code.unwrap().min(2), reason);
    };
    create(&podrun.dir().join("nowhere"), "nowhere");
    let empty = podrun.dir().join("empty");
    std::fs::create_dir(&empty).unwrap();
    create(&empty, "config.json");
    std::fs::write(empty.join("config.json"), "{ not json").unwrap();
    create(&empty, "config.json");
    let refused = |change: &dyn Fn(&mut serde_json::Value), reason: &str| {
        let mut config = config(&busybox(), &["true"]);
        change(&mut config);
        create(&bundle(&podrun.dir().join("changed"), &config), reason);
        podrun.cmd(["state", "o"]).fails(1, "does not exist");
    };
    refused(&|config| config["root"]["path"] = json!("/no/such/root"), "/no/such/root");
    refused(&|config| config["process"]["args"] = json!([]), "");
    refused(&|config| config["process"]["args"] = json!(["no-such-thing"]), "executable file not found in");
    refused(&|config| config["mounts"][0]["source"] = json!("x\u{0}y"), "");
    refused(
        &|config| {
            let mount = json!({"destination": "/mnt", "type": "bind", "source": "/no/such/source", "options": ["bind"]});
            config["mounts"].as_array_mut().unwrap().push(mount);
        },
        "/no/such/source",
    );
    refused(&|config| config["process"]["cwd"] = json!("/no/such/cwd"), "/no/such/cwd");
}

#[test]
fn errors_go_to_the_log_as_one_json_object() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log.json");
    let global = ["--log", log.to_str().unwrap(), "--log-format", "json"];
    let output = podrun.cmd(global.into_iter().chain(["create", "--bundle", "/no/such/bundle", "o"])).run();
    output.expect(1);
    let text = std::fs::read_to_string(&log).unwrap();
    let object: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
    assert_eq!(object["level"], "error");
    assert!(output.err().contains(object["msg"].as_str().unwrap()), "{output} {object}");
    assert!(object["time"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
}

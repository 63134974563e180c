//! OCI bundles with a shim: `run --bundle` and `create --bundle --supervise`.

use std::path::Path;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::bundle::{bundle, config};
use crate::harness::process::Pidfd;
use crate::harness::{Podrun, busybox, hang_limit, number};

#[test]
fn a_bundle_runs_with_a_shim_and_its_exit_code_is_ours() {
    let podrun = Podrun::new();
    std::fs::write(podrun.dir().join("file"), "beside\n").expect("write a file");
    let mut config = config(&busybox(), &["sh", "-c", "cat /tmp/file; hostname; exit 3"]);
    // A relative path begins at the bundle.
    let mount = json!({"destination": "/tmp", "type": "bind", "source": "..", "options": ["bind"]});
    config["mounts"].as_array_mut().expect("mounts").push(mount);
    let dir = bundle(&podrun.dir().join("bundle"), &config);
    let output = podrun.cmd(["run", "--bundle", "bundle", "b"]).run();
    assert_eq!(
        (output.code, output.out(), output.err()),
        (Some(3), "beside\nbundle\n".into(), String::new())
    );
    assert_eq!(podrun.state("b")["exitCode"], 3);
    podrun.cmd(["logs", "b"]).prints("beside\nbundle\n");
    podrun.cmd(["start", "b"]).prints("b\n");
    podrun.cmd(["wait", "b"]).prints("3\n");
    let output = podrun.cmd(["run", "--rm", "--bundle", dir.to_str().expect("UTF-8"), "gone"]).run();
    output.expect(3);
    podrun.settle();
    podrun.cmd(["state", "gone"]).fails(1, "does not exist");
}

#[test]
fn a_created_bundle_may_have_a_shim() {
    let podrun = Podrun::new();
    bundle(&podrun.dir().join("bundle"), &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["create", "--bundle", "bundle", "--supervise", "b"]).prints("b\n");
    podrun.cmd(["start", "b"]).prints("b\n");
    assert_eq!(podrun.state("b")["shim"]["alive"], true);
    podrun.cmd(["exec", "b", "hostname"]).prints("bundle\n");
    podrun.cmd(["kill", "b"]).exits(0);
    podrun.cmd(["wait", "b"]).prints("143\n");
}

/// A hook that appends `word`, and what its state says, to `log`.
fn hook(word: &str, log: &Path) -> Value {
    let script = format!(
        r#"state=$(cat); status=${{state##*\"status\":\"}}; pid=${{state##*\"pid\":}}; bundle=${{state##*\"bundle\":\"}}
           [ -e "${{bundle%%\"*}}/config.json" ] && has=config || has=none
           echo "{word} ${{status%%\"*}} ${{pid%%\}}*}} $has" >>{}"#,
        log.display()
    );
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 60}])
}

#[test]
fn hooks_run_with_a_shim_at_their_moments() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log");
    let mut config = config(&busybox(), &["sleep", "1000"]);
    config["hooks"] = json!({
        "prestart": hook("one", &log), "createRuntime": hook("two", &log), "createContainer": hook("three", &log),
        "poststart": hook("five", &log), "poststop": hook("six", &log),
    });
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["create", "--bundle", "bundle", "--supervise", "b"]).prints("b\n");
    let told = || std::fs::read_to_string(&log).expect("the hooks ran");
    let pid = podrun.pid("b");
    let before = format!("one creating {pid} config\ntwo creating {pid} config\nthree creating 1 config\n");
    assert_eq!(told(), before);
    // Its answer comes after the hooks.
    podrun.cmd(["start", "b"]).prints("b\n");
    let started = format!("{before}five running {pid} config\n");
    assert_eq!(told(), started);
    // By the shim, and without one.
    podrun.cmd(["delete", "-f", "b"]).prints("b\n");
    let deleted = format!("{started}six stopped 0 none\n");
    assert_eq!(told(), deleted);
    config["process"]["args"] = json!(["true"]);
    config["hooks"] = json!({"poststop": hook("later", &log)});
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["run", "--bundle", "bundle", "b"]).exits(0);
    podrun.cmd(["delete", "b"]).prints("b\n");
    assert_eq!(told(), format!("{deleted}later stopped 0 none\n"));
    podrun.cmd(["run", "--rm", "--bundle", "bundle", "b"]).exits(0);
    podrun.settle();
    assert_eq!(told(), format!("{deleted}later stopped 0 none\nlater stopped 0 none\n"));
}

#[test]
fn poststart_hooks_run_at_every_restart_and_hold_up_only_the_start() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log");
    let mut config =
        config(&busybox(), &["sh", "-c", "trap 'exit 1' USR1; echo ready; while :; do sleep 0.02; done"]);
    config["annotations"] = json!({"dev.podrun.restart": "on-failure"});
    config["hooks"] = json!({"poststart": hook("started", &log)});
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["create", "--bundle", "bundle", "--supervise", "b"]).prints("b\n");
    podrun.cmd(["start", "b"]).prints("b\n");
    let first = podrun.pid("b");
    podrun.cmd(["kill", "b", "USR1"]).exits(0);
    let second = number(
        &podrun.state_until("b", |state| {
            state["status"] == "running" && !state["pid"].is_null() && state["pid"] != first
        })["pid"],
    );
    // Nobody waits for those of a restart: they have a moment.
    let expected = format!("started running {first} config\nstarted running {second} config\n");
    podrun.sh(&format!("until [ $(wc -l <{0}) = 2 ]; do :; done; cat {0}", log.display())).prints(&expected);
    podrun.cmd(["delete", "-f", "b"]).prints("b\n");

    // One that takes its time: the container is used and ended all the same, and its starter waits.
    podrun.sh("mkfifo fifo").exits(0);
    let waits = format!("read -r go <{}/fifo", podrun.dir().display());
    config["hooks"] = json!({"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", waits]}]});
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["create", "--bundle", "bundle", "--supervise", "c"]).prints("c\n");
    let start = podrun.cmd(["start", "c"]).spawn();
    podrun.state_until("c", |state| state["status"] == "running");
    podrun.cmd(["exec", "c", "hostname"]).prints("bundle\n");
    assert!(!Pidfd::open(start.pid()).expect("it waits").has_ended());
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("137\n");
    podrun.sh("echo go >fifo").exits(0);
    start.finish().expect(0);

    // One that fails is told in the shim's log, and fails nothing.
    config["hooks"] = json!({"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", "echo why; exit 3"]}]});
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["create", "--bundle", "bundle", "--supervise", "d"]).prints("d\n");
    podrun.cmd(["start", "d"]).prints("d\n");
    let log = std::fs::read_to_string(podrun.run_root().join("d/shim.log")).expect("a log");
    assert!(log.contains("hooks.poststart /bin/sh: exited with code 3: why"), "{log}");
}

#[test]
fn what_a_shim_does_not_do_is_refused() {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["true"]);
    config["linux"]["cgroupsPath"] = json!("/a/b");
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["run", "--bundle", "bundle", "c"]).fails(125, "config linux.cgroupsPath");
    config["linux"].as_object_mut().expect("an object").remove("cgroupsPath");
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    bundle(&podrun.dir().join("bundle"), &config);
    podrun
        .cmd(["run", "--bundle", "bundle", "c"])
        .fails(125, "hooks.createRuntime /bin/false: exited with code 1");
    let log = podrun.dir().join("log");
    config["hooks"]["poststop"] = hook("put away", &log);
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["run", "--bundle", "bundle", "c"]).fails(125, "hooks.createRuntime /bin/false");
    assert_eq!(std::fs::read_to_string(&log).expect("the hook ran"), "put away stopped 0 none\n");
    podrun.cmd(["list", "-q"]).prints("");
}

/// A hook that writes to `fifo`, which lets the scenario know that it runs, and then waits to be let go on.
fn waiting(podrun: &Podrun) -> Value {
    podrun.sh("mkfifo began go").exits(0);
    let dir = podrun.dir().display();
    json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo >{dir}/began; read -r go <{dir}/go")]}])
}

#[test]
fn a_shim_that_dies_in_its_last_hook_leaves_the_next_container_of_that_name_alone() {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["sleep", "1000"]);
    config["hooks"] = json!({"poststop": waiting(&podrun)});
    bundle(&podrun.dir().join("bundle"), &config);
    for whom in ["shim", "shim and keeper"] {
        podrun.cmd(["run", "-d", "--bundle", "bundle", "b"]).prints("b\n");
        let (shim, keeper) = (podrun.shim_pid("b"), podrun.keeper_pid("b"));
        let delete = podrun.cmd(["delete", "-f", "b"]).spawn();
        podrun.sh("read -r word <began || :").exits(0);
        podrun.run_detached("b", &busybox(), ["sleep", "1000"]);
        let pid = podrun.pid("b");
        let (shim, keeper) = (Pidfd::open(shim).expect("a shim"), Pidfd::open(keeper).expect("a keeper"));
        if whom == "shim and keeper" {
            rustix::process::pidfd_send_signal(&keeper, Signal::KILL).expect("kill");
        }
        rustix::process::pidfd_send_signal(&shim, Signal::KILL).expect("kill");
        // Whoever asked finds the one that it meant gone, whatever has its name.
        assert_eq!(delete.finish().out(), "b\n", "{whom}");
        assert!(keeper.wait(Instant::now() + hang_limit()), "the keeper ends");
        let state = podrun.state("b");
        assert_eq!((&state["status"], number(&state["pid"])), (&json!("running"), pid), "{whom}: {state}");
        podrun.cmd(["exec", "b", "true"]).exits(0);
        podrun.sh("echo go >go").exits(0);
        podrun.cmd(["delete", "-f", "b"]).prints("b\n");
    }
}

#[test]
fn who_stays_with_a_container_does_not_wait_for_its_hooks() {
    let podrun = Podrun::new();
    let mut config =
        config(&busybox(), &["sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.02; done"]);
    config["hooks"] = json!({"poststart": waiting(&podrun)});
    bundle(&podrun.dir().join("bundle"), &config);
    let mut run = podrun.cmd(["run", "--rm", "--bundle", "bundle", "b"]).spawn();
    run.until("ready");
    podrun.sh("read -r word <began || :").exits(0);
    run.signal(Signal::TERM);
    // The hook is ended with the container, for which it was.
    run.finish().expect(5);
    podrun.settle();
}

#[test]
fn hooks_that_are_not_waited_for_are_ended_and_end_nobody_else() {
    let podrun = Podrun::new();
    let mut config =
        config(&busybox(), &["sh", "-c", "trap 'exit 1' USR1; echo ready; while :; do sleep 0.02; done"]);
    config["annotations"] = json!({"dev.podrun.restart": "on-failure"});
    let hang = format!("echo $$ >>{}/pids; exec sleep 1000", podrun.dir().display());
    config["hooks"] = json!({"poststart": [
        {"path": "/bin/sh", "args": ["sh", "-c", "trap '' TERM; kill 0"]},
        {"path": "/bin/sh", "args": ["sh", "-c", hang]},
    ]});
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["create", "--bundle", "bundle", "--supervise", "b"]).prints("b\n");
    let start = podrun.cmd(["start", "b"]).spawn();
    podrun.state_until("b", |state| state["status"] == "running");
    podrun.sh("until [ -s pids ]; do :; done").exits(0);
    let pids = || std::fs::read_to_string(podrun.dir().join("pids")).expect("pids");
    let first: i32 = pids().trim().parse().expect("a number");
    let hook = Pidfd::open(first).expect("the hook");
    podrun.cmd(["kill", "b", "USR1"]).exits(0);
    assert!(hook.wait(Instant::now() + hang_limit()), "the next run ends the hook of the one before");
    start.finish().expect(0);
    podrun.sh("until [ $(wc -l <pids) = 2 ]; do :; done").exits(0);
    let second = Pidfd::open(pids().lines().nth(1).and_then(|pid| pid.parse().ok()).expect("a number"));
    podrun.cmd(["delete", "-f", "b"]).prints("b\n");
    assert!(second.is_none_or(|hook| hook.wait(Instant::now() + hang_limit())), "and so does the end");
}

#[test]
fn a_start_that_fails_after_one_that_died_costs_a_container_nothing() {
    let podrun = Podrun::new();
    let dir = podrun.dir().to_path_buf();
    let mut config = config(&busybox(), &["sh", "-c", "exit 3"]);
    // Waits where it finds `waits`, and fails where it finds `fails`.
    let script = format!(
        "cd {}; if [ -e waits ]; then echo $$ >pid.new; mv pid.new pid; read _ <waits; fi; [ ! -e fails ]",
        dir.display()
    );
    config["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}]});
    bundle(&dir.join("bundle"), &config);
    podrun.cmd(["run", "--bundle", "bundle", "b"]).exits(3);
    podrun.settle();
    nix::unistd::mkfifo(&dir.join("waits"), nix::sys::stat::Mode::S_IRWXU).expect("make a FIFO");
    let start = podrun.cmd(["start", "b"]).spawn();
    let hook = loop {
        if let Ok(pid) = std::fs::read_to_string(dir.join("pid")) {
            break pid.trim().parse().expect("a pid");
        }
        std::thread::yield_now();
    };
    let text = std::fs::read_to_string(podrun.container_dir("b").join("state.json")).expect("a state");
    let state: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(state["status"], "creating");
    // The keeper first: it would make another shim.
    for who in ["keeper", "shim"] {
        let pid = number(&state[who]["pid"]);
        let process = Pidfd::open(pid).expect("it lives");
        crate::harness::process::send(pid, Signal::KILL);
        assert!(process.wait(Instant::now() + hang_limit()), "it is killed");
    }
    start.finish().is_a_failure(1, "died");
    crate::harness::process::send(hook, Signal::KILL);
    std::fs::remove_file(dir.join("waits")).expect("remove a file");
    let state = podrun.state("b");
    assert_eq!(
        (&state["status"], &state["reason"]),
        (&"stopped".into(), &"whoever was starting it is gone".into())
    );
    std::fs::write(dir.join("fails"), "").expect("write a file");
    podrun.cmd(["start", "b"]).fails(1, "hooks.createRuntime /bin/sh");
    assert_eq!(podrun.state("b")["status"], "stopped");
    std::fs::remove_file(dir.join("fails")).expect("remove a file");
    podrun.cmd(["start", "b"]).prints("b\n");
    podrun.cmd(["wait", "b"]).prints("3\n");
}

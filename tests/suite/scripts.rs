//! podrun as a script uses it: pipes, odd environments, and what exactly is printed.

use serde_json::{Value, json};

use crate::harness::{PODRUN, Podrun, busybox, debian};

#[test]
fn a_run_whose_reader_has_gone_ends_as_any_process_in_a_pipe() {
    let podrun = Podrun::new();
    let bash = |script: &str| podrun.program("/bin/bash", ["-c", script]);
    let pipeline = r#"podrun run --rm --rootfs "$BUSYBOX" -- CMD | head -n 1; echo "${PIPESTATUS[*]}""#;
    bash(&pipeline.replace("CMD", "yes")).prints("y\n141 0\n");
    podrun.cmd(["list", "-q"]).prints("");
    // Who has nothing to write to it does not care.
    let silent =
        r#"podrun run --rm --rootfs "$BUSYBOX" -- sh -c 'sleep 0.1; exit 3' | true; echo "${PIPESTATUS[*]}""#;
    bash(silent).prints("3 0\n");
    // A container that ignores it runs on, as with an engine; its command does not.
    let deaf = r#"podrun run d --rootfs "$BUSYBOX" -- sh -c 'trap "" PIPE; yes' | head -n 1; echo "${PIPESTATUS[*]}""#;
    bash(deaf).prints("y\n141 0\n");
    assert_eq!(podrun.status("d"), "running");
    let watching = r#"podrun attach d | head -n 1; echo "${PIPESTATUS[*]}"; podrun logs -f d | head -n 1"#;
    bash(watching).prints("y\n141 0\ny\n");
}

#[test]
fn an_empty_variable_of_the_environment_is_none() {
    let podrun = Podrun::new();
    let (root, run_root) = (podrun.root().to_str().unwrap(), podrun.run_root().to_str().unwrap());
    let roots = ["--root", root, "--run-root", run_root];
    let cmd = |args: &[&str]| podrun.cmd(roots.iter().chain(args));
    cmd(&["list", "-q"]).env("PODRUN_ROOT", "").env("PODRUN_RUN_ROOT", "").env("PODRUN_LOG", "").prints("");
    let output = cmd(&["list", "-q"]).env("PODRUN_LOG", "Debug").run();
    assert!(output.code == Some(0) && output.err().contains("DEBUG"), "{output}");
    cmd(&["list"]).env("PODRUN_LOG", "loud").fails(2, "PODRUN_LOG");
    // Only the rest of it is missing.
    podrun.program(PODRUN, [] as [&str; 0]).fails(2, "command: is missing");
}

#[test]
fn both_programs_say_what_they_do_where_they_are_asked_to() {
    let podrun = Podrun::new();
    let run = |id: &str| {
        let args = ["run", "-d", id, "--restart", "on-failure:1", "--rootfs", &busybox(), "--", "sh", "-c"];
        podrun.cmd(args.iter().chain(&["trap 'exit 3' TERM; while :; do sleep 0.01; done"]))
    };
    let shim_log = |id: &str| podrun.run_root().join(id).join("shim.log");
    let output = run("c").env("PODRUN_LOG", "DEBUG").run();
    let pid = podrun.pid("c");
    for word in ["root=", "podrun-shim", "Launch", &format!("process {pid}"), "Start"] {
        assert!(output.err().contains(word), "no {word:?} in {output}");
    }
    let output = podrun.cmd(["--debug", "exec", "c", "--env", "KEY=secret", "true"]).run();
    assert!(output.err().contains("connected to") && output.err().contains("it is process"), "{output}");
    let output = podrun.cmd(["--log-level", "trace", "stop", "c"]).run();
    assert!(output.err().contains("asks the shim to Stop"), "{output}");
    podrun.settle();
    let log = std::fs::read_to_string(shim_log("c")).expect("shim.log");
    for word in [
        "the shim of",
        &format!("init is process {pid}"),
        "does: OpenGate",
        "heard: Gate(Ok(()))",
        "joins the container",
        "began",
        "ended: Exited(0)",
        "does: Deliver",
        "heard: InitEnded",
        "drained=true",
        "heard: Recorded",
        "does: Answer",
        "this shim leaves",
    ] {
        assert!(log.contains(word), "no {word:?} in {log}");
    }
    assert!(!log.contains("secret"), "{log}");
    // And nothing where nobody asks.
    run("d").prints("d\n");
    podrun.cmd(["exec", "d", "true"]).prints("");
    podrun.cmd(["stop", "d"]).prints("d\n");
    assert!(!shim_log("d").exists());
}

#[test]
fn a_directory_that_was_deleted_is_no_obstacle() {
    let podrun = Podrun::new();
    let script = r#"mkdir gone; cd gone; rmdir ../gone
        podrun run --rm --rootfs "$BUSYBOX" -v /etc:/mnt -- pwd
        podrun run -d c --rootfs "$BUSYBOX" -- sleep 1000
        podrun exec c pwd"#;
    podrun.sh(script).prints("/\nc\n/\n");
    let relative =
        r#"mkdir -p gone; cd gone; rmdir ../gone; podrun run --rm --rootfs "$BUSYBOX" -v x:/mnt -- pwd"#;
    podrun.sh(relative).fails(125, "volume source x: no such file or directory");
}

#[test]
fn what_only_tells_about_podrun_needs_no_root() {
    let podrun = Podrun::new();
    // Where the build lies may be closed to others.
    let program = podrun.dir().join("podrun");
    std::fs::copy(PODRUN, &program).unwrap();
    let program = program.to_str().unwrap();
    std::process::Command::new("chmod").args(["a+rx", podrun.dir().to_str().unwrap()]).status().unwrap();
    let nobody = |args: &[&str]| {
        let user = ["--reuid=65534", "--regid=65534", "--clear-groups", program];
        podrun.program("setpriv", user.iter().chain(args))
    };
    for args in [&["features"][..], &["spec"], &["completion", "bash"], &["--version"], &["run", "--help"]] {
        assert!(!nobody(args).ok().is_empty(), "{args:?}");
    }
    nobody(&["list"]).fails(1, "podrun needs root");
    nobody(&["run", "--rootfs", "/:O", "--", "true"]).fails(125, "podrun needs root");
}

#[test]
fn wrong_usage_is_told_with_what_to_do() {
    let podrun = Podrun::new();
    let hint = |args: &[&str], code, why: &str| {
        let err = podrun.cmd(args).fails(code, why).err();
        err.lines().nth(1).unwrap_or_default().to_owned()
    };
    let debian = debian();
    assert!(hint(&["run", "c", "--rootfs", &debian, "true"], 125, "'true'").contains("-- true"));
    assert!(hint(&["list", "--root", "/x"], 2, "--root").contains("before the command"));
    hint(&["run", "--pid", "x", "--rootfs", "/", "--", "true"], 125, "--pid: namespace \"x\"");
    assert!(hint(&["state", "a/b"], 2, "container ID \"a/b\"").contains("letter"));
    assert!(
        hint(&["run", "--network", "bridge", "--rootfs", "/", "--", "true"], 125, "--network")
            .contains("none")
    );
    let bundle = podrun.cmd(["run", "--bundle", "/b", "-e", "A=b", "--rm", "--", "true"]);
    let why = "cannot be used with: --env <KEY=VALUE> [CMD]...";
    assert!(bundle.fails(125, why).err().lines().next().unwrap().ends_with(why));
    // Two that fail alike are told once what to do.
    let output = podrun.cmd(["delete", "a", "b"]).run();
    assert_eq!(output.err().lines().count(), 3, "{output}");
}

#[test]
fn the_log_of_errors_is_the_one_named_before_the_command() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log");
    let named = format!("--log={}", log.display());
    podrun.cmd([&named, "--log-format=json", "kill"]).fails(2, "ID");
    let record: Value = serde_json::from_slice(&std::fs::read(&log).unwrap()).expect("one JSON object");
    assert_eq!(record["level"], "error");
    let other = podrun.dir().join("other");
    let other_text = other.to_str().unwrap();
    podrun.cmd(["run", "-x", "--rootfs", "/", "--", "tool", "--log", other_text]).fails(125, "-x");
    podrun.cmd(["state", "c", "--log", other_text]).fails(2, "--log");
    assert!(!other.exists(), "that was the command's own option");
}

#[test]
fn a_missing_command_is_an_error_in_a_line_and_help_is_a_command() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log");
    let name = log.to_str().unwrap();
    for args in [&["--debug"][..], &["--log", name, "--log-format", "json"]] {
        let failed = podrun.cmd(args).fails(2, "command: is missing");
        assert!(failed.err().contains("hint: `podrun --help`"), "{failed}");
    }
    let record: Value = serde_json::from_slice(&std::fs::read(&log).unwrap()).expect("one JSON object");
    assert_eq!(record["msg"], "command: is missing");
    assert_eq!(podrun.cmd(["help"]).ok(), podrun.cmd(["--help"]).ok());
    assert_eq!(podrun.cmd(["help", "run"]).ok(), podrun.cmd(["run", "--help"]).ok());
    podrun.cmd(["help", "frob"]).fails(2, "frob");
}

#[test]
fn a_negative_value_is_told_what_is_wrong_with_it() {
    let podrun = Podrun::new();
    for (line, code, reason) in [
        ("stop -t -1 c", 2, "'-1' for '--timeout"),
        ("restart -t -1 c", 2, "'-1' for '--timeout"),
        ("create c --health-cmd x --health-start-period -1s --rootfs / -- x", 125, "not a length of time"),
        ("create c --stop-timeout -1 --rootfs / -- x", 125, "'-1' for '--stop-timeout"),
        ("logs c --since -5m", 2, "not a time"),
    ] {
        podrun.cmd(line.split(' ')).fails(code, reason);
    }
}

#[test]
fn what_json_calls_things() {
    let podrun = Podrun::new();
    let drivers = [("k8s-file", Some("current.log")), ("json-file", Some("current.json")), ("none", None)];
    for (driver, file) in drivers {
        podrun.cmd(["create", driver, "--rootfs", &busybox(), "--log-driver", driver, "--", "true"]).ok();
        let inspected: Value = serde_json::from_str(&podrun.cmd(["inspect", driver]).ok()).unwrap();
        let log = inspected[0]["paths"]["log"].as_str().map(str::to_owned);
        let expected =
            file.map(|file| podrun.container_dir(driver).join("log").join(file).display().to_string());
        assert_eq!(log, expected, "{driver}");
    }
    let stats: Value =
        serde_json::from_str(&podrun.cmd(["stats", "--no-stream", "--format", "json"]).ok()).unwrap();
    assert!(stats.as_array().unwrap().iter().all(|sample| sample.get("cpuPercent").is_some()), "{stats}");
    // What is damaged does not hide the others.
    std::fs::write(podrun.container_dir("none").join("spec.json"), "{").unwrap();
    let output = podrun.cmd(["list", "--format", "json"]).run();
    assert_eq!(output.code, Some(1), "{output}");
    let listed: Value = serde_json::from_str(&output.out()).expect("JSON");
    assert_eq!(listed.as_array().unwrap().len(), 3, "{listed}");
    assert_eq!((&listed[2]["id"], &listed[2]["status"]), (&json!("none"), &json!("damaged")), "{listed}");
    assert!(listed[2]["reason"].as_str().unwrap().contains("none/spec.json"), "{listed}");
    let ids: Value = serde_json::from_str(&podrun.cmd(["list", "-q", "--format", "json"]).ok()).unwrap();
    assert_eq!(ids, json!(["json-file", "k8s-file", "none"]));
}

#[test]
fn the_same_container_is_told_in_the_same_words_each_time() {
    let podrun = Podrun::new();
    let line = "--annotation own.1=v --annotation own.2=v --annotation own.3=v --annotation own.4=v --label a=b --init \
                --sysctl kernel.msgmax=9999 --sysctl kernel.msgmnb=9999 --sysctl kernel.shmmni=99";
    let options: Vec<_> = line.split_whitespace().collect();
    let rootfs = busybox();
    let told: Vec<_> = (0..3)
        .map(|_| {
            let first = ["create", "c", "--rootfs", &rootfs];
            let args = first.iter().chain(&options).chain(&["--", "true"]);
            podrun.cmd(args).prints("c\n");
            let spec = std::fs::read_to_string(podrun.container_dir("c").join("spec.json")).unwrap();
            let annotations = |text: String| {
                let lines = text.lines().map(|line| line.trim().trim_end_matches(',').to_owned());
                lines.filter(|line| line.contains("own.") || line.contains("dev.podrun")).collect::<Vec<_>>()
            };
            let listed = annotations(podrun.cmd(["list", "--format", "json"]).ok());
            assert_eq!(listed, annotations(podrun.cmd(["state", "c"]).ok()));
            podrun.cmd(["delete", "c"]).prints("c\n");
            (spec, podrun.cmd(["spec"]).ok(), listed)
        })
        .collect();
    assert!(told.iter().all(|one| *one == told[0]), "{told:#?}");
}

#[test]
fn the_last_of_an_option_counts_and_those_that_add_up_add_up() {
    let podrun = Podrun::new();
    let script = r#"podrun run -d -d c -w / -w /tmp -u 1 -u 2:3 -e A=1 -e B=2 --rootfs /nowhere --rootfs "$BUSYBOX" \
        --init --init -- sh -c 'pwd; id -u; echo $A$B; sleep 1000'"#;
    podrun.sh(script).prints("c\n");
    podrun.says("c", "12");
    podrun.cmd(["logs", "c"]).prints("/tmp\n2\n12\n");
    let args = ["exec", "-i", "-i", "-w", "/", "-w", "/dev", "c", "pwd"];
    podrun.cmd(args).prints("/dev\n");
    podrun.cmd(["kill", "-s", "USR1", "-s", "KILL", "c"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("137\n");
    podrun.cmd(["--log-level", "warn", "--log-level", "error", "delete", "c"]).prints("c\n");
}

#[test]
fn the_whole_log_may_be_asked_for_by_name() {
    let podrun = Podrun::new();
    podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "seq", "3"]).prints("1\n2\n3\n");
    for (tail, expected) in [("all", "1\n2\n3\n"), ("-1", "1\n2\n3\n"), ("2", "2\n3\n"), ("0", "")] {
        podrun.cmd(["logs", "c", "--tail", tail]).prints(expected);
        podrun.cmd(["logs", "-n", tail, "c"]).prints(expected);
    }
    podrun.cmd(["logs", "c", "--tail", "x"]).fails(2, "not a number of lines");
}

#[test]
fn an_id_is_free_again_once_its_container_was_waited_for() {
    let podrun = Podrun::new();
    let script = r#"for i in $(seq 20); do
            podrun run -d --rm c --rootfs "$BUSYBOX" -- true >/dev/null
            podrun wait c >/dev/null 2>&1 || :
        done"#;
    podrun.sh(script).prints("");
    podrun.settle();
}

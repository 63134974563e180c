//! Hooks: when each of the six runs, where, what it is told, and what becomes of a failure.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::bundle::{Engine, bundle, config, create, refused};
use crate::harness::peer::peer;
use crate::harness::process::wait_for_end;
use crate::harness::{Podrun, busybox, number};

/// A hook that appends its name, its state's status and pid, and what `more` prints to `log`.
fn hook(name: &str, log: &Path, more: &str) -> Value {
    let script = format!(
        r#"state=$(/bin/cat); status=${{state##*\"status\":\"}}; pid=${{state##*\"pid\":}}; pid=${{pid%%[,\}}]*}}
           echo "{name} ${{status%%\"*}} $pid $({{ {more}; }} | xargs)" >>{}"#,
        log.display()
    );
    json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"], "timeout": 60}])
}

#[test]
fn each_runs_at_its_moment_and_in_its_namespaces() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log");
    std::fs::write(&log, "").unwrap();
    let mut config = config(&busybox(), &["sh", "-c", "echo command >>/mnt/log; sleep 1000"]);
    let shared = json!({"destination": "/mnt", "type": "bind", "source": podrun.dir(), "options": ["bind"]});
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}));
    config["mounts"].as_array_mut().unwrap().push(shared);
    config["annotations"] = json!({"a": "b"});
    // The hostname tells whose UTS namespace it is; whether the host's files are there, whose root.
    let place = format!("hostname; [ -e {} ] && echo host", podrun.dir().display());
    let place = format!("{place} || echo root");
    let inside = Path::new("/mnt/log");
    config["hooks"] = json!({
        "prestart": hook("prestart", &log, &place),
        "createRuntime": hook("createRuntime", &log, &place),
        "createContainer": hook("createContainer", &log, &place),
        "startContainer": hook("startContainer", inside, &place),
        "poststart": hook("poststart", &log, &place),
        "poststop": hook("poststop", &log, &place),
    });
    let engine = Engine::create(&podrun, "o", &config);
    let pid = engine.pid;
    podrun.cmd(["start", "o"]).run().expect(0);
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    engine.wait();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = host.trim();
    let told = std::fs::read_to_string(&log).unwrap();
    // The command and poststart are at it at the same time.
    let mut lines: Vec<_> = told.lines().filter(|line| *line != "command").collect();
    lines.dedup();
    assert_eq!(
        lines,
        [
            format!("prestart creating {pid} {host} host"),
            format!("createRuntime creating {pid} {host} host"),
            "createContainer creating 1 bundle host".to_owned(),
            "startContainer created 1 bundle root".to_owned(),
            format!("poststart running {pid} {host} host"),
            format!("poststop stopped 0 {host} host"),
        ],
        "{told}"
    );
}

#[test]
fn one_that_fails_before_the_command_fails_the_container() {
    let podrun = Podrun::new();
    let ran = podrun.dir().join("ran");
    let fails = |kind: &str, script: &str, timeout: i64| {
        let mut config = config(&busybox(), &["touch", "/mnt/ran"]);
        let shared =
            json!({"destination": "/tmp", "type": "bind", "source": podrun.dir(), "options": ["bind"]});
        config["mounts"].as_array_mut().unwrap().push(shared);
        config["hooks"] =
            json!({kind: [{"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": timeout}]});
        bundle(&podrun.dir().join("bundle"), &config)
    };
    for kind in ["prestart", "createRuntime", "createContainer"] {
        for (script, timeout, reason) in [
            ("echo because >&2; exit 7", 10, "exited with code 7: because"),
            ("exec /bin/sleep 1000", 1, "has not ended after 1 s"),
        ] {
            let dir = fails(kind, script, timeout);
            let output = create(&podrun, &dir);
            output.is_a_failure(1, reason);
            assert!(peer().is_some() || output.err().contains(&format!("hooks.{kind} /bin/sh")), "{output}");
            podrun.cmd(["state", "o"]).fails(1, "does not exist");
        }
    }
    let dir = fails("startContainer", "exit 7", 10);
    let config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).fails(1, "hooks.startContainer /bin/sh: exited with code 7");
    engine.wait();
    assert_eq!(podrun.status("o"), "stopped");
    assert!(!ran.exists());
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn one_that_fails_afterwards_changes_nothing() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log");
    let mut config = config(&busybox(), &["sleep", "1000"]);
    let fails = json!({"path": "/bin/false"});
    let also = hook("second", &log, "true")[0].clone();
    config["hooks"] = json!({"poststart": [fails, also], "poststop": [{"path": "/no/such/hook"}, also]});
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).run().expect(0);
    assert_eq!(podrun.status("o"), "running");
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    engine.wait();
    let told = std::fs::read_to_string(&log).unwrap();
    assert_eq!(told.lines().count(), 2, "{told}");
}

#[test]
fn a_hook_that_cannot_be_one_is_refused_by_name() {
    let podrun = Podrun::new();
    for (hook, field) in [
        (json!({"path": "bin/true"}), "config hooks.createRuntime[0].path"),
        (json!({"path": "/bin/true", "timeout": 0}), "config hooks.createRuntime[0].timeout"),
        (json!({"path": "/bin/true", "timeout": -1}), "config hooks.createRuntime[0].timeout"),
        (json!({"path": 1}), "config hooks.createRuntime[0].path"),
        (json!({}), "config hooks.createRuntime[0]"),
    ] {
        refused(&podrun, field, |config| config["hooks"] = json!({"createRuntime": [hook]}));
    }
}

#[test]
fn a_state_of_any_size_is_read_or_not_read() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log");
    let mut config = config(&busybox(), &["true"]);
    config["annotations"] = json!({"big": "x".repeat(1 << 20)});
    let count = format!("/usr/bin/wc -c >{}", log.display());
    config["hooks"] = json!({"createRuntime": [
        {"path": "/bin/true"},
        {"path": "/bin/sh", "args": ["sh", "-c", count]},
    ]});
    let engine = Engine::create(&podrun, "o", &config);
    let length = std::fs::read_to_string(&log).unwrap();
    assert!(length.trim().parse::<usize>().unwrap() > 1 << 20);
    podrun.cmd(["start", "o"]).run().expect(0);
    engine.wait().expect(0);
    assert_eq!(number(&podrun.state("o")["pid"]), 0);
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn what_hooks_have_set_up_is_put_away_where_the_container_is_not_created() {
    let podrun = Podrun::new();
    let log = podrun.dir().join("log");
    refused(&podrun, "hooks.createRuntime /bin/false", |config| {
        config["hooks"] =
            json!({"createRuntime": [{"path": "/bin/false"}], "poststop": hook("poststop", &log, "true")});
    });
    let told = std::fs::read_to_string(&log).unwrap_or_default();
    assert!(told.starts_with("poststop stopped"), "{told}");
}

#[test]
fn a_hook_that_is_out_of_time_takes_with_it_what_it_has_started() {
    let podrun = Podrun::new();
    let started = podrun.dir().join("started");
    let script = format!("/bin/sleep 998 & echo $! >{}; wait", started.display());
    refused(&podrun, "hooks.createRuntime /bin/sh: has not ended after 1 s", |config| {
        let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": 1});
        config["hooks"] = json!({"createRuntime": [hook]});
    });
    let started = std::fs::read_to_string(started).unwrap();
    wait_for_end(started.trim().parse().unwrap());
}

//! Where output goes: the drivers, alone and two at once.

use std::os::unix::net::UnixDatagram;

use crate::harness::{Podrun, busybox};

/// Runs a shell script to its end with these options.
#[track_caller]
fn run(podrun: &Podrun, options: &[&str], script: &str) {
    let rootfs = busybox();
    let first = ["run", "c", "-d", "--rootfs", &rootfs];
    let last = ["--", "sh", "-c", script];
    podrun.cmd(first.iter().chain(options).chain(&last)).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
}

#[track_caller]
fn file(podrun: &Podrun, name: &str) -> String {
    let path = podrun.container_dir("c").join("log").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn json_file_is_what_docker_writes_and_gives_every_byte_back() {
    let podrun = Podrun::new();
    run(&podrun, &["--log-driver", "json-file"], r#"echo 'say "hi"'; printf 'end\001'; echo no >&2"#);
    let text = file(&podrun, "current.json");
    let mut seen = Vec::new();
    for line in text.lines() {
        let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let field = |name: &str| value[name].as_str().expect("a string").to_owned();
        assert!(field("time").parse::<jiff::Timestamp>().is_ok(), "{line}");
        assert_eq!(value.as_object().map(serde_json::Map::len), Some(3), "{line}");
        seen.push((field("stream"), field("log")));
    }
    seen.sort();
    let expected = [("stderr", "no\n"), ("stdout", "end\u{1}"), ("stdout", "say \"hi\"\n")];
    assert_eq!(seen, expected.map(|(stream, log)| (stream.to_owned(), log.to_owned())));
    let logs = podrun.cmd(["logs", "c"]).run();
    assert_eq!((logs.out().as_str(), logs.err().as_str()), ("say \"hi\"\nend\u{1}", "no\n"));
    podrun.cmd(["logs", "--tail", "1", "--stdout", "c"]).prints("end\u{1}");
    podrun.cmd(["delete", "c"]).prints("c\n");
    run(&podrun, &["--log-driver", "json-file"], r"printf '\377\200\n\303'");
    assert_eq!(podrun.cmd(["logs", "c"]).run().stdout, b"\xff\x80\n\xc3");
}

#[test]
fn raw_is_the_bytes_as_they_are() {
    let podrun = Podrun::new();
    let options = ["--log-driver", "raw", "--log-opt", "max-size=128k,max-file=9"];
    run(&podrun, &options, "seq 1 60000; printf 'no newline'");
    let expected: String = (1..=60_000).map(|i| format!("{i}\n")).collect::<String>() + "no newline";
    podrun.cmd(["logs", "c"]).prints(&expected);
    podrun.cmd(["logs", "--tail", "2", "c"]).prints("60000\nno newline");
    podrun.cmd(["logs", "-t", "c"]).fails(1, "has no times");
    podrun.cmd(["logs", "--stderr", "c"]).fails(1, "has no streams");
    let together: String =
        ["current.raw.2", "current.raw.1", "current.raw"].map(|name| file(&podrun, name)).concat();
    assert_eq!(together, expected);
}

#[test]
fn none_logs_nothing_and_holds_nobody_up() {
    let podrun = Podrun::new();
    run(&podrun, &["--log-driver", "none"], "head -c 5000000 /dev/zero");
    let failed = podrun.cmd(["logs", "c"]).fails(1, "log driver is none");
    assert!(failed.stdout.is_empty());
    let log = podrun.container_dir("c").join("log");
    assert_eq!(std::fs::read_dir(log).expect("the log's directory").count(), 0);
}

#[test]
fn who_watches_sees_what_no_log_keeps() {
    let podrun = Podrun::new();
    let script = "echo out; echo err >&2; printf end; exit 3";
    let _journal = journal(&podrun);
    for driver in ["none", "journald"] {
        let run = format!(
            "{PRIVATE_RUN} exec podrun run {driver} --rootfs \"$BUSYBOX\" --log-driver {driver} -- sh -c '{script}'"
        );
        let output = podrun.program("unshare", ["-m", "sh", "-ec", &run]).run();
        let got = (output.out(), output.err(), output.code);
        assert_eq!(got, ("out\nend".to_owned(), "err\n".to_owned(), Some(3)), "{output}");
        podrun.cmd(["logs", driver]).fails(1, "log driver is");
    }
    let terminal =
        ["run", "--rm", "-t", "--rootfs", &busybox(), "--log-driver", "none", "--", "sh", "-c", script];
    let output = podrun.cmd(terminal).run();
    assert_eq!((output.out().as_str(), output.code), ("out\r\nerr\r\nend", Some(3)), "{output}");
    // One that nobody watched until now.
    let script = "while read word; do echo got $word; done";
    let args = ["run", "-di", "c", "--rootfs", &busybox(), "--log-driver", "none", "--", "sh", "-c", script];
    podrun.cmd(args).prints("c\n");
    let relay = podrun.run_root().join("c/relay.log");
    assert!(!relay.exists(), "nobody watches");
    for word in ["one", "two"] {
        let mut attached = podrun.cmd(["attach", "c"]).open_stdin().spawn();
        attached.write(format!("{word}\n").as_bytes());
        assert_eq!(attached.line().as_deref(), Some(format!("got {word}").as_str()));
        attached.kill();
    }
}

#[test]
fn who_watches_too_slowly_misses_some_and_is_told() {
    let podrun = Podrun::new();
    let script = r#"podrun run c --log-driver none --rootfs "$BUSYBOX" -- sh -c 'seq 1 1000000; echo end' |
        { until podrun wait c; do :; done >/dev/null 2>&1; tail -n 1; }"#;
    let output = podrun.sh(script).run();
    assert_eq!((output.out().as_str(), output.code), ("end\n", Some(0)), "{output}");
    assert_eq!(output.err().matches("came too fast").count(), 1, "{output}");
    let relay = std::fs::read_dir(podrun.run_root().join("c")).unwrap().flatten();
    let held: u64 = relay.map(|entry| entry.metadata().map_or(0, |found| found.len())).sum();
    assert!(held <= 9 << 20, "{held} bytes are held");
}

#[test]
fn two_drivers_get_the_same() {
    let podrun = Podrun::new();
    let options = ["--log-driver", "json-file", "--log-driver", "k8s-file"];
    run(&podrun, &options, "seq 1 1000; echo no >&2");
    assert_eq!(file(&podrun, "current.json").lines().count(), 1001);
    assert_eq!(file(&podrun, "current.log").lines().count(), 1001);
    let logs = podrun.cmd(["logs", "c"]).run();
    assert_eq!(logs.out(), (1..=1000).map(|i| format!("{i}\n")).collect::<String>());
    assert_eq!(logs.err(), "no\n");
}

/// What makes `/run` a private one, in which [`journal`] listens where the host's does.
const PRIVATE_RUN: &str = "mount --bind host-run /run;";

fn journal(podrun: &Podrun) -> UnixDatagram {
    let dir = podrun.dir().join("host-run/systemd/journal");
    std::fs::create_dir_all(&dir).expect("make a directory");
    UnixDatagram::bind(dir.join("socket")).expect("listen")
}

#[test]
fn without_a_journal_a_container_that_wants_one_is_refused() {
    let podrun = Podrun::new();
    drop(journal(&podrun));
    for (before, why) in
        [("", "connection refused"), ("rm -rf host-run/systemd;", "no such file or directory")]
    {
        for command in ["run", "create"] {
            let script = format!(
                "{before} {PRIVATE_RUN} podrun {command} c --rootfs \"$BUSYBOX\" --log-driver journald -- true"
            );
            let failed = podrun.program("unshare", ["-m", "sh", "-c", &script]).fails(125, why);
            assert!(failed.err().contains("journald") && failed.err().contains("\nhint: "), "{failed}");
        }
    }
    podrun.cmd(["list", "-q"]).prints("");
    assert!(podrun.supervisors().is_empty());
}

#[test]
fn the_journal_gets_a_record_a_line_with_the_fields_that_podman_sends() {
    let podrun = Podrun::new();
    let journal = journal(&podrun);
    let script = format!(
        "{PRIVATE_RUN} podrun run container-of-a-name -d --rootfs \"$BUSYBOX\" \
         --log-driver journald -- sh -c 'echo one; printf two >&2'"
    );
    podrun.program("unshare", ["-m", "sh", "-ec", &script]).prints("container-of-a-name\n");
    let mut seen = Vec::new();
    for _ in 0..2 {
        let mut datagram = [0; 4096];
        let length = journal.recv(&mut datagram).expect("a datagram");
        seen.push(String::from_utf8_lossy(&datagram[..length]).into_owned());
    }
    seen.sort();
    let name = "CONTAINER_NAME=container-of-a-name\nCONTAINER_ID=container-of\n\
                CONTAINER_ID_FULL=container-of-a-name\nSYSLOG_IDENTIFIER=container-of-a-name\n";
    let expected = [
        format!("{name}PRIORITY=3\nCONTAINER_PARTIAL_MESSAGE=true\nMESSAGE=two\n"),
        format!("{name}PRIORITY=6\nMESSAGE=one\n"),
    ];
    assert_eq!(seen, expected);
    podrun.cmd(["wait", "container-of-a-name"]).prints("0\n");
    let failed = podrun.cmd(["logs", "container-of-a-name"]).fails(1, "log driver is journald");
    assert!(failed.err().contains("journalctl CONTAINER_NAME=container-of-a-name"), "{failed}");
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let podrun = Podrun::new();
    let rootfs = busybox();
    for (options, why) in [
        (["--log-driver", "syslog"], "is none that podrun knows"),
        (["--log-driver", "raw,raw"], "raw is given twice"),
        (["--log-driver", "none,raw"], "cannot be combined"),
        (["--log-opt", "max-size=1k"], "is less than 128k"),
        (["--log-opt", "max-file=3"], "has no effect without max-size"),
        (["--log-opt", "mode=maybe"], "is none that podrun knows"),
    ] {
        let first = ["create", "c", "--rootfs", &rootfs];
        podrun.cmd(first.iter().chain(&options).chain(&["--", "true"])).fails(125, why);
    }
    podrun.cmd(["list", "-q"]).prints("");
}

//! From create to delete.

use crate::harness::{Podrun, busybox, debian, overlay};

/// The original tool's commands, as its users type them.
const FIRST: &str = r#"
podrun create e1 --rootfs "$ROOTFS" -- /usr/bin/sleep 1000000
podrun start e1
podrun exec e1 -- /usr/bin/head -n 2 /etc/os-release
podrun exec e1 --env FOO=bar --cwd /tmp -- /usr/bin/sh -c 'pwd; echo $FOO; /usr/bin/ls -la'
podrun kill e1
podrun delete e1
"#;

const SECOND: &str = r#"
podrun create w1 --rootfs "$ROOTFS" -- /usr/bin/sleep 1
podrun start w1
podrun wait w1
podrun delete w1
"#;

fn json(path: &std::path::Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("JSON")
}

#[test]
fn the_first_commands_of_every_user_work_as_typed() {
    let podrun = Podrun::new();
    let out = podrun.sh(FIRST).ok();
    let release = std::fs::read_to_string(format!("{}/etc/os-release", debian())).unwrap();
    let head: Vec<_> = release.lines().take(2).collect();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[..2], ["e1", "e1"], "{out}");
    assert_eq!(lines[2..4], head, "{out}");
    assert_eq!(lines[4..6], ["/tmp", "bar"], "{out}");
    assert!(lines[6].starts_with("total "), "{out}");
    assert!(lines[7].ends_with(" ."), "{out}");
    assert_eq!(lines.last(), Some(&"e1"), "{out}");
}

#[test]
fn wait_prints_the_code_of_a_container_that_ends_by_itself() {
    Podrun::new().sh(SECOND).prints("w1\nw1\n0\nw1\n");
}

#[test]
fn create_builds_everything_and_start_only_releases_it() {
    let podrun = Podrun::new();
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "echo", "hello"]).prints("c\n");
    let state = podrun.state("c");
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], "c");
    assert_eq!(state["pidAlive"], true);
    assert_eq!(state["shim"]["alive"], true);
    assert!(state["ociVersion"].is_string() && state["bundle"].is_string(), "{state}");
    assert!(state["createdAt"].is_string() && state["startedAt"].is_null(), "{state}");
    podrun.cmd(["logs", "c"]).prints("");
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
    podrun.cmd(["logs", "c"]).prints("hello\n");
    let state = podrun.state("c");
    assert_eq!(state["status"], "stopped");
    assert_eq!(state["exitCode"], 0);
    assert_eq!(state["pidAlive"], false);
    assert_eq!(state["shim"]["alive"], false);
    assert!(state["startedAt"].is_string() && state["finishedAt"].is_string(), "{state}");
    podrun.cmd(["delete", "c"]).prints("c\n");
    podrun.cmd(["state", "c"]).fails(1, "does not exist");
}

#[test]
fn run_in_the_foreground_passes_output_and_code_on() {
    let podrun = Podrun::new();
    let script = "echo out; echo err >&2; exit 42";
    let output = podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "sh", "-c", script]).run();
    assert_eq!((output.code, output.out(), output.err()), (Some(42), "out\n".into(), "err\n".into()));
    assert_eq!(podrun.status("c"), "stopped");
}

#[test]
fn run_without_an_id_makes_one_up() {
    let podrun = Podrun::new();
    let id = podrun.cmd(["run", "-d", "--rootfs", &busybox(), "--", "sleep", "1000"]).ok();
    podrun.cmd(["list", "-q"]).prints(&id);
}

#[test]
fn run_rm_leaves_nothing_also_when_its_caller_is_gone() {
    let podrun = Podrun::new();
    podrun.cmd(["run", "c", "--rm", "--rootfs", &busybox(), "--", "echo", "x"]).prints("x\n");
    podrun.cmd(["list", "-q"]).prints("");
    podrun.cmd(["run", "d", "--rm", "-d", "--rootfs", &busybox(), "--", "sleep", "1000"]).prints("d\n");
    let shim = podrun.shim_pid("d");
    podrun.cmd(["kill", "d"]).exits(0);
    crate::harness::process::wait_for_end(shim);
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn run_with_i_carries_stdin_and_its_end() {
    let podrun = Podrun::new();
    let args = ["run", "c", "--rm", "-i", "--rootfs", &busybox(), "--", "cat"];
    podrun.cmd(args).stdin("one\ntwo").prints("one\ntwo");
    let args = ["run", "c", "--rm", "--rootfs", &busybox(), "--", "cat"];
    podrun.cmd(args).stdin("not for it").prints("");
}

#[test]
fn a_stopped_container_runs_again_with_its_files_and_its_log() {
    let podrun = Podrun::new();
    let script = "echo x >> /root/runs; cat /root/runs; exit $(wc -l < /root/runs)";
    let rootfs = overlay(busybox());
    podrun.cmd(["run", "c", "-d", "--rootfs", &rootfs, "--", "sh", "-c", script]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("1\n");
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("2\n");
    podrun.cmd(["restart", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("3\n");
    podrun.cmd(["logs", "c"]).prints("x\nx\nx\nx\nx\nx\n");
    assert!(!std::path::Path::new(&format!("{}/root/runs", busybox())).exists());
}

#[test]
fn restart_of_a_running_container_is_stop_and_start() {
    let podrun = Podrun::new();
    podrun.run_script("c", "trap 'exit 0' TERM; echo ready; sleep 1000 & wait");
    let first = podrun.pid("c");
    podrun.cmd(["restart", "c"]).prints("c\n");
    assert_eq!(podrun.status("c"), "running");
    assert_ne!(podrun.pid("c"), first);
}

#[test]
fn start_of_a_running_container_is_an_error_that_changes_nothing() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let pid = podrun.pid("c");
    podrun.cmd(["start", "c"]).fails(1, "running");
    assert_eq!(podrun.pid("c"), pid);
}

#[test]
fn the_hosts_own_root_makes_a_first_container_and_is_not_changed() {
    let podrun = Podrun::new();
    let mark = format!("/usr/podrun-test-{}", std::process::id());
    let script = format!("echo hi > {mark} && cat {mark}");
    podrun.cmd(["run", "c", "--rm", "--rootfs", "/:O", "--", "sh", "-c", &script]).prints("hi\n");
    assert!(!std::path::Path::new(&mark).exists());
}

#[test]
fn an_overlay_leaves_the_directory_below_untouched() {
    let podrun = Podrun::new();
    let script = "echo new > /etc/passwd; rm /bin/sed; touch /root/file; cat /etc/passwd";
    let rootfs = overlay(busybox());
    podrun.cmd(["run", "c", "--rootfs", &rootfs, "--", "sh", "-c", script]).prints("new\n");
    let below = std::path::PathBuf::from(busybox());
    assert!(std::fs::read_to_string(below.join("etc/passwd")).unwrap().starts_with("root:"));
    assert!(below.join("bin/sed").symlink_metadata().is_ok());
    assert!(!below.join("root/file").exists());
}

#[test]
fn after_a_reboot_a_container_is_stopped_with_the_reason_and_starts_again() {
    let podrun = Podrun::new();
    podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "echo", "x"]).prints("x\n");
    podrun.settle();
    // What a power cut leaves of a running container: its state of another boot, and no exit record.
    let dir = podrun.container_dir("c");
    let mut state = json(&dir.join("state.json"));
    state["bootId"] = "00000000-0000-0000-0000-000000000000".into();
    state["status"] = "running".into();
    std::fs::write(dir.join("state.json"), state.to_string()).unwrap();
    let _ = std::fs::remove_file(dir.join("exit.json"));
    let _ = std::fs::remove_dir_all(podrun.run_root());

    let state = podrun.state("c");
    assert_eq!(state["status"], "stopped");
    assert!(state["reason"].as_str().unwrap().contains("restarted"), "{state}");
    assert!(state["exitCode"].is_null(), "an end that nobody saw has no code: {state}");
    let wait = podrun.cmd(["wait", "c"]).run();
    assert_eq!((wait.code, wait.out()), (Some(1), "unknown\n".into()), "{wait}");
    assert!(podrun.cmd(["list"]).ok().contains("stopped"));
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
}

#[test]
fn a_start_that_fails_after_a_power_cut_costs_a_container_nothing() {
    let podrun = Podrun::new();
    podrun.sh("cp -a \"$BUSYBOX\" rootfs").exits(0);
    let (rootfs, away) = (podrun.dir().join("rootfs"), podrun.dir().join("away"));
    let script = "echo x >>/root/runs; wc -l </root/runs; exec sleep 1000";
    let lower = overlay(rootfs.to_str().expect("UTF-8").to_owned());
    podrun.run_detached("c", &lower, ["sh", "-c", script]);
    podrun.says("c", "1");
    podrun.reboot(&["c"]);
    // Of its state nothing had reached the disk but what `create` wrote first.
    let path = podrun.container_dir("c").join("state.json");
    let mut first = json(&path);
    first["status"] = "creating".into();
    std::fs::write(path.with_extension("json.kept"), first.to_string()).unwrap();
    let lost = std::fs::File::create(&path).unwrap();
    lost.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();

    std::fs::rename(&rootfs, &away).unwrap();
    podrun.cmd(["start", "c"]).fails(1, "rootfs: no such file");
    assert_eq!(podrun.status("c"), "stopped");
    std::fs::rename(&away, &rootfs).unwrap();
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.says("c", "2");
}

#[test]
fn a_start_that_fails_is_the_last_record_whatever_fails() {
    let podrun = Podrun::new();
    podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "sh", "-c", "exit 7"]).exits(7);
    podrun.settle();
    let dir = podrun.container_dir("c");
    let spec = std::fs::read(dir.join("spec.json")).unwrap();
    std::fs::write(dir.join("spec.json"), "{}").unwrap();
    podrun.cmd(["start", "c"]).fails(1, "spec.json");
    let state = podrun.state("c");
    assert_eq!((&state["status"], &state["exitCode"]), (&"stopped".into(), &125.into()), "{state}");
    assert!(state["reason"].as_str().unwrap().contains("spec.json"), "{state}");
    podrun.cmd(["wait", "c"]).prints("125\n");
    assert_eq!(json(&dir.join("exit.json.1"))["exitCode"], 7);
    std::fs::write(dir.join("spec.json"), spec).unwrap();
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("7\n");
}

#[test]
fn a_directory_in_place_of_its_state_gives_way_to_what_its_shim_knows() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let path = podrun.container_dir("c").join("state.json");
    for command in [["pause", "c"], ["resume", "c"], ["kill", "c"]] {
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("file"), "").unwrap();
        podrun.cmd(command).run().expect(0);
    }
    podrun.settle();
    assert_eq!(json(&path)["status"], "stopped");
    assert!(!path.with_extension("json.tmp").exists());
    podrun.cmd(["wait", "c"]).prints("143\n");
    podrun.cmd(["start", "c"]).prints("c\n");
}

#[test]
fn list_shows_every_container_as_a_table_as_ids_and_as_json() {
    let podrun = Podrun::new();
    podrun.run_detached("a", &busybox(), ["sleep", "1000"]);
    podrun.cmd(["create", "b", "--rootfs", &busybox(), "--", "true"]).prints("b\n");
    podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "true"]).prints("");
    let table = podrun.cmd(["list"]).ok();
    let heads: Vec<_> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!(heads, ["ID", "STATUS", "PID", "CREATED", "COMMAND"], "{table}");
    for (id, status) in [("a", "running"), ("b", "created"), ("c", "stopped")] {
        let line = table.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap();
        assert!(line.contains(status), "{table}");
    }
    assert!(table.contains("sleep 1000"), "{table}");
    podrun.cmd(["ls", "-q"]).prints("a\nb\nc\n");
    let json: serde_json::Value =
        serde_json::from_str(&podrun.cmd(["list", "--format", "json"]).ok()).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 3, "{json}");
    assert_eq!(json[0]["id"], "a");
    assert_eq!(json[0]["status"], "running");
}

#[test]
fn inspect_tells_state_spec_and_labels() {
    let podrun = Podrun::new();
    let args = ["create", "c", "--rootfs", &busybox(), "--label", "tier=web", "--annotation", "a=b"];
    podrun.cmd(args.into_iter().chain(["--", "true"])).prints("c\n");
    let text = podrun.cmd(["inspect", "c"]).ok();
    for word in ["tier", "web", "\"created\"", "\"true\""] {
        assert!(text.contains(word), "{word} is not in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert!(json.is_array() || json.is_object());
}

#[test]
fn ps_lists_the_processes_inside() {
    let podrun = Podrun::new();
    podrun.run_script("c", "sleep 999 & echo ready; sleep 1000; :");
    let pids: Vec<i32> = serde_json::from_str(&podrun.cmd(["ps", "c", "--format", "json"]).ok()).unwrap();
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(pids.contains(&podrun.pid("c")));
    let table = podrun.cmd(["ps", "c"]).ok();
    assert!(table.contains("sleep 999") && table.contains("sleep 1000"), "{table}");
}

#[test]
fn the_pid_file_holds_the_pid_and_nothing_else() {
    let podrun = Podrun::new();
    let args = ["run", "c", "-d", "--pid-file", "pid", "--rootfs", &busybox(), "--", "sleep", "1000"];
    podrun.cmd(args).prints("c\n");
    let text = std::fs::read_to_string(podrun.dir().join("pid")).unwrap();
    assert_eq!(text, podrun.pid("c").to_string());
}

#[test]
fn a_minimal_init_reaps_and_passes_signals_on() {
    let podrun = Podrun::new();
    let script = "trap 'echo got; exit 3' TERM; echo pid $$; echo ready; while :; do sleep 0.1; done";
    let args = ["run", "c", "-d", "--init", "--rootfs", &busybox(), "--", "sh", "-c", script];
    podrun.cmd(args).prints("c\n");
    podrun.says("c", "ready");
    podrun.cmd(["kill", "c"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("3\n");
    let log = podrun.cmd(["logs", "c"]).ok();
    assert!(log.ends_with("got\n") && !log.contains("pid 1\n"), "{log}");
}

#[test]
fn a_container_of_each_root_may_have_the_same_id() {
    let (one, other) = (Podrun::new(), Podrun::new());
    one.run_detached("c", &busybox(), ["sleep", "1000"]);
    other.run_detached("c", &busybox(), ["sleep", "1001"]);
    one.cmd(["delete", "-f", "c"]).prints("c\n");
    assert_eq!(other.status("c"), "running");
}

#[test]
fn a_long_run_root_works_all_the_same() {
    let podrun = Podrun::with_long_run_root();
    let id = "i".repeat(128);
    podrun.run_detached(&id, &busybox(), ["sleep", "1000"]);
    podrun.cmd(["exec", &id, "--", "echo", "x"]).prints("x\n");
    podrun.cmd(["kill", &id]).exits(0);
    podrun.cmd(["wait", &id]).prints("143\n");
}

#[test]
fn version_help_and_completion_are_there() {
    let podrun = Podrun::new();
    assert!(podrun.cmd(["--version"]).ok().starts_with("podrun "));
    assert!(podrun.cmd(["completion", "bash"]).ok().contains("podrun"));
    for command in [
        "create", "run", "start", "exec", "wait", "kill", "stop", "restart", "delete", "state", "inspect",
        "list", "logs", "ps",
    ] {
        let help = podrun.cmd([command, "--help"]).ok();
        assert!(help.contains(&format!("podrun {command}")), "no example in: {help}");
    }
}

#[test]
fn debian_installs_a_package_index_and_runs_bash() {
    // What distributions check at start: apt's own user, /tmp, /dev/fd, a writable root.
    let podrun = Podrun::new();
    let script = "set -e; apt-get --version >/dev/null; dpkg --audit; cat <(echo substituted); \
                  : > /var/tmp/x; diff <(echo a) <(echo a) && echo same";
    let rootfs = overlay(debian());
    podrun
        .cmd(["run", "c", "--rm", "--rootfs", &rootfs, "--", "bash", "-c", script])
        .prints("substituted\nsame\n");
}

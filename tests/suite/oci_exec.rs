//! `exec` in a container that an engine supervises: no shim, podrun itself is the process's parent.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::bundle::{Engine, config};
use crate::harness::process::{cgroup, descriptors, is_alive, parent, send, status_field, wait_for_end};
use crate::harness::{Podrun, busybox};

/// A container that sleeps, as an engine creates and starts it.
#[track_caller]
fn sleeper(podrun: &Podrun, id: &str) -> Engine {
    let engine = Engine::create(podrun, id, &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["start", id]).run().expect(0);
    engine
}

#[track_caller]
fn end(podrun: &Podrun, id: &str, engine: Engine) {
    podrun.cmd(["delete", "--force", id]).run().expect(0);
    engine.wait();
}

#[test]
fn a_process_joins_and_its_exit_code_is_ours() {
    let podrun = Podrun::new();
    let engine = sleeper(&podrun, "o");
    podrun.cmd(["exec", "o", "hostname"]).prints("bundle\n");
    for code in [0, 1, 42, 255] {
        podrun.cmd(["exec", "o", "sh", "-c", &format!("exit {code}")]).exits(code);
    }
    podrun.cmd(["exec", "o", "sh", "-c", "kill -9 $$"]).exits(137);
    podrun.cmd(["exec", "o", "cat"]).stdin("through").prints("through");
    let flags = ["exec", "--env", "FOO=bar", "--cwd", "/tmp", "--user", "33:34", "o"];
    let script = ["--", "sh", "-c", "pwd; echo $FOO; id -u; id -g"];
    podrun.cmd(flags.into_iter().chain(script)).prints("/tmp\nbar\n33\n34\n");
    // It is where init is, in every namespace and in the cgroup.
    let namespaces = "for ns in pid mnt uts ipc cgroup; do readlink /proc/self/ns/$ns; readlink /proc/1/ns/$ns; done | uniq -c";
    let shared = podrun.cmd(["exec", "o", "sh", "-c", namespaces]).ok();
    assert!(
        shared.lines().count() == 5 && shared.lines().all(|line| line.trim().starts_with('2')),
        "{shared}"
    );
    podrun.cmd(["exec", "o", "cat", "/proc/self/cgroup"]).ok().lines().for_each(|line| {
        if let Some(path) = line.strip_prefix("0::") {
            assert_eq!(path, "/");
        }
    });
    podrun.cmd(["exec", "o", "sh", "-c", "ls /proc/self/fd | wc -l"]).prints("4\n");
    end(&podrun, "o", engine);
}

#[test]
fn the_process_may_come_as_json() {
    let podrun = Podrun::new();
    let engine = sleeper(&podrun, "o");
    let caps = ["CAP_CHOWN", "CAP_NET_RAW"];
    let process = json!({
        "user": {"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o27},
        "args": ["sh", "-c", "id -u; id -G; umask; pwd; env | grep -v ^SHLVL | sort; ulimit -n; \
                  grep -E '^(CapEff|CapBnd|NoNewPrivs)' /proc/self/status"],
        "env": ["PATH=/bin", "HOME=/nowhere"],
        "cwd": "/tmp",
        "capabilities": {"bounding": caps, "permitted": caps, "effective": []},
        "noNewPrivileges": true,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}],
    });
    let file = podrun.dir().join("process.json");
    std::fs::write(&file, process.to_string()).unwrap();
    podrun.cmd(["exec", "--process", file.to_str().unwrap(), "o"]).prints(
        "7\n8 9 10\n0027\n/tmp\nHOME=/nowhere\nPATH=/bin\nPWD=/tmp\n77\n\
         CapEff:\t0000000000000000\nCapBnd:\t0000000000002001\nNoNewPrivs:\t1\n",
    );
    let wrong = |process: Value, reason: &str| {
        std::fs::write(&file, process.to_string()).unwrap();
        podrun.cmd(["exec", "--process", file.to_str().unwrap(), "o"]).fails(125, reason);
    };
    wrong(json!({"args": ["true"], "cwd": "tmp"}), "config process.cwd");
    wrong(json!({"args": [], "cwd": "/"}), "config process.args");
    wrong(json!({"args": ["true"], "cwd": "/", "user": {"uid": "root"}}), "process user.uid");
    wrong(json!({"args": ["true"], "cwd": "/", "capabilities": {"bounding": [1]}}), "process capabilities");
    end(&podrun, "o", engine);
}

#[test]
fn detached_it_runs_on_and_belongs_to_nobody_of_podruns() {
    let podrun = Podrun::new();
    let engine = sleeper(&podrun, "o");
    let file = podrun.dir().join("exec.pid");
    // The process has our descriptors, so that none of the test's may be among them.
    podrun.sh("podrun exec --detach --pid-file exec.pid o sleep 1000 >/dev/null 2>&1").exits(0);
    let text = std::fs::read_to_string(&file).unwrap();
    let pid: i32 = text.parse().expect("a number without a newline");
    assert!(is_alive(pid));
    assert_eq!(status_field(pid, "Name").as_deref(), Some("sleep"));
    assert_ne!(parent(pid), std::process::id().cast_signed());
    assert_eq!(cgroup(pid), cgroup(engine.pid));
    assert_eq!(descriptors(pid).len(), 3, "{:?}", descriptors(pid));
    send(pid, Signal::KILL);
    wait_for_end(pid);
    end(&podrun, "o", engine);
}

#[test]
fn what_cannot_be_executed_is_told_and_leaves_no_pid_file() {
    let podrun = Podrun::new();
    let engine = sleeper(&podrun, "o");
    let file = podrun.dir().join("exec.pid");
    for detach in [&["--detach"][..], &[]] {
        let exec = |command: &str, code, reason: &str| {
            let flags = ["exec", "--pid-file", file.to_str().unwrap()];
            let args = flags.into_iter().chain(detach.iter().copied()).chain(["o", command]);
            podrun.cmd(args).fails(code, reason);
            assert!(!file.exists());
        };
        exec("no-such-thing", 127, "executable file not found in");
        exec("/no/such/thing", 127, "no such file or directory");
        exec("/etc/passwd", 126, "permission denied");
    }
    end(&podrun, "o", engine);
}

#[test]
fn one_more_capability_may_be_given() {
    let podrun = Podrun::new();
    let engine = sleeper(&podrun, "o");
    let script = "grep -E '^Cap(Eff|Bnd|Inh|Amb)' /proc/self/status";
    let flags = ["exec", "--cap", "CAP_NET_RAW", "--cap", "CAP_MKNOD", "o", "--", "sh", "-c", script];
    podrun.cmd(flags).prints(
        "CapInh:\t0000000000000000\nCapEff:\t00000000080020eb\n\
         CapBnd:\t00000000080020eb\nCapAmb:\t0000000000000000\n",
    );
    podrun.cmd(["exec", "--cap", "CAP_X", "o", "true"]).fails(125, "CAP_X is no capability");
    end(&podrun, "o", engine);
}

#[test]
fn where_nothing_runs_nothing_joins() {
    let podrun = Podrun::new();
    let engine = sleeper(&podrun, "o");
    podrun.cmd(["kill", "o", "KILL"]).exits(0);
    engine.wait();
    podrun.cmd(["exec", "o", "true"]).fails(125, "container not running");
    podrun.cmd(["delete", "o"]).run().expect(0);
    podrun.cmd(["exec", "o", "true"]).fails(125, "does not exist");
}

#[test]
fn signals_to_exec_reach_the_process() {
    let podrun = Podrun::new();
    let engine = sleeper(&podrun, "o");
    let script = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut exec = podrun.cmd(["exec", "o", "sh", "-c", script]).spawn();
    exec.until("ready");
    exec.signal(Signal::TERM);
    exec.until("got");
    exec.finish().expect(5);
    end(&podrun, "o", engine);
}

#[test]
fn descriptors_of_the_caller_are_passed_on_as_asked() {
    let podrun = Podrun::new();
    std::fs::write(podrun.dir().join("three"), "three").unwrap();
    let config = config(&busybox(), &["sleep", "1000"]);
    let three = podrun.dir().join("three");
    let script =
        format!(r#"shift; exec podrun create --preserve-fds 2 "$@" 3<{0} 4<{0} 5<{0}"#, three.display());
    let engine = Engine::create_by(&podrun, "o", &config, &script);
    podrun.cmd(["start", "o"]).run().expect(0);
    let opened = descriptors(engine.pid).iter().filter(|path| **path == three).count();
    assert_eq!(opened, 2, "{:?}", descriptors(engine.pid));
    podrun
        .sh("podrun exec --preserve-fds 1 o sh -c 'cat <&3; ls /proc/self/fd | xargs' 3<three 4<three")
        .prints("three0 1 2 3 4\n");
    podrun.sh("podrun exec --preserve-fds 2 o true 3<three 4<&-").fails(125, "bad file");
    end(&podrun, "o", engine);
}

#[test]
fn sockets_of_a_service_manager_are_passed_on() {
    let podrun = Podrun::new();
    let three = podrun.dir().join("three");
    std::fs::write(&three, "three").unwrap();
    let config =
        config(&busybox(), &["sh", "-c", "echo $LISTEN_FDS $LISTEN_PID $$; [ -e /proc/$$/fd/4 ] || cat <&3"]);
    let script = format!(r#"LISTEN_FDS=1 exec podrun "$@" 3<{}"#, three.display());
    let engine = Engine::create_by(&podrun, "o", &config, &script);
    podrun.cmd(["start", "o"]).run().expect(0);
    assert_eq!(engine.wait().out(), "1 1 1\nthree");
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn a_service_manager_hears_the_container() {
    let podrun = Podrun::new();
    let path = podrun.dir().join("notify.sock");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(crate::harness::hang_limit())).unwrap();
    let code = "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); \
                s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])";
    let mut config = config(&crate::harness::debian(), &["python3", "-c", code]);
    // The mount point is made in the root.
    config["mounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"destination": "/run", "type": "tmpfs", "source": "tmpfs"}));
    let script = format!(r#"NOTIFY_SOCKET={} exec podrun "$@""#, path.display());
    let engine = Engine::create_by(&podrun, "o", &config, &script);
    podrun.cmd(["start", "o"]).run().expect(0);
    let mut text = [0; 64];
    let length = socket.recv(&mut text).unwrap();
    assert_eq!(&text[..length], b"READY=1");
    engine.wait().expect(0);
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn the_session_keyring_is_the_containers_own_unless_told_otherwise() {
    let podrun = Podrun::new();
    // keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, do not create one)
    let number = if cfg!(target_arch = "x86_64") { 250 } else { 219 };
    let code = format!("import ctypes; print(ctypes.CDLL(None).syscall({number}, 0, -3, 0))");
    let keyring = |script: &str| {
        let config = config(&crate::harness::debian(), &["python3", "-c", &code]);
        let engine = Engine::create_by(&podrun, "o", &config, script);
        podrun.cmd(["start", "o"]).run().expect(0);
        let output = engine.wait();
        output.expect(0);
        podrun.cmd(["delete", "o"]).run().expect(0);
        output.out().trim().parse::<i64>().expect("a number")
    };
    let ours = keyring(r#"shift; exec podrun create --no-new-keyring "$@""#);
    let own = keyring(r#"exec podrun "$@""#);
    if ours < 0 && own < 0 {
        return; // a kernel without keys
    }
    assert_eq!(ours, keyring(r#"shift; exec podrun create --no-new-keyring "$@""#));
    assert_ne!(ours, own);
}

#[test]
fn without_pivot_root_the_host_is_as_far_away() {
    let podrun = Podrun::new();
    let argv =
        ["sh", "-c", "ls /; cut -d' ' -f5 /proc/self/mountinfo; echo $(stat -c %i /) $(stat -c %i /../..)"];
    // The root's path leads through a link.
    let link = podrun.dir().join("link");
    std::os::unix::fs::symlink(busybox(), &link).expect("make a link");
    let run = |script: &str| {
        let root = link.to_str().expect("UTF-8");
        let engine = Engine::create_by(&podrun, "o", &config(root, &argv), script);
        podrun.cmd(["start", "o"]).run().expect(0);
        let output = engine.wait();
        podrun.cmd(["delete", "o"]).run().expect(0);
        (output.code, output.out())
    };
    let moved = run(r#"shift; exec podrun create --no-pivot "$@""#);
    assert_eq!(moved, run(r#"exec podrun "$@""#));
    assert!(moved.1.contains("\n/proc\n"), "{moved:?}");
}

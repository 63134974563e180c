//! Filters that leave a decision to a listener (`SCMP_ACT_NOTIFY`), which is a program in another container here.

use serde_json::{Value, json};

use crate::harness::bundle::{Engine, bundle, config, inside, refused};
use crate::harness::{Podrun, busybox, debian, number};

/// Prints what it is told of each filter, and has every call that it is asked about fail with EXDEV.
const LISTENER: &str = r#"
import fcntl, json, os, socket, struct
server = socket.socket(socket.AF_UNIX)
server.bind("/mnt/listener.sock")
server.listen()
print("ready", flush=True)
while True:
    connection, _ = server.accept()
    text, fds, _, _ = socket.recv_fds(connection, 65536, 4)
    while more := connection.recv(65536):
        text += more
    print(json.dumps([len(fds), json.loads(text)]), flush=True)
    if os.fork() == 0:
        while True:
            request = bytearray(80)
            fcntl.ioctl(fds[0], 0xc0502100, request)
            call, = struct.unpack_from("Q", request)
            fcntl.ioctl(fds[0], 0xc0182101, struct.pack("QqiI", call, 0, -18, 0))
"#;

/// Tells with which error `mkdir` fails.
const MKDIR: &str = "import errno, os
try: os.mkdir('/dev/d')
except OSError as error: print(errno.errorcode[error.errno])";

impl Podrun {
    /// Runs the listener, once it listens; and asks it about `mkdir` in `config`.
    fn with_listener(&self, config: &mut Value) {
        std::fs::write(self.dir().join("listener.py"), LISTENER).expect("write a file");
        let volume = format!("{}:/mnt", self.dir().display());
        let args = ["run", "-d", "listener", "--rootfs", &debian(), "-v", &volume, "--"];
        self.cmd(args.into_iter().chain(["python3", "-B", "/mnt/listener.py"])).prints("listener\n");
        self.cmd(["logs", "-f", "listener"]).spawn().until("ready");
        config["linux"]["seccomp"] = asking(&self.dir().join("listener.sock"));
    }

    /// What the listener was told of the first `count` filters.
    fn told(&self, count: usize) -> Vec<Value> {
        let mut logs = self.cmd(["logs", "-f", "listener"]).spawn();
        logs.until("ready");
        let line = |_| logs.line().expect("a line");
        let told: Vec<Value> =
            (0..count).map(line).map(|line| serde_json::from_str(&line).expect("JSON")).collect();
        told.into_iter()
            .map(|told| {
                assert_eq!(told[0], 1, "one descriptor");
                told[1].clone()
            })
            .collect()
    }
}

fn asking(listener: &std::path::Path) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": listener, "listenerMetadata": "what for",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    })
}

#[test]
fn a_listener_is_told_of_each_process_and_decides_about_its_calls() {
    let podrun = Podrun::new();
    let mut config = config(&debian(), &["sh", "-c", "python3 -B -c \"$MKDIR\"; exec sleep 1000"]);
    podrun.with_listener(&mut config);
    let env = config["process"]["env"].as_array_mut().expect("an environment");
    env.push(json!(format!("MKDIR={MKDIR}")));
    config["annotations"] = json!({"a": "b"});

    // By an engine.
    let engine = Engine::create(&podrun, "o", &config);
    let pid = engine.pid;
    podrun.cmd(["start", "o"]).exits(0);
    podrun.cmd(["exec", "o", "python3", "-B", "-c", MKDIR]).prints("EXDEV\n");
    let told = podrun.told(2);
    let bundle_dir = podrun.dir().join("bundle-o");
    let state = json!({"ociVersion": config["ociVersion"], "id": "o", "status": "created", "pid": pid,
        "bundle": bundle_dir, "annotations": {"a": "b"}});
    let expected = json!({"ociVersion": config["ociVersion"], "fds": ["seccompFd"], "pid": pid,
        "metadata": "what for", "state": state});
    assert_eq!(told[0], expected);
    let joined = &told[1];
    assert_eq!((&joined["state"]["status"], number(&joined["state"]["pid"])), (&json!("running"), pid));
    assert!(number(&joined["pid"]) > 1 && joined["pid"] != pid, "{joined}");
    podrun.cmd(["delete", "--force", "o"]).exits(0);
    assert_eq!(engine.wait().out(), "EXDEV\n");

    // And with a shim: at its first start, its second, and for what joins.
    bundle(&podrun.dir().join("bundle"), &config);
    podrun.cmd(["create", "--bundle", "bundle", "--supervise", "s"]).prints("s\n");
    let first = podrun.pid("s");
    podrun.cmd(["start", "s"]).prints("s\n");
    podrun.cmd(["exec", "s", "python3", "-B", "-c", MKDIR]).prints("EXDEV\n");
    podrun.cmd(["kill", "s", "KILL"]).exits(0);
    podrun.cmd(["wait", "s"]).prints("137\n");
    podrun.cmd(["start", "s"]).prints("s\n");
    let told = podrun.told(5);
    let second = podrun.pid("s");
    assert_eq!([&told[2]["pid"], &told[3]["state"]["pid"], &told[4]["pid"]], [first, first, second]);
    // Without a filter nobody is asked, nor told.
    podrun.cmd(["exec", "--privileged", "s", "mkdir", "/dev/e"]).exits(0);
    podrun.cmd(["logs", "-f", "s"]).spawn().until("EXDEV");
}

#[test]
fn a_filter_that_nobody_could_answer_for_is_refused() {
    let podrun = Podrun::new();
    let nobody = podrun.dir().join("nobody.sock");
    refused(&podrun, "connect to the seccomp listener", |config| {
        config["linux"]["seccomp"] = asking(&nobody)
    });
    refused(&podrun, "needs a listenerPath", |config| {
        config["linux"]["seccomp"] = asking(&nobody);
        config["linux"]["seccomp"].as_object_mut().expect("an object").remove("listenerPath");
    });
    let mut all = asking(&nobody);
    all["syscalls"][0]["names"] = json!(["sendmsg"]);
    let _socket = std::os::unix::net::UnixListener::bind(&nobody).expect("listen");
    for refused_by in [all, json!({"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": nobody})] {
        let mut config = config(&busybox(), &["true"]);
        config["linux"]["seccomp"] = refused_by;
        bundle(&podrun.dir().join("bundle"), &config);
        podrun.cmd(["run", "--bundle", "bundle", "c"]).fails(125, "cannot be for sendmsg");
        podrun.cmd(["list", "-q"]).prints("");
    }
    // A listener that nothing is left to is not needed.
    let told = inside(&podrun, &busybox(), "echo fine", |config| {
        config["linux"]["seccomp"] =
            json!({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/no/such/socket"});
    });
    assert_eq!(told, "fine\n");
}

//! Terminals: a pty of the container's own, and whoever sits before it.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use serde_json::json;

use crate::harness::bundle::{CONSOLE, Engine, bundle, config};
use crate::harness::{Podrun, busybox};

/// What a terminal made of the lines `text`.
pub(crate) fn printed(text: &str) -> String {
    text.replace('\n', "\r\n")
}

#[test]
fn the_terminal_is_the_containers_own() {
    let podrun = Podrun::new();
    let script = "tty; stty size; echo $TERM; ls -1 /dev/pts; stat -c '%u %g %a' /dev/pts/0; \
                  tty </dev/console; [ -w /dev/tty ] && echo controls >/dev/tty; ls -1 /proc/self/fd";
    // 3 is the directory that `ls` itself reads.
    let expected =
        printed("/dev/pts/0\n24 80\nxterm\n0\nptmx\n0 5 620\n/dev/console\ncontrols\n0\n1\n2\n3\n");
    for more in [&[][..], &["--init"]] {
        let rootfs = busybox();
        let args = ["run", "--rm", "-t", "--rootfs", &rootfs].into_iter().chain(more.iter().copied());
        podrun.cmd(args.chain(["--", "sh", "-c", script])).prints(&expected);
    }
}

#[test]
fn a_user_who_is_not_root_owns_the_terminal() {
    let podrun = Podrun::new();
    let args = ["run", "--rm", "-t", "-u", "user", "-e", "TERM=vt100", "--rootfs", &busybox(), "--"];
    let script = "id -u; stat -c %u /dev/pts/0; echo again >/dev/stdout; echo $TERM";
    let expected = printed("1000\n1000\nagain\nvt100\n");
    podrun.cmd(args.into_iter().chain(["sh", "-c", script])).prints(&expected);
}

#[test]
fn everything_a_terminal_printed_is_in_the_log() {
    let podrun = Podrun::new();
    // Far more than a pty holds, and an end without a newline.
    let script = "seq 20000; printf last";
    podrun.cmd(["run", "-d", "-t", "t", "--rootfs", &busybox(), "--", "sh", "-c", script]).ok();
    podrun.cmd(["wait", "t"]).prints("0\n");
    let numbers: String = (1..=20000).map(|number| format!("{number}\r\n")).collect();
    podrun.cmd(["logs", "t"]).prints(&(numbers + "last"));
}

#[test]
fn a_terminal_that_nobody_has_open_for_a_while_is_not_the_end_of_the_output() {
    let podrun = Podrun::new();
    // As systemd does: everything closed, and `/dev/console` opened when there is something to say.
    let script = "echo before; exec </dev/null >/dev/null 2>&1; sleep 0.1; echo after >/dev/console";
    podrun
        .cmd(["run", "--rm", "-t", "--rootfs", &busybox(), "--", "sh", "-c", script])
        .prints(&printed("before\nafter\n"));
}

#[test]
fn what_stands_at_the_place_of_a_pty_is_not_taken_for_it() {
    let podrun = Podrun::new();
    let dir = podrun.dir().join("pts");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("ptmx"), "not a terminal").unwrap();
    std::fs::write(dir.join("0"), "not a terminal").unwrap();
    let volume = format!("{}:/dev/pts", dir.display());
    podrun
        .cmd(["run", "-t", "c", "-v", &volume, "--rootfs", &busybox(), "--", "true"])
        .fails(125, "/dev/pts is not a devpts");
    assert_eq!(std::fs::read(dir.join("0")).unwrap(), b"not a terminal");
}

/// The master that arrives on `listener`.
pub(crate) fn receive(listener: &UnixListener) -> OwnedFd {
    let (socket, _) = listener.accept().expect("podrun connects");
    let (mut bytes, mut fds) = ([0; 64], Vec::new());
    let length = podrun::sys::pass::receive(&socket, &mut bytes, &mut fds).expect("a message");
    assert!(length > 0, "a descriptor travels with at least one byte");
    assert_eq!(fds.len(), 1);
    fds.remove(0)
}

#[test]
fn an_engine_receives_the_terminal_over_its_console_socket() {
    let podrun = Podrun::new();
    let script = "tty; stty size; [ -c /dev/console ] && echo console";
    let mut config = config(&busybox(), &["sh", "-c", script]);
    config["process"]["terminal"] = json!(true);
    config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
    let dir = podrun.dir().join("bundle-o");
    std::fs::create_dir(&dir).unwrap();
    let listener = UnixListener::bind(dir.join(CONSOLE)).unwrap();
    let engine = Engine::create(&podrun, "o", &config);
    let mut master = std::fs::File::from(receive(&listener));
    podrun.cmd(["start", "o"]).run().expect(0);
    let mut text = Vec::new();
    // EIO is the end: nobody has the terminal open any more.
    let _ = master.read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), printed("/dev/pts/0\n33 77\nconsole\n"));
    let output = engine.wait();
    assert_eq!((output.code, output.out(), output.err()), (Some(0), String::new(), String::new()));
}

#[test]
fn a_console_socket_and_a_terminal_need_each_other() {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["true"]);
    let dir = podrun.dir().join("bundle-o");
    let socket = podrun.dir().join(CONSOLE);
    let create = |more: &[&str]| {
        let args = ["create", "--bundle", dir.to_str().unwrap(), "o"];
        podrun.cmd(args.iter().chain(more))
    };
    let given = ["--console-socket", socket.to_str().unwrap()];
    bundle(&dir, &config);
    create(&given).fails(2, "process.terminal is not true");
    config["process"]["terminal"] = json!(true);
    bundle(&dir, &config);
    create(&[]).fails(2, "there is no --console-socket");
    create(&given).fails(1, "nobody listens there");
    config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
    bundle(&dir, &config);
    let _listener = UnixListener::bind(&socket).unwrap();
    create(&given).fails(1, "open a terminal in the container");
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn an_engine_receives_the_terminal_of_a_process_that_joins() {
    let podrun = Podrun::new();
    let _engine = Engine::create(&podrun, "o", &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["start", "o"]).run().expect(0);
    let (process, socket) = (podrun.dir().join("process.json"), podrun.dir().join(CONSOLE));
    let listener = UnixListener::bind(&socket).unwrap();
    let wanted = json!({
        "terminal": true, "consoleSize": {"height": 20, "width": 60}, "cwd": "/", "user": {"uid": 1000, "gid": 1000},
        "args": ["sh", "-c", "tty; stty size; id -u; stat -c %u /dev/pts/0"], "env": ["PATH=/bin"],
    });
    std::fs::write(&process, wanted.to_string()).unwrap();
    let (process, socket) = (process.to_str().unwrap(), socket.to_str().unwrap());
    podrun.cmd(["exec", "--process", process, "--detach", "o"]).fails(125, "there is no --console-socket");
    podrun
        .cmd(["exec", "--console-socket", socket, "--detach", "o", "--", "true"])
        .fails(125, "process.terminal is not true");
    podrun.cmd(["exec", "--process", process, "--detach", "--console-socket", socket, "o"]).run().expect(0);
    let mut master = std::fs::File::from(receive(&listener));
    let mut text = Vec::new();
    let _ = master.read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), printed("/dev/pts/0\n20 60\n1000\n1000\n"));
    podrun.cmd(["kill", "o", "KILL"]).exits(0);
}

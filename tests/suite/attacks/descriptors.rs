//! Descriptors and sockets of the host's.

use std::os::unix::fs::symlink;

use super::image;
use crate::harness::{Podrun, busybox, debian, process};

/// CVE-2024-21626: the working directory is one of the runtime's own descriptors, by number or behind a link of
/// the image's.
#[test]
fn no_descriptor_of_the_host_is_a_working_directory() {
    let podrun = Podrun::new();
    let image = image(&podrun, &[]);
    let root = image.to_str().expect("a path in UTF-8");
    podrun.run_detached("c", root, ["sleep", "100000"]);
    for number in 3..24 {
        let link = image.join("work");
        std::fs::remove_file(&link).ok();
        let descriptor = format!("/proc/self/fd/{number}");
        symlink(&descriptor, link).expect("make a link");
        let behind = format!("{descriptor}/../../../..");
        for cwd in [descriptor.as_str(), "/work", &behind, "/proc/self/cwd"] {
            podrun.cmd(["exec", "c", "--cwd", cwd, "--", "pwd"]).fails(125, "working directory");
            if number < 12 {
                podrun
                    .cmd(["run", "--cwd", cwd, "--rootfs", root, "--", "pwd"])
                    .fails(125, "working directory");
            }
        }
    }
}

/// CVE-2024-21626: what a process inside holds is 0, 1 and 2, however many descriptors podrun was called with.
#[test]
fn nothing_but_stdio_is_left_to_a_process_inside() {
    let podrun = Podrun::new();
    let call = "exec 3</etc/passwd 4</ 7>>/dev/null 19</proc 200</etc/group; exec podrun \"$@\"";
    let shell = |args: &[&str]| {
        let args = ["-c", call, "bash"].into_iter().chain(args.iter().copied());
        podrun.program("bash", args)
    };
    // The shell's own descriptors: the ones that the kernel shows of it, not of `ls`.
    let show = "for fd in /proc/$$/fd/*; do echo ${fd##*/}; done";
    let wanted = "0\n1\n2\n";
    let root = &debian();
    let is_stdio = |out: String| {
        let fds: Vec<&str> = out.lines().filter(|fd| *fd != "255").collect();
        // The pattern itself is read through a descriptor, the lowest free one.
        assert!(fds.iter().all(|fd| ["0", "1", "2", "3"].contains(fd)), "{out}");
        assert!(out.starts_with(wanted), "{out}");
    };
    is_stdio(shell(&["run", "--rm", "--rootfs", root, "--", "bash", "-c", show]).ok());
    shell(&["run", "c", "-d", "--rootfs", &busybox(), "--", "sleep", "100000"]).prints("c\n");
    is_stdio(shell(&["exec", "c", "--", "sh", "-c", show]).ok());
    let held = process::descriptors(podrun.pid("c"));
    assert_eq!(held.len(), 3, "{held:?}");
    for pid in podrun.supervisors() {
        let held = process::descriptors(pid);
        let leaked = ["/etc/passwd", "/etc/group", "/proc"];
        assert!(!held.iter().any(|path| leaked.iter().any(|leak| path.as_os_str() == *leak)), "{held:?}");
    }
}

/// CVE-2020-15257: a container on the host's network looks for a control socket. None is abstract, and the file
/// is no use to whoever is not root: not by its mode, and not by who asks.
#[test]
fn a_control_socket_is_out_of_reach() {
    let podrun = Podrun::new();
    podrun.run_detached("victim", &busybox(), ["sleep", "100000"]);
    let unix = std::fs::read_to_string("/proc/net/unix").expect("read /proc/net/unix");
    let of = |pid: i32| {
        process::descriptors(pid)
            .into_iter()
            .filter_map(|path| {
                let name = path.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned();
                Some(name)
            })
            .collect::<Vec<_>>()
    };
    let own: Vec<String> = podrun.supervisors().into_iter().flat_map(of).collect();
    assert!(!own.is_empty(), "a shim listens");
    for line in unix.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if own.iter().any(|inode| fields.get(6) == Some(&inode.as_str())) {
            assert!(!fields.get(7).is_some_and(|path| path.starts_with('@')), "an abstract socket: {line}");
        }
    }
    // Somebody shows the socket to a container, and opens it to everyone there.
    let socket = podrun.run_root().join("victim/shim.sock");
    let copy = podrun.dir().join("open.sock");
    std::fs::hard_link(&socket, &copy).expect("another name for the socket");
    let chmod = |mode| std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(mode));
    let ask = r#"
import json, socket, struct
s = socket.socket(socket.AF_UNIX)
s.connect("/open.sock")
for body in ({"protocol": 1, "oldest": 1, "build": "x"}, {}):
    text = json.dumps(body).encode()
    s.sendall(struct.pack("<I", len(text)) + text)
print("answered", s.recv(100))
"#;
    let volume = format!("{}:/open.sock", copy.display());
    let rootfs = crate::harness::overlay(debian());
    let run =
        ["run", "--rm", "--user", "1000", "--rootfs", &rootfs, "-v", &volume, "--", "python3", "-c", ask];
    let closed = podrun.cmd(run).run();
    assert!(closed.err().contains("PermissionError"), "{closed}");
    chmod(0o666).expect("change the mode");
    let refused = podrun.cmd(run).run();
    assert!(!refused.out().contains("podrun"), "{refused}");
    std::fs::remove_file(copy).expect("remove the other name");
    assert_eq!(podrun.status("victim"), "running");
}

/// CVE-2024-21626 by way of the caller: a directory of the host on a descriptor that the container is given.
#[test]
fn no_directory_becomes_the_stdio_of_an_exec() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "100000"]);
    let output = podrun.sh("podrun exec -i c -- stat /proc/self/fd/0/ </").run();
    output.is_a_failure(125, "standard input: it is a directory");
    podrun.sh("podrun exec c -- echo in </").prints("in\n");
}

/// The host's null device is everybody's: who gets it as stdin changes neither its mode, owner and times nor the
/// mount that protects them, whatever may be done to mounts inside.
#[test]
fn the_null_device_that_is_stdin_is_not_the_containers_to_change() {
    let podrun = Podrun::new();
    let image = image(&podrun, &["binary"]);
    let root = image.to_str().expect("a path in UTF-8");
    let mighty = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--rootfs", root];
    let loop_ = ["--", "sh", "-c", "/binary stdin; exec sleep 1000"];
    podrun.cmd(["run", "c", "-d"].iter().chain(&mighty).chain(&loop_)).prints("c\n");
    podrun.says("c", "done");
    podrun.cmd(["logs", "c"]).prints("done\n");
    for _ in 0..2 {
        podrun.sh("podrun exec c /binary stdin </dev/null").prints("done\n");
    }
}

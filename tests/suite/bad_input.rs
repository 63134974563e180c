//! Bad input: one line that says what and why, the right exit code, nothing left behind.

use std::path::Path;

use crate::harness::{PODRUN, Podrun, busybox, executable, shim};

/// Every way to run something new, each of which must refuse alike.
const NEW: [&str; 2] = ["create", "run"];

#[test]
fn an_unknown_id_is_named_by_every_command() {
    let podrun = Podrun::new();
    for command in ["start", "wait", "kill", "stop", "restart", "delete", "state", "logs", "ps"] {
        let output = podrun.cmd([command, "nosuch"]).fails(1, "does not exist");
        assert!(output.err().contains("nosuch"), "{output}");
    }
    podrun.cmd(["exec", "nosuch", "--", "true"]).fails(125, "does not exist");
    let inspect = podrun.cmd(["inspect", "nosuch"]).run();
    assert_eq!((inspect.code, inspect.out().as_str()), (Some(1), "[]\n"), "{inspect}");
    podrun.cmd(["delete", "-f", "nosuch"]).exits(0);
    assert!(!podrun.run_root().join("nosuch").exists());
}

#[test]
fn a_taken_id_is_refused_and_its_owner_untouched() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let pid = podrun.pid("c");
    for command in NEW {
        podrun.cmd([command, "c", "--rootfs", &busybox(), "--", "true"]).fails(125, "already exists");
    }
    assert_eq!((podrun.pid("c"), podrun.status("c").as_str()), (pid, "running"));
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "true"]).fails(125, "already exists");
    podrun.cmd(["wait", "c"]).prints("137\n");
}

#[test]
fn an_id_that_is_no_file_name_is_refused() {
    let podrun = Podrun::new();
    let long = "i".repeat(200);
    for id in ["../x", "", &long, "a/b", "/", ".", "..", ".hidden", "a b", "a\nb"] {
        for command in NEW {
            podrun.cmd([command, id, "--rootfs", &busybox(), "--", "true"]).fails(125, "container ID");
        }
        for command in ["state", "start", "delete", "kill", "logs"] {
            podrun.cmd([command, id]).fails(2, "container ID");
        }
        podrun.cmd(["exec", id, "--", "true"]).fails(125, "container ID");
    }
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn a_rootfs_must_be_a_directory_with_the_command_in_it() {
    let podrun = Podrun::new();
    let empty = podrun.dir().join("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    for command in NEW {
        let with = |rootfs: &str| podrun.cmd([command, "c", "--rootfs", rootfs, "--", "true"]);
        with("/no/such/root").fails(125, "/no/such/root");
        with("/etc/passwd").fails(125, "/etc/passwd");
        let output = with(empty).run();
        assert!(matches!(output.code, Some(125 | 127)), "{output}");
        output.is_a_failure(output.code.unwrap(), "");
        with("").fails(125, "");
        podrun.cmd([command, "c", "--", "true"]).fails(125, "rootfs");
    }
    assert_eq!(std::fs::read_dir(empty).unwrap().count(), 0, "nothing was made in it");
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn a_command_that_cannot_run_is_told_apart_from_one_that_is_missing() {
    let podrun = Podrun::new();
    let rootfs = podrun.dir().join("image");
    std::fs::create_dir_all(rootfs.join("bin")).unwrap();
    for dir in ["proc", "sys", "dev"] {
        std::fs::create_dir(rootfs.join(dir)).unwrap();
    }
    std::fs::write(rootfs.join("bin/plain"), "x").unwrap();
    let root = rootfs.to_str().unwrap();
    for command in NEW {
        let with = |argv: &[&str]| {
            podrun.cmd([command, "c", "--rootfs", root, "--"].into_iter().chain(argv.iter().copied()))
        };
        with(&["missing"]).fails(127, "executable file not found in");
        with(&["/bin/missing"]).fails(127, "no such file or directory");
        with(&["/bin"]).fails(126, "");
        with(&["/bin/plain"]).fails(126, "permission denied");
        with(&["plain"]).fails(126, "permission denied");
        with(&[]).fails(125, "");
        with(&[""]).fails(125, "empty");
    }
    podrun.cmd(["list", "-q"]).prints("");
}

/// An executable of some other machine.
fn foreign_elf() -> Vec<u8> {
    let mut elf = std::fs::read(busybox() + "/bin/busybox").expect("read busybox");
    elf[18..20].copy_from_slice(&0x1234_u16.to_le_bytes());
    elf
}

#[test]
fn what_only_execve_can_tell_fails_run_and_leaves_nothing() {
    let podrun = Podrun::new();
    let dir = podrun.dir().join("programs");
    std::fs::create_dir(&dir).unwrap();
    executable(&dir.join("foreign"), foreign_elf());
    executable(&dir.join("orphan"), "#!/no/such/interpreter\n");
    executable(&dir.join("text"), "echo no interpreter line\n");
    let volume = format!("{}:/mnt", dir.display());
    let run = |program: &str| {
        podrun.cmd(["run", "c", "--volume", &volume, "--rootfs", &busybox(), "--", program]).run()
    };
    run("/mnt/foreign").is_a_failure(126, "exec format error");
    run("/mnt/text").is_a_failure(126, "exec format error");
    // The program is there; what it needs is not.
    let output = run("/mnt/orphan");
    assert!(matches!(output.code, Some(126 | 127)), "{output}");
    output.is_a_failure(output.code.unwrap(), "/mnt/orphan");
    assert!(!output.err().contains("executable file not found"), "{output}");
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn a_failed_start_leaves_a_stopped_container_that_says_why() {
    let podrun = Podrun::new();
    let dir = podrun.dir().join("programs");
    std::fs::create_dir(&dir).unwrap();
    executable(&dir.join("foreign"), foreign_elf());
    executable(&dir.join("vanishing"), "#!/bin/sh\n");
    let volume = format!("{}:/mnt", dir.display());
    let create = |id: &str, program: &str| {
        podrun
            .cmd(["create", id, "--volume", &volume, "--rootfs", &busybox(), "--", program])
            .prints(&format!("{id}\n"));
    };
    create("a", "/mnt/foreign");
    podrun.cmd(["start", "a"]).fails(1, "exec format error");
    create("b", "/mnt/vanishing");
    std::fs::remove_file(dir.join("vanishing")).unwrap();
    podrun.cmd(["start", "b"]).fails(1, "no such file or directory");
    for (id, code) in [("a", 126), ("b", 127)] {
        let state = podrun.state(id);
        assert_eq!((&state["status"], &state["exitCode"]), (&"stopped".into(), &code.into()), "{state}");
        assert!(!state["reason"].as_str().unwrap_or_default().is_empty(), "{state}");
        podrun.cmd(["wait", id]).prints(&format!("{code}\n"));
        podrun.cmd(["delete", id]).prints(&format!("{id}\n"));
    }
}

#[test]
fn an_unknown_signal_is_wrong_usage() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    for signal in ["NOSUCH", "0", "65", "-1", "999999999999", ""] {
        podrun.cmd(["kill", "-s", signal, "c"]).fails(2, "");
    }
    podrun
        .cmd(["create", "d", "--stop-signal", "NOSUCH", "--rootfs", &busybox(), "--", "true"])
        .fails(125, "NOSUCH");
    assert_eq!(podrun.status("c"), "running");
}

#[test]
fn a_running_container_is_not_deleted_without_force() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    podrun.cmd(["delete", "c"]).fails(1, "running");
    assert_eq!(podrun.status("c"), "running");
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
}

#[test]
fn a_created_container_is_deleted_without_force() {
    let podrun = Podrun::new();
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "true"]).prints("c\n");
    podrun.cmd(["delete", "c"]).prints("c\n");
}

#[test]
fn files_that_are_not_ours_are_an_error_with_their_path_and_can_be_removed() {
    let podrun = Podrun::new();
    let foreign = ["", "{", "null", "[]", "{\"version\": 1}", "\u{0}\u{0}", "{\"version\":999,\"id\":\"c\"}"];
    podrun.cmd(["run", "whole", "--rootfs", &busybox(), "--", "true"]).exits(0);
    for file in ["state.json", "spec.json"] {
        for (i, text) in foreign.iter().enumerate() {
            let id = format!("c{i}");
            podrun.cmd(["run", &id, "--rootfs", &busybox(), "--", "true"]).exits(0);
            podrun.settle();
            let path = podrun.container_dir(&id).join(file);
            std::fs::write(&path, text).unwrap();
            let command = if file == "state.json" { "state" } else { "start" };
            let output = podrun.cmd([command, &id]).fails(1, "");
            assert!(output.err().contains(file), "{output}");
            // One that is broken does not hide the others.
            let list = podrun.cmd(["list"]).run();
            assert!(list.out().lines().any(|line| line.starts_with("whole ")), "{list}");
            podrun.cmd(["delete", "-f", &id]).prints(&format!("{id}\n"));
        }
    }
    // The state of another container, and none at all.
    podrun.cmd(["run", "a", "--rootfs", &busybox(), "--", "true"]).exits(0);
    podrun.cmd(["run", "b", "--rootfs", &busybox(), "--", "true"]).exits(0);
    podrun.settle();
    std::fs::copy(podrun.container_dir("a").join("state.json"), podrun.container_dir("b").join("state.json"))
        .unwrap();
    podrun.cmd(["state", "b"]).fails(1, "state.json");
    std::fs::remove_file(podrun.container_dir("b").join("state.json")).unwrap();
    podrun.cmd(["state", "b"]).fails(1, "state.json");
    podrun.cmd(["delete", "-f", "b"]).prints("b\n");
}

#[test]
fn roots_that_cannot_be_written_are_named() {
    let podrun = Podrun::new();
    std::fs::write(podrun.dir().join("file"), "").unwrap();
    let file = podrun.dir().join("file/root");
    for (option, root) in
        [("--root", file.to_str().unwrap()), ("--root", "/proc/podrun"), ("--run-root", "/proc/podrun")]
    {
        let args = [option, root, "run", "c", "--rootfs", &busybox(), "--", "true"];
        podrun.cmd(args).fails(125, root);
    }
}

#[test]
fn somebody_who_is_not_root_is_told_so() {
    let podrun = Podrun::new();
    // Where the build lies may be closed to others.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for program in [Path::new(PODRUN), &shim()] {
        std::fs::copy(program, dir.path().join(program.file_name().unwrap())).unwrap();
    }
    let program = dir.path().join("podrun");
    let user = ["--reuid", "1000", "--regid", "1000", "--clear-groups", program.to_str().unwrap()];
    let new = ["run", "c", "--rootfs", &busybox(), "--", "true"];
    podrun.program("setpriv", user.into_iter().chain(new)).cwd("/").fails(125, "root");
}

#[test]
fn a_kernel_that_is_too_old_is_told_so() {
    let podrun = Podrun::new();
    let rootfs = busybox();
    let args = ["--uname-2.6", PODRUN, "run", "c", "--rootfs", &rootfs, "--", "true"];
    let output = podrun.program("setarch", args).fails(125, "2.6");
    assert!(output.err().contains("5.14"), "{output}");
}

#[test]
fn a_shim_that_is_missing_or_something_else_is_told_so() {
    let podrun = Podrun::new();
    let run = |shim: &str| {
        podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "true"]).env("PODRUN_SHIM", shim).run()
    };
    run("/no/such/shim").is_a_failure(125, "/no/such/shim");
    run("/etc/passwd").is_a_failure(125, "/etc/passwd");
    // A program that ends without a word, and one that speaks something else.
    run("/bin/true").is_a_failure(125, "");
    let chatter = podrun.dir().join("chatter");
    executable(
        &chatter,
        "#!/bin/sh\nfor fd in 0 1 3 4 5 6; do echo 'HTTP/1.1 400 Bad Request' >&$fd; done 2>/dev/null\n",
    );
    run(chatter.to_str().unwrap()).is_a_failure(125, "");
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn a_shim_of_another_version_is_told_so() {
    if std::env::args().next().as_deref() == Some("podrun-shim") {
        return speak_tomorrows_protocol();
    }
    // This very program as the shim: its only argument is the ID, which selects this test.
    let podrun = Podrun::new();
    let own = std::env::current_exe().unwrap();
    let id = "a_shim_of_another_version_is_told_so";
    for command in NEW {
        let output = podrun
            .cmd([command, id, "--rootfs", &busybox(), "--", "true"])
            .env("PODRUN_SHIM", own.to_str().unwrap())
            .run();
        output.is_a_failure(125, "podrun 9.0");
        assert!(
            output.err().contains("hint: install podrun and podrun-shim of the same release"),
            "{output}"
        );
    }
    podrun.cmd(["list", "-q"]).prints("");
}

fn speak_tomorrows_protocol() {
    let mut control =
        std::os::unix::net::UnixStream::from(podrun::sys::fd::inherited(3).expect("the control socket"));
    let mut hello = bytes::BytesMut::new();
    let tomorrow = podrun::protocol::Hello { protocol: 9, oldest: 9, build: "podrun 9.0".into() };
    podrun::protocol::frame::encode(&tomorrow, &mut hello).expect("a hello fits");
    std::io::Write::write_all(&mut control, &hello).expect("podrun listens");
    // Until the other side has seen enough.
    let _ = std::io::copy(&mut control, &mut std::io::sink());
}

#[test]
fn wrong_options_are_refused_before_anything_is_made() {
    let podrun = Podrun::new();
    let rootfs = busybox();
    let bad: [&[&str]; 9] = [
        &["--env", "=x"],
        &["--volume", "relative"],
        &["--volume", "/no/such/source:/mnt"],
        &["--volume", "/etc:relative"],
        &["--user", "nosuchuser"],
        &["--cwd", "relative"],
        &["--network", "nosuch"],
        &["--hostname", "a/b c\n"],
        &["--no-such-option"],
    ];
    for options in bad {
        let args = ["run", "c", "--rootfs", &rootfs].into_iter().chain(options.iter().copied());
        let output = podrun.cmd(args.chain(["--", "true"])).run();
        output.expect(125);
        assert!(output.err().starts_with("podrun: "), "{output}");
    }
    podrun.cmd(["list", "-q"]).prints("");
    podrun.cmd(["no-such-command"]).run().expect(2);
    podrun.cmd(["list", "--no-such-option"]).run().expect(2);
}

#[test]
fn who_comes_from_an_engine_is_told_how_it_is_done_here() {
    let podrun = Podrun::new();
    let root = busybox();
    let cases = [
        ("--name=c", "the name is the first argument"),
        ("--image=debian", "`--rootfs DIR` is the root filesystem"),
        ("--entrypoint=sh", "what stands behind `--`"),
        ("-p80:80", "--network ns:PATH"),
    ];
    for (option, hint) in cases {
        for command in NEW {
            let refused = podrun.cmd([command, option, "--rootfs", &root, "--", "true"]);
            let refused = refused.fails(125, "unexpected argument");
            assert!(refused.err().contains(hint), "{refused}");
        }
    }
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn a_missing_directory_is_never_a_missing_command() {
    let podrun = Podrun::new();
    let args = ["run", "c", "--cwd", "/no/such/dir", "--rootfs", &busybox(), "--", "true"];
    let output = podrun.cmd(args).run();
    assert!(output.err().contains("/no/such/dir"), "{output}");
    assert!(!output.err().contains("executable file not found") && output.code != Some(127), "{output}");
}

/// What a container has nested deeper than anybody can name goes with it, and so does what an earlier one left.
#[test]
fn a_deep_tree_and_leftovers_go() {
    let podrun = Podrun::new();
    let dig = r#"import os
for _ in range(1500): os.mkdir("d"); os.chdir("d")"#;
    let run = format!("ulimit -n 200; podrun run --rm c --rootfs $ROOTFS:O -- python3 -c '{dig}'");
    podrun.sh(&run).exits(0);
    podrun.settle();
    assert_eq!(std::fs::read_dir(podrun.root().join("containers")).expect("the store").count(), 0);
    // One that died before it had removed all.
    let record =
        r#"{"version":1,"exitCode":42,"exitSignal":null,"core":false,"oomKilled":false,"oomKills":0}"#;
    std::fs::create_dir(podrun.run_root().join("c")).expect("make a directory");
    std::fs::write(podrun.run_root().join("c/exit.json"), record).expect("write a file");
    podrun.cmd(["run", "--rm", "c", "--rootfs", &busybox(), "--", "echo", "hi"]).prints("hi\n");
}

/// A FIFO would be waited for, by everybody who looks at any container.
#[test]
fn what_is_no_file_in_the_place_of_one_is_told() {
    let podrun = Podrun::new();
    podrun.cmd(["run", "whole", "--rootfs", &busybox(), "--", "true"]).exits(0);
    let damages = [
        "rm state.json; mkfifo state.json",
        "rm state.json; mkdir state.json",
        "rm spec.json; mkfifo spec.json",
    ];
    for damage in damages {
        podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "true"]).exits(0);
        podrun.settle();
        podrun.sh(&format!("cd {}; {damage}", podrun.container_dir("c").display())).exits(0);
        let command = if damage.contains("state") { "state" } else { "start" };
        let output = podrun.cmd([command, "c"]).fails(1, "it is not a regular file");
        assert!(output.err().contains("hint: `podrun delete -f"), "{output}");
        let list = podrun.cmd(["list"]).run();
        assert!(list.out().lines().any(|line| line.starts_with("whole ")), "{list}");
        podrun.cmd(["delete", "-f", "c"]).prints("c\n");
    }
}

/// The caller's mask does not take podrun's own files from podrun, and is none of the container's.
#[test]
fn a_umask_of_the_caller_changes_nothing() {
    let podrun = Podrun::new();
    podrun
        .sh("umask 777; podrun run c --rootfs $BUSYBOX -- sh -c umask; stat -c %a $PODRUN_ROOT/containers $PODRUN_ROOT/containers/c $PODRUN_RUN_ROOT/c")
        .prints("0022\n700\n700\n700\n");
}

/// Too few descriptors are told before anything is done.
#[test]
fn too_few_descriptors_are_told() {
    let podrun = Podrun::new();
    for few in [16, 20, 40] {
        let run = format!("ulimit -n {few}; podrun run --rm c --rootfs $BUSYBOX -- true");
        let output = podrun.sh(&run).fails(125, "this process may have");
        assert!(output.err().contains("ulimit -n"), "{output}");
    }
    podrun.sh("ulimit -n 64; podrun run --rm c --rootfs $BUSYBOX -- true; podrun run --init -i --rm c --rootfs $BUSYBOX -- true </dev/null").exits(0);
}

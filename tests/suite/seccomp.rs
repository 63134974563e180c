//! The seccomp filter: ordinary programs do not notice it, foreign ones get an error and not a signal,
//! and a filter of the user's own does what it says.

use serde_json::{Value, json};

use crate::harness::bundle::{Engine, config};
use crate::harness::{Podrun, busybox, debian, executable, overlay};

#[track_caller]
fn on_debian(script: &str) -> String {
    let podrun = Podrun::new();
    podrun.cmd(["run", "--rm", "c", "--rootfs", &overlay(debian()), "--", "bash", "-euc", script]).ok()
}

#[test]
fn apt_and_dpkg_build_install_and_remove_a_package() {
    let script = "export DEBIAN_FRONTEND=noninteractive LC_ALL=C; cd /tmp; mkdir -p p/DEBIAN p/usr/bin; \
        printf 'Package: podrun-test\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b>\\nDescription: d\\n' \
            > p/DEBIAN/control; printf '#!/bin/sh\\necho works\\n' > p/usr/bin/podrun-test; \
        chmod 755 p/usr/bin/podrun-test; dpkg-deb --build p p.deb >/dev/null; \
        apt-get install -qq -y ./p.deb >/dev/null 2>/tmp/log || cat /tmp/log; podrun-test; \
        apt-get purge -qq -y podrun-test >/dev/null; test ! -e /usr/bin/podrun-test";
    assert_eq!(on_debian(script), "works\n");
}

#[test]
fn python_has_its_threads_processes_sockets_and_files() {
    let program = "
import asyncio, concurrent.futures as f, mmap, os, socket, subprocess, tempfile, threading
threads = f.ThreadPoolExecutor(16)
print(sum(threads.map(lambda n: n * n, range(1000))))
print(subprocess.check_output([\"echo\", \"child\"]).decode().strip())
async def echo(reader, writer):
    writer.write(await reader.read(5)); await writer.drain(); writer.close()
async def main():
    server = await asyncio.start_unix_server(echo, \"/tmp/s\")
    reader, writer = await asyncio.open_unix_connection(\"/tmp/s\")
    writer.write(b\"hello\"); print((await reader.read()).decode()); server.close()
asyncio.run(main())
for family in socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET:
    socket.socket(family, socket.SOCK_RAW if family > 10 else socket.SOCK_STREAM).close()
def io(n):
    with tempfile.TemporaryFile() as file:
        for block in range(64):
            os.pwrite(file.fileno(), bytes([n]) * 4096, block * 4096)
        os.fdatasync(file.fileno())
        return mmap.mmap(file.fileno(), 64 * 4096)[100]
print(sum(threads.map(io, range(32))))
";
    let script = format!("python3 -c '{program}'");
    assert_eq!(on_debian(&script), "332833500\nchild\nhello\n496\n");
}

/// The host's node, where it has one, in a container of the host's own root.
#[test]
fn node_has_its_threads_and_files() {
    let podrun = Podrun::new();
    let run = |command: &[&str]| {
        let args = ["run", "--rm", "c", "--rootfs", "/:O", "--"].into_iter().chain(command.iter().copied());
        podrun.cmd(args).ok()
    };
    if std::path::Path::new("/usr/bin/node").exists() {
        let program = "const w = require('worker_threads'); if (w.isMainThread) { \
            new w.Worker(__filename).on('message', m => require('fs').readFile('/etc/hostname', () => \
            console.log(m, require('os').cpus().length > 0))) } else w.parentPort.postMessage('worker')";
        let file = podrun.dir().join("w.js");
        std::fs::write(&file, program).unwrap();
        assert_eq!(run(&["node", file.to_str().unwrap()]), "worker true\n");
    }
}

/// Compiles `source` with the host's `compiler` and runs it in a container with nothing else; where there is no such
/// compiler, says so.
fn compiled_and_run(name: &str, source: &str, compiler: &str) -> Option<String> {
    let podrun = Podrun::new();
    std::fs::write(podrun.dir().join(name), source).expect("prepare a program");
    let image = podrun.dir().join("image");
    std::fs::create_dir(&image).expect("prepare a program");
    // The libraries that it is made of are compiled once.
    let cache = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-go");
    let compiled = podrun.program("sh", ["-c", compiler]).env("GOCACHE", cache).env("CGO_ENABLED", "0").run();
    if compiled.code == Some(127) {
        eprintln!("SKIPPED: {compiled}");
        return None;
    }
    assert_eq!(compiled.code, Some(0), "{compiled}");
    for dir in ["proc", "sys", "dev", "tmp"] {
        std::fs::create_dir(image.join(dir)).expect("prepare a program");
    }
    let args = [
        "run",
        "--rm",
        "--network",
        "none",
        "--rootfs",
        image.to_str().expect("a path in UTF-8"),
        "--",
        "/program",
    ];
    Some(podrun.cmd(args).ok())
}

#[test]
fn a_go_program_has_its_threads_processes_and_network() {
    let source = r#"
package main

import ("fmt"; "io"; "net"; "os"; "os/exec"; "runtime"; "sync")

func main() {
	if len(os.Args) > 1 { fmt.Print("child"); return }
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil { panic(err) }
	go func() {
		for { c, err := listener.Accept(); if err != nil { return }; go func() { io.Copy(c, c); c.Close() }() }
	}()
	var group sync.WaitGroup
	var sum, lock = 0, sync.Mutex{}
	for i := 0; i < 32; i++ {
		group.Add(1)
		go func(i int) {
			// A thread of its own for each.
			runtime.LockOSThread()
			defer group.Done()
			c, err := net.Dial("tcp", listener.Addr().String())
			if err != nil { panic(err) }
			fmt.Fprint(c, "hello")
			c.(*net.TCPConn).CloseWrite()
			back, _ := io.ReadAll(c)
			if err := os.WriteFile(fmt.Sprintf("/tmp/%d", i), back, 0600); err != nil { panic(err) }
			lock.Lock(); sum += len(back); lock.Unlock()
		}(i)
	}
	group.Wait()
	child, err := exec.Command("/proc/self/exe", "child").Output()
	fmt.Println(sum, string(child), err)
}
"#;
    let compile = "command -v go >/dev/null || exit 127; go build -o image/program program.go";
    if let Some(output) = compiled_and_run("program.go", source, compile) {
        assert_eq!(output, "160 child <nil>\n");
    }
}

#[test]
fn a_rust_program_has_its_threads_processes_and_network() {
    let source = r#"
use std::{fs, io::{Read, Write}, net::{TcpListener, TcpStream}, process::Command, thread};
fn main() {
    if std::env::args().len() > 1 { return print!("child"); }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        thread::spawn(move || { let mut text = String::new(); stream.read_to_string(&mut text).unwrap(); stream.write_all(text.as_bytes()) });
    });
    let threads: Vec<_> = (0..32).map(|i| thread::spawn(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"hello").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let file = fs::File::create(format!("/tmp/{i}")).unwrap();
        (&file).write_all(text.as_bytes()).unwrap();
        file.sync_all().unwrap();
        text.len()
    })).collect();
    let sum: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
    let child = Command::new("/proc/self/exe").arg("child").output().unwrap();
    println!("{sum} {}", String::from_utf8_lossy(&child.stdout));
}
"#;
    let compile = "command -v rustc >/dev/null || exit 127; \
                   rustc --edition 2021 -C target-feature=+crt-static -o image/program program.rs";
    if let Some(output) = compiled_and_run("program.rs", source, compile) {
        assert_eq!(output, "160 child\n");
    }
}

/// A program of the 32-bit x86: it opens a file and exits with the errno.
#[cfg(target_arch = "x86_64")]
fn i386() -> Vec<u8> {
    let code = [
        0xb8, 5, 0, 0, 0, 0xcd, 0x80, // open: its arguments are whatever lies about
        0xf7, 0xd8, 0x89, 0xc3, // the result, negated, is the first argument
        0xb8, 1, 0, 0, 0, 0xcd, 0x80, // exit
    ];
    let mut elf = b"\x7fELF\x01\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let (base, header) = (0x0804_8000_u32, 52 + 32_u32);
    let half = |value: u16| value.to_le_bytes().to_vec();
    let word = |value: u32| value.to_le_bytes().to_vec();
    let length = header + u32::try_from(code.len()).expect("a few bytes");
    for bytes in [half(2), half(3), word(1), word(base + header), word(52), word(0), word(0)] {
        elf.extend(bytes);
    }
    for size in [52, 32, 1, 40, 0, 0] {
        elf.extend(half(size));
    }
    for field in [1, 0, base, base, length, length, 5, 0x1000] {
        elf.extend(word(field));
    }
    elf.extend(code);
    elf
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_32_bit_program_gets_an_error_and_no_signal() {
    let podrun = Podrun::new();
    let dir = podrun.dir().join("programs");
    std::fs::create_dir(&dir).unwrap();
    executable(&dir.join("i386"), i386());
    if std::process::Command::new(dir.join("i386")).status().is_err() {
        return; // this kernel runs none anywhere
    }
    let volume = format!("{}:/mnt", dir.display());
    let run = |options: &[&str]| {
        let args = ["run", "--rm", "c", "-v", &volume].into_iter().chain(options.iter().copied());
        podrun.cmd(args.chain(["--rootfs", &busybox(), "--", "/mnt/i386"])).run()
    };
    run(&[]).expect(38); // ENOSYS
    // A profile that knows the architecture filters it by its own numbers.
    let profile = podrun.dir().join("profile.json");
    std::fs::write(&profile, engine_profile().to_string()).unwrap();
    let profile = format!("seccomp={}", profile.display());
    let code = run(&["--security-opt", &profile]).code;
    assert!(matches!(code, Some(2 | 14)), "open was called, and failed by itself: {code:?}");
    let script = "import ctypes; c = ctypes.CDLL(None, use_errno=True); \
                  print(c.syscall(0x40000000 + 39), ctypes.get_errno())";
    assert_eq!(on_debian(&format!("python3 -c '{script}'")), "-1 38\n", "x32");
}

/// A profile as engines write theirs: a deny-list here, with everything their format has.
fn engine_profile() -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [
            { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"] },
            { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"] },
        ],
        "syscalls": [
            { "names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28,
              "args": [], "comment": "no space", "includes": {}, "excludes": {} },
            { "names": ["kill"], "action": "SCMP_ACT_ERRNO", "args":
                [{ "index": 1, "value": 10, "valueTwo": 0, "op": "SCMP_CMP_EQ" }] },
            { "names": ["symlink", "symlinkat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1,
              "includes": { "caps": ["CAP_SYS_TIME"] } },
            { "names": ["link", "linkat"], "action": "SCMP_ACT_ERRNO", "errno": "ENOSYS",
              "excludes": { "caps": ["CAP_SYS_TIME"] }, "includes": { "minKernel": "4.8" } },
        ],
    })
}

const TRY: &str = "mkdir /tmp/d 2>&1; ln -s a /tmp/s 2>&1; ln /etc/passwd /tmp/l 2>&1; \
                   sh -c 'kill -USR1 $$' 2>&1; grep Seccomp: /proc/self/status | tr -d '\\t'";

#[test]
fn a_profile_in_the_engines_format_does_what_it_says_in_init_and_in_exec() {
    let podrun = Podrun::new();
    let profile = podrun.dir().join("profile.json");
    std::fs::write(&profile, engine_profile().to_string()).unwrap();
    let profile = format!("seccomp={}", profile.display());
    let options = ["--tmpfs", "/tmp", "--security-opt", &profile];
    let expected = "mkdir: can't create directory '/tmp/d': No space left on device\n\
                    ln: /tmp/l: Function not implemented\nsh: can't kill pid PID: Operation not permitted\nSeccomp:2\n";
    let check = |output: String| {
        let line = |line: &str| {
            if line.contains("kill pid") { "sh: can't kill pid PID: Operation not permitted" } else { line }
                .to_owned()
        };
        let got: Vec<_> = output.lines().map(line).collect();
        assert_eq!(got.join("\n") + "\n", expected, "{output}");
    };
    let rootfs = busybox();
    let with = |first: &[&'static str], last: &[&str]| {
        let words = first.iter().copied().chain(options).chain(["--rootfs", &rootfs, "--"]);
        podrun.cmd(words.chain(last.iter().copied()).map(str::to_owned).collect::<Vec<_>>())
    };
    check(with(&["run", "--rm", "a"], &["sh", "-c", TRY]).ok());
    with(&["run", "-d", "b"], &["sleep", "100000"]).prints("b\n");
    check(podrun.cmd(["exec", "b", "--", "sh", "-c", TRY]).ok());
    // With the capability the other rules apply.
    let output = with(&["run", "--rm", "c", "--cap-add", "SYS_TIME"], &["sh", "-c", TRY]).ok();
    assert!(output.contains("ln: /tmp/s: Operation not permitted"), "{output}");
    assert!(!output.contains("Function not implemented"), "{output}");
}

/// The profile that podman, buildah and CRI-O use, as their package has it.
#[test]
fn the_profile_that_podman_ships_works() {
    let profile = "/usr/share/containers/seccomp.json";
    if !std::path::Path::new(profile).exists() {
        eprintln!("SKIPPED: no {profile} (package golang-github-containers-common)");
        return;
    }
    // Calls that it allows, refuses with EPERM, and does not know; an argument that it looks at; threads, files.
    let program = "
import ctypes, threading, tempfile, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    ctypes.set_errno(0)
    result = libc.syscall(number, *args)
    return result, ctypes.get_errno()
print(call(246, 0, 0, 0, 0), call(600), call(41, 16, 3, 9), call(135, ctypes.c_ulong(0xffffffff))[1])
thread = threading.Thread(target=lambda: print(\"thread\")); thread.start(); thread.join()
with tempfile.TemporaryFile() as file: print(file.write(b\"text\"))
print(subprocess.check_output([\"echo\", \"child\"]).decode().strip())
";
    let script = format!("grep Seccomp: /proc/self/status | tr -d '\\t'; python3 -c '{program}'");
    let expected = "Seccomp:2\n(-1, 1) (-1, 38) (-1, 22) 0\nthread\n4\nchild\n";
    let podrun = Podrun::new();
    let (option, rootfs) = (format!("seccomp={profile}"), overlay(debian()));
    // With that capability the profile allows the socket.
    let args = ["--security-opt", &option, "--cap-drop", "AUDIT_WRITE", "--rootfs", &rootfs, "--"];
    podrun.cmd(["run", "--rm", "c"].iter().chain(&args).chain(&["bash", "-euc", &script])).prints(expected);
    podrun.cmd(["run", "-d", "c"].iter().chain(&args).chain(&["sleep", "100000"])).prints("c\n");
    podrun.cmd(["exec", "c", "--", "bash", "-euc", &script]).prints(expected);
}

#[test]
fn a_bundle_has_the_filter_that_it_brings_and_no_other() {
    let podrun = Podrun::new();
    let run = |id: &str, seccomp: Option<Value>| {
        let mut config =
            config(&busybox(), &["sh", "-c", "mkdir /dev/d 2>&1; grep Seccomp: /proc/self/status"]);
        if let Some(seccomp) = seccomp {
            config["linux"]["seccomp"] = seccomp;
        }
        let engine = Engine::create(&podrun, id, &config);
        podrun.cmd(["start", id]).exits(0);
        let output = engine.wait().out();
        podrun.cmd(["delete", id]).exits(0);
        output
    };
    let filter = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
        "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 }],
    });
    let output = run("a", Some(filter));
    assert!(output.contains("No space left") && output.contains("Seccomp:\t2"), "{output}");
    assert!(run("b", None).contains("Seccomp:\t0"));
}

#[test]
fn inspect_says_which_filter_a_container_has() {
    let podrun = Podrun::new();
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "true"]).prints("c\n");
    let inspected: Value = serde_json::from_str(&podrun.cmd(["inspect", "c"]).ok()).expect("JSON");
    assert_eq!(inspected[0]["spec"]["annotations"]["dev.podrun.seccomp"], "default", "{inspected}");
}

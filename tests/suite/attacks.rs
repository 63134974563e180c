//! A hostile container, and what it gets: nothing. Each attack that other runtimes fell for is carried
//! out for real; each of these tests fails on a runtime without the defence.
//!
//! The programs of the attackers are C, compiled once; races are run by a thread that changes a root
//! filesystem while podrun builds a container from it. A race's length is a matter of `PODRUN_ROUNDS`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::harness::bundle::{bundle, config};
use crate::harness::{Output, Podrun, busybox};

mod binary;
mod console;
mod descriptors;
mod images;
mod joining;
mod output;
mod races;
mod rights;

/// Every capability that Linux knows.
const ALL_CAPABILITIES: &str = "\
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE \
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO \
    SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG \
    MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM \
    BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

/// The attacker's program `NAME.c`, static, so that it runs in any root.
fn program(name: &str) -> PathBuf {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = top.join("tests/suite/attacks").join(name).with_extension("c");
    let dir = top.join("target/test-attacks");
    let program = dir.join(name);
    let modified = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    if modified(&program) < modified(&source) {
        std::fs::create_dir_all(&dir).expect("make a directory");
        // Two suites may be at it: whole, or not at all.
        let new = tempfile::NamedTempFile::new_in(&dir).expect("a temporary file").into_temp_path();
        let compiled = Command::new("cc")
            .args(["-static", "-O1", "-Wall", "-Wextra", "-o"])
            .args([new.as_os_str(), source.as_os_str()])
            .status()
            .expect("a C compiler");
        assert!(compiled.success(), "{} does not compile", source.display());
        new.persist(&program).expect("rename a file");
    }
    program
}

/// A root filesystem of one's own to make evil: busybox, and the attackers' programs `names` in `/`.
fn image(podrun: &Podrun, names: &[&str]) -> PathBuf {
    let image =
        tempfile::Builder::new().prefix("image-").tempdir_in(podrun.dir()).expect("a directory").keep();
    let copied = Command::new("cp").args(["-aT", &busybox()]).arg(&image).status().expect("run cp");
    assert!(copied.success());
    for name in names {
        std::fs::copy(program(name), image.join(name)).expect("copy a program");
    }
    image
}

/// The bundle configuration of a container of `image`.
fn oci(image: &Path, argv: &[&str]) -> Value {
    config(image.to_str().expect("a path in UTF-8"), argv)
}

/// The same with every capability, without no-new-privileges, and among the host's processes.
fn mighty(image: &Path, argv: &[&str]) -> Value {
    let mut config = oci(image, argv);
    let all: Vec<_> = ALL_CAPABILITIES.split(' ').map(|name| format!("CAP_{name}")).collect();
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!(all);
    }
    config["process"]["noNewPrivileges"] = json!(false);
    let namespaces = config["linux"]["namespaces"].as_array_mut().expect("a list");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    config
}

/// `podrun create --bundle`, whose init has nothing of this test's pipes.
fn create_oci(podrun: &Podrun, id: &str, config: &Value) -> Output {
    let mut config = config.clone();
    let cgroup = podrun.cgroup();
    let name = cgroup.file_name().and_then(|name| name.to_str()).expect("a name");
    config["linux"]["cgroupsPath"] = json!(format!("/{name}/ctr-{id}"));
    let dir = bundle(&podrun.dir().join(format!("bundle-{id}")), &config);
    let create = "exec podrun --log errors create --bundle \"$0\" \"$1\" </dev/null >/dev/null 2>&1";
    let dir = dir.to_str().expect("a path in UTF-8");
    let mut output = podrun.program("/bin/sh", ["-c", create, dir, id]).run();
    if output.code != Some(0) {
        let log = std::fs::read_to_string(podrun.dir().join("errors")).unwrap_or_default();
        output.stderr = format!("podrun: {}", log.lines().next_back().unwrap_or_default()).into();
    }
    output
}

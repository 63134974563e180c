//! podrun beside its peers, as whole processes: `sudo cargo bench --bench compare`.
//!
//! One run prints one table: for each thing measured the median and, in brackets, the 10th and 90th
//! percentile, for podrun and for every peer that is installed. What podrun promises has its target
//! beside it. Everybody gets the same busybox root, the same namespaces and mounts, and has all its
//! files on one tmpfs; rounds are interleaved, so that a busy moment of the machine hits all alike.
//!
//! | variable | default | what |
//! |---|---|---|
//! | `PODRUN_BENCH_ROUNDS` | 40 | rounds of everything that is quick |
//! | `PODRUN_BENCH_LOG` | 1070000000 | bytes through the log |
//! | `PODRUN_BENCH_MANY` | 1000 | containers at once for `list` |
//! | `PODRUN_BENCH_IDLE` | 60 | seconds during which nobody may wake up |
//! | `PODRUN_BENCH_ONLY` | | rows whose name contains this |
//! | `PODRUN_BENCH_BIN` | a release build | directory of `podrun` and `podrun-shim` |
//!
//! It works in a mount namespace of its own, in which `/sys/fs/cgroup` is cgroup v2 alone: crun and
//! runc need that on hosts that bind controllers to v1.

mod bare;
mod bench;
mod runtime;
mod table;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Set in the process that runs in its own mount namespace.
const INSIDE: &str = "PODRUN_BENCH_INSIDE";

fn main() -> ExitCode {
    // `cargo test --benches` asks every bench to show that it starts.
    if std::env::args().any(|arg| arg == "--test" || arg == "--list") {
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("compare: containers need root: sudo cargo bench --bench compare");
        return ExitCode::FAILURE;
    }
    match std::env::var_os(INSIDE) {
        Some(_) => {
            bench::run();
            ExitCode::SUCCESS
        }
        None => enter(),
    }
}

/// Builds, and runs this program again in a mount namespace of its own.
fn enter() -> ExitCode {
    let bin = std::env::var_os("PODRUN_BENCH_BIN").map_or_else(build, PathBuf::from);
    // Private by default: nothing of this reaches the host.
    let script = r#"
        if [ "$(stat -f -c %T /sys/fs/cgroup)" != cgroup2fs ]; then
            umount -R -l /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup
        fi
        mkdir -p "$2" && mount -t tmpfs -o size=80% tmpfs "$2" && exec "$1""#;
    let dir = std::env::temp_dir().join(format!("podrun-bench-{}", std::process::id()));
    let own = std::env::current_exe().expect("the path of this program");
    let status = Command::new("unshare")
        .args(["-m", "sh", "-euc", script, "sh"])
        .args([own.as_path(), dir.as_path()])
        .env(INSIDE, &dir)
        .env("PODRUN_BENCH_BIN", bin)
        .status()
        .expect("run unshare");
    let _ = std::fs::remove_dir(dir);
    if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The release build of both programs.
fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--workspace", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("run cargo");
    assert!(status.success(), "cargo build --release failed");
    // This program lies in TARGET/release/deps, the programs in TARGET/release.
    let own = std::env::current_exe().expect("the path of this program");
    own.parent().and_then(Path::parent).expect("cargo's layout").to_owned()
}

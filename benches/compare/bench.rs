//! What is measured, and in which order.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::INSIDE;
use crate::bare::Bare;
use crate::runtime::{Bwrap, Conmon, Oci, Podrun, Runtime, which};
use crate::table::{self, Figures, Row, Target, millis};

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The cgroup above all containers of the peers.
const CGROUP: &str = "/podrun-bench";

/// Runs everything, prints the table, and ends whatever a failure has left.
pub(crate) fn run() {
    let result = std::panic::catch_unwind(measure);
    let own = podrun::paths::Roots::new(Some(&dir().join("podrun")), None).expect("roots");
    for name in [CGROUP.trim_start_matches('/'), &own.cgroup_name()] {
        let cgroup = Path::new("/sys/fs/cgroup").join(name);
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        let find = format!(
            "for i in 1 2 3 4 5; do find '{}' -depth -type d -exec rmdir {{}} + && break; sleep 0.2; done 2>/dev/null",
            cgroup.display()
        );
        let _ = std::process::Command::new("sh").args(["-c", &find]).status();
    }
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// The tmpfs on which everybody has all files.
fn dir() -> PathBuf {
    PathBuf::from(std::env::var_os(INSIDE).expect("set by the outer process"))
}

fn measure() {
    let dir = dir();
    let bin = PathBuf::from(std::env::var_os("PODRUN_BENCH_BIN").expect("set by the outer process"));
    let rootfs = dir.join("rootfs");
    make_rootfs(&rootfs);
    let installed = |program: &str| {
        let path = which(program);
        if path.is_none() {
            eprintln!("compare: {program} is not installed");
        }
        path
    };
    let runtimes: Vec<_> =
        ["crun", "runc"].into_iter().filter_map(|name| Some((name, installed(name)?))).collect();
    let oci = |program: &'static str, path: &Path, name: &str| Oci {
        program,
        path: path.to_owned(),
        dir: dir.join(name).join(program),
        rootfs: rootfs.clone(),
        cgroup: format!("{CGROUP}/{name}-{program}"),
    };
    let mut all: Vec<Box<dyn Runtime>> = Vec::new();
    if bin.join("podrun").exists() {
        let (program, root) = (bin.join("podrun"), dir.join("podrun"));
        let oci = oci("podrun", &program, "alone");
        all.push(Box::new(Podrun { oci, program, root, rootfs: rootfs.clone() }));
    }
    if let Some(program) = installed("conmon") {
        for (name, path) in &runtimes {
            all.push(Box::new(Conmon { program: program.clone(), oci: oci(name, path, "conmon") }));
        }
    }
    for (name, path) in &runtimes {
        all.push(Box::new(oci(name, path, "alone")));
    }
    if let Some(program) = installed("bwrap") {
        all.push(Box::new(Bwrap { program, rootfs: rootfs.clone() }));
    }
    if bin.join("podrun").exists() {
        let (program, root) = (bin.join("podrun"), dir.join("podrun"));
        let oci = oci("podrun", &program, "bare");
        let podrun = Podrun { oci, program, root, rootfs: rootfs.clone() };
        all.push(Box::new(Bare { podrun, rootfs: rootfs.clone(), dir: dir.clone() }));
    }
    let columns: Vec<_> = all.iter().map(|runtime| runtime.name()).collect();
    let rounds = setting("PODRUN_BENCH_ROUNDS", 40);
    let only = std::env::var("PODRUN_BENCH_ONLY").unwrap_or_default();
    let mut rows = Vec::new();
    let wanted = |name: &str| {
        let wanted = name.contains(&only);
        if wanted {
            eprintln!("compare: {name}");
        }
        wanted
    };

    if wanted("create + start + wait + delete") {
        rows.push(Row {
            what: "create + start + wait + delete of `/bin/true`, ms".to_owned(),
            cells: interleaved(&all, rounds, |runtime| runtime.lifecycle().map(millis)),
            target: Target::Share(0.25, "conmon + crun"),
        });
    }
    if wanted("run --rm") {
        rows.push(Row {
            what: "`run --rm` of `/bin/true`, ms".to_owned(),
            cells: interleaved(&all, rounds, |runtime| runtime.run().map(millis)),
            target: Target::Share(0.4, "crun"),
        });
    }
    if wanted("run --rm without a filter") {
        rows.push(Row {
            what: "`run --rm` of `/bin/true` without a seccomp filter, ms".to_owned(),
            cells: interleaved(&all, rounds, |runtime| runtime.run_unfiltered().map(millis)),
            target: Target::None,
        });
    }
    if wanted("create + start + delete of a bundle") {
        rows.push(Row {
            what: "OCI mode: create + start + delete of `/bin/true`, ms".to_owned(),
            cells: interleaved(&all, rounds, |runtime| runtime.life_of_a_bundle().map(millis)),
            target: Target::Share(1.0, "crun"),
        });
    }
    if wanted("exec and state") {
        let running: Vec<_> =
            all.iter().map(|runtime| runtime.background("busy", &["sleep", "100000"])).collect();
        rows.push(Row {
            what: "`exec` of `/bin/true`, ms".to_owned(),
            cells: interleaved(&all, rounds, |runtime| runtime.exec("busy").map(millis)),
            target: Target::Share(1.0 / 3.0, "crun"),
        });
        let unfiltered: Vec<_> =
            all.iter().map(|runtime| runtime.background_unfiltered("plain", &["sleep", "100000"])).collect();
        rows.push(Row {
            what: "`exec` of `/bin/true` without a seccomp filter, ms".to_owned(),
            cells: interleaved(&all, rounds, |runtime| runtime.exec_unfiltered("plain").map(millis)),
            target: Target::None,
        });
        for (runtime, _) in all.iter().zip(&unfiltered).filter(|(_, unfiltered)| **unfiltered) {
            runtime.remove("plain");
        }
        rows.push(Row {
            what: "`state`, ms".to_owned(),
            cells: interleaved(&all, rounds, |runtime| runtime.state("busy").map(millis)),
            target: Target::None,
        });
        for (runtime, running) in all.iter().zip(running) {
            if running {
                runtime.remove("busy");
            }
        }
    }
    if wanted("end to wait") {
        rows.push(Row {
            what: "init's end → `wait` has printed (conmon: its exit file is there), ms".to_owned(),
            cells: interleaved(&all, rounds, |runtime| runtime.end_to_wait("ending").map(millis)),
            target: Target::AtMost(0.5),
        });
    }
    if wanted("log") {
        rows.push(log(&all, &rootfs));
    }
    if wanted("idle") {
        rows.extend(idle(&all));
    }
    if wanted("many") {
        rows.extend(many(&all));
    }
    table::print(&columns, &rows);
}

/// One busybox under the names that are used.
fn make_rootfs(dir: &Path) {
    for name in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        fs::create_dir_all(dir.join(name)).expect("make a directory");
    }
    let busybox = which("busybox").expect("busybox is installed: apt-get install busybox-static");
    fs::copy(busybox, dir.join("bin/busybox")).expect("copy busybox");
    for applet in ["true", "sleep", "sh", "dd", "cat"] {
        std::os::unix::fs::symlink("busybox", dir.join("bin").join(applet)).expect("make a link");
    }
}

/// `rounds` times each of them in turn.
fn interleaved(
    all: &[Box<dyn Runtime>],
    rounds: usize,
    measure: impl Fn(&dyn Runtime) -> Option<f64>,
) -> Vec<Option<Figures>> {
    let mut values = vec![Vec::new(); all.len()];
    // One round for the caches.
    for round in 0..=rounds {
        for (runtime, values) in all.iter().zip(&mut values) {
            if let Some(value) = measure(runtime.as_ref()).filter(|_| round > 0) {
                values.push(value);
            }
        }
    }
    values.into_iter().map(Figures::new).collect()
}

/// Lines of 100 bytes through the log.
fn log(all: &[Box<dyn Runtime>], rootfs: &Path) -> Row {
    let bytes = setting("PODRUN_BENCH_LOG", 1_070_000_000) / 100 * 100;
    let path = rootfs.join("lines");
    let mut file = fs::File::create(&path).expect("make a file");
    let chunk = [vec![b'x'; 99], vec![b'\n']].concat().repeat(10_000);
    let mut left = bytes;
    while left > 0 {
        let length = left.min(chunk.len());
        file.write_all(&chunk[..length]).expect("write a file");
        left -= length;
    }
    drop(file);
    let argv = ["dd", "if=/lines", "bs=64k", "status=none"];
    let cells = interleaved(all, 3, |runtime| {
        let (time, size) = runtime.log("logging", &argv)?;
        assert!(size >= bytes as u64, "{} logged {size} of {bytes} bytes", runtime.name());
        // `as`: far from where floats lose integers.
        Some(bytes as f64 / 1e6 / time.as_secs_f64())
    });
    fs::remove_file(path).expect("remove a file");
    Row {
        what: format!("log: {:.2} GB of 100-byte lines, MB/s (crun: no log at all)", bytes as f64 / 1e9),
        cells,
        target: Target::Times(3.0, "conmon + crun"),
    }
}

/// What stays beside five idle containers, and whether it sleeps.
fn idle(all: &[Box<dyn Runtime>]) -> Vec<Row> {
    const COUNT: usize = 5;
    let ids: Vec<_> = (0..COUNT).map(|i| format!("idle{i}")).collect();
    let supervised: Vec<bool> = all
        .iter()
        .map(|runtime| {
            let started: Vec<bool> =
                ids.iter().map(|id| runtime.background(id, &["sleep", "100000"])).collect();
            started.into_iter().all(|started| started)
        })
        .collect();
    let pids: Vec<Vec<i32>> = all.iter().map(|runtime| runtime.supervisors()).collect();
    let switches = || -> Vec<f64> {
        pids.iter()
            .map(|pids| pids.iter().map(|pid| field(*pid, "status", "voluntary_ctxt_switches:")).sum())
            .collect()
    };
    let seconds = setting("PODRUN_BENCH_IDLE", 60);
    // What they do after the start, podrun when it has been quiet for a second, is done before the window opens.
    std::thread::sleep(Duration::from_secs(3));
    let before = switches();
    std::thread::sleep(Duration::from_secs(seconds as u64));
    let after = switches();
    let cell = |i: usize, value: f64| if pids[i].is_empty() { None } else { Figures::new(vec![value]) };
    let mut rows = Vec::new();
    let targets = [
        ("RSS", "Rss:", Target::None),
        ("PSS", "Pss:", Target::Share(2.0 / 3.0, "conmon + crun")),
        ("private dirty", "Private_Dirty:", Target::Share(0.5, "conmon + crun")),
    ];
    for (name, key, target) in targets {
        let sum = |pids: &[i32]| pids.iter().map(|pid| field(*pid, "smaps_rollup", key)).sum::<f64>();
        let cells = (0..all.len()).map(|i| cell(i, sum(&pids[i]) / COUNT as f64)).collect();
        let what = format!("idle, all that stays beside one container of five: {name}, kB");
        rows.push(Row { what, cells, target });
    }
    let cells = (0..all.len()).map(|i| cell(i, after[i] - before[i])).collect();
    let what = format!("idle: wake-ups of all five in {seconds} s");
    rows.push(Row { what, cells, target: Target::AtMost(0.0) });
    for (runtime, _) in all.iter().zip(supervised).filter(|(_, supervised)| *supervised) {
        ids.iter().for_each(|id| runtime.remove(id));
    }
    rows
}

/// One number of `/proc/PID/FILE`.
fn field(pid: i32, file: &str, key: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    number.unwrap_or_default()
}

/// Many running containers: what `list` takes, and whether the last costs what the first did.
fn many(all: &[Box<dyn Runtime>]) -> Vec<Row> {
    let count = setting("PODRUN_BENCH_MANY", 1000).max(1);
    let part = (count / 10).max(1);
    let (mut lists, mut first, mut last) = (Vec::new(), Vec::new(), Vec::new());
    for runtime in all {
        let peer = runtime.name();
        if !(peer == "podrun" || peer == "crun") {
            lists.push(None);
            first.push(None);
            last.push(None);
            continue;
        }
        let times: Vec<f64> = (0..count)
            .map(|i| {
                let begin = Instant::now();
                assert!(runtime.background(&format!("many{i}"), &["sleep", "100000"]));
                millis(begin.elapsed())
            })
            .collect();
        first.push(Figures::new(times[..part].to_vec()));
        last.push(Figures::new(times[count - part..].to_vec()));
        lists.push(Figures::new((0..10).filter_map(|_| runtime.list().map(millis)).collect()));
        for i in 0..count {
            runtime.remove(&format!("many{i}"));
        }
    }
    let flat = first[0].as_ref().map_or(f64::NAN, |first| (first.median() * 1.15 * 100.0).round() / 100.0);
    vec![
        Row { what: format!("`list` of {count} running, ms"), cells: lists, target: Target::AtMost(20.0) },
        Row { what: format!("start of the first {part}, ms each"), cells: first, target: Target::None },
        Row {
            what: format!("start of the last {part} of {count}, ms each"),
            cells: last,
            target: Target::AtMost(flat),
        },
    ]
}

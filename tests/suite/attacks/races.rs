//! A root filesystem that changes while a container is built from it: each round creates one container, and
//! another thread exchanges two names in the root all the while.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, RenameFlags, makedev, renameat_with};
use serde_json::{Value, json};

use super::{create_oci, image, oci};
use crate::harness::{Podrun, number, rounds};

/// Exchanges `one` and `other` for as long as `work` takes.
pub(super) fn while_exchanging<T>(one: &Path, other: &Path, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("exchange two names");
            }
        });
        // Also where the work panics, the thread has to end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        done.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// One container for each round; `check` looks at those that could be created, by their pid.
#[track_caller]
pub(super) fn race(
    podrun: &Podrun,
    names: [&Path; 2],
    create: impl Fn(usize) -> crate::harness::Output,
    check: impl Fn(usize, i32),
) {
    let mut created = 0;
    let all = rounds(1000);
    while_exchanging(names[0], names[1], || {
        for round in 0..all {
            let output = create(round);
            if output.code == Some(0) {
                created += 1;
                check(round, number(&podrun.state("c")["pid"]));
                podrun.cmd(["delete", "-f", "c"]).ok();
            } else {
                assert!(output.err().starts_with("podrun: "), "{output}");
            }
        }
    });
    assert!(created > 0, "none of {all} could be created");
    eprintln!("{created} of {all} were created");
}

/// Every file below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| [files(&path), vec![path]].concat()).collect()
}

/// The mounts of a process: what is mounted (its root in its file system), where, and the file system.
pub(super) fn mounts(pid: i32) -> Vec<[String; 3]> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("read mountinfo");
    let mount = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let dash = words.iter().position(|word| *word == "-").expect("a dash");
        [words[3], words[4], words[dash + 1]].map(str::to_owned)
    };
    text.lines().map(mount).collect()
}

/// A root whose `/data` is a directory, and which has `/evil`, a link to the directory `outside` of the host.
fn root_with_link(podrun: &Podrun) -> (PathBuf, PathBuf) {
    let image = image(podrun, &[]);
    let outside = podrun.dir().join("outside");
    std::fs::create_dir(&outside).expect("make a directory");
    std::fs::create_dir(image.join("data")).expect("make a directory");
    std::os::unix::fs::symlink(&outside, image.join("evil")).expect("make a link");
    (image, outside)
}

/// CVE-2021-30465: the parent of a volume's mount point is exchanged for a link to the host. The mount has to
/// be found inside, at a place of the root, whatever happens.
#[test]
fn a_mount_stays_inside_a_root_that_changes_campaign() {
    let podrun = Podrun::new();
    let (image, outside) = root_with_link(&podrun);
    let source = podrun.dir().join("the-source");
    // What the link leads to is there: a mount that goes astray succeeds.
    for dir in [&source, &outside.join("place"), &image.join("data/place")] {
        std::fs::create_dir(dir).expect("make a directory");
    }
    let volume = format!("{}:/data/place", source.display());
    let root = image.to_str().expect("a path in UTF-8");
    race(
        &podrun,
        [&image.join("data"), &image.join("evil")],
        |_| podrun.cmd(["create", "c", "--rootfs", root, "-v", &volume, "--", "true"]).run(),
        |_, pid| {
            let mounts = mounts(pid);
            let found = mounts
                .iter()
                .filter(|[root, place, _]| root.ends_with("/the-source") && place.ends_with("/place"));
            assert_eq!(found.count(), 1, "the volume is not in the container: {mounts:?}");
        },
    );
    assert_eq!(files(&outside), [outside.join("place")]);
}

/// CVE-2024-45310: the same, and the mount point has to be made first: no inode may appear on the host.
#[test]
fn no_mount_point_is_made_outside_of_a_root_that_changes_campaign() {
    let podrun = Podrun::new();
    let (image, outside) = root_with_link(&podrun);
    let root = image.to_str().expect("a path in UTF-8");
    race(
        &podrun,
        [&image.join("data"), &image.join("evil")],
        |round| {
            let [directory, file] =
                [format!("/tmp:/data/{round}/a/b"), format!("/etc/passwd:/data/{round}/c/d")];
            podrun.cmd(["create", "c", "--rootfs", root, "-v", &directory, "-v", &file, "--", "true"]).run()
        },
        |_, _| assert!(files(&outside).is_empty(), "{:?}", files(&outside)),
    );
    assert!(files(&outside).is_empty(), "{:?}", files(&outside));
}

/// CVE-2023-27561, CVE-2019-19921 in motion: `/proc` of the image is a directory for the one who checks, and
/// a link for the one who mounts.
#[test]
fn proc_is_mounted_on_proc_or_nowhere_campaign() {
    let podrun = Podrun::new();
    let image = image(&podrun, &[]);
    std::os::unix::fs::symlink("/tmp", image.join("evil")).expect("make a link");
    let root = image.to_str().expect("a path in UTF-8");
    race(
        &podrun,
        [&image.join("proc"), &image.join("evil")],
        |_| podrun.cmd(["create", "c", "--rootfs", root, "--", "true"]).run(),
        |_, pid| {
            let mounts = mounts(pid);
            // The name may have moved since; the mount has not.
            let proc = mounts.iter().filter(|[root, _, kind]| root == "/" && kind == "proc");
            let places: Vec<&str> = proc.map(|[_, place, _]| place.as_str()).collect();
            assert!(matches!(places[..], ["/proc" | "/evil"]), "{mounts:?}");
        },
    );
}

/// CVE-2025-31133 and CVE-2025-62161: the image has a `/dev` of its own, and its `null` is the null device or a
/// link to what the attacker would like to have mounted over a masked file.
#[test]
fn a_mask_is_the_kernels_null_device_campaign() {
    let podrun = Podrun::new();
    let image = image(&podrun, &[]);
    let null = image.join("dev/null");
    rustix::fs::mknodat(CWD, &null, FileType::CharacterDevice, 0o666.into(), makedev(1, 3)).expect("mknod");
    std::os::unix::fs::symlink("/proc/sys/kernel/core_pattern", image.join("dev/evil")).expect("make a link");
    let mut config = oci(&image, &["true"]);
    config["mounts"].as_array_mut().expect("a list").retain(|mount| mount["destination"] == "/proc");
    config["linux"]["maskedPaths"] = json!(["/proc/version", "/proc/cmdline", "/proc/uptime"]);
    race(
        &podrun,
        [&null, &image.join("dev/evil")],
        |_| create_oci(&podrun, "c", &config),
        |_, pid| {
            use std::os::unix::fs::MetadataExt;
            let mask = std::fs::metadata(format!("/proc/{pid}/root/proc/version")).expect("it is there");
            assert_eq!(mask.rdev(), makedev(1, 3), "masked by something else: {:?}", mounts(pid));
        },
    );
}

/// CVE-2025-52881 and CVE-2025-62596: a volume whose mount point leads into `/proc`, in the right moment, lies
/// over the very file that the runtime then writes a setting to. The setting arrives, and the volume is
/// as it was.
#[test]
fn a_setting_is_written_to_the_kernel_and_to_no_file_campaign() {
    let podrun = Podrun::new();
    let image = image(&podrun, &[]);
    std::fs::create_dir(image.join("data")).expect("make a directory");
    std::os::unix::fs::symlink("/proc/sys/kernel", image.join("evil")).expect("make a link");
    let trap = podrun.dir().join("trap");
    std::fs::write(&trap, "untouched").expect("write a file");
    let mut config = oci(&image, &["true"]);
    config["linux"]["sysctl"] = json!({"kernel.msgmax": "9999"});
    let mounts: &mut Vec<Value> = config["mounts"].as_array_mut().expect("a list");
    let trap_mount =
        json!({"destination": "/data/msgmax", "type": "bind", "source": trap, "options": ["bind"]});
    mounts.push(trap_mount);
    // Another procfs, to see what the kernel really has.
    mounts.push(json!({"destination": "/mnt", "type": "proc", "source": "proc"}));
    race(
        &podrun,
        [&image.join("data"), &image.join("evil")],
        |_| create_oci(&podrun, "c", &config),
        |_, _| {
            assert_eq!(std::fs::read_to_string(&trap).expect("read a file"), "untouched");
        },
    );
    // And without luck: a link from the beginning, and what the container then sees.
    std::os::unix::fs::symlink("/proc/sys/kernel", image.join("certain")).expect("make a link");
    let mounts: &mut Vec<Value> = config["mounts"].as_array_mut().expect("a list");
    mounts.iter_mut().for_each(|mount| {
        if mount["destination"] == "/data/msgmax" {
            mount["destination"] = json!("/certain/msgmax");
        }
    });
    config["process"]["args"] = json!(["cat", "/mnt/sys/kernel/msgmax"]);
    let engine = crate::harness::bundle::Engine::create(&podrun, "c", &config);
    podrun.cmd(["start", "c"]).ok();
    assert_eq!(engine.wait().out(), "9999\n");
    assert_eq!(std::fs::read_to_string(&trap).expect("read a file"), "untouched");
}

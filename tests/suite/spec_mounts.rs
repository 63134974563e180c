//! `mounts` of the runtime specification: each of its options, as the kernel shows it inside.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::bundle::{inside, inside_by, push_mount, push_namespace, refused};
use crate::harness::{Cmd, Podrun, busybox};

/// A mount as `/proc/self/mountinfo` shows it.
struct Mount {
    place: String,
    options: Vec<String>,
    /// `shared:N`, `master:N`, `unbindable`; nothing where it is private.
    propagation: String,
    of_file_system: Vec<String>,
}

impl Mount {
    fn has(&self, option: &str) -> bool {
        self.options.iter().any(|own| own == option)
    }
}

/// Every mount at and below `/mnt`, of a table as the kernel prints it.
fn mounts(table: &str) -> Vec<Mount> {
    let words = |text: &str| text.split(',').map(str::to_owned).collect();
    let read = |line: &str| {
        let (own, file_system) = line.split_once(" - ")?;
        let own: Vec<_> = own.split(' ').collect();
        own[4].starts_with("/mnt").then(|| Mount {
            place: own[4].to_owned(),
            options: words(own[5]),
            propagation: own[6..].join(" "),
            of_file_system: words(file_system.split(' ').nth(2).expect("options")),
        })
    };
    table.lines().filter_map(read).collect()
}

const LOOK: &str = "cat /proc/self/mountinfo";

fn tmpfs(options: &[&str]) -> Value {
    json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": options})
}

/// A bind mount; its type is a dummy, as the specification's example has it.
fn bind(source: &Path, options: &[&str]) -> Value {
    json!({"destination": "/mnt", "type": "none", "source": source, "options": options})
}

/// The one mount that `wanted` makes.
#[track_caller]
fn one(podrun: &Podrun, wanted: Value) -> Mount {
    let seen = inside(podrun, &busybox(), LOOK, |config| push_mount(config, wanted));
    mounts(&seen).pop().unwrap_or_else(|| panic!("nothing is mounted: {seen}"))
}

/// What `script` prints in a container with a bind mount of `podrun`'s directory `host`, which is a mount of its own,
/// shared, with another one below it; `before` are the options of both.
#[track_caller]
fn above_a_mount(
    podrun: &Podrun,
    before: &str,
    script: &str,
    options: &[&str],
    maps: Option<Value>,
) -> String {
    let (host, gate) = (podrun.dir().join("host"), podrun.dir().join("gate"));
    fs::create_dir_all(&host).expect("a source");
    let _ = fs::remove_file(&gate);
    Cmd::new("mkfifo", [&gate]).exits(0);
    let (place, hold) = (host.display(), gate.display());
    // In a mount namespace of its own, so that nothing of it can be left; it lives until somebody opens the gate.
    let prepare = format!(
        "mount -t tmpfs tmpfs {place}; mkdir {place}/sub; mount -t tmpfs tmpfs {place}/sub; \
         for d in {place}/sub {place}; do mount -o remount,bind,{before} $d; done; mount --make-rshared {place}; \
         (read word <{hold}) </dev/null >/dev/null 2>&1 &"
    );
    let creator = format!(r#"exec unshare -m sh -euc '{prepare} exec podrun "$@"' sh "$@""#);
    let told = inside_by(podrun, &busybox(), script, &creator, |config| {
        let mut mount = bind(&host, options);
        if let Some(maps) = maps {
            (mount["uidMappings"], mount["gidMappings"]) = (maps[0].clone(), maps[1].clone());
        }
        push_mount(config, mount);
    });
    fs::write(&gate, "").expect("open the gate");
    told
}

#[test]
fn each_flag_of_a_mount_is_set_and_the_last_word_counts() {
    let podrun = Podrun::new();
    let host = podrun.dir().join("host");
    fs::create_dir(&host).unwrap();
    for (forbids, allows) in
        [("ro", "rw"), ("nosuid", "suid"), ("nodev", "dev"), ("noexec", "exec"), ("nodiratime", "diratime")]
    {
        let bound = |options: &[&str]| one(&podrun, bind(&host, &[&["bind"], options].concat()));
        let new = |options: &[&str]| one(&podrun, tmpfs(options));
        for mount in [bound(&[forbids]), new(&[forbids])] {
            assert!(mount.has(forbids), "{forbids}: {:?}", mount.options);
        }
        for mount in [bound(&[forbids, allows]), new(&[forbids, allows])] {
            assert!(!mount.has(forbids), "{allows}: {:?}", mount.options);
        }
    }
}

#[test]
fn links_are_followed_or_not() {
    let podrun = Podrun::new();
    let host = podrun.dir().join("host");
    fs::create_dir(&host).unwrap();
    for (options, expected) in
        [(&["bind", "nosymfollow"][..], true), (&["bind", "nosymfollow", "symfollow"], false)]
    {
        assert_eq!(one(&podrun, bind(&host, options)).has("nosymfollow"), expected, "{options:?}");
    }
    assert!(one(&podrun, tmpfs(&["nosymfollow"])).has("nosymfollow"));
    fs::remove_dir(&host).unwrap();
    assert_eq!(recursive(&podrun, "rw", "rnosymfollow", "nosymfollow"), [true; 2]);
    assert_eq!(recursive(&podrun, "nosymfollow", "rsymfollow", "nosymfollow"), [false; 2]);
}

#[test]
fn the_time_of_access_is_kept_as_asked() {
    let podrun = Podrun::new();
    let mode = |mount: &Mount| {
        let known = ["noatime", "relatime"].into_iter().find(|word| mount.has(word));
        known.unwrap_or("strictatime")
    };
    for (options, expected) in [
        (&["noatime"][..], "noatime"),
        (&["strictatime"], "strictatime"),
        (&["relatime"], "relatime"),
        (&["atime"], "relatime"),
        (&["noatime", "atime"], "relatime"),
        (&["strictatime", "noatime"], "noatime"),
    ] {
        assert_eq!(mode(&one(&podrun, tmpfs(options))), expected, "{options:?}");
    }
    let host = podrun.dir().join("host");
    fs::create_dir(&host).unwrap();
    assert_eq!(mode(&one(&podrun, bind(&host, &["bind", "noatime"]))), "noatime");
}

/// They take back what stands before them, and the kernel's own way remains.
#[test]
fn a_time_of_access_is_not_kept_as_asked() {
    let podrun = Podrun::new();
    for options in [&["norelatime"][..], &["nostrictatime"], &["strictatime", "nostrictatime"]] {
        let mount = one(&podrun, tmpfs(options));
        assert!(mount.has("relatime"), "{options:?}: {:?}", mount.options);
    }
}

#[test]
fn what_is_the_file_systems_is_given_to_it() {
    let podrun = Podrun::new();
    for option in ["sync", "dirsync", "lazytime"] {
        let mount = one(&podrun, tmpfs(&[option, "size=64k", "mode=700"]));
        for expected in [option, "size=64k", "mode=700"] {
            assert!(
                mount.of_file_system.iter().any(|own| own == expected),
                "{option}: {:?}",
                mount.of_file_system
            );
        }
    }
    for (first, last) in [("sync", "async"), ("lazytime", "nolazytime")] {
        let mount = one(&podrun, tmpfs(&[first, last]));
        assert!(!mount.of_file_system.iter().any(|own| own == first), "{last}: {:?}", mount.of_file_system);
    }
}

/// Words that no file system of today shows: what counts is that they are taken.
#[test]
fn words_that_change_nothing_are_taken() {
    let podrun = Podrun::new();
    let host = podrun.dir().join("host");
    fs::create_dir(&host).unwrap();
    for option in ["defaults", "silent", "loud", "iversion", "noiversion", "mand", "nomand"] {
        assert_eq!(one(&podrun, tmpfs(&[option])).place, "/mnt", "{option}");
        assert_eq!(one(&podrun, bind(&host, &["bind", option])).place, "/mnt", "{option}");
    }
}

#[test]
fn a_mount_that_is_there_is_changed() {
    let podrun = Podrun::new();
    let seen = inside(&podrun, &busybox(), LOOK, |config| {
        push_mount(config, tmpfs(&["nosuid", "size=64k"]));
        push_mount(config, tmpfs(&["remount", "ro", "nosuid", "size=128k"]));
    });
    let seen = mounts(&seen);
    assert_eq!(seen.len(), 1, "no other one was made");
    assert!(seen[0].has("ro") && seen[0].of_file_system.iter().any(|one| one == "size=128k"));
}

#[test]
fn a_bind_mount_takes_along_what_is_below_only_where_it_is_recursive() {
    let podrun = Podrun::new();
    for (option, expected) in [("bind", &["/mnt"][..]), ("rbind", &["/mnt", "/mnt/sub"])] {
        let seen = above_a_mount(&podrun, "rw", LOOK, &[option], None);
        let places: Vec<_> = mounts(&seen).into_iter().map(|mount| mount.place).collect();
        assert_eq!(places, expected, "{option}");
    }
}

/// The propagation of `/mnt` and `/mnt/sub`, in words.
#[track_caller]
fn propagation(podrun: &Podrun, options: &[&str]) -> Vec<String> {
    let seen = above_a_mount(podrun, "rw", LOOK, options, None);
    let word = |mount: Mount| mount.propagation.split([':', ' ']).next().unwrap_or_default().to_owned();
    mounts(&seen).into_iter().map(word).collect()
}

#[test]
fn a_mount_is_propagated_as_asked() {
    let podrun = Podrun::new();
    for (option, expected) in
        [("private", ""), ("shared", "shared"), ("slave", "master"), ("unbindable", "unbindable")]
    {
        assert_eq!(propagation(&podrun, &["bind", option]), [expected], "{option}");
    }
}

#[test]
fn a_mount_is_propagated_as_asked_with_all_below() {
    let podrun = Podrun::new();
    for (option, expected) in
        [("rprivate", ""), ("rshared", "shared"), ("rslave", "master"), ("runbindable", "unbindable")]
    {
        assert_eq!(propagation(&podrun, &["rbind", option]), [expected; 2], "{option}");
    }
}

/// Whether `/mnt` and `/mnt/sub` have `flag` with `option`, where both on the host are mounted with `before`.
#[track_caller]
fn recursive(podrun: &Podrun, before: &str, option: &str, flag: &str) -> [bool; 2] {
    let seen = above_a_mount(podrun, before, LOOK, &["rbind", option], None);
    let has: Vec<_> = mounts(&seen).iter().map(|mount| mount.has(flag)).collect();
    has.try_into().expect("two mounts")
}

#[test]
fn a_recursive_word_forbids_it_below_too() {
    let podrun = Podrun::new();
    for (option, flag) in [("rro", "ro"), ("rnosuid", "nosuid"), ("rnodev", "nodev"), ("rnoexec", "noexec")] {
        assert_eq!(recursive(&podrun, "rw", option, flag), [true; 2], "{option}");
    }
}

#[test]
fn a_recursive_word_allows_it_below_too() {
    let podrun = Podrun::new();
    for (option, before) in [("rrw", "ro"), ("rsuid", "nosuid"), ("rdev", "nodev"), ("rexec", "noexec")] {
        assert_eq!(recursive(&podrun, before, option, before), [false; 2], "{option}");
    }
}

#[test]
fn a_recursive_word_is_about_the_access_to_directories_below_too() {
    let podrun = Podrun::new();
    assert_eq!(recursive(&podrun, "rw", "rnodiratime", "nodiratime"), [true; 2]);
    assert_eq!(recursive(&podrun, "nodiratime", "rdiratime", "nodiratime"), [false; 2]);
}

#[test]
fn a_recursive_word_sets_the_time_of_access_below_too() {
    let podrun = Podrun::new();
    for (before, option, relatime, noatime) in [
        ("noatime", "rrelatime", true, false),
        ("noatime", "rstrictatime", false, false),
        ("noatime", "ratime", true, false),
        ("relatime", "rnoatime", false, true),
    ] {
        assert_eq!(recursive(&podrun, before, option, "relatime"), [relatime; 2], "{option}");
        assert_eq!(recursive(&podrun, before, option, "noatime"), [noatime; 2], "{option}");
    }
}

#[test]
fn a_recursive_word_takes_back_a_time_of_access() {
    let podrun = Podrun::new();
    for (before, option) in [("strictatime", "rnostrictatime"), ("relatime", "rnorelatime")] {
        assert_eq!(recursive(&podrun, before, option, "noatime"), [false; 2], "{option}");
    }
    assert_eq!(recursive(&podrun, "strictatime", "rnostrictatime", "relatime"), [true; 2]);
}

/// The owners of `/mnt` and `/mnt/sub`, which are root's on the host.
fn owned(podrun: &Podrun, option: &str) -> String {
    let map = |host: u32| json!([{"containerID": 0, "hostID": host, "size": 10}]);
    let maps = json!([map(33), map(34)]);
    above_a_mount(podrun, "rw", "stat -c %u:%g /mnt /mnt/sub", &["rbind", option], Some(maps))
}

#[test]
fn owners_are_mapped_as_the_mount_says() {
    let podrun = Podrun::new();
    assert_eq!(owned(&podrun, "idmap"), "33:34\n0:0\n");
}

#[test]
fn owners_are_mapped_as_the_mount_says_with_all_below() {
    let podrun = Podrun::new();
    assert_eq!(owned(&podrun, "ridmap"), "33:34\n33:34\n");
}

#[test]
fn owners_are_mapped_as_the_user_namespace_says() {
    let podrun = Podrun::new();
    let (image, host) = (podrun.dir().join("image"), podrun.dir().join("host"));
    image_of(&image, 200_000);
    fs::create_dir(&host).unwrap();
    fs::write(host.join("file"), "").unwrap();
    chown(host.join("file"), Some(7), Some(8)).unwrap();
    let root = image.to_str().expect("UTF-8").to_owned();
    let seen = inside(&podrun, &root, "stat -c %u:%g /mnt/file; : >/mnt/new", |config| {
        for kind in ["user", "network"] {
            push_namespace(config, json!({"type": kind}));
        }
        for ids in ["uidMappings", "gidMappings"] {
            config["linux"][ids] = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
        }
        push_mount(config, bind(&host, &["bind", "idmap"]));
    });
    assert_eq!(seen, "7:8\n");
    assert_eq!(host.join("new").metadata().unwrap().uid(), 0, "root inside writes as root of the host");
}

#[test]
fn a_map_that_there_is_none_for_is_refused() {
    let podrun = Podrun::new();
    let host = podrun.dir().join("host");
    fs::create_dir(&host).unwrap();
    for option in ["idmap", "ridmap"] {
        refused(&podrun, "idmap", |config| push_mount(config, bind(&host, &["rbind", option])));
    }
}

#[test]
fn a_tmpfs_begins_with_what_is_there() {
    let podrun = Podrun::new();
    let script = "ls -ld /home/user | cut -c 1-10; : >/home/new && echo writable";
    let told = inside(&podrun, &busybox(), script, |config| {
        push_mount(
            config,
            json!({"destination": "/home", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup", "nosuid"]}),
        );
    });
    assert_eq!(told, "drwxr-xr-x\nwritable\n");
}

/// A root filesystem of its own that belongs to `owner`, for what makes mount points in it.
pub(crate) fn image_of(image: &Path, owner: u32) {
    Cmd::new("cp", ["-a", &busybox(), image.to_str().expect("UTF-8")]).exits(0);
    Cmd::new("chown", ["-R", "-h", &format!("{owner}:{owner}"), image.to_str().expect("UTF-8")]).exits(0);
}

/// The specification's example: a tmpfs, and a directory of the host at a place that the root does not have.
#[test]
fn the_example_is_mounted() {
    let podrun = Podrun::new();
    let (image, testing) = (podrun.dir().join("image"), podrun.dir().join("testing"));
    image_of(&image, 0);
    fs::create_dir(&testing).unwrap();
    fs::write(testing.join("file"), "of the host\n").unwrap();
    let script = "grep -E ' (/tmp|/data) ' /proc/mounts | cut -d' ' -f2-4; cat /data/file; : >/data/new";
    let told = inside(&podrun, image.to_str().expect("UTF-8"), script, |config| {
        push_mount(
            config,
            json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
                   "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        );
        push_mount(
            config,
            json!({"destination": "/data", "type": "none", "source": testing, "options": ["rbind", "rw"]}),
        );
    });
    let has = |start: &str| told.lines().any(|line| line.starts_with(start));
    assert!(has("/tmp tmpfs rw,nosuid,size=65536k,mode=755"), "{told}");
    assert!(has("/data ") && told.ends_with("\nof the host\n"), "{told}");
    assert!(testing.join("new").exists());
}

/// A relative root, a relative source, a relative destination, mounts without a type and without a source, in order.
#[test]
fn relative_paths_begin_where_they_should_and_mounts_are_made_in_order() {
    let podrun = Podrun::new();
    let dir = podrun.dir().join("bundle-o");
    fs::create_dir_all(dir.join("below")).unwrap();
    fs::write(dir.join("below/file"), "of the bundle\n").unwrap();
    image_of(&dir.join("rootfs"), 0);
    let script = "cat /mnt/b/file; ls -A /mnt /home; grep -c ' /mnt tmpfs ' /proc/mounts";
    let told = inside(&podrun, "rootfs", script, |config| {
        push_mount(config, json!({"destination": "mnt", "type": "tmpfs", "source": "tmpfs"}));
        push_mount(config, json!({"destination": "/mnt/b", "source": "below", "options": ["bind"]}));
        push_mount(config, json!({"destination": "/home", "type": "tmpfs"}));
    });
    assert_eq!(told, "of the bundle\n/home:\n\n/mnt:\nb\n1\n");
}

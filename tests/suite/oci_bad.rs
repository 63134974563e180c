//! Bundles that are wrong: an error that names the field, in bounded time, and nothing left.

use std::path::Path;

use serde_json::{Value, json};

use crate::harness::bundle::{bundle, config};
use crate::harness::{Podrun, busybox, rounds, seeded};

/// The refusal of the bundle at `dir`, after which there is no container.
#[track_caller]
fn refused(podrun: &Podrun, dir: &Path, reason: &str) {
    let output = podrun.cmd(["create", "--bundle", dir.to_str().expect("UTF-8"), "o"]).run();
    output.is_a_failure(output.code.filter(|code| *code == 1 || *code == 2).expect("a failure"), reason);
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn a_configuration_that_is_none_is_refused() {
    let podrun = Podrun::new();
    let dir = podrun.dir().join("bundle");
    refused(&podrun, &dir, "config.json: no such file or directory");
    std::fs::create_dir(&dir).unwrap();
    for (text, reason) in [
        ("", "EOF while parsing"),
        ("{", "EOF while parsing"),
        ("[]", "config ociVersion"),
        ("null", "config: invalid type: null"),
        ("{}{}", "trailing characters"),
        ("\u{feff}{}", "expected value"),
    ] {
        std::fs::write(dir.join("config.json"), text).unwrap();
        refused(&podrun, &dir, reason);
    }
    std::fs::write(dir.join("config.json"), [0xff, 0xfe, 0]).unwrap();
    refused(&podrun, &dir, "config.json");
    std::fs::write(dir.join("config.json"), "[".repeat(100_000)).unwrap();
    refused(&podrun, &dir, "recursion limit");
    std::fs::remove_file(dir.join("config.json")).unwrap();
    std::fs::create_dir(dir.join("config.json")).unwrap();
    refused(&podrun, &dir, "config.json: is a directory");
}

#[test]
fn a_field_that_is_wrong_or_missing_is_named() {
    let podrun = Podrun::new();
    let removed = Value::String("removed".to_owned());
    for (pointer, value, field) in [
        ("/ociVersion", removed.clone(), "config ociVersion"),
        ("/ociVersion", json!("0.9"), "config ociVersion"),
        ("/ociVersion", json!("2.0.0"), "config ociVersion"),
        ("/ociVersion", json!("one"), "config ociVersion"),
        ("/root", removed.clone(), "config root"),
        ("/root/path", removed.clone(), "config root"),
        ("/root/path", json!("/no/such/root"), "/no/such/root"),
        ("/process", removed.clone(), "config process"),
        ("/process/args", removed.clone(), "config process.args"),
        ("/process/cwd", removed.clone(), "config process"),
        ("/process/cwd", json!("relative"), "config process.cwd"),
        ("/process/args", json!("text"), "config process.args"),
        ("/process/user/uid", json!(-1), "config process.user.uid"),
        ("/process/user/uid", json!(4_294_967_296_u64), "config process.user.uid"),
        ("/process/env", json!([1]), "config process.env[0]"),
        ("/process/env", json!(["A"]), "config process.env[0]"),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            "config process.rlimits[0]",
        ),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_CORE", "soft": 2, "hard": 1}]),
            "config process.rlimits[0]",
        ),
        ("/process/capabilities", json!({"bounding": [1]}), "config process.capabilities"),
        ("/linux", removed.clone(), "config linux"),
        ("/linux/namespaces", json!([]), "config linux.namespaces"),
        ("/linux/namespaces", json!([{"type": "moon"}]), "config linux.namespaces[0].type"),
        ("/linux/namespaces", json!([{"type": "mount"}, {"type": "mount"}]), "config linux.namespaces[1]"),
        (
            "/linux/namespaces",
            json!([{"type": "mount"}, {"type": "uts", "path": "x"}]),
            "config linux.namespaces[1].path",
        ),
        ("/linux/sysctl", json!({"vm.swappiness": "1"}), "config linux.sysctl vm.swappiness"),
        ("/linux/maskedPaths", json!(["relative"]), "config linux.maskedPaths"),
        ("/linux/cgroupsPath", json!("/../x"), "linux.cgroupsPath"),
        ("/linux/cgroupsPath", json!("/"), "linux.cgroupsPath"),
        ("/mounts/0/destination", json!(""), "config mounts[0].destination"),
        ("/mounts/0/destination", removed.clone(), "config mounts[0]"),
        ("/mounts/0/type", json!("no-such-fs"), "no-such-fs"),
        ("/hostname", json!("x\u{0}"), "config hostname"),
        ("/annotations", json!({"a": 1}), "config annotations.a"),
        ("/annotations", json!({"dev.podrun.x": "y"}), "dev.podrun.x"),
    ] {
        let mut config = config(&busybox(), &["true"]);
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        let parent = config.pointer_mut(parent).unwrap();
        if value == removed {
            parent.as_object_mut().unwrap().remove(name);
        } else {
            parent[name] = value;
        }
        refused(&podrun, &bundle(&podrun.dir().join("bundle"), &config), field);
    }
}

#[test]
fn ten_megabytes_of_annotations_are_carried() {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["true"]);
    let many: serde_json::Map<_, _> =
        (0..10).map(|number| (format!("key{number}"), json!("x".repeat(1 << 20)))).collect();
    config["annotations"] = many.into();
    let engine = crate::harness::bundle::Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).run().expect(0);
    engine.wait().expect(0);
    assert_eq!(podrun.state("o")["annotations"]["key9"].as_str().unwrap().len(), 1 << 20);
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn a_bundle_with_any_change_is_refused_or_runs_and_leaves_nothing_campaign() {
    let podrun = Podrun::new();
    // A root of its own: a changed mount makes its mount point there.
    let root = podrun.dir().join("rootfs");
    let copied = std::process::Command::new("cp").arg("-a").arg(busybox()).arg(&root).status();
    assert!(copied.expect("run cp").success());
    let mut random = seeded("bundles");
    for _ in 0..rounds(400) {
        let mut config = config(root.to_str().expect("UTF-8"), &["true"]);
        change(&mut random, &mut config);
        let dir = bundle(&podrun.dir().join("bundle"), &config);
        // An init that waits keeps what its creator had.
        let create = format!(
            "podrun create --bundle {} o </dev/null >/dev/null 2>said || {{ code=$?; cat said >&2; exit $code; }}",
            dir.display()
        );
        let output = podrun.sh(&create).run();
        if output.code != Some(0) {
            output.is_a_failure(output.code.filter(|code| *code == 1 || *code == 2).expect("a failure"), "");
            podrun.cmd(["list", "-q"]).prints("");
        }
        podrun.cmd(["delete", "--force", "o"]).exits(0);
    }
}

/// Puts something else in one place of `value`.
fn change(random: &mut fastrand::Rng, value: &mut Value) {
    let replace = random.u8(..4) == 0;
    match value {
        Value::Object(map) if !map.is_empty() && !replace => {
            let index = random.usize(..map.len());
            let key = map.keys().nth(index).expect("a key").clone();
            match random.u8(..8) {
                0 => drop(map.remove(&key)),
                _ => change(random, &mut map[&key]),
            }
        }
        Value::Array(list) if !list.is_empty() && !replace => {
            let index = random.usize(..list.len());
            match random.u8(..8) {
                0 => drop(list.remove(index)),
                1 => list.push(list[index].clone()),
                _ => change(random, &mut list[index]),
            }
        }
        other => {
            let text: String = (0..random.usize(..9)).map(|_| random.char('\0'..'\u{7f}')).collect();
            *other = match random.u8(..7) {
                0 => Value::Null,
                1 => json!(random.bool()),
                2 => json!(random.i64(..)),
                3 => json!([]),
                4 => json!({}),
                5 => json!([text]),
                _ => json!(text),
            };
        }
    }
}

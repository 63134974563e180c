//! What grew around the OCI operations: the words, files and flags that engines expect of a runtime.

use serde_json::Value;

use crate::harness::bundle::{Engine, bundle, config};
use crate::harness::{Podrun, busybox};

#[test]
fn features_are_told_as_json() {
    let podrun = Podrun::new();
    let features: Value = serde_json::from_str(&podrun.cmd(["features"]).ok()).unwrap();
    assert_eq!(features["ociVersionMin"], "1.0.0");
    assert_eq!(features["hooks"].as_array().unwrap().len(), 6);
    let has = |list: &Value, word: &str| list.as_array().unwrap().iter().any(|one| *one == word);
    assert!(has(&features["mountOptions"], "rbind"));
    assert!(has(&features["linux"]["capabilities"], "CAP_SYS_ADMIN"));
    assert!(has(&features["linux"]["namespaces"], "time"));
    assert_eq!(features["linux"]["cgroup"]["systemd"], true);
    assert_eq!(features["linux"]["netDevices"]["enabled"], true);
}

#[test]
fn the_configuration_that_spec_prints_runs() {
    let podrun = Podrun::new();
    let printed: Value = serde_json::from_str(&podrun.cmd(["spec"]).ok()).unwrap();
    let dir = podrun.dir().join("new");
    std::fs::create_dir(&dir).unwrap();
    podrun.cmd(["spec", "--bundle", dir.to_str().unwrap()]).prints("");
    podrun.cmd(["spec", "--bundle", dir.to_str().unwrap()]).fails(1, "file exists");
    let mut config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    // Sets have no order.
    let ordered = |config: &Value| {
        let mut config = config.clone();
        for (_, set) in config["process"]["capabilities"].as_object_mut().unwrap() {
            set.as_array_mut().unwrap().sort_by_key(Value::to_string);
        }
        config
    };
    assert_eq!(ordered(&printed), ordered(&config));
    config["root"]["path"] = busybox().into();
    config["process"]["args"] = serde_json::json!(["hostname"]);
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).run().expect(0);
    assert_eq!(engine.wait().out(), "podrun\n");
    podrun.cmd(["delete", "o"]).run().expect(0);
}

#[test]
fn the_processes_inside_are_listed() {
    let podrun = Podrun::new();
    let engine = Engine::create(&podrun, "o", &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["start", "o"]).run().expect(0);
    podrun.cmd(["ps", "--format", "json", "o"]).prints(&format!("[\n  {}\n]\n", engine.pid));
    assert!(podrun.cmd(["ps", "o"]).ok().contains("sleep 1000"));
    let list: Value = serde_json::from_str(&podrun.cmd(["list", "--format", "json"]).ok()).unwrap();
    for field in ["ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "annotations", "owner"]
    {
        assert!(!list[0][field].is_null(), "{field}: {list}");
    }
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    engine.wait();
}

#[test]
fn the_texts_that_engines_look_for() {
    let podrun = Podrun::new();
    podrun.cmd(["state", "no"]).fails(1, "does not exist");
    podrun.cmd(["kill", "no", "9"]).fails(1, "does not exist");
    podrun.cmd(["start", "no"]).fails(1, "does not exist");
    podrun.cmd(["delete", "no"]).fails(1, "does not exist");
    podrun.cmd(["delete", "--force", "no"]).exits(0);
    let engine = Engine::create(&podrun, "o", &config(&busybox(), &["true"]));
    podrun.cmd(["start", "o"]).run().expect(0);
    engine.wait();
    podrun.cmd(["kill", "o", "9"]).fails(1, "container not running");
    podrun.cmd(["ps", "o"]).fails(1, "container not running");
    podrun.cmd(["delete", "o"]).run().expect(0);
}

/// What it does where it is there, `tests/guest/systemd` shows.
#[test]
fn systemd_is_asked_for_cgroups_only_where_it_is_there() {
    let podrun = Podrun::new();
    podrun.cmd(["--systemd-cgroup", "list", "-q"]).prints("");
    let mut config = config(&busybox(), &["true"]);
    let create = |config: &Value, manager: &str, code: i32, expected: &str| {
        let dir = bundle(&podrun.dir().join("b"), config);
        let line = format!("podrun {manager} create --bundle {} o </dev/null", dir.display());
        podrun.sh(&line).run().is_a_failure(code, expected);
    };
    if !std::path::Path::new("/run/systemd/system").exists() {
        create(&config, "--systemd-cgroup", 1, "this host was not booted with systemd");
        create(&config, "--cgroup-manager systemd", 1, "this host was not booted with systemd");
        let line = format!("podrun --systemd-cgroup run --rootfs {} c -- true", busybox());
        podrun.sh(&line).fails(125, "this host was not booted with systemd");
    }
    config["linux"]["cgroupsPath"] = "/podrun/o".into();
    create(&config, "--systemd-cgroup", 2, "is not SLICE:PREFIX:NAME");
    podrun.cmd(["list", "-q"]).prints("");
}

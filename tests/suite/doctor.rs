//! `podrun doctor` tells what this host lacks, and what to do.

use serde_json::Value;

use crate::harness::leaks::{cgroup2_mount, v1_hierarchy};
use crate::harness::{Podrun, busybox};

fn checks(text: &str) -> Vec<Value> {
    serde_json::from_str(text).expect("an array of checks")
}

fn check<'a>(checks: &'a [Value], name: &str) -> &'a Value {
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {checks:?}"))
}

#[test]
fn a_host_on_which_containers_run_is_told_so() {
    let podrun = Podrun::new();
    podrun.cmd(["run", "c", "--rm", "--rootfs", &busybox(), "--", "true"]).exits(0);
    let output = podrun.cmd(["doctor"]).run();
    assert_eq!((output.code, output.err().as_str()), (Some(0), ""), "{output}");
    for name in ["kernel", "root", "cgroup v2", "mounts", "overlayfs", "seccomp", "podrun-shim", "run root"] {
        assert!(output.out().lines().any(|line| line.contains(name)), "no {name}: {output}");
    }
    let checks = checks(&podrun.cmd(["doctor", "--format", "json"]).ok());
    assert!(checks.iter().all(|check| check["verdict"] != "missing"), "{checks:?}");
    assert_eq!(check(&checks, "podrun-shim")["verdict"], "ok");
    let available = std::fs::read_to_string(cgroup2_mount().join("cgroup.controllers")).unwrap();
    for name in ["memory", "pids", "cpu", "cpuset", "io"] {
        let check = check(&checks, name);
        let there = available.split_whitespace().any(|word| word == name);
        if there {
            assert_eq!(check["verdict"], "ok", "{check}");
        } else if v1_hierarchy(name).is_some() {
            assert_eq!(check["verdict"], if name == "memory" { "limited" } else { "ok" }, "{check}");
            assert!(
                check["found"].as_str().is_some_and(|found| found.contains("as cgroup v1 at ")),
                "{check}"
            );
        } else {
            assert_eq!(check["verdict"], "limited", "{check}");
            assert!(check["hint"].as_str().is_some_and(|hint| hint.contains("cgroup")), "{check}");
        }
    }
}

#[test]
fn each_thing_that_is_missing_comes_with_a_remedy_and_exit_code_1() {
    let podrun = Podrun::new();
    let failing = |cmd: crate::harness::Cmd, name: &str| {
        let output = cmd.run();
        output.expect(1);
        let checks = checks(&output.out());
        let found = check(&checks, name);
        assert_eq!(found["verdict"], "missing", "{found}");
        assert!(!found["hint"].as_str().unwrap_or_default().is_empty(), "{found}");
        found.to_string()
    };
    let json = ["doctor", "--format", "json"];
    let shim = podrun.cmd(json).env("PODRUN_SHIM", "/no/such/shim");
    assert!(failing(shim, "podrun-shim").contains("/no/such/shim"));
    let args = ["--root", "/proc/podrun"].into_iter().chain(json);
    assert!(failing(podrun.cmd(args), "root directory").contains("/proc"));
    let old = ["--uname-2.6", crate::harness::PODRUN].into_iter().chain(json);
    assert!(failing(podrun.program("setarch", old), "kernel").contains("5.14"));
    // Without the right to mount.
    let weak = ["--bounding-set", "-sys_admin", crate::harness::PODRUN].into_iter().chain(json);
    assert!(failing(podrun.program("setpriv", weak), "root").contains("CAP_SYS_ADMIN"));
}

#[test]
fn somebody_who_is_not_root_gets_the_list_too() {
    use std::os::unix::fs::PermissionsExt;
    let podrun = Podrun::new();
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::copy(crate::harness::PODRUN, dir.path().join("podrun")).unwrap();
    let program = dir.path().join("podrun");
    let user = ["--reuid", "1000", "--regid", "1000", "--clear-groups", program.to_str().unwrap(), "doctor"];
    let output = podrun.program("setpriv", user).cwd("/").run();
    output.expect(1);
    assert!(output.out().contains("MISSING") && output.out().contains("sudo"), "{output}");
}

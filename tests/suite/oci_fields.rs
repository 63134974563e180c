//! Fields of the configuration, each looked at from inside the container.

use serde_json::{Value, json};

use crate::harness::bundle::{Engine, config, inside, push_namespace, refused};
use crate::harness::{Podrun, busybox, debian};

#[test]
fn a_time_namespace_has_clocks_of_its_own() {
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        return; // a kernel without them
    }
    let podrun = Podrun::new();
    let up: f64 =
        std::fs::read_to_string("/proc/uptime").unwrap().split(' ').next().unwrap().parse().unwrap();
    let told = inside(&podrun, &busybox(), "cat /proc/uptime; cat /proc/self/timens_offsets", |config| {
        push_namespace(config, json!({"type": "time"}));
        config["linux"]["timeOffsets"] =
            json!({"boottime": {"secs": 1_000_000}, "monotonic": {"secs": 5, "nanosecs": 6}});
    });
    let inside_up: f64 = told.split(' ').next().unwrap().parse().unwrap();
    assert!(inside_up > up + 999_000.0, "{told} {up}");
    assert!(told.contains("monotonic           5         6"), "{told}");
    refused(&podrun, "config linux.timeOffsets realtime", |config| {
        push_namespace(config, json!({"type": "time"}));
        config["linux"]["timeOffsets"] = json!({"realtime": {"secs": 1}});
    });
    refused(&podrun, "config linux.timeOffsets", |config| {
        config["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1}});
    });
}

#[test]
fn an_exec_has_the_clocks_of_the_container() {
    if !std::path::Path::new("/proc/self/ns/time").exists() {
        return; // a kernel without them
    }
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["sleep", "1000"]);
    push_namespace(&mut config, json!({"type": "time"}));
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).run().expect(0);
    let clock = |path: &str| std::fs::read_link(path).unwrap().display().to_string();
    let told = podrun.cmd(["exec", "o", "readlink", "/proc/self/ns/time"]).ok();
    assert_eq!(told.trim_end(), clock(&format!("/proc/{}/ns/time", engine.pid)));
    assert_ne!(told.trim_end(), clock("/proc/self/ns/time"), "a clock of its own");
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    engine.wait();
}

#[test]
fn namespaces_of_others_are_joined_by_path() {
    let podrun = Podrun::new();
    let mut first = config(&busybox(), &["sleep", "1000"]);
    push_namespace(&mut first, json!({"type": "network"}));
    let engine = Engine::create(&podrun, "first", &first);
    podrun.cmd(["start", "first"]).run().expect(0);
    let pid = engine.pid;
    let link = |kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let expected: String = ["net", "ipc", "uts"].map(|kind| format!("{}\n", link(kind).display())).concat();
    let script = "for kind in net ipc uts; do readlink /proc/self/ns/$kind; done";
    let told = inside(&podrun, &busybox(), script, |config| {
        config["hostname"] = Value::Null;
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|one| one["type"] != "ipc" && one["type"] != "uts");
        for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
            namespaces.push(json!({"type": kind, "path": format!("/proc/{pid}/ns/{file}")}));
        }
    });
    assert_eq!(told, expected);
    refused(&podrun, "/no/such/namespace", |config| {
        push_namespace(config, json!({"type": "network", "path": "/no/such/namespace"}));
    });
    podrun.cmd(["delete", "--force", "first"]).run().expect(0);
    engine.wait();
}

#[test]
fn a_process_is_scheduled_as_it_asks() {
    let podrun = Podrun::new();
    let script = "chrt -p $$; nice; ionice -p $$";
    let told = inside(&podrun, &debian(), script, |config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
    });
    assert!(told.contains("SCHED_BATCH") && told.contains("\n5\n") && told.contains("idle"), "{told}");
    refused(&podrun, "config process.ioPriority.priority", |config| {
        config["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_BE", "priority": 9});
    });
    refused(&podrun, "config process.scheduler.policy", |config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_ISO"});
    });
    refused(&podrun, "process.scheduler", |config| {
        config["process"]["scheduler"] = json!({"policy": "SCHED_FIFO", "priority": 1000});
    });
}

#[test]
fn a_process_that_joins_has_its_cpus() {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["sleep", "1000"]);
    config["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
    let engine = Engine::create(&podrun, "o", &config);
    podrun.cmd(["start", "o"]).run().expect(0);
    let cpus = ["exec", "o", "grep", "Cpus_allowed_list", "/proc/self/status"];
    podrun.cmd(cpus).prints("Cpus_allowed_list:\t0\n");
    podrun.cmd(["delete", "--force", "o"]).run().expect(0);
    engine.wait();
    refused(&podrun, "process.execCPUAffinity", |config| {
        config["process"]["execCPUAffinity"] = json!({"initial": "x"});
    });
}

#[test]
fn a_personality_is_taken() {
    let podrun = Podrun::new();
    let told = inside(&podrun, &busybox(), "cat /proc/self/personality; uname -m", |config| {
        config["linux"]["personality"] = json!({"domain": "LINUX32"});
    });
    assert!(told.starts_with("00000008\n"), "{told}");
    refused(&podrun, "config linux.personality.flags", |config| {
        config["linux"]["personality"] = json!({"domain": "LINUX", "flags": ["X"]});
    });
}

#[test]
fn a_memory_policy_is_set_or_refused_by_name() {
    let podrun = Podrun::new();
    let numa = std::path::Path::new("/proc/self/numa_maps").exists();
    let policy = json!({"mode": "MPOL_INTERLEAVE", "nodes": "0"});
    if numa {
        let told = inside(&podrun, &busybox(), "cat /proc/self/numa_maps", |config| {
            config["linux"]["memoryPolicy"] = policy;
        });
        assert!(told.contains("interleave"), "{told}");
    } else {
        refused(&podrun, "linux.memoryPolicy", |config| config["linux"]["memoryPolicy"] = policy);
    }
    refused(&podrun, "config linux.memoryPolicy.nodes", |config| {
        config["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "5-1"});
    });
}

#[test]
fn limits_of_the_process_and_its_worth_to_the_oom_killer() {
    let podrun = Podrun::new();
    let script = "ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj; umask";
    let told = inside(&podrun, &busybox(), script, |config| {
        config["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
        config["process"]["oomScoreAdj"] = json!(500);
        config["process"]["user"]["umask"] = json!(0o77);
    });
    assert_eq!(told, "100\n200\n500\n0077\n");
}

#[test]
fn devices_and_hidden_and_read_only_places() {
    let podrun = Podrun::new();
    let script = "stat -c '%A %t:%T %u:%g' /dev/own /dev/sub/zero; \
                  cat /proc/uptime | wc -c; ls /proc/irq | wc -l; (echo 1 >/proc/sys/kernel/domainname) 2>&1 | grep -o Read-only; \
                  hostname; cat /proc/sys/kernel/domainname; readlink /dev/ptmx";
    let told = inside(&podrun, &busybox(), script, |config| {
        config["domainname"] = json!("domain");
        config["linux"]["devices"] = json!([
            {"path": "/dev/own", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
            {"path": "/dev/sub/zero", "type": "c", "major": 1, "minor": 5},
            // The container has one of its own, whatever an engine says.
            {"path": "/dev/ptmx", "type": "c", "major": 5, "minor": 2},
        ]);
        config["linux"]["maskedPaths"] = json!(["/proc/uptime", "/proc/irq", "/proc/no-such"]);
        config["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    });
    assert_eq!(told, "crw-r----- 1:3 7:8\ncrw-rw-rw- 1:5 0:0\n0\n0\nRead-only\nbundle\ndomain\npts/ptmx\n");
}

#[test]
fn a_setting_of_a_namespace_is_written() {
    let podrun = Podrun::new();
    let told = inside(&podrun, &busybox(), "cat /proc/sys/kernel/shm_rmid_forced", |config| {
        config["linux"]["sysctl"] = json!({"kernel.shm_rmid_forced": "1"});
    });
    assert_eq!(told, "1\n");
    refused(&podrun, "config linux.sysctl net.core.somaxconn", |config| {
        config["linux"]["sysctl"] = json!({"net.core.somaxconn": "1"});
    });
}

#[test]
fn the_root_is_propagated_as_asked() {
    let podrun = Podrun::new();
    let shared = "awk '$5 == \"/\"' /proc/self/mountinfo | grep -c shared: || true";
    let told = |word: &str| {
        inside(&podrun, &busybox(), shared, |config| config["linux"]["rootfsPropagation"] = json!(word))
    };
    assert_eq!((told("shared"), told("private"), told("slave")), ("1\n".into(), "0\n".into(), "0\n".into()));
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let podrun = Podrun::new();
    refused(&podrun, "linux.intelRdt", |config| config["linux"]["intelRdt"] = json!({"closID": "a"}));
}

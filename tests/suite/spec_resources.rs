//! `linux.resources` of the runtime specification's examples: in the kernel's files, or refused by name where this
//! host's kernel or its version of cgroups has nothing like it.

use serde_json::{Value, json};

use crate::harness::bundle::{Engine, bundle, choose_cgroup, config};
use crate::harness::peer::peer;
use crate::harness::{Podrun, busybox, has_controllers, has_limits};

/// A running container with these limits, or what podrun says against them.
#[track_caller]
fn with<T>(resources: Value, look: impl FnOnce(&Podrun) -> T) -> Result<T, String> {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["sleep", "1000"]);
    config["linux"]["resources"] = resources;
    let mut tried = config.clone();
    choose_cgroup(&podrun, "tried", &mut tried);
    let dir = bundle(&podrun.dir().join("tried"), &tried);
    let line = format!(
        "podrun create --bundle {} tried </dev/null >/dev/null 2>said || cat said >&2",
        dir.display()
    );
    let said = podrun.sh(&line).run().err();
    if !said.is_empty() {
        assert!(said.starts_with("podrun: ") || peer().is_some(), "{said}");
        podrun.cmd(["list", "-q"]).prints("");
        if peer().is_some() {
            // crun leaves it.
            let _ = std::fs::remove_dir(podrun.cgroup().join("ctr-tried"));
        }
        return Err(said);
    }
    podrun.cmd(["delete", "--force", "tried"]).run().expect(0);
    let engine = Engine::create(&podrun, "c", &config);
    podrun.cmd(["start", "c"]).run().expect(0);
    let seen = look(&podrun);
    podrun.cmd(["delete", "--force", "c"]).run().expect(0);
    engine.wait();
    Ok(seen)
}

/// What a limit's file holds: that of v2, or where its controller is bound to v1 that of v1.
fn file(podrun: &Podrun, v2: &str, v1: &str) -> String {
    let held = podrun.cgroup_file("c", v2).or_else(|| podrun.v1_file("c", v1));
    held.unwrap_or_else(|| panic!("neither {v2} nor {v1}"))
}

/// A refusal names one of these; another runtime has its own words for it.
#[track_caller]
fn assert_names(said: &str, names: &[&str]) {
    assert!(peer().is_some() || names.iter().any(|name| said.contains(name)), "{said}");
}

#[track_caller]
fn refused(resources: Value, names: &[&str]) {
    let said = with(resources, |_| ()).expect_err("it is refused");
    assert_names(&said, names);
}

#[test]
fn the_examples_processes_are_counted() {
    if has_limits(["pids"]) {
        let held = with(json!({"pids": {"limit": 32771}}), |podrun| file(podrun, "pids.max", "pids.max"));
        assert_eq!(held.as_deref(), Ok("32771"));
    }
}

/// The example's memory, but for what only cgroup v1 has.
fn memory() -> Value {
    json!({"memory": {
        "limit": 536_870_912, "reservation": 536_870_912, "swap": 536_870_912, "disableOOMKiller": false,
        "checkBeforeUpdate": true,
    }})
}

#[track_caller]
fn assert_memory_is_limited(resources: Value) {
    let held = with(resources, |podrun| {
        let limit = file(podrun, "memory.max", "memory.limit_in_bytes");
        (limit, file(podrun, "memory.low", "memory.soft_limit_in_bytes"))
    });
    assert_eq!(held, Ok(("536870912".into(), "536870912".into())));
}

#[test]
fn the_examples_memory_is_limited() {
    if has_limits(["memory"]) {
        assert_memory_is_limited(memory());
    }
}

#[test]
fn what_the_examples_memory_asks_for_in_vain_is_taken() {
    if !has_limits(["memory"]) {
        return;
    }
    let mut example = memory();
    for (field, nothing) in [("kernel", json!(-1)), ("kernelTCP", json!(-1)), ("useHierarchy", json!(true))] {
        example["memory"][field] = nothing;
    }
    assert_memory_is_limited(example);
}

/// It is a field of cgroup v1.
#[test]
fn a_swappiness_is_set_or_refused() {
    if !has_limits(["memory"]) {
        return;
    }
    let mut example = memory();
    example["memory"]["swappiness"] = json!(0);
    if has_controllers(["memory"]) {
        refused(example, &["memory.swappiness"]);
    } else {
        let held = with(example, |podrun| podrun.v1_file("c", "memory.swappiness"));
        assert_eq!(held, Ok(Some("0".to_owned())));
    }
}

#[test]
fn a_limit_of_the_kernels_memory_is_refused() {
    if has_limits(["memory"]) {
        refused(json!({"memory": {"kernel": 1 << 30}}), &["memory.kernel"]);
    }
}

#[test]
fn the_examples_processor_time_is_limited() {
    if !has_limits(["cpu"]) {
        return;
    }
    let example = json!({"cpu": {"shares": 1024, "quota": 1_000_000, "period": 500_000, "idle": 0}});
    let held = with(example, |podrun| {
        let quota = podrun.cgroup_file("c", "cpu.max");
        let quota = quota.or_else(|| {
            Some(format!(
                "{} {}",
                podrun.v1_file("c", "cpu.cfs_quota_us")?,
                podrun.v1_file("c", "cpu.cfs_period_us")?
            ))
        });
        (quota.expect("a quota"), file(podrun, "cpu.weight", "cpu.shares"))
    });
    let weight = if has_controllers(["cpu"]) { "39" } else { "1024" };
    assert_eq!(held, Ok(("1000000 500000".into(), weight.into())));
}

#[test]
fn the_examples_processor_time_may_be_saved_up() {
    if !has_limits(["cpu"]) {
        return;
    }
    let example = json!({"cpu": {"quota": 1_000_000, "burst": 1_000_000, "period": 500_000}});
    let held = with(example, |podrun| file(podrun, "cpu.max.burst", "cpu.cfs_burst_us"));
    assert_eq!(held.as_deref(), Ok("1000000"));
}

/// cgroup v2 has nothing like it, and few kernels have it for v1.
#[test]
fn the_examples_processor_time_of_real_time_is_refused_where_there_is_none() {
    if !has_limits(["cpu"]) {
        return;
    }
    match with(json!({"cpu": {"realtimeRuntime": 950_000, "realtimePeriod": 1_000_000}}), |_| ()) {
        Ok(()) => assert!(!has_controllers(["cpu"]), "it is taken"),
        Err(said) => assert_names(&said, &["realtime", "cpu.rt_"]),
    }
}

#[test]
fn the_examples_processors_are_its_own() {
    if !has_limits(["cpuset"]) {
        return;
    }
    let held = with(json!({"cpu": {"cpus": "0", "mems": "0"}}), |podrun| {
        (file(podrun, "cpuset.cpus", "cpuset.cpus"), file(podrun, "cpuset.mems", "cpuset.mems"))
    });
    assert_eq!(held, Ok(("0".into(), "0".into())));
    refused(json!({"cpu": {"cpus": "99998-99999"}}), &["cpuset.cpus"]);
}

#[test]
fn an_idle_container_yields_to_all_others() {
    if !has_limits(["cpu"]) {
        return;
    }
    match with(json!({"cpu": {"idle": 1, "shares": 1024}}), |podrun| file(podrun, "cpu.idle", "cpu.idle")) {
        Ok(held) => assert_eq!(held, "1"),
        Err(said) => assert_names(&said, &["cpu.idle"]),
    }
}

/// No disk scheduler of today has them.
#[test]
fn weights_of_leaves_are_refused() {
    if has_limits(["io"]) {
        refused(json!({"blockIO": {"leafWeight": 10}}), &["blockIO.leafWeight"]);
    }
}

#[test]
fn a_weight_for_a_disk_that_is_not_there_is_refused() {
    if has_limits(["io"]) {
        refused(
            json!({"blockIO": {"weightDevice": [{"major": 4095, "minor": 0, "weight": 500}]}}),
            &["io.", "blkio."],
        );
    }
}

/// A disk that is not there is named by the file it is written to.
#[test]
fn the_examples_disks_are_limited_or_named() {
    if !has_limits(["io"]) {
        return;
    }
    for field in [
        "throttleReadBpsDevice",
        "throttleWriteBpsDevice",
        "throttleReadIOPSDevice",
        "throttleWriteIOPSDevice",
    ] {
        let none = json!({"blockIO": {field: [{"major": 4095, "minor": 0, "rate": 600}]}});
        refused(none, &["io.max", "blkio.throttle"]);
    }
    // A disk that is there.
    let disks = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let number = |disk: std::fs::DirEntry| std::fs::read_to_string(disk.path().join("dev")).ok();
    let Some(disk) = disks.filter_map(number).find(|number| !number.starts_with("7:")) else { return };
    let disk = disk.trim();
    let (major, minor) = disk.split_once(':').unwrap();
    let (major, minor): (u32, u32) = (major.parse().unwrap(), minor.parse().unwrap());
    let limit =
        json!({"blockIO": {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 6_000_000}]}});
    match with(limit, |podrun| file(podrun, "io.max", "blkio.throttle.read_bps_device")) {
        Ok(held) => assert!(held.starts_with(disk) && held.contains("6000000"), "{held}"),
        Err(said) => assert_names(&said, &["io.max", "blkio.throttle"]),
    }
}

#[test]
fn the_examples_huge_pages_are_limited_or_named() {
    let limit = json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 209_715_200}]});
    match with(limit, |podrun| file(podrun, "hugetlb.2MB.max", "hugetlb.2MB.limit_in_bytes")) {
        Ok(held) => assert_eq!(held, "209715200"),
        Err(said) => assert_names(&said, &["hugetlb"]),
    }
    refused(json!({"hugepageLimits": [{"pageSize": "3MB", "limit": 1_000_000}]}), &["hugetlb"]);
}

#[test]
fn the_examples_classes_of_network_traffic_are_refused() {
    let network = json!({"network": {"classID": 1_048_577, "priorities": [
        {"name": "eth0", "priority": 500}, {"name": "eth1", "priority": 1000},
    ]}});
    refused(network, &["linux.resources.network"]);
}

#[test]
fn the_examples_rdma_devices_are_refused_where_there_are_none() {
    let rdma =
        json!({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10000}, "rxe3": {"hcaObjects": 10000}}});
    refused(rdma, &["rdma"]);
}

#[test]
fn the_examples_files_are_written_or_named() {
    let unified =
        json!({"unified": {"io.max": "4095:0 rbps=2097152 wiops=120\n4095:1 rbps=2097152 wiops=120"}});
    refused(unified, &["io.max", "io"]);
    refused(json!({"unified": {"hugetlb.1GB.max": "no number"}}), &["hugetlb"]);
    let held = with(json!({"unified": {"cgroup.max.descendants": "3"}}), |podrun| {
        podrun.cgroup_file("c", "cgroup.max.descendants")
    });
    assert_eq!(held, Ok(Some("3".to_owned())));
}

//! From OCI `linux.resources` to the files of cgroup v1, whose fields they are.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxThrottleDevice};

use crate::cgroup::limits::{Otherwise, Setting, memory_and_swap, wrong};
use crate::error::{Error, Result};

/// A line of a file of `controller`.
fn setting(controller: &'static str, file: &str, value: impl ToString) -> Setting {
    Setting::new(file, value).of(Some(controller))
}

/// Those of `memory`.
pub(in crate::cgroup) fn plan_memory(memory: &LinuxMemory) -> Result<Vec<Setting>> {
    let some = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
    // Linux 6.1 counts it with the rest and has no limit for it.
    if memory.kernel() > Some(0) {
        return Err(wrong("memory.kernel", "is counted with all memory by this kernel"));
    }
    let mut settings = Vec::new();
    let mut limit = |file: &str, bytes: Option<i64>| {
        settings.extend(bytes.map(|bytes| setting("memory", file, bytes.max(-1))));
    };
    limit("memory.limit_in_bytes", some(memory.limit()));
    limit("memory.soft_limit_in_bytes", some(memory.reservation()));
    limit("memory.kmem.tcp.limit_in_bytes", some(memory.kernel_tcp()));
    if let Some(both) = memory_and_swap(memory)? {
        let both = setting("memory", "memory.memsw.limit_in_bytes", both);
        settings.push(both.or(Otherwise::RefuseIfSwapping));
    }
    settings.extend(memory.swappiness().map(|value| setting("memory", "memory.swappiness", value)));
    if memory.disable_oom_killer() == Some(true) {
        settings.push(setting("memory", "memory.oom_control", 1));
    }
    Ok(settings)
}

/// Those of `cpu`.
pub(in crate::cgroup) fn plan_cpu(cpu: &LinuxCpu) -> Result<Vec<Setting>> {
    let idle = cpu.idle().unwrap_or(0) != 0;
    let some = |value: u64| (value != 0).then(|| value.to_string());
    let signed = |value: i64| (value != 0).then(|| value.max(-1).to_string());
    let files = [
        ("cpu.idle", cpu.idle().map(|idle| idle.to_string())),
        // An idle cgroup has no share: the kernel refuses one.
        ("cpu.shares", cpu.shares().filter(|_| !idle).and_then(some)),
        ("cpu.cfs_period_us", cpu.period().and_then(some)),
        ("cpu.cfs_quota_us", cpu.quota().and_then(signed)),
        ("cpu.cfs_burst_us", cpu.burst().map(|burst| burst.to_string())),
        ("cpu.rt_period_us", cpu.realtime_period().and_then(some)),
        ("cpu.rt_runtime_us", cpu.realtime_runtime().and_then(signed)),
    ];
    Ok(files.into_iter().filter_map(|(file, value)| Some(setting("cpu", file, value?))).collect())
}

/// Those of `blockIO`.
pub(in crate::cgroup) fn plan_io(io: &LinuxBlockIo) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    settings.extend(io.weight().filter(|weight| *weight != 0).map(io_weight));
    // CFQ's, which went with Linux 5.0.
    if io.leaf_weight().unwrap_or(0) != 0 {
        return Err(wrong("blockIO.leafWeight", "is known to no disk scheduler of this kernel"));
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(weight) = device.weight().filter(|weight| *weight != 0) {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            settings.push(setting("blkio", "blkio.bfq.weight_device", value));
        }
    }
    let kinds: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("read_bps", io.throttle_read_bps_device()),
        ("write_bps", io.throttle_write_bps_device()),
        ("read_iops", io.throttle_read_iops_device()),
        ("write_iops", io.throttle_write_iops_device()),
    ];
    for (kind, devices) in kinds {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            settings.push(setting("blkio", &format!("blkio.throttle.{kind}_device"), value));
        }
    }
    Ok(settings)
}

/// 10 to 1000.
fn io_weight(weight: u16) -> Setting {
    // Before BFQ, which is the scheduler that has weights, they had a file of their own.
    let old = Otherwise::Write("blkio.weight", weight.to_string());
    setting("blkio", "blkio.bfq.weight", weight).or(old)
}

/// A limit of huge pages of `size`.
pub(in crate::cgroup) fn plan_hugetlb(size: &str, limit: i64) -> [Setting; 2] {
    let one = |file: &str| setting("hugetlb", &format!("hugetlb.{size}.{file}"), limit.max(-1));
    [one("limit_in_bytes"), one("rsvd.limit_in_bytes").or(Otherwise::Skip)]
}

/// What stands for a file of v2, where something does.
pub(in crate::cgroup) fn plan_unified(asked: Setting, controller: &'static str) -> Result<Vec<Setting>> {
    let number = || asked.value.trim().parse::<u64>().ok();
    match asked.file.as_str() {
        "pids.max" | "rdma.max" | "cpuset.cpus" | "cpuset.mems" | "cpu.idle" => {
            return Ok(vec![asked.of(Some(controller))]);
        }
        "cpu.weight" => {
            if let Some(weight) = number() {
                return Ok(vec![setting(controller, "cpu.shares", shares_of_weight(weight))]);
            }
        }
        "io.weight" => {
            if let Some(weight) = number() {
                return Ok(vec![io_weight(blkio_of_weight(weight))]);
            }
        }
        _ => {}
    }
    let what = format!("limit {} = {}", asked.file, asked.value);
    Err(Error::failed(
        what,
        format!("the {controller} controller is bound to cgroup v1, which has nothing like it"),
    )
    .hint(format!(
        "boot with systemd.unified_cgroup_hierarchy=1 (or cgroup_no_v1={controller}), or leave the limit out"
    )))
}

/// v2's 1 to 10000 onto v1's 2 to 262144, the least that becomes that weight in the other direction.
fn shares_of_weight(weight: u64) -> u64 {
    2 + ((weight.clamp(1, 10_000) - 1) * 262_142).div_ceil(9999)
}

/// v2's 1 to 10000 onto v1's 10 to 1000, in which several share one.
fn blkio_of_weight(weight: u64) -> u16 {
    let weight = 10 + (weight.clamp(1, 10_000) - 1) * 990 / 9999;
    u16::try_from(weight).unwrap_or(1000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::Bound;
    use super::*;
    use crate::cgroup::limits::plan;

    fn planned(resources: Value) -> Result<Vec<String>> {
        let bound = Bound::with(&["memory", "pids", "cpu", "cpuset", "io", "hugetlb", "rdma"]);
        let settings = plan(&serde_json::from_value(resources).unwrap(), &bound)?;
        Ok(settings
            .into_iter()
            .map(|setting| format!("{} {} {}", setting.v1.unwrap_or("-"), setting.file, setting.value))
            .collect())
    }

    #[test]
    fn each_field_becomes_its_file() {
        for (resources, files) in [
            (json!({}), vec![]),
            (
                json!({"memory": {"limit": 64, "swap": 100, "reservation": 32}}),
                vec![
                    "memory memory.limit_in_bytes 64",
                    "memory memory.soft_limit_in_bytes 32",
                    "memory memory.memsw.limit_in_bytes 100",
                ],
            ),
            (
                json!({"memory": {"limit": -1}}),
                vec!["memory memory.limit_in_bytes -1", "memory memory.memsw.limit_in_bytes -1"],
            ),
            (json!({"memory": {"limit": 0, "disableOOMKiller": false}}), vec![]),
            (json!({"cpu": {"idle": 1, "shares": 5}}), vec!["cpu cpu.idle 1"]),
            (
                json!({"cpu": {"shares": 5, "quota": -1, "period": 9, "mems": "0"}}),
                vec![
                    "cpu cpu.shares 5",
                    "cpu cpu.cfs_period_us 9",
                    "cpu cpu.cfs_quota_us -1",
                    "cpuset cpuset.mems 0",
                ],
            ),
            (json!({"pids": {"limit": -1}}), vec!["pids pids.max max"]),
            (
                json!({"blockIO": {"weight": 30, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]}}),
                vec!["blkio blkio.bfq.weight 30", "blkio blkio.throttle.read_bps_device 8:0 7"],
            ),
            (
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]}),
                vec!["hugetlb hugetlb.2MB.limit_in_bytes 9", "hugetlb hugetlb.2MB.rsvd.limit_in_bytes 9"],
            ),
            (
                json!({"unified": {"cpu.weight": "39", "io.weight": "10000", "cgroup.max.depth": "3"}}),
                vec!["- cgroup.max.depth 3", "cpu cpu.shares 999", "blkio blkio.bfq.weight 1000"],
            ),
        ] {
            assert_eq!(planned(resources.clone()).unwrap(), files, "{resources}");
        }
    }

    #[test]
    fn what_v1_has_nothing_for_is_refused() {
        for (resources, field) in [
            (json!({"memory": {"kernel": 5}}), "memory.kernel"),
            (json!({"memory": {"limit": 9, "swap": 5}}), "memory.swap"),
            (json!({"blockIO": {"leafWeight": 5}}), "blockIO.leafWeight"),
            (json!({"unified": {"memory.high": "5"}}), "memory.high"),
            (json!({"unified": {"cpu.weight": "x"}}), "cpu.weight"),
        ] {
            let error = planned(resources.clone()).unwrap_err();
            assert!(error.what.contains(field), "{resources}: {error}");
        }
    }

    #[test]
    fn only_what_is_bound_there_is_asked_of_v1() {
        let resources =
            serde_json::from_value(json!({"memory": {"limit": 9}, "pids": {"limit": 5}})).unwrap();
        let settings = plan(&resources, &Bound::with(&["pids"])).unwrap();
        assert_eq!((settings[0].file.as_str(), settings[0].v1), ("memory.max", None));
        assert_eq!((settings[1].file.as_str(), settings[1].v1), ("pids.max", Some("pids")));
    }

    proptest! {
        /// What a weight becomes is what an engine would have had to ask for to get it.
        #[test]
        fn a_weight_survives_the_way_to_v1_and_back(weight in 1_u64..=10_000) {
            let back = serde_json::from_value(json!({"cpu": {"shares": shares_of_weight(weight)}})).unwrap();
            let settings = plan(&back, &Bound::default()).unwrap();
            prop_assert_eq!(&settings[0].value, &weight.to_string());
            prop_assert!((10..=1000).contains(&blkio_of_weight(weight)));
        }
    }
}

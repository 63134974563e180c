//! From OCI `linux.resources` to the files of a cgroup: which, with what in them, in which order.
//!
//! ```text
//!  linux.resources ──plan (pure)──▶ [Setting] ──apply──▶ controllers handed down ─▶ files written
//! ```
//!
//! The OCI fields are cgroup v1's. They are converted as runc and crun do; what v2 has nothing for
//! is refused, for a limit that is silently left out is worse than none that was asked for. Of a controller
//! that is bound to v1 the files are those of [`v1`].

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use rustix::io::Errno;

use super::v1::{self, Bound};
use super::{Cgroup, controllers};
use crate::error::{Error, Result};

/// The period of `cpu.max` where none is said: microseconds (`Documentation/admin-guide/cgroup-v2.rst`).
pub const CPU_PERIOD: u64 = 100_000;

/// One line to be written into one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The file's name, such as `memory.max`.
    pub file: String,
    /// The line.
    pub value: String,
    /// The v1 controller whose file it is; `None` for a file of v2.
    pub v1: Option<&'static str>,
    /// What stands for it where the kernel does not have that file.
    pub otherwise: Otherwise,
}

/// What to do about a file that does not exist, though its controller is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// The limit is refused.
    Refuse,
    /// Another file does the same.
    Write(&'static str, String),
    /// It only makes another file's limit stricter.
    Skip,
    /// The limit is refused where the host has swap: without any there is nothing to limit.
    RefuseIfSwapping,
}

impl Setting {
    pub(super) fn new(file: &str, value: impl ToString) -> Self {
        Self { file: file.to_owned(), value: value.to_string(), v1: None, otherwise: Otherwise::Refuse }
    }

    pub(super) fn of(mut self, v1: Option<&'static str>) -> Self {
        self.v1 = v1;
        self
    }

    pub(super) fn or(mut self, otherwise: Otherwise) -> Self {
        self.otherwise = otherwise;
        self
    }

    /// The controller that has the file, by its name in v2; `None` for the files every cgroup has.
    pub fn controller(&self) -> Option<&str> {
        self.file.split('.').next().filter(|name| *name != "cgroup")
    }
}

/// Everything that `resources` asks for but the devices: see [`devices`](super::devices). With the files of
/// v1 for the controllers that are `bound` there.
pub fn plan(resources: &LinuxResources, bound: &Bound) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        settings.extend(match bound.v1("memory") {
            Some(_) => v1::plan_memory(memory)?,
            None => plan_memory(memory)?,
        });
    }
    if let Some(cpu) = resources.cpu() {
        settings.extend(match bound.v1("cpu") {
            Some(_) => v1::plan_cpu(cpu)?,
            None => plan_cpu(cpu)?,
        });
        settings.extend(plan_cpuset(cpu, bound)?);
    }
    match resources.pids().map(|pids| pids.limit()) {
        None | Some(0) => {}
        Some(limit) => settings.push(Setting::new("pids.max", or_max(limit)).of(bound.v1("pids"))),
    }
    if let Some(io) = resources.block_io() {
        settings.extend(match bound.v1("io") {
            Some(_) => v1::plan_io(io)?,
            None => plan_io(io)?,
        });
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let size = limit.page_size();
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(wrong("hugepageLimits.pageSize", format!("{size:?} is no size such as 2MB")));
        }
        if bound.v1("hugetlb").is_some() {
            settings.extend(v1::plan_hugetlb(size, limit.limit()));
            continue;
        }
        let value = or_max(limit.limit());
        settings.push(Setting::new(&format!("hugetlb.{size}.max"), &value));
        // Reserved pages count too, where the kernel (5.7) can tell.
        settings.push(Setting::new(&format!("hugetlb.{size}.rsvd.max"), value).or(Otherwise::Skip));
    }
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| name.as_str());
    for (name, limit) in devices {
        let number = |limit: Option<u32>| limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string());
        let (handles, objects) = (number(limit.hca_handles()), number(limit.hca_objects()));
        let value = one_line("rdma", &format!("{name} hca_handle={handles} hca_object={objects}"))?;
        settings.push(Setting::new("rdma.max", value).of(bound.v1("rdma")));
    }
    for setting in plan_unified(resources)? {
        match setting.controller().and_then(|controller| bound.v1(controller)) {
            Some(controller) => settings.extend(v1::plan_unified(setting, controller)?),
            None => settings.push(setting),
        }
    }
    Ok(settings)
}

fn plan_memory(memory: &LinuxMemory) -> Result<Vec<Setting>> {
    let some = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
    for (field, asked) in [
        ("memory.kernel", memory.kernel() > Some(0)),
        ("memory.kernelTCP", memory.kernel_tcp() > Some(0)),
        ("memory.swappiness", memory.swappiness().is_some()),
        ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
    ] {
        if asked {
            return Err(wrong(field, "does not exist in cgroup v2"));
        }
    }
    let mut settings = Vec::new();
    let limit = some(memory.limit());
    // v1 counts memory and swap together, v2 swap alone.
    if let Some(both) = memory_and_swap(memory)? {
        let swap = if both < 0 { -1 } else { both - limit.unwrap_or(0) };
        settings.push(Setting::new("memory.swap.max", or_max(swap)).or(Otherwise::RefuseIfSwapping));
    }
    settings.extend(limit.map(|limit| Setting::new("memory.max", or_max(limit))));
    settings.extend(some(memory.reservation()).map(|low| Setting::new("memory.low", or_max(low))));
    Ok(settings)
}

/// The limit of memory and swap together, negative for none.
pub(super) fn memory_and_swap(memory: &LinuxMemory) -> Result<Option<i64>> {
    let some = |limit: Option<i64>| limit.filter(|limit| *limit != 0);
    match (some(memory.swap()), some(memory.limit())) {
        // Unlimited memory means unlimited swap.
        (None, Some(..0)) | (Some(..0), _) => Ok(Some(-1)),
        (None, _) => Ok(None),
        (Some(_), None | Some(..0)) => Err(wrong("memory.swap", "needs a limit of memory, too")),
        (Some(swap), Some(limit)) if swap < limit => {
            Err(wrong("memory.swap", "is below the limit of memory, which it includes"))
        }
        (both, Some(_)) => Ok(both),
    }
}

fn plan_cpu(cpu: &LinuxCpu) -> Result<Vec<Setting>> {
    if cpu.realtime_runtime().unwrap_or(0) != 0 || cpu.realtime_period().unwrap_or(0) != 0 {
        return Err(wrong("cpu.realtimeRuntime", "does not exist in cgroup v2"));
    }
    let mut settings = Vec::new();
    if let Some(idle) = cpu.idle() {
        settings.push(Setting::new("cpu.idle", idle));
    }
    // An idle cgroup has no weight: the kernel refuses one.
    if let Some(shares @ 1..) = cpu.shares().filter(|_| cpu.idle().unwrap_or(0) == 0) {
        settings.push(Setting::new("cpu.weight", weight_of_shares(shares)));
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let quota = if quota == 0 { "max".to_owned() } else { or_max(quota) };
        let period = if period == 0 { CPU_PERIOD } else { period };
        settings.push(Setting::new("cpu.max", format!("{quota} {period}")));
    }
    if let Some(burst) = cpu.burst() {
        settings.push(Setting::new("cpu.max.burst", burst));
    }
    Ok(settings)
}

fn plan_cpuset(cpu: &LinuxCpu, bound: &Bound) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    for (file, list) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        if let Some(list) = list.as_ref().filter(|list| !list.is_empty()) {
            settings.push(Setting::new(file, one_line(file, list)?).of(bound.v1("cpuset")));
        }
    }
    Ok(settings)
}

/// v1's 2 to 262144 onto v2's 1 to 10000, as runc and crun do.
fn weight_of_shares(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

/// v1's 10 to 1000 onto v2's 1 to 10000, as runc and crun do.
fn weight_of_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn plan_io(io: &LinuxBlockIo) -> Result<Vec<Setting>> {
    let mut settings = Vec::new();
    // BFQ's weights are v1's; where another scheduler has the disk they are spread over v2's range.
    let weight = |device: &str, weight: u16| {
        let other = Otherwise::Write("io.weight", format!("{device}{}", weight_of_blkio(weight)));
        Setting::new("io.bfq.weight", format!("{device}{weight}")).or(other)
    };
    if io.leaf_weight().unwrap_or(0) != 0 {
        return Err(wrong("blockIO.leafWeight", "does not exist in cgroup v2"));
    }
    settings.extend(io.weight().filter(|own| *own != 0).map(|own| weight("", own)));
    for device in io.weight_device().iter().flatten() {
        let name = format!("{}:{} ", device.major(), device.minor());
        settings.extend(device.weight().filter(|own| *own != 0).map(|own| weight(&name, own)));
    }
    let kinds: [(&str, &Option<Vec<LinuxThrottleDevice>>); 4] = [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ];
    for (key, devices) in kinds {
        for device in devices.iter().flatten() {
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            settings.push(Setting::new("io.max", value));
        }
    }
    Ok(settings)
}

/// Files by their own names, last, so that they have the last word.
fn plan_unified(resources: &LinuxResources) -> Result<Vec<Setting>> {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort();
    let mut settings = Vec::new();
    for (file, text) in files {
        let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let field = || format!("unified {file:?}");
        if !file.contains('.') || file.starts_with('.') || !file.chars().all(legal) {
            return Err(wrong(field(), "is not the name of a cgroup's file"));
        }
        // These are podrun's to write: who is in the cgroup, whether it runs.
        if file.starts_with("cgroup.") && !file.starts_with("cgroup.max.") {
            return Err(wrong(field(), "is no limit"));
        }
        if text.contains('\0') {
            return Err(wrong(field(), "has a NUL byte"));
        }
        // The kernel takes one line at a time.
        settings.extend(text.lines().map(|line| Setting::new(file, line)));
    }
    Ok(settings)
}

/// A limit as v2 writes it: anything negative is none.
fn or_max(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

fn one_line(field: &str, text: &str) -> Result<String> {
    match text.contains(['\n', '\0']) {
        true => Err(wrong(field, "is more than one line")),
        false => Ok(text.to_owned()),
    }
}

pub(super) fn wrong(field: impl std::fmt::Display, why: impl Into<String>) -> Error {
    Error::usage(format!("linux.resources {field}"), why)
}

impl Cgroup {
    /// Makes `settings` true, in order. Nothing is written where one of them needs a controller
    /// that cannot be had.
    pub fn apply(&self, settings: &[Setting]) -> Result<()> {
        controllers::provide(self, settings)?;
        for setting in settings.iter().filter(|setting| setting.v1.is_none()) {
            self.apply_one(setting)?;
        }
        for leg in v1::CONTROLLERS {
            let own: Vec<&Setting> = settings.iter().filter(|setting| setting.v1 == Some(leg)).collect();
            if !own.is_empty() {
                self.make_leg(leg)?.apply_in_any_order(&own)?;
            }
        }
        Ok(())
    }

    /// v1's files bound one another: memory may not rise over memory and swap, which may not fall below it.
    /// What cannot be now can be after the others.
    pub(super) fn apply_in_any_order(&self, settings: &[&Setting]) -> Result<()> {
        let mut later = Vec::new();
        for setting in settings {
            match self.apply_one(setting) {
                Err(error) if error.errno() == Some(Errno::INVAL) => later.push(setting),
                other => other?,
            }
        }
        later.into_iter().try_for_each(|setting| self.apply_one(setting))
    }

    pub(super) fn apply_one(&self, setting: &Setting) -> Result<()> {
        let Setting { file, value, otherwise, .. } = setting;
        let refused = |error: Error| {
            let hint = match error.errno() {
                Some(Errno::NOENT) => {
                    "this kernel does not have the file: it was built without it".to_owned()
                }
                Some(Errno::INVAL | Errno::RANGE) if *file == "cpuset.cpus" => {
                    let online =
                        std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
                    let error = Error {
                        what: format!("limit {file} {value:?}"),
                        why: "names a CPU that is not there, or is not for containers".to_owned(),
                        ..error
                    };
                    return error.hint(format!("this host has the CPUs {}", online.trim()));
                }
                Some(Errno::INVAL | Errno::RANGE) => format!("the kernel does not take {value:?}"),
                // v1 ends no process to make room.
                Some(Errno::BUSY) if setting.v1.is_some() => "more than that is in use".to_owned(),
                _ => return error,
            };
            error.hint(hint)
        };
        match (self.write(file, value), otherwise) {
            (Err(error), Otherwise::Write(other, value)) if error.errno() == Some(Errno::NOENT) => {
                self.write(other, value).map_err(refused)
            }
            (Err(error), Otherwise::Skip) if error.errno() == Some(Errno::NOENT) => Ok(()),
            (Err(error), Otherwise::RefuseIfSwapping) if error.errno() == Some(Errno::NOENT) => {
                if rustix::system::sysinfo().totalswap == 0 {
                    return Ok(());
                }
                Err(Error::failed(format!("limit {file}"), "the kernel does not count swap")
                    .hint("boot with swapaccount=1, or give --memory-swap -1"))
            }
            (result, _) => result.map_err(refused),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn planned(resources: Value) -> Result<Vec<String>> {
        let settings = plan(&serde_json::from_value(resources).unwrap(), &Bound::default())?;
        Ok(settings.into_iter().map(|setting| format!("{} {}", setting.file, setting.value)).collect())
    }

    #[test]
    fn each_field_becomes_its_file() {
        for (resources, files) in [
            (json!({}), vec![]),
            (json!({"memory": {"limit": 64, "reservation": 32}}), vec!["memory.max 64", "memory.low 32"]),
            (json!({"memory": {"limit": 64, "swap": 100}}), vec!["memory.swap.max 36", "memory.max 64"]),
            (json!({"memory": {"limit": 64, "swap": -1}}), vec!["memory.swap.max max", "memory.max 64"]),
            (json!({"memory": {"limit": -1}}), vec!["memory.swap.max max", "memory.max max"]),
            (json!({"memory": {"limit": 0, "swap": 0, "disableOOMKiller": false}}), vec![]),
            (json!({"cpu": {"shares": 1024}}), vec!["cpu.weight 39"]),
            (json!({"cpu": {"shares": 2}}), vec!["cpu.weight 1"]),
            (json!({"cpu": {"shares": 262144}}), vec!["cpu.weight 10000"]),
            (json!({"cpu": {"quota": 50000}}), vec!["cpu.max 50000 100000"]),
            (json!({"cpu": {"quota": -1, "period": 20000}}), vec!["cpu.max max 20000"]),
            (json!({"cpu": {"idle": 1, "shares": 5}}), vec!["cpu.idle 1"]),
            (json!({"cpu": {"cpus": "0-1", "mems": "0"}}), vec!["cpuset.cpus 0-1", "cpuset.mems 0"]),
            (json!({"pids": {"limit": 50}}), vec!["pids.max 50"]),
            (json!({"pids": {"limit": -1}}), vec!["pids.max max"]),
            (json!({"blockIO": {"weight": 1000}}), vec!["io.bfq.weight 1000"]),
            (
                json!({"blockIO": {"throttleWriteBpsDevice": [{"major": 8, "minor": 0, "rate": 7}]}}),
                vec!["io.max 8:0 wbps=7"],
            ),
            (
                json!({"hugepageLimits": [{"pageSize": "2MB", "limit": 9}]}),
                vec!["hugetlb.2MB.max 9", "hugetlb.2MB.rsvd.max 9"],
            ),
            (json!({"rdma": {"mlx": {"hcaHandles": 3}}}), vec!["rdma.max mlx hca_handle=3 hca_object=max"]),
            (
                json!({"pids": {"limit": 5}, "unified": {"pids.max": "6", "io.max": "8:0 rbps=1\n8:1 rbps=2"}}),
                vec!["pids.max 5", "io.max 8:0 rbps=1", "io.max 8:1 rbps=2", "pids.max 6"],
            ),
        ] {
            assert_eq!(planned(resources.clone()).unwrap(), files, "{resources}");
        }
    }

    #[test]
    fn what_cgroup_v2_has_nothing_for_is_refused_by_name() {
        for (resources, field) in [
            (json!({"memory": {"swappiness": 5}}), "memory.swappiness"),
            (json!({"memory": {"kernel": 5}}), "memory.kernel"),
            (json!({"memory": {"disableOOMKiller": true}}), "memory.disableOOMKiller"),
            (json!({"memory": {"swap": 5}}), "memory.swap"),
            (json!({"memory": {"limit": 9, "swap": 5}}), "memory.swap"),
            (json!({"cpu": {"realtimeRuntime": 5}}), "cpu.realtimeRuntime"),
            (json!({"cpu": {"cpus": "0\n1"}}), "cpuset.cpus"),
            (json!({"blockIO": {"leafWeight": 5}}), "blockIO.leafWeight"),
            (json!({"hugepageLimits": [{"pageSize": "../2MB", "limit": 9}]}), "hugepageLimits.pageSize"),
            (json!({"unified": {"../x.max": "1"}}), "unified"),
            (json!({"unified": {"cgroup.procs": "1"}}), "unified"),
            (json!({"unified": {"memory": "1"}}), "unified"),
        ] {
            let error = planned(resources.clone()).unwrap_err();
            assert!(error.what.contains(field), "{resources}: {error}");
        }
    }

    proptest! {
        /// Whatever an engine writes, no file outside the cgroup and no second line is named.
        #[test]
        fn a_plan_names_files_of_one_cgroup(
            file in "[./a-z_-]{0,12}|memory\\.max", text in ".{0,9}", size in ".{0,5}", list in ".{0,5}",
            limit: i64, swap: i64, quota: i64, shares: u64, weight: u16,
        ) {
            let resources = json!({
                "memory": {"limit": limit, "swap": swap}, "pids": {"limit": limit},
                "cpu": {"quota": quota, "shares": shares, "cpus": list}, "blockIO": {"weight": weight},
                "hugepageLimits": [{"pageSize": size, "limit": limit}], "unified": {file: text},
            });
            for setting in plan(&serde_json::from_value(resources).unwrap(), &Bound::default()).unwrap_or_default() {
                prop_assert!(!setting.file.contains(['/', '\0']) && setting.file.contains('.'));
                prop_assert!(!setting.value.contains(['\n', '\0']));
            }
        }
    }
}

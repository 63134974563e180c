//! How the kernel shall treat a process beside others: `process.ioPriority`, `process.scheduler`,
//! `process.execCPUAffinity`, `linux.personality` and `linux.memoryPolicy`.

use oci_spec::runtime::{
    IOPriorityClass, LinuxMemoryPolicy, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy,
    MemoryPolicyFlagType, MemoryPolicyModeType, Process, Scheduler, Spec,
};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::error::{Error, Result};
use crate::sys::scheduling::{self, MemoryPolicy, SchedAttr};

/// What a process asks for.
#[derive(Clone, Debug, Default)]
pub(super) struct Scheduling {
    io_priority: Option<u16>,
    scheduler: Option<SchedAttr>,
    personality: Option<u64>,
    memory: Option<MemoryPolicy>,
    pub(super) affinity: Affinity,
}

/// The CPUs of a process that joins (`execCPUAffinity`).
#[derive(Clone, Debug, Default)]
pub(super) struct Affinity {
    /// While it joins.
    pub(super) initial: Option<Cpus>,
    /// When it has.
    pub(super) last: Option<Cpus>,
}

/// A set of CPUs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpus(CpuSet);

impl Scheduling {
    pub(super) fn of(process: &Process, spec: &Spec) -> Result<Self> {
        let linux = spec.linux().as_ref();
        let affinity = process.exec_cpu_affinity().as_ref();
        let cpus = |list: Option<&String>| {
            list.filter(|list| !list.is_empty()).map(|list| Cpus::parse(list)).transpose()
        };
        Ok(Self {
            io_priority: match process.io_priority() {
                Some(wanted) => Some(io_priority(wanted.class(), wanted.priority())?),
                None => None,
            },
            scheduler: process.scheduler().as_ref().map(scheduler).transpose()?,
            personality: match linux.and_then(|linux| linux.personality().as_ref()) {
                Some(wanted) if wanted.flags().iter().flatten().next().is_some() => {
                    return Err(Error::usage("config linux.personality.flags", "no flag is known"));
                }
                Some(wanted) => Some(match wanted.domain() {
                    LinuxPersonalityDomain::PerLinux => 0,
                    LinuxPersonalityDomain::PerLinux32 => 8,
                }),
                None => None,
            },
            memory: linux.and_then(|linux| linux.memory_policy().as_ref()).map(memory).transpose()?,
            affinity: Affinity {
                initial: cpus(affinity.and_then(|affinity| affinity.initial().as_ref()))?,
                last: cpus(affinity.and_then(|affinity| affinity.cpu_affinity_final().as_ref()))?,
            },
        })
    }

    /// Makes it so for this process, while it may.
    pub(super) fn apply(&self) -> Result<()> {
        let failed =
            |field: &'static str| move |error: std::io::Error| Error::io("set config", field, &error);
        if let Some(priority) = self.io_priority {
            scheduling::set_io_priority(priority).map_err(failed("process.ioPriority"))?;
        }
        if let Some(attributes) = &self.scheduler {
            scheduling::set_scheduler(attributes).map_err(failed("process.scheduler"))?;
        }
        if let Some(policy) = &self.memory {
            scheduling::set_memory_policy(policy).map_err(failed("linux.memoryPolicy"))?;
        }
        match self.personality {
            Some(persona) => scheduling::set_personality(persona).map_err(failed("linux.personality")),
            None => Ok(()),
        }
    }
}

impl Cpus {
    fn parse(list: &str) -> Result<Self> {
        let numbers = numbers("process.execCPUAffinity", list, CpuSet::MAX_CPU)?;
        let mut set = CpuSet::new();
        numbers.into_iter().for_each(|cpu| set.set(cpu));
        Ok(Self(set))
    }

    /// Keeps this process to them.
    pub(super) fn apply(self) -> Result<()> {
        sched_setaffinity(None, &self.0)
            .map_err(|errno| Error::os("set config process.execCPUAffinity", errno))
    }
}

/// The numbers of a list such as `0-3,7`, each below `end`.
fn numbers(field: &str, list: &str, end: usize) -> Result<Vec<usize>> {
    let wrong = || Error::usage(format!("config {field}"), format!("{list:?} is no list such as 0-3,7"));
    let mut all = Vec::new();
    for part in list.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) =
            (first.parse().map_err(|_| wrong())?, last.parse().map_err(|_| wrong())?);
        if first > last || last >= end {
            return Err(wrong());
        }
        all.extend(first..=last);
    }
    Ok(all)
}

/// `ioprio_set(2)`: the class in the upper bits.
fn io_priority(class: IOPriorityClass, priority: i64) -> Result<u16> {
    let class = match class {
        IOPriorityClass::IoprioClassRt => 1,
        IOPriorityClass::IoprioClassBe => 2,
        IOPriorityClass::IoprioClassIdle => 3,
    };
    match u16::try_from(priority) {
        Ok(priority @ 0..=7) => Ok(class << 13 | priority),
        _ => Err(Error::usage("config process.ioPriority.priority", format!("{priority} is not 0 to 7"))),
    }
}

/// `sched_setattr(2)`
fn scheduler(wanted: &Scheduler) -> Result<SchedAttr> {
    use LinuxSchedulerPolicy as Policy;
    let priority = wanted.priority().unwrap_or(0);
    Ok(SchedAttr {
        policy: match wanted.policy() {
            Policy::SchedOther => 0,
            Policy::SchedFifo => 1,
            Policy::SchedRr => 2,
            Policy::SchedBatch => 3,
            Policy::SchedIso => {
                return Err(Error::usage("config process.scheduler.policy", "Linux has no SCHED_ISO"));
            }
            Policy::SchedIdle => 5,
            Policy::SchedDeadline => 6,
        },
        flags: wanted.flags().iter().flatten().fold(0, |flags, flag| flags | scheduler_flag(*flag)),
        nice: wanted.nice().unwrap_or(0),
        priority: u32::try_from(priority).map_err(|_| {
            Error::usage("config process.scheduler.priority", format!("{priority} is negative"))
        })?,
        runtime: wanted.runtime().unwrap_or(0),
        deadline: wanted.deadline().unwrap_or(0),
        period: wanted.period().unwrap_or(0),
        ..SchedAttr::default()
    })
}

fn scheduler_flag(flag: LinuxSchedulerFlag) -> u64 {
    use LinuxSchedulerFlag as Flag;
    match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    }
}

/// `set_mempolicy(2)`
fn memory(wanted: &LinuxMemoryPolicy) -> Result<MemoryPolicy> {
    use MemoryPolicyFlagType as Flag;
    use MemoryPolicyModeType as Mode;
    let mode = match wanted.mode() {
        Mode::MpolDefault => 0,
        Mode::MpolPreferred => 1,
        Mode::MpolBind => 2,
        Mode::MpolInterleave => 3,
        Mode::MpolLocal => 4,
        Mode::MpolPreferredMany => 5,
        Mode::MpolWeightedInterleave => 6,
    };
    let flags = wanted.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                Flag::MpolFNumaBalancing => 1 << 13,
                Flag::MpolFRelativeNodes => 1 << 14,
                Flag::MpolFStaticNodes => 1 << 15,
            }
    });
    let mut nodes = [0; MemoryPolicy::WORDS];
    if let Some(list) = wanted.nodes().as_deref().filter(|list| !list.is_empty()) {
        for node in numbers("linux.memoryPolicy.nodes", list, MemoryPolicy::WORDS * 64)? {
            nodes[node / 64] |= 1_u64 << (node % 64);
        }
    }
    Ok(MemoryPolicy { mode: mode | flags, nodes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_list_is_numbers_and_ranges() {
        assert_eq!(numbers("f", "0-2,7", 8).unwrap(), [0, 1, 2, 7]);
        for wrong in ["", "1-", "2-1", "8", "a", "1,,2", "-1"] {
            assert!(numbers("f", wrong, 8).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_io_priority_is_class_and_level() {
        assert_eq!(io_priority(IOPriorityClass::IoprioClassIdle, 0).unwrap(), 0x6000);
        assert_eq!(io_priority(IOPriorityClass::IoprioClassBe, 7).unwrap(), 0x4007);
        assert!(io_priority(IOPriorityClass::IoprioClassBe, 8).is_err());
    }

    proptest! {
        #[test]
        fn no_list_is_longer_than_what_it_may_name(list in "[0-9,-]{0,20}") {
            if let Ok(numbers) = numbers("f", &list, 1024) {
                prop_assert!(numbers.iter().all(|number| *number < 1024));
            }
        }
    }
}

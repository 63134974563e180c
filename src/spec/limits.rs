//! Limits as the user gives them, and OCI `linux.resources`, which hold them.
//!
//! ```text
//!  --memory 64m … ──▶ Limits ──resources──▶ linux.resources ─▶ spec.json ─▶ cgroup::limits
//! ```

use std::collections::HashMap;

pub use oci_spec::runtime::LinuxResources;
use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxPids, Spec};

use serde_json::Value;

use crate::cgroup::limits::{CPU_PERIOD, plan};
use crate::cgroup::v1::Bound;
use crate::error::{Error, Result};
use crate::spec::size;

/// The least memory that a container can begin in: bytes, as docker has it.
const LEAST_MEMORY: i64 = 6 << 20;
/// The least `cpu.max` the kernel takes, in microseconds (`kernel/sched/core.c`, min_cfs_quota_period).
const LEAST_QUOTA: f64 = 1000.0;
/// The most, far beyond any machine.
const MOST_CPUS: f64 = 1_000_000.0;

/// The limits of the command line, as the user wrote them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// `--memory`: a size.
    pub memory: Option<String>,
    /// `--memory-high`: a size, or -1.
    pub memory_high: Option<String>,
    /// `--memory-low`: a size.
    pub memory_low: Option<String>,
    /// `--memory-swap`: memory and swap together, or -1.
    pub memory_swap: Option<String>,
    /// `--pids-limit`: a count, or -1.
    pub pids_limit: Option<String>,
    /// `--cpus`: a fraction.
    pub cpus: Option<String>,
    /// `--cpu-weight`: 1 to 10000.
    pub cpu_weight: Option<String>,
    /// `--cpuset-cpus`: a list.
    pub cpuset_cpus: Option<String>,
    /// `--io-weight`: 1 to 10000.
    pub io_weight: Option<String>,
}

impl Limits {
    /// What they are in OCI's words; `None` where none was asked for.
    pub fn resources(&self) -> Result<Option<LinuxResources>> {
        let mut unified = HashMap::new();
        if let Some(text) = &self.memory_high {
            unified.insert("memory.high".to_owned(), maximum(size_or_none("--memory-high", text)?));
        }
        if let Some(text) = &self.memory_low {
            unified.insert("memory.low".to_owned(), size("--memory-low", text)?.to_string());
        }
        for (flag, file, text) in
            [("--cpu-weight", "cpu.weight", &self.cpu_weight), ("--io-weight", "io.weight", &self.io_weight)]
        {
            if let Some(text) = text {
                unified.insert(file.to_owned(), weight(flag, text)?.to_string());
            }
        }
        let pids = self.pids_limit.as_deref().map(pids).transpose()?;
        let mut resources = LinuxResources::default();
        resources
            .set_devices(None)
            .set_memory(self.memory()?)
            .set_cpu(self.cpu()?)
            .set_pids(pids)
            .set_unified((!unified.is_empty()).then_some(unified));
        Ok((resources != *LinuxResources::default().set_devices(None)).then_some(resources))
    }

    fn memory(&self) -> Result<Option<LinuxMemory>> {
        if self.memory.is_none() && self.memory_swap.is_none() {
            return Ok(None);
        }
        let mut memory = LinuxMemory::default();
        let limit = match &self.memory {
            None => None,
            Some(text) => match size_or_none("--memory", text)? {
                Some(limit) if limit < LEAST_MEMORY => {
                    return Err(Error::usage(
                        format!("--memory {text:?}"),
                        "is less than a container can begin in",
                    )
                    .hint("at least 6m"));
                }
                limit => Some(limit.unwrap_or(-1)),
            },
        };
        let swap = match (&self.memory_swap, limit) {
            // As much swap as memory, as docker has it.
            (None, limit) => limit.map(|limit| limit.saturating_mul(2).max(-1)),
            (Some(text), limit) => {
                let wrong = |why: &str| Error::usage(format!("--memory-swap {text:?}"), why);
                match (size_or_none("--memory-swap", text)?, limit) {
                    (None, _) => Some(-1),
                    (Some(_), None | Some(-1)) => {
                        return Err(wrong("needs --memory, too").hint("it is memory and swap together"));
                    }
                    (Some(swap), Some(limit)) if swap < limit => {
                        return Err(wrong("is less than --memory").hint("it is memory and swap together"));
                    }
                    (swap, _) => swap,
                }
            }
        };
        memory.set_limit(limit).set_swap(swap);
        Ok(Some(memory))
    }

    fn cpu(&self) -> Result<Option<LinuxCpu>> {
        if self.cpus.is_none() && self.cpuset_cpus.is_none() {
            return Ok(None);
        }
        let mut cpu = LinuxCpu::default();
        if let Some(text) = &self.cpus {
            cpu.set_quota(Some(quota(text)?)).set_period(Some(CPU_PERIOD));
        }
        if let Some(text) = &self.cpuset_cpus {
            cpu.set_cpus(Some(cpu_list(text)?));
        }
        Ok(Some(cpu))
    }
}

/// A size in bytes that limits something.
fn size(flag: &str, text: &str) -> Result<i64> {
    let bytes = match size::parse(text) {
        Ok(0) => Err("is no limit"),
        other => other,
    };
    bytes.map_err(|why| {
        Error::usage(format!("{flag} {text:?}"), why).hint("write a size such as 64m, 1g, or bytes")
    })
}

/// A size, or -1: no limit.
fn size_or_none(flag: &str, text: &str) -> Result<Option<i64>> {
    if text == "-1" { Ok(None) } else { size(flag, text).map(Some) }
}

fn maximum(limit: Option<i64>) -> String {
    limit.map_or_else(|| "max".to_owned(), |limit| limit.to_string())
}

fn weight(flag: &str, text: &str) -> Result<u16> {
    let number = text.parse().ok().filter(|weight| (1..=10_000).contains(weight));
    number.ok_or_else(|| {
        Error::usage(format!("{flag} {text:?}"), "is not a weight")
            .hint("a number from 1 to 10000; 100 is usual")
    })
}

fn pids(text: &str) -> Result<LinuxPids> {
    let limit: Option<i64> = text.parse().ok().filter(|limit| *limit > 0 || *limit == -1);
    let limit = limit.ok_or_else(|| {
        Error::usage(format!("--pids-limit {text:?}"), "is not a number of processes")
            .hint("at least 1, or -1 for no limit")
    })?;
    let mut pids = LinuxPids::default();
    pids.set_limit(limit);
    Ok(pids)
}

/// Microseconds in each [`CPU_PERIOD`].
fn quota(text: &str) -> Result<i64> {
    let wrong =
        |why: &str| Error::usage(format!("--cpus {text:?}"), why).hint("a number of CPUs such as 0.5 or 2");
    let plain = text.bytes().all(|c| c.is_ascii_digit() || c == b'.');
    let cpus: f64 = text.parse().ok().filter(|_| plain).ok_or_else(|| wrong("is not a number of CPUs"))?;
    // `as`: far within what a float holds exactly.
    let quota = cpus * CPU_PERIOD as f64;
    if quota < LEAST_QUOTA {
        return Err(wrong("is less than the kernel's minimum, 0.01"));
    }
    if cpus > MOST_CPUS {
        return Err(wrong("is too many"));
    }
    Ok(quota as i64)
}

/// `0-3,8`: the kernel's list format (cpuset(7)).
fn cpu_list(text: &str) -> Result<String> {
    let legal = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number =
            |text: &str| text.parse::<u32>().ok().filter(|_| text.bytes().all(|c| c.is_ascii_digit()));
        matches!((number(first), number(last)), (Some(first), Some(last)) if first <= last)
    };
    if text.split(',').all(legal) {
        return Ok(text.to_owned());
    }
    Err(Error::usage(format!("--cpuset-cpus {text:?}"), "is not a list of CPUs")
        .hint("write one such as 0-3,8"))
}

/// The limits that a configuration has.
pub fn resources(spec: &Spec) -> Option<&LinuxResources> {
    spec.linux().as_ref().and_then(|linux| linux.resources().as_ref())
}

/// Puts `changes` over the limits that `spec` has: what they do not name stays.
pub fn merge(spec: &mut Spec, changes: &LinuxResources) -> Result<()> {
    let failed = |error: serde_json::Error| Error::failed("merge limits", error.to_string());
    let mut merged = serde_json::to_value(resources(spec)).map_err(failed)?;
    overlay(&mut merged, serde_json::to_value(changes).map_err(failed)?);
    let mut merged: LinuxResources = serde_json::from_value(merged).map_err(failed)?;
    // A file by its own name has the last word; here the later one has to have it.
    let named = changes.unified().clone().unwrap_or_default();
    let mut complete = changes.clone();
    if changes.memory().is_some() {
        complete.set_memory(*merged.memory());
    }
    // What v1 has more has no file by its own name. Whether it can be had is asked when it is applied.
    let changed = plan(&complete, &Bound::default()).unwrap_or_default();
    if let Some(mut unified) = merged.unified().clone() {
        unified.retain(|file, _| {
            named.contains_key(file) || changed.iter().all(|setting| setting.file != *file)
        });
        merged.set_unified(Some(unified));
    }
    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_resources(Some(merged));
    spec.set_linux(Some(linux));
    Ok(())
}

/// JSON over JSON: objects by their members, everything else as a whole; null changes nothing.
fn overlay(below: &mut Value, above: Value) {
    match (below, above) {
        (_, Value::Null) => {}
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                overlay(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn planned(limits: &Limits) -> Result<Vec<String>> {
        let resources = limits.resources()?.unwrap_or_default();
        Ok(plan(&resources, &Bound::default())?
            .into_iter()
            .map(|setting| format!("{} {}", setting.file, setting.value))
            .collect())
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn flags_become_what_the_kernel_will_hold() {
        let limits = Limits {
            memory: some("64m"),
            memory_high: some("32M"),
            memory_low: some("16mb"),
            pids_limit: some("50"),
            cpus: some("1.5"),
            cpu_weight: some("200"),
            cpuset_cpus: some("0-1,3"),
            io_weight: some("50"),
            memory_swap: None,
        };
        let expected = [
            "memory.swap.max 67108864",
            "memory.max 67108864",
            "cpu.max 150000 100000",
            "cpuset.cpus 0-1,3",
            "pids.max 50",
            "cpu.weight 200",
            "io.weight 50",
            "memory.high 33554432",
            "memory.low 16777216",
        ];
        assert_eq!(planned(&limits).unwrap(), expected);
        assert_eq!(Limits::default().resources().unwrap(), None);
    }

    #[test]
    fn memory_swap_is_memory_and_swap_together() {
        let swap = |memory: &str, swap: &str| {
            let limits = Limits { memory: some(memory), memory_swap: some(swap), ..Limits::default() };
            planned(&limits).map(|files| files[0].clone())
        };
        assert_eq!(swap("64m", "96m").unwrap(), "memory.swap.max 33554432");
        assert_eq!(swap("64m", "64m").unwrap(), "memory.swap.max 0");
        assert_eq!(swap("64m", "-1").unwrap(), "memory.swap.max max");
        assert!(swap("64m", "63m").is_err() && swap("-1", "64m").is_err());
    }

    #[test]
    fn a_value_that_makes_no_sense_is_refused_with_its_flag() {
        type Set = fn(&mut Limits, String);
        let cases: [(&str, Set, &[&str]); 8] = [
            (
                "--memory ",
                |l, v| l.memory = Some(v),
                &["", "1k", "5m", "x", "1.5g", "64mm", "-5", "0", "9999999t"],
            ),
            ("--memory-high", |l, v| l.memory_high = Some(v), &["-2", "m"]),
            ("--memory-swap", |l, v| l.memory_swap = Some(v), &["-2", "64m"]),
            (
                "--pids-limit",
                |l, v| l.pids_limit = Some(v),
                &["-5", "0", "x", "", "1.5", "99999999999999999999"],
            ),
            (
                "--cpus",
                |l, v| l.cpus = Some(v),
                &["0", "0.001", "-1", "nan", "inf", "1e9", "", "99999999999"],
            ),
            ("--cpu-weight", |l, v| l.cpu_weight = Some(v), &["0", "10001", "-1", "x"]),
            ("--io-weight", |l, v| l.io_weight = Some(v), &["0", "10001"]),
            ("--cpuset-cpus", |l, v| l.cpuset_cpus = Some(v), &["", "a", "3-1", "0,", "-1", "0-", "+1"]),
        ];
        for (flag, set, values) in cases {
            for value in values {
                let mut limits = Limits::default();
                set(&mut limits, (*value).to_owned());
                let error = limits.resources().unwrap_err();
                assert!(error.what.starts_with(flag), "{flag} {value:?}: {error}");
            }
        }
    }

    #[test]
    fn a_change_leaves_the_rest_and_the_later_word_counts() {
        let limits = |value| serde_json::from_value::<LinuxResources>(value).unwrap();
        let mut spec = Spec::default();
        merge(
            &mut spec,
            &limits(json!({"memory": {"limit": 9}, "unified": {"cpu.weight": "7", "io.weight": "3"}})),
        )
        .unwrap();
        merge(
            &mut spec,
            &limits(json!({"memory": {"swap": 20}, "cpu": {"shares": 2}, "pids": {"limit": 5}})),
        )
        .unwrap();
        let merged = serde_json::to_value(resources(&spec)).unwrap();
        assert_eq!((&merged["memory"]["limit"], &merged["memory"]["swap"]), (&json!(9), &json!(20)));
        assert_eq!(merged["unified"], json!({"io.weight": "3"}));
        assert_eq!(merged["pids"]["limit"], 5);
    }

    proptest! {
        #[test]
        fn a_size_is_its_number_times_its_unit(number in 1..1_000_000_i64, unit in 0..5_usize, upper: bool, b: bool) {
            let name = ["", "k", "m", "g", "t"][unit];
            let mut text = format!("{number}{name}{}", if b { "b" } else { "" });
            if upper { text = text.to_uppercase(); }
            prop_assert_eq!(size("--x", &text).unwrap(), number << (10 * unit));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,12}") {
            let all = || some(&text);
            let limits = Limits {
                memory: all(), memory_high: all(), memory_low: all(), memory_swap: all(), pids_limit: all(),
                cpus: all(), cpu_weight: all(), cpuset_cpus: all(), io_weight: all(),
            };
            let _ = limits.resources();
            let _ = (quota(&text), cpu_list(&text), pids(&text), weight("--x", &text));
        }
    }
}

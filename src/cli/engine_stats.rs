//! `podrun events --stats`: what one container uses, in the form that runc gave it and that engines read.

use std::time::Duration;

use podrun::cgroup::usage::Usage;
use podrun::error::{Error, Kind, Result};
use podrun::paths::{ContainerId, Roots};
use serde_json::{Value, json};

use super::stats::counted;
use super::{Outcome, out};

/// Prints what `id` uses: once, or every so often until it has ended.
pub(super) fn run(roots: &Roots, id: &ContainerId, interval: Option<Duration>) -> Outcome {
    out::line(&line(roots, id)?)?;
    while let Some(interval) = interval {
        std::thread::sleep(interval);
        match line(roots, id) {
            Ok(line) => out::line(&line)?,
            Err(Error { kind: Kind::NoSuchContainer | Kind::WrongState, .. }) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(0)
}

fn line(roots: &Roots, id: &ContainerId) -> Result<Value> {
    let (_, cgroup) = counted(roots, id)?;
    Ok(json!({ "type": "stats", "id": id, "data": data(&cgroup.usage()) }))
}

/// Times are nanoseconds. Where there is no limit, that of memory is the greatest number, that of processes 0.
fn data(usage: &Usage) -> Value {
    let nanos = |micros: Option<u64>| micros.map(|micros| micros.saturating_mul(1000));
    let mut data = json!({
        "cpu": {
            "usage": {
                "total": nanos(usage.cpu_usec),
                "kernel": nanos(usage.cpu_system_usec),
                "user": nanos(usage.cpu_user_usec),
            },
            "throttling": { "throttledTime": nanos(usage.cpu_throttled_usec) },
        },
    });
    if usage.memory.is_some() {
        let limit = usage.memory_limit.unwrap_or(u64::MAX);
        data["memory"] = json!({
            "usage": { "usage": usage.memory, "max": usage.memory_peak, "limit": limit, "failcnt": usage.oom_kills },
            "swap": { "usage": usage.swap },
        });
    }
    if usage.pids.is_some() {
        data["pids"] = json!({ "current": usage.pids, "limit": usage.pids_limit.unwrap_or(0) });
    }
    without_nulls(&mut data);
    data
}

/// What nobody counts is absent.
fn without_nulls(value: &mut Value) {
    if let Value::Object(fields) = value {
        fields.retain(|_, value| !value.is_null());
        fields.values_mut().for_each(without_nulls);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_counted_is_absent() {
        assert_eq!(data(&Usage::default()), json!({ "cpu": { "usage": {}, "throttling": {} } }));
        let usage = Usage { cpu_usec: Some(7), memory: Some(1), pids: Some(2), ..Usage::default() };
        assert_eq!(
            data(&usage),
            json!({
                "cpu": { "usage": { "total": 7000 }, "throttling": {} },
                "memory": { "usage": { "usage": 1, "limit": u64::MAX }, "swap": {} },
                "pids": { "current": 2, "limit": 0 },
            })
        );
    }
}

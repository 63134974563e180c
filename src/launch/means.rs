//! Whether this process can give what a container asks for.
//!
//! An engine's bundle names limits that it has computed somewhere else, and that a smaller host cannot give:
//! the container then gets as much as there is, as [`super::credentials`] does it. What a user writes is
//! meant, and is refused where it would be less.

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, Spec};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::credentials::{CapabilityPlan, OOM_SCORE, resource};
use crate::error::{Error, Result};

/// Refuses the `--ulimit` and the `--oom-score-adj` of `spec` that the kernel would refuse to this process.
/// Asks it, by trying: what it allows depends on more than a capability. Nothing stays changed.
pub fn suffice(spec: &Spec) -> Result<()> {
    let Some(process) = spec.process() else { return Ok(()) };
    for limit in process.rlimits().iter().flatten() {
        let what = || {
            let name = limit.typ().to_string();
            let name = name.strip_prefix("RLIMIT_").unwrap_or(&name).to_lowercase();
            format!("--ulimit {name}={}:{}", value(limit.soft()), value(limit.hard()))
        };
        let hard = (limit.hard() != u64::MAX).then_some(limit.hard());
        raise(resource(limit.typ()), hard).map_err(|(errno, most)| {
            Error::os(what(), errno).hint(format!(
                "at most {}: raising the hard limit that podrun has itself takes CAP_SYS_RESOURCE, and nofile \
                 ends at fs.nr_open",
                most.map_or_else(|| "unlimited".to_owned(), |most| most.to_string()),
            ))
        })?;
    }
    let Some(score) = process.oom_score_adj() else { return Ok(()) };
    lower(score).map_err(|error| {
        Error::io("--oom-score-adj", score.to_string(), &error)
            .hint("a lower score than podrun has itself takes CAP_SYS_RESOURCE")
    })
}

/// The capabilities that `spec` names and this process does not have, and so cannot give: the container goes without
/// them, and somebody is to be warned (runtime specification, `capabilities`). In a new user namespace there is every
/// one.
pub fn beyond_capabilities(spec: &Spec) -> Result<Option<Error>> {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let new_user = |namespace: &LinuxNamespace| {
        namespace.typ() == LinuxNamespaceType::User && namespace.path().is_none()
    };
    let wanted = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let Some(wanted) = wanted.filter(|_| !namespaces.into_iter().flatten().any(new_user)) else {
        return Ok(None);
    };
    let own =
        rustix::thread::capabilities(None).map_err(|errno| Error::os("read the capabilities", errno))?;
    let beyond = CapabilityPlan::of(wanted).all() - own.permitted;
    let names: Vec<_> = beyond.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    let why = || format!("podrun does not have {} itself: it is not given", names.join(", "));
    Ok((!names.is_empty()).then(|| Error::usage("config process.capabilities", why())))
}

fn value(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".to_owned() } else { limit.to_string() }
}

/// Raises the hard limit to `wanted` and takes it back. After a failure, with what it is.
fn raise(resource: Resource, wanted: Option<u64>) -> Result<(), (Errno, Option<u64>)> {
    let own = getrlimit(resource);
    let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    if number(wanted) <= number(own.maximum) {
        return Ok(());
    }
    let failed = |errno| (errno, own.maximum);
    setrlimit(resource, Rlimit { maximum: wanted, ..own }).map_err(failed)?;
    setrlimit(resource, own).map_err(failed)
}

/// Lowers the score to `wanted` and takes it back.
fn lower(wanted: i32) -> std::io::Result<()> {
    let own = std::fs::read_to_string(OOM_SCORE)?;
    if own.trim().parse().is_ok_and(|own: i32| own <= wanted) {
        return Ok(());
    }
    std::fs::write(OOM_SCORE, wanted.to_string())?;
    std::fs::write(OOM_SCORE, own.trim())
}

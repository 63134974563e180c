//! A seccomp profile in the engines' own JSON, made into the `linux.seccomp` that OCI knows.
//!
//! Engines write more than OCI has: rules for some architectures, capabilities or kernels only
//! (`includes`, `excludes`), and a map of which 32-bit architecture belongs to which. All of that is
//! decided here, once, so that `spec.json` holds what will be loaded.

use std::collections::HashSet;

use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSyscall,
};
use serde::Deserialize;

use crate::error::{Error, Result};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    default_errno: Option<String>,
    architectures: Option<Vec<Arch>>,
    arch_map: Option<Vec<ArchMap>>,
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    name: Option<String>,
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    errno: Option<String>,
    args: Option<Vec<LinuxSeccompArg>>,
    includes: Option<Condition>,
    excludes: Option<Condition>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// This build's architecture, as OCI and as engines name it.
#[cfg(target_arch = "x86_64")]
const NATIVE: (Arch, &str) = (Arch::ScmpArchX86_64, "amd64");
#[cfg(target_arch = "aarch64")]
const NATIVE: (Arch, &str) = (Arch::ScmpArchAarch64, "arm64");
#[cfg(target_arch = "riscv64")]
const NATIVE: (Arch, &str) = (Arch::ScmpArchRiscv64, "riscv64");

/// The `linux.seccomp` that the profile `text` means for a container with `capabilities` on a
/// `kernel` of that major and minor version.
pub(super) fn resolve(
    text: &str,
    capabilities: &HashSet<Capability>,
    kernel: (u32, u32),
) -> Result<LinuxSeccomp> {
    let wrong = |why: String| Error::usage("seccomp profile", why);
    let profile: Profile = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    let maps = profile.arch_map.unwrap_or_default();
    let architectures = match profile.architectures {
        Some(list) if !list.is_empty() && !maps.is_empty() => {
            let _ = list;
            return Err(wrong("has both architectures and archMap".to_owned()));
        }
        Some(list) if !list.is_empty() => list,
        _ => {
            let subs = maps.into_iter().filter(|map| map.architecture == NATIVE.0);
            let subs = subs.flat_map(|map| map.sub_architectures.unwrap_or_default());
            std::iter::once(NATIVE.0).chain(subs).collect()
        }
    };
    let has = |name: &String| {
        let short = name.strip_prefix("CAP_").unwrap_or(name);
        short.parse().is_ok_and(|capability| capabilities.contains(&capability))
    };
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        let (includes, excludes) = (rule.includes.unwrap_or_default(), rule.excludes.unwrap_or_default());
        let arches = |condition: &Condition| condition.arches.clone().unwrap_or_default();
        let caps = |condition: &Condition| condition.caps.clone().unwrap_or_default();
        let here = |list: Vec<String>| list.iter().any(|arch| arch == NATIVE.1);
        let new_enough = |condition: &Condition| -> Result<Option<bool>> {
            let Some(text) = condition.min_kernel.as_deref().filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            let least = version(text).ok_or_else(|| wrong(format!("minKernel {text:?} is no version")))?;
            Ok(Some(kernel >= least))
        };
        let applies = (arches(&includes).is_empty() || here(arches(&includes)))
            && caps(&includes).iter().all(has)
            && new_enough(&includes)? != Some(false)
            && !here(arches(&excludes))
            && !caps(&excludes).iter().any(has)
            && new_enough(&excludes)? != Some(true);
        if !applies {
            continue;
        }
        let mut call = LinuxSyscall::default();
        call.set_names(rule.names.unwrap_or_default().into_iter().chain(rule.name).collect())
            .set_action(rule.action)
            .set_errno_ret(errno(rule.errno.as_deref(), rule.errno_ret)?)
            .set_args(rule.args.filter(|args| !args.is_empty()));
        syscalls.push(call);
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(errno(profile.default_errno.as_deref(), profile.default_errno_ret)?)
        .set_architectures(Some(architectures))
        .set_flags(profile.flags)
        .set_syscalls(Some(syscalls));
    Ok(seccomp)
}

/// The first two numbers of a version.
pub(super) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// podman writes errno by name beside, or instead of, the number.
fn errno(name: Option<&str>, number: Option<u32>) -> Result<Option<u32>> {
    let Some(name) = name.filter(|name| !name.is_empty()) else { return Ok(number) };
    let known = [
        ("EPERM", 1),
        ("ENOENT", 2),
        ("EACCES", 13),
        ("EINVAL", 22),
        ("ENOSYS", 38),
        ("EOPNOTSUPP", 95),
        ("EAFNOSUPPORT", 97),
    ];
    let found = known.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
    match found.or(number) {
        Some(number) => Ok(Some(number)),
        None => Err(Error::usage("seccomp profile", format!("errno {name:?} is none that podrun knows"))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn names(profile: serde_json::Value, capabilities: &[Capability], kernel: (u32, u32)) -> Vec<String> {
        let seccomp = resolve(&profile.to_string(), &capabilities.iter().copied().collect(), kernel).unwrap();
        seccomp.syscalls().iter().flatten().flat_map(|call| call.names().clone()).collect()
    }

    #[test]
    fn rules_apply_where_their_conditions_hold() {
        let rule = |name: &str, includes: serde_json::Value, excludes: serde_json::Value| {
            json!({ "names": [name], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "",
                "includes": includes, "excludes": excludes })
        };
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS",
            "archMap": [{ "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
                { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null }],
            "syscalls": [
                rule("always", json!({}), json!({})),
                rule("admin", json!({ "caps": ["CAP_SYS_ADMIN"] }), json!({})),
                rule("no_admin", json!({}), json!({ "caps": ["CAP_SYS_ADMIN"] })),
                rule("here", json!({ "arches": ["amd64", "arm64", "riscv64"] }), json!({})),
                rule("there", json!({ "arches": ["s390x"] }), json!({})),
                rule("new", json!({ "minKernel": "5.14" }), json!({})),
                { "name": "old_style", "action": "SCMP_ACT_ALLOW" },
            ],
        });
        let got = names(profile.clone(), &[], (5, 10));
        assert_eq!(got, ["always", "no_admin", "here", "old_style"]);
        let got = names(profile.clone(), &[Capability::SysAdmin], (6, 1));
        assert_eq!(got, ["always", "admin", "here", "new", "old_style"]);
        let seccomp = resolve(&profile.to_string(), &HashSet::new(), (6, 1)).unwrap();
        assert_eq!(seccomp.default_errno_ret(), Some(38));
        assert_eq!(seccomp.architectures().as_ref().unwrap()[0], NATIVE.0);
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_reader(text: String, minimum: String) {
            let _ = resolve(&text, &HashSet::new(), (6, 1));
            let rule = json!({ "names": ["a"], "action": "SCMP_ACT_LOG", "includes": { "minKernel": minimum } });
            let profile = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule] });
            let _ = resolve(&profile.to_string(), &HashSet::new(), (6, 1));
        }
    }
}

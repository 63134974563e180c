//! `linux.seccomp` of an OCI configuration, read as libseccomp would read it.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator,
};

use super::bpf::{Case, Condition, Is, Rule, Section, Verdict, compile};
use super::{Filter, NATIVE_ARCH, NEW_LISTENER, SPEC_ALLOW, notify};
use crate::error::{Error, Result};

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV` (Linux 5.19)
const WAIT_KILLABLE: u32 = 32;
/// `SECCOMP_RET_USER_NOTIF`: somebody else decides.
const NOTIFY: u32 = 0x7fc0_0000;
/// `__X32_SYSCALL_BIT`: the same calls by other numbers, which no rule names, and none may permit that permits the rest.
/// No architecture has calls of its own so high.
const X32: u32 = 0x4000_0000;
/// `BPF_MAXINSNS`
const MAX_PROGRAM: usize = 4096;

/// The filter that `wanted` describes.
///
/// Names that an architecture does not have are passed over, as every engine's profile needs it; a
/// rule that says what the default says is none; a rule without arguments beats those with.
/// Calls newer than the newest one named are ENOSYS where the default refuses.
pub(super) fn filter(wanted: &LinuxSeccomp) -> Result<Filter> {
    let asks = notify::asks(wanted);
    let mut sections = vec![section(NATIVE_ARCH, wanted, |name| {
        syscalls::Sysno::from_str(name).ok().map(|call| call.id().unsigned_abs())
    })?];
    #[cfg(target_arch = "x86_64")]
    if wanted.architectures().iter().flatten().any(|arch| *arch == Arch::ScmpArchX86) {
        sections.push(section(super::X86, wanted, |name| {
            syscalls::x86::Sysno::from_str(name).ok().map(|call| call.id().unsigned_abs())
        })?);
    }
    let sendmsg = u32::try_from(nix::libc::SYS_sendmsg).unwrap_or(u32::MAX);
    if asks && sections.first().is_some_and(|section| may_ask(section, sendmsg)) {
        return Err(Error::usage("linux.seccomp", "SCMP_ACT_NOTIFY cannot be for sendmsg")
            .hint("by that call the listener gets the descriptor through which it decides"));
    }
    let program = compile(&sections);
    if program.len() > MAX_PROGRAM {
        let why = format!("it takes {} instructions, and the kernel takes {MAX_PROGRAM}", program.len());
        return Err(Error::usage("linux.seccomp", why));
    }
    let flag = |flag: &Flag| match flag {
        // One thread is all there is.
        Flag::SeccompFilterFlagTsync => 0,
        Flag::SeccompFilterFlagLog => 2,
        Flag::SeccompFilterFlagSpecAllow => SPEC_ALLOW,
        // The kernel takes it with a listener only.
        Flag::SeccompFilterFlagWaitKillableRecv if asks => WAIT_KILLABLE,
        Flag::SeccompFilterFlagWaitKillableRecv => 0,
    };
    let flags = match wanted.flags() {
        Some(flags) => flags.iter().map(flag).fold(0, |all, one| all | one),
        None => SPEC_ALLOW,
    };
    Ok(Filter { program, flags: if asks { flags | NEW_LISTENER } else { flags } })
}

/// Whether `section` may leave the decision about `call` to somebody else.
fn may_ask(section: &Section, call: u32) -> bool {
    let asks = |verdict: &Verdict| verdict.0 & 0xffff_0000 == NOTIFY;
    match section.rule(call) {
        Some(rule) => asks(&rule.otherwise) || rule.cases.iter().any(|case| asks(&case.verdict)),
        None => asks(&section.default),
    }
}

fn section(arch: u32, wanted: &LinuxSeccomp, number: impl Fn(&str) -> Option<u32>) -> Result<Section> {
    let default = verdict(wanted.default_action(), wanted.default_errno_ret())?;
    let mut rules: BTreeMap<u32, Rule> = BTreeMap::new();
    let mut last = 0;
    for call in wanted.syscalls().iter().flatten() {
        let verdict = verdict(call.action(), call.errno_ret())?;
        let args = call.args().as_deref().unwrap_or_default();
        for number in call.names().iter().filter_map(|name| number(name)) {
            last = last.max(number);
            if verdict == default {
                continue;
            }
            let rule = rules.entry(number).or_insert_with(|| default.into());
            if rule.cases.is_empty() && rule.otherwise != default {
                continue; // one without arguments was there before
            }
            if args.is_empty() {
                *rule = verdict.into();
            } else {
                rule.cases.extend(cases(args, verdict)?);
            }
        }
    }
    let permits = matches!(wanted.default_action(), Action::ScmpActAllow | Action::ScmpActLog);
    let unknown = if permits || last == 0 { X32 } else { last + 1 };
    Ok(Section { arch, rules: rules.into_iter().collect(), default, unknown })
}

/// All of `args` have to hold; but two for the same argument are alternatives, as with libseccomp.
fn cases(args: &[LinuxSeccompArg], verdict: Verdict) -> Result<Vec<Case>> {
    let conditions: Vec<Condition> = args.iter().map(condition).collect::<Result<_>>()?;
    let repeated = |at: usize| conditions[..at].iter().any(|earlier| earlier.index == conditions[at].index);
    if (0..conditions.len()).any(repeated) {
        return Ok(conditions.into_iter().map(|one| Case { conditions: vec![one], verdict }).collect());
    }
    Ok(vec![Case { conditions, verdict }])
}

fn condition(arg: &LinuxSeccompArg) -> Result<Condition> {
    let wrong = |why: String| Error::usage("linux.seccomp.syscalls.args", why);
    let index = u8::try_from(arg.index()).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| wrong(format!("index {} is not one of 0 to 5", arg.index())))?;
    let is = match arg.op() {
        Operator::ScmpCmpNe => Is::NotEqual,
        Operator::ScmpCmpLt => Is::Less,
        Operator::ScmpCmpLe => Is::LessOrEqual,
        Operator::ScmpCmpEq => Is::Equal,
        Operator::ScmpCmpGe => Is::GreaterOrEqual,
        Operator::ScmpCmpGt => Is::Greater,
        // `value` is the mask, `valueTwo` what has to come out.
        Operator::ScmpCmpMaskedEq => Is::EqualIn(arg.value()),
    };
    let value = if matches!(is, Is::EqualIn(_)) { arg.value_two().unwrap_or(0) } else { arg.value() };
    Ok(Condition { index, is, value })
}

fn verdict(action: Action, errno: Option<u32>) -> Result<Verdict> {
    // `seccomp(2)`: what comes with the action is 16 bits, an errno at most 4095.
    if let Some(errno) = errno.filter(|errno| *errno > 4095) {
        return Err(Error::usage("linux.seccomp", format!("errnoRet {errno} is no errno")));
    }
    if action == Action::ScmpActNotify {
        return Ok(Verdict(NOTIFY));
    }
    Ok(Verdict(action.as_u32(errno)))
}

#[cfg(test)]
mod tests {
    use nix::libc;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::bpf::tests::{Call, run};
    use super::*;

    fn made(config: Value) -> Result<Filter> {
        filter(&serde_json::from_value(config).unwrap())
    }

    fn judge(filter: &Filter, number: libc::c_long, args: [u64; 6]) -> Verdict {
        let number = u32::try_from(number).unwrap();
        run(&filter.program, Call { arch: NATIVE_ARCH, number, args })
    }

    #[test]
    fn rules_mean_what_they_mean_to_libseccomp() {
        let filter = made(json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13,
            "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC"],
            "syscalls": [
                { "names": ["read", "no_such_call", "write"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["read"], "action": "SCMP_ACT_ERRNO", "args":
                    [{ "index": 0, "value": 5, "op": "SCMP_CMP_EQ" }] },
                { "names": ["mmap"], "action": "SCMP_ACT_ALLOW", "args": [
                    { "index": 0, "value": 7, "op": "SCMP_CMP_EQ" },
                    { "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] },
                { "names": ["close"], "action": "SCMP_ACT_ERRNO", "errnoRet": 9, "args": [
                    { "index": 0, "value": 0xff, "valueTwo": 3, "op": "SCMP_CMP_MASKED_EQ" },
                    { "index": 1, "value": 1, "op": "SCMP_CMP_GE" }] },
                { "names": ["statx"], "action": "SCMP_ACT_KILL_PROCESS" },
            ],
        }))
        .unwrap();
        assert_eq!(filter.flags, 2);
        let args = |first, second| [first, second, 0, 0, 0, 0];
        for (call, args, expected) in [
            (libc::SYS_read, args(5, 0), Verdict::ALLOW),
            (libc::SYS_mmap, args(7, 0), Verdict::ALLOW),
            (libc::SYS_mmap, args(8, 0), Verdict::ALLOW),
            (libc::SYS_mmap, args(9, 0), Verdict::errno(13)),
            (libc::SYS_close, args(0x103, 1), Verdict::errno(9)),
            (libc::SYS_close, args(0x103, 0), Verdict::errno(13)),
            (libc::SYS_statx, args(0, 0), Verdict(0x8000_0000)),
            (libc::SYS_getpid, args(0, 0), Verdict::errno(13)),
            (libc::SYS_statx + 1, args(0, 0), Verdict::ENOSYS),
        ] {
            assert_eq!(judge(&filter, call, args), expected, "{call} {args:?}");
        }
    }

    #[test]
    fn a_list_of_what_is_refused_lets_the_rest_pass() {
        let filter = made(json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{ "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO" }],
        }))
        .unwrap();
        assert_eq!(judge(&filter, libc::SYS_mkdirat, [0; 6]), Verdict::errno(1));
        assert_eq!(judge(&filter, 1000, [0; 6]), Verdict::ALLOW);
        let x32 = |call: libc::c_long| judge(&filter, call | 0x4000_0000, [0; 6]);
        assert_eq!(judge(&filter, 0xffff_ffff, [0; 6]), Verdict::ALLOW, "one that a tracer takes back");
        assert_eq!((x32(libc::SYS_mkdirat), x32(libc::SYS_read)), (Verdict::ENOSYS, Verdict::ENOSYS));
        assert_eq!(filter.flags, SPEC_ALLOW);
    }

    #[test]
    fn a_listener_is_asked_for_where_it_is_needed() {
        let filter = made(json!({
            "defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
            "syscalls": [{ "names": ["mknod"], "action": "SCMP_ACT_NOTIFY" }],
        }))
        .unwrap();
        assert_eq!(filter.flags, NEW_LISTENER | WAIT_KILLABLE);
        assert_eq!(judge(&filter, libc::SYS_mknod, [0; 6]), Verdict(NOTIFY));
        assert_eq!(judge(&filter, libc::SYS_read, [0; 6]), Verdict::ALLOW);
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let with = |call: Value| made(json!({ "defaultAction": "SCMP_ACT_ERRNO", "syscalls": [call] }));
        let notify = with(json!({ "names": ["read", "sendmsg"], "action": "SCMP_ACT_NOTIFY" })).unwrap_err();
        assert!(notify.why.contains("sendmsg"), "{notify}");
        assert!(made(json!({ "defaultAction": "SCMP_ACT_NOTIFY" })).is_err());
        let arg = json!([{ "index": 6, "value": 0, "op": "SCMP_CMP_EQ" }]);
        assert!(with(json!({ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": arg })).is_err());
        assert!(with(json!({ "names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000 })).is_err());
    }

    proptest! {
        #[test]
        fn every_configuration_that_parses_becomes_a_filter_or_an_error(
            names in prop::collection::vec("[a-z_0-9]{1,9}|read|clone|ioctl", 0..5), index in 0..8_usize,
            value: u64, errno in prop::option::of(0..9999_u32),
        ) {
            let call = json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": errno,
                "args": [{ "index": index, "value": value, "op": "SCMP_CMP_LE" }] });
            let _ = made(json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call] }));
        }
    }
}

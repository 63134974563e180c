//! Who the process is and what it may do: the same for init and for a process that joins.

use std::ffi::{CString, OsStr};
use std::fmt::Display;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;
use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimitType, Process, Spec};
use rustix::fs::{FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{self, CapabilitySet, CapabilitySets};

use super::identity::{self, Identity, Who};
use super::labels::Labels;
use super::plan::c_string;
use super::root;
use super::scheduling::Scheduling;
use super::seccomp::{Filter, Notify, Wanted};
use crate::error::{Error, Result};
use crate::spec::settings::Settings;
use crate::sys::keyring;

/// The file mode creation mask where the configuration names none.
const UMASK: u32 = 0o022;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process is started with.
#[derive(Clone, Debug)]
pub(super) struct ProcessPlan {
    pub(super) args: Vec<CString>,
    pub(super) env: Vec<CString>,
    pub(super) cwd: CString,
    pub(super) who: Who,
    /// Supplementary groups on top of the user's own, by name or number.
    pub(super) groups: Vec<String>,
    pub(super) umask: u32,
    pub(super) capabilities: Option<CapabilityPlan>,
    pub(super) rlimits: Vec<(Resource, Rlimit)>,
    pub(super) no_new_privileges: bool,
    pub(super) oom_score_adj: Option<i32>,
    pub(super) wanted_filter: Option<Wanted>,
    /// Made by [`assume`], where it was not before.
    pub(super) filter: Option<Filter>,
    /// Whom the filter asks.
    pub(super) notify: Option<Notify>,
    pub(super) labels: Labels,
    /// How many descriptors from 3 on it has beyond 0, 1 and 2.
    pub(super) preserved: usize,
    pub(super) scheduling: Scheduling,
}

/// The five sets of `capabilities(7)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CapabilityPlan {
    pub(super) bounding: CapabilitySet,
    effective: CapabilitySet,
    permitted: CapabilitySet,
    inheritable: CapabilitySet,
    ambient: CapabilitySet,
}

impl ProcessPlan {
    /// Connects to whom the filter asks, before the child is made that will tell it.
    pub(super) fn connect_listener(&mut self) -> Result<()> {
        self.notify.as_mut().map_or(Ok(()), Notify::connect)
    }

    /// Limits the stack, unless there is a limit already.
    pub(super) fn limit_stack(&mut self, limit: Option<Rlimit>) {
        let named = self.rlimits.iter().any(|(resource, _)| *resource == Resource::Stack);
        self.rlimits.extend(limit.filter(|_| !named).map(|limit| (Resource::Stack, limit)));
    }

    /// The plan for `process` in the container that `spec` describes.
    pub(super) fn of(process: &Process, spec: &Spec, settings: &Settings) -> Result<Self> {
        let args = process.args().as_deref().unwrap_or_default();
        if args.first().is_none_or(String::is_empty) {
            return Err(Error::usage("process.args", "is empty"));
        }
        let cwd = process.cwd();
        if !cwd.is_absolute() {
            return Err(Error::usage(format!("process.cwd {}", cwd.display()), "is not an absolute path"));
        }
        let user = process.user();
        let strings = |what: &str, texts: &[String]| -> Result<Vec<CString>> {
            texts.iter().map(|text| c_string(what, text)).collect()
        };
        let mut rlimits = Vec::new();
        for limit in process.rlimits().iter().flatten() {
            if limit.soft() > limit.hard() {
                let what = format!("process.rlimits {}", limit.typ());
                return Err(Error::usage(what, "the soft limit is above the hard one"));
            }
            // `None` is RLIM_INFINITY.
            let value = |value: u64| (value != u64::MAX).then_some(value);
            let value = Rlimit { current: value(limit.soft()), maximum: value(limit.hard()) };
            rlimits.push((resource(limit.typ()), value));
        }
        let capabilities = process.capabilities().as_ref().map(CapabilityPlan::of);
        Ok(Self {
            args: strings("argument", args)?,
            env: strings("environment", process.env().as_deref().unwrap_or_default())?,
            cwd: c_string("process.cwd", cwd)?,
            who: match user.username() {
                Some(name) => Who::Named(name.clone()),
                None => Who::Numbers {
                    uid: user.uid(),
                    gid: user.gid(),
                    groups: user.additional_gids().clone().unwrap_or_default(),
                },
            },
            groups: settings.groups.clone(),
            umask: user.umask().unwrap_or(UMASK),
            capabilities,
            rlimits,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: process.oom_score_adj(),
            wanted_filter: Wanted::of(spec, settings, capabilities),
            filter: None,
            notify: Notify::of(spec)?,
            labels: Labels::of(process)?,
            preserved: 0,
            scheduling: Scheduling::of(process, spec)?,
        })
    }

    /// The value of `name` in the environment: the last one counts.
    pub(super) fn variable(&self, name: &str) -> Option<&[u8]> {
        let value = |entry: &'_ CString| {
            let rest = entry.as_bytes().strip_prefix(name.as_bytes())?;
            rest.first().is_some_and(|c| *c == b'=').then_some(())
        };
        let entry = self.env.iter().rfind(|entry| value(entry).is_some())?;
        entry.as_bytes().get(name.len() + 1..)
    }

    /// What loading the filter takes: CAP_SYS_ADMIN, unless the process gives up all gain by
    /// executing. It is effective until `execve`, which takes from everybody what is not in the
    /// bounding set, and from who is not root whatever is not ambient.
    fn to_load_filter(&self) -> CapabilitySet {
        match &self.wanted_filter {
            Some(_) if !self.no_new_privileges => CapabilitySet::SYS_ADMIN,
            _ => CapabilitySet::empty(),
        }
    }

    /// Where a command without a slash is looked for.
    pub(super) fn path(&self) -> &[u8] {
        self.variable("PATH").unwrap_or(DEFAULT_PATH.as_bytes())
    }
}

impl CapabilityPlan {
    const fn nothing() -> Self {
        let empty = CapabilitySet::empty();
        Self { bounding: empty, effective: empty, permitted: empty, inheritable: empty, ambient: empty }
    }

    pub(super) fn of(capabilities: &LinuxCapabilities) -> Self {
        let set = |names: &Option<Capabilities>| {
            names.iter().flatten().fold(CapabilitySet::empty(), |set, name| set | bit(&name.to_string()))
        };
        Self {
            bounding: set(capabilities.bounding()),
            effective: set(capabilities.effective()),
            permitted: set(capabilities.permitted()),
            inheritable: set(capabilities.inheritable()),
            ambient: set(capabilities.ambient()),
        }
    }

    /// Whatever is in one of its sets.
    pub(super) fn all(self) -> CapabilitySet {
        self.bounding | self.effective | self.permitted | self.inheritable | self.ambient
    }
}

/// `CAP_CHOWN` or `CHOWN`, as a set of one; empty for a name that this build does not know, which
/// is then not granted.
fn bit(name: &str) -> CapabilitySet {
    CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap_or(name)).unwrap_or(CapabilitySet::empty())
}

/// The kernel's name of a limit.
pub(super) fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}

/// The host's own /proc, before any mount of the container.
pub(super) const OOM_SCORE: &str = "/proc/self/oom_score_adj";

/// Tells the OOM killer how much this process is worth. Lowering the score needs CAP_SYS_RESOURCE, which
/// the host may lack: then a bundle's process keeps the score it has; what a user asks for was refused
/// before ([`super::means`]).
pub(super) fn set_oom_score(score: Option<i32>) -> Result<()> {
    let Some(score) = score else { return Ok(()) };
    match std::fs::write(OOM_SCORE, score.to_string()) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(()),
        other => other.map_err(|error| Error::io("write", OOM_SCORE, &error)),
    }
}

/// Becomes the process's user with the process's rights, in its directory. `plan` gains HOME where
/// it has none, and its filter. Nothing privileged is possible afterwards but to load the filter.
pub(super) fn assume(plan: &mut ProcessPlan, root: impl AsFd) -> Result<()> {
    let identity = identity::resolve(&plan.who, &plan.groups, &root)?;
    if plan.variable("HOME").is_none() {
        plan.env.push(c_string("environment", format!("HOME={}", identity.home))?);
    }
    for (resource, limit) in &plan.rlimits {
        limit_resource(*resource, *limit)?;
    }
    rustix::process::umask(Mode::from_raw_mode(plan.umask & 0o777));
    plan.scheduling.apply()?;
    own_pipes(&identity)?;
    // As root first: the directory may be below one that the user may not search.
    let entered = enter_cwd(plan, &root);
    become_user(&identity, plan)?;
    if plan.filter.is_none() {
        plan.filter = plan.wanted_filter.as_ref().map(Wanted::compile).transpose()?;
    }
    if plan.no_new_privileges {
        thread::set_no_new_privs(true).map_err(|errno| Error::os("set no-new-privileges", errno))?;
    }
    if entered.is_err() {
        enter_cwd(plan, &root).map_err(|errno| cwd_error(plan, errno))?;
    }
    verify_cwd(plan)
}

/// Not by `chdir`: `/proc/self/fd/N` would lead to whatever this process has open (CVE-2024-21626).
fn enter_cwd(plan: &ProcessPlan, root: impl AsFd) -> Result<(), Errno> {
    let cwd = Path::new(OsStr::from_bytes(plan.cwd.as_bytes()));
    rustix::process::fchdir(root::open(root, cwd, OFlags::PATH | OFlags::DIRECTORY)?)
}

fn cwd_error(plan: &ProcessPlan, errno: Errno) -> Error {
    let error = Error::at("change to the working directory", plan.cwd.to_string_lossy().as_ref(), errno);
    match errno {
        Errno::MFILE => error.hint("--ulimit nofile allows the command fewer files than its start takes"),
        _ => error.hint("it has to exist inside the container; `--cwd` chooses another"),
    }
}

/// And once more from the result: a directory outside the root has no path that the kernel could
/// tell.
fn verify_cwd(plan: &ProcessPlan) -> Result<()> {
    match rustix::process::getcwd(Vec::new()) {
        Ok(cwd) if cwd.as_bytes().starts_with(b"/") => Ok(()),
        Ok(_) | Err(Errno::NOENT) => Err(Error::failed(
            format!("change to the working directory {}", plan.cwd.to_string_lossy()),
            "it is outside the container's root",
        )),
        Err(errno) => Err(cwd_error(plan, errno)),
    }
}

/// Sets a limit. A hard limit cannot be raised without CAP_SYS_RESOURCE, which the host may lack: then a
/// bundle's process gets as much as this one has; what a user asks for was refused before
/// ([`super::means`]).
fn limit_resource(resource: Resource, wanted: Rlimit) -> Result<()> {
    let failed = |errno| Error::os(format!("set the limit {resource:?}"), errno);
    match setrlimit(resource, wanted) {
        Err(Errno::PERM) => {
            let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let capped =
                |value: Option<u64>| Some(value.unwrap_or(u64::MAX).min(most)).filter(|v| *v != u64::MAX);
            let capped = Rlimit { current: capped(wanted.current), maximum: capped(wanted.maximum) };
            setrlimit(resource, capped).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// `statfs(2)`: pipes without a name.
const PIPEFS_MAGIC: rustix::fs::FsWord = 0x5049_5045;

/// A pipe belongs to who made it, and `> /dev/stdout` opens it anew: without this a user who is
/// not root would be refused.
fn own_pipes(identity: &Identity) -> Result<()> {
    if identity.uid == 0 {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    for fd in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        if is_pipe(fd)? {
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(|errno| match errno {
                Errno::INVAL => unmapped(&format!("user {} or group {}", identity.uid, identity.gid), errno),
                errno => Error::os("give standard output to the container's user", errno),
            })?;
        }
    }
    Ok(())
}

/// That the kernel refused `ids`: its only reason is a user namespace that does not have them.
fn unmapped(ids: &str, errno: Errno) -> Error {
    let error = Error::os(format!("become {ids}"), errno);
    if errno != Errno::INVAL {
        return error;
    }
    Error { why: "not in the container's user namespace".to_owned(), ..error }
        .hint("--userns auto:size=NUMBER, or map:CONTAINER:HOST:SIZE, says which IDs it has")
}

/// Whether `fd` is a pipe without a name: a FIFO with one is somebody's file.
pub(super) fn is_pipe(fd: impl AsFd) -> Result<bool> {
    let stat = rustix::fs::fstat(&fd).map_err(|errno| Error::os("look at standard output", errno))?;
    let unnamed = rustix::fs::fstatfs(&fd).is_ok_and(|fs| fs.f_type == PIPEFS_MAGIC);
    Ok(unnamed && FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
}

fn become_user(identity: &Identity, plan: &ProcessPlan) -> Result<()> {
    let step = |what: &'static str| move |errno| Error::os(what, errno);
    // What a process without a plan has: everything as root, nothing as anybody else.
    let nothing = CapabilityPlan::nothing();
    let capabilities = plan.capabilities.or((identity.uid != 0).then_some(nothing));
    if let Some(capabilities) = plan.capabilities {
        drop_bounding(capabilities.bounding)?;
    }
    // setresuid would take the permitted set along with root.
    thread::set_keep_capabilities(true).map_err(step("keep capabilities"))?;
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let unmapped = |what: &str, id: &dyn Display| {
        let ids = format!("{what} {id}");
        move |errno| unmapped(&ids, errno)
    };
    let listed = identity.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    thread::set_thread_groups(&groups).map_err(unmapped("one of the groups", &listed))?;
    thread::set_thread_res_gid(gid, gid, gid).map_err(unmapped("group", &identity.gid))?;
    thread::set_thread_res_uid(uid, uid, uid).map_err(unmapped("user", &identity.uid))?;
    thread::set_keep_capabilities(false).map_err(step("keep capabilities"))?;
    let Some(capabilities) = capabilities else { return Ok(()) };
    set_capabilities(capabilities, plan.to_load_filter())?;
    thread::clear_ambient_capability_set().map_err(step("clear the ambient capabilities"))?;
    // The kernel takes only what is inheritable and permitted as well; configurations that name more
    // are common, and mean no harm.
    let ours = thread::capabilities(None).map_err(step("read the capabilities"))?.permitted;
    let ambient = capabilities.ambient & capabilities.inheritable & capabilities.permitted & ours;
    for capability in ambient.iter() {
        thread::configure_capability_in_ambient_set(capability, true)
            .map_err(step("set the ambient capabilities"))?;
    }
    Ok(())
}

/// Sets what this process may do to what it is planned to, and `more`.
fn set_capabilities(plan: CapabilityPlan, more: CapabilitySet) -> Result<()> {
    let step = |what: &'static str| move |errno| Error::os(what, errno);
    // Nobody can give what they have not: podrun itself may run with less than every capability.
    let ours = thread::capabilities(None).map_err(step("read the capabilities"))?.permitted;
    let sets = CapabilitySets {
        effective: (plan.effective | more) & ours,
        permitted: (plan.permitted | more) & ours,
        inheritable: plan.inheritable & ours,
    };
    thread::set_capabilities(None, sets).map_err(step("set the capabilities"))
}

/// For a process that stays and executes nothing: puts down what [`assume`] kept for the filter, and
/// is filtered as every other process of the container.
pub(super) fn settle(plan: &ProcessPlan) -> Result<()> {
    let Some(filter) = &plan.filter else { return Ok(()) };
    // Only now: a process that executes nothing loses nothing by it.
    thread::set_no_new_privs(true).map_err(|errno| Error::os("set no-new-privileges", errno))?;
    // As `execve` would have it: to who is not root nothing is left.
    let left =
        if rustix::process::getuid().is_root() { plan.capabilities } else { Some(CapabilityPlan::nothing()) };
    if let Some(left) = left {
        set_capabilities(left, CapabilitySet::empty())?;
    }
    filter.load(plan.notify.as_ref())
}

/// For a process that will fork once more: is filtered, and puts down what [`assume`] kept for that.
pub(super) fn filter_and_put_down(plan: &ProcessPlan) -> Result<()> {
    let Some(filter) = &plan.filter else { return Ok(()) };
    filter.load(plan.notify.as_ref())?;
    match plan.capabilities {
        Some(left) => set_capabilities(left, CapabilitySet::empty()),
        None => Ok(()),
    }
}

/// What is not in the bounding set can never be gained again, not by a set-user-ID program either.
fn drop_bounding(keep: CapabilitySet) -> Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(capability) {
            continue;
        }
        match thread::remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            // Beyond the last one that this kernel knows.
            Err(Errno::INVAL) => return Ok(()),
            Err(errno) => return Err(Error::os("limit the capabilities", errno)),
        }
    }
    Ok(())
}

/// A process that joins must not be traced, nor its descriptors and memory read, from inside before
/// it executes (CVE-2016-9962). `execve` makes it ordinary again.
pub(super) fn hide_from_tracers() -> Result<()> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|errno| Error::os("become undumpable", errno))
}

/// Makes this process the leader of a session without a terminal.
pub(super) fn new_session() -> Result<()> {
    rustix::process::setsid().map(drop).map_err(|errno| Error::os("start a session", errno))
}

/// Takes this process out of the session keyring of whoever started podrun, whose keys are none of
/// the container's.
pub(super) fn new_keyring() -> Result<()> {
    match keyring::new_session() {
        // A kernel without keys.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        other => other.map_err(|error| {
            Error::io("make a session", "keyring", &error).hint("`create --no-new-keyring` does without one")
        }),
    }
}

/// The exit status of a child that failed: what the command line would exit with.
pub(super) fn failure_status(error: &Error) -> libc::c_int {
    error.launch_exit_code().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_of_the_configuration_is_one_the_kernel_knows() {
        for name in ["CAP_CHOWN", "CAP_SYS_ADMIN", "CAP_CHECKPOINT_RESTORE", "NET_RAW"] {
            assert_eq!(bit(name).bits().count_ones(), 1, "{name}");
        }
        assert!(bit("CAP_UNHEARD_OF").is_empty());
    }
}

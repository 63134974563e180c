//! AppArmor and SELinux: the label that a process has from its `execve` on.
//!
//! It is written to `/proc/self/attr`, through a procfs that nobody else can see or mount upon
//! (CVE-2019-19921, CVE-2025-52881), by the very process that will execute.

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::mounts::new_file_system;
use crate::error::{Error, Result};

/// What a process is labelled with; nothing, mostly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Labels {
    apparmor: Option<String>,
    selinux: Option<String>,
}

impl Labels {
    /// The labels of `process`. A host that cannot enforce one is an error: a wall that is silently
    /// left out is worse than a container that does not start.
    pub(super) fn of(process: &Process) -> Result<Self> {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let apparmor = some(process.apparmor_profile()).filter(|profile| profile != "unconfined");
        let selinux = some(process.selinux_label());
        apparmor.as_deref().map(check_apparmor).transpose()?;
        selinux.as_deref().map(check_selinux).transpose()?;
        Ok(Self { apparmor, selinux })
    }

    /// A procfs for [`write`](Self::write), where there is something to write. Before the root is
    /// left: afterwards nobody may mount.
    pub(super) fn prepare(&self) -> Result<Option<OwnedFd>> {
        match self {
            Self { apparmor: None, selinux: None } => Ok(None),
            _ => new_file_system("proc", &[], 0).map(Some),
        }
    }

    /// Asks for the labels at the next `execve` of this process.
    pub(super) fn write(&self, proc: &OwnedFd) -> Result<()> {
        if let Some(profile) = &self.apparmor {
            write(proc, "apparmor/exec", &format!("exec {profile}"))
                .map_err(|errno| apparmor_error(profile, errno))?;
        }
        if let Some(label) = &self.selinux {
            write(proc, "exec", label)
                .map_err(|errno| Error::os(format!("set the SELinux label {label}"), errno))?;
        }
        Ok(())
    }

    /// Takes the AppArmor profile on at once: for who stays in the container and executes nothing. No such thing with
    /// SELinux, whose policies forbid it; nor is there need, since they tell apart who may look into whom.
    pub(super) fn take_on(&self, proc: &OwnedFd) -> Result<()> {
        let Some(profile) = &self.apparmor else { return Ok(()) };
        write(proc, "apparmor/current", &format!("changeprofile {profile}"))
            .map_err(|errno| apparmor_error(profile, errno))
    }
}

fn write(proc: &OwnedFd, file: &str, text: &str) -> Result<(), Errno> {
    let path = Path::new("thread-self/attr").join(file);
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    // `thread-self` is a link, but not a magic one.
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = openat2(proc, path, flags, Mode::empty(), resolve)?;
    rustix::io::write(file, text.as_bytes()).map(drop)
}

fn apparmor_error(profile: &str, errno: Errno) -> Error {
    match errno {
        Errno::NOENT => Error::failed(format!("AppArmor profile {profile}"), "is not loaded")
            .hint("`apparmor_parser -r FILE` loads one; `aa-status` lists what is loaded"),
        errno => Error::os(format!("set the AppArmor profile {profile}"), errno),
    }
}

/// Refuses `profile` where the kernel does not have it: before there is a container.
fn check_apparmor(profile: &str) -> Result<()> {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    if !enabled.is_ok_and(|text| text.starts_with('Y')) {
        let what = format!("AppArmor profile {profile}");
        return Err(Error::failed(what, "this host's kernel does not have AppArmor enabled")
            .hint("leave it out, or boot with `apparmor=1 security=apparmor`"));
    }
    // Asks, and changes nothing. Whether it may be taken on is another question, for the one who shall.
    match ask("/proc/thread-self/attr/apparmor/current", &format!("permprofile {profile}")) {
        Err(Errno::NOENT) => Err(apparmor_error(profile, Errno::NOENT)),
        _ => Ok(()),
    }
}

/// Refuses `label` where the kernel could do nothing with it: before there is a container.
pub(super) fn check_selinux(label: &str) -> Result<()> {
    let wrong = |why: &str| Error::failed(format!("SELinux label {label}"), why);
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(wrong("this host's kernel does not have SELinux enabled")
            .hint("leave it out, or boot with `selinux=1 security=selinux`"));
    }
    // Without a policy every process is what the kernel calls itself, and every label means that.
    if std::fs::read_to_string("/proc/thread-self/attr/current").is_ok_and(|own| !own.contains(':')) {
        return Err(wrong("this host has no SELinux policy loaded").hint("`load_policy` loads it"));
    }
    match ask("/sys/fs/selinux/context", label) {
        Err(Errno::INVAL) => Err(wrong("is none in this host's SELinux policy")
            .hint("a label is USER:ROLE:TYPE:LEVEL, each of which the policy has to know")),
        // Not everybody may ask.
        _ => Ok(()),
    }
}

/// Writes `text` to a file of the kernel that answers with an error or none.
fn ask(file: &str, text: &str) -> Result<(), Errno> {
    // A file that is not there is no answer.
    let Ok(file) = rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return Ok(());
    };
    rustix::io::write(file, text.as_bytes()).map(drop)
}

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
        if let Some(profile) = &apparmor {
            let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
            if !enabled.is_ok_and(|text| text.starts_with('Y')) {
                let what = format!("AppArmor profile {profile}");
                return Err(Error::failed(what, "this host's kernel does not have AppArmor enabled")
                    .hint("leave it out, or boot with `apparmor=1 security=apparmor`"));
            }
        }
        if let Some(label) = &selinux {
            host_has_selinux(label)?;
        }
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
            let text = format!("exec {profile}");
            let own = write(proc, "apparmor/exec", &text);
            // Before Linux 5.8 AppArmor shares the file with the others.
            let written = if own == Err(Errno::NOENT) { write(proc, "exec", &text) } else { own };
            written.map_err(|errno| match errno {
                Errno::NOENT => Error::failed(format!("AppArmor profile {profile}"), "is not loaded")
                    .hint("`apparmor_parser -r FILE` loads one; `aa-status` lists what is loaded"),
                errno => Error::os(format!("set the AppArmor profile {profile}"), errno),
            })?;
        }
        if let Some(label) = &self.selinux {
            write(proc, "exec", label)
                .map_err(|errno| Error::os(format!("set the SELinux label {label}"), errno))?;
        }
        Ok(())
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

/// Refuses `label` where the kernel could do nothing with it.
pub(super) fn host_has_selinux(label: &str) -> Result<()> {
    if Path::new("/sys/fs/selinux/enforce").exists() {
        return Ok(());
    }
    Err(Error::failed(format!("SELinux label {label}"), "this host's kernel does not have SELinux enabled")
        .hint("leave it out, or boot with `selinux=1 security=selinux`"))
}

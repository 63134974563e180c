//! A new keeper and shim for a container: which program they are, and the first that is asked of them.
//!
//! ```text
//!  spawn ─▶ keeper and shim, outside the caller's session, terminal, cgroup and limits
//!    └─ a socket pair ─▶ begin: the first request, with the container's lock ─▶ init's pid
//! ```

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::connection::{self, Client, not_a_shim};
use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Result};
use crate::paths::{ContainerId, Roots};
use crate::protocol::{Reply, Request};
use crate::state::lock::Lock;
use crate::sys;
use crate::sys::spawn::{Leaving, Program};

/// The shim's program.
const SHIM: &str = "podrun-shim";
/// The descriptor at which a shim finds its control socket.
const CONTROL: i32 = 3;

/// A keeper and a shim that wait for their first request; without one they end.
pub(super) struct Newborn {
    client: Client,
    /// Nothing of the container may run before it is gone.
    leaving: Leaving,
}

/// Checks that what limits this process would not limit a shim, which lifts what it may.
pub fn check_limits() -> Result<()> {
    let Some(limit) = sys::limit::obstacle() else { return Ok(()) };
    let (name, letter) = (limit.name, limit.letter);
    let hint = match limit.least {
        sys::limit::DESCRIPTORS => format!("`ulimit {letter} {}` or more", limit.least),
        _ => format!("`ulimit {letter} unlimited`; --ulimit {name}=… limits the container alone"),
    };
    Err(Error::failed("start a shim", format!("this process is limited by `ulimit {letter}`")).hint(hint))
}

/// Spawns a keeper and a shim.
pub(super) fn spawn(roots: &Roots, id: &ContainerId) -> Result<Newborn> {
    check_limits()?;
    let shim = &shim_program()?;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| Error::os("create a socket pair", errno))?;
    // Outside the caller's cgroup, whose end must not be the shim's. Without cgroups there is no
    // such end either.
    let shims = Cgroup::create(&cgroup::shims_path(roots)?)?;
    let program = c_string(shim.as_os_str().as_bytes())?;
    let arguments = [c_string(SHIM.as_bytes())?, c_string(id.as_str().as_bytes())?];
    let environment = match std::env::var_os("PODRUN_LOG") {
        Some(level) => vec![c_string(&[b"PODRUN_LOG=", level.as_bytes()].concat())?],
        None => vec![],
    };
    let leaving = sys::spawn::detached(
        Program::Path(&program),
        &arguments,
        &environment,
        &[(theirs.as_fd(), CONTROL)],
        Some(shims.as_fd()),
    )
    .map_err(|error| Error::io("start", shim, &error))?;
    tracing::debug!("started {}, and a keeper with it", shim.display());
    Ok(Newborn { client: Client::new(ours), leaving })
}

/// Has a new shim do its first `request`. Init's pid.
pub(super) fn begin(newborn: Newborn, request: Request, lock: &Lock) -> Result<(Client, i32)> {
    let Newborn { mut client, leaving } = newborn;
    tracing::debug!("asks the shim to {}", connection::name(&request));
    client.send(&request, &[lock.as_fd()])?;
    let answer = client.receive()?;
    drop(leaving);
    match answer {
        Some((Reply::Launched { pid }, _)) => {
            tracing::debug!("the container's init is process {pid}");
            Ok((client, pid))
        }
        Some((Reply::Refused(error), _)) => Err(error),
        Some(_) => Err(not_a_shim()),
        None if client.welcomed => Err(Error::failed("the container's shim", "died while it began")),
        None => Err(Error::failed(format!("start {SHIM}"), "it ended without a word")
            .hint("install podrun and podrun-shim of the same release; PODRUN_SHIM names another one")),
    }
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::failed("start a shim", "an argument contains a NUL byte"))
}

/// The shim's program: `$PODRUN_SHIM`; beside this program; in libexec; in `PATH`.
pub fn shim_program() -> Result<PathBuf> {
    let hint = "install podrun-shim beside podrun, or name it in PODRUN_SHIM";
    if let Some(named) = std::env::var_os("PODRUN_SHIM") {
        let path = PathBuf::from(named);
        return match path.metadata() {
            Ok(_) => std::path::absolute(&path).map_err(|error| Error::io("resolve", &path, &error)),
            Err(error) => Err(Error::io("find", &path, &error).hint(hint)),
        };
    }
    let own = std::env::current_exe().ok();
    let bin = own.as_deref().and_then(Path::parent);
    let beside = bin.map(|dir| dir.join(SHIM));
    let libexec = bin.and_then(Path::parent).map(|prefix| prefix.join("libexec/podrun").join(SHIM));
    let system = [PathBuf::from("/usr/local/libexec/podrun"), PathBuf::from("/usr/libexec/podrun")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = beside
        .into_iter()
        .chain(libexec)
        .chain(system.map(|dir| dir.join(SHIM)))
        .chain(std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(SHIM)));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| Error::failed(format!("find {SHIM}"), "no such file or directory").hint(hint))
}

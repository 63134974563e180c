//! `SCMP_ACT_NOTIFY`: a listener outside decides about system calls. It gets a descriptor for that with the filter.
//!
//! ```text
//!  parent  connect to listenerPath ──clone──▶ child
//!                                             load the filter ─▶ a descriptor
//!                                             sendmsg: the descriptor, and whose it is ─▶ listener
//!                                             execve
//! ```
//!
//! The child itself is filtered by then, so that `sendmsg` cannot be one of those calls; everything that the
//! message takes is there before (runtime specification, `config-linux.md`, "The Container Process State").

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction as Action, Spec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;

use crate::error::{Error, Result};
use crate::paths::ContainerId;
use crate::state::Status;
use crate::sys::pass;

/// Who is told of a process's filter, and what.
#[derive(Clone, Debug)]
pub(in crate::launch) struct Notify {
    path: PathBuf,
    state: ProcessState,
    connection: Option<Rc<OwnedFd>>,
    message: Vec<u8>,
}

/// `ContainerProcessState` of the specification.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProcessState {
    oci_version: String,
    fds: [&'static str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<String>,
    state: ContainerState,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerState {
    oci_version: String,
    id: String,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: PathBuf,
    annotations: HashMap<String, String>,
}

/// Whether `wanted` leaves a decision to somebody else.
pub(super) fn asks(wanted: &LinuxSeccomp) -> bool {
    let mut actions = wanted.syscalls().iter().flatten().map(|call| call.action());
    wanted.default_action() == Action::ScmpActNotify || actions.any(|action| action == Action::ScmpActNotify)
}

impl Notify {
    /// Whom the filter of `spec` asks, where it asks somebody.
    pub(in crate::launch) fn of(spec: &Spec) -> Result<Option<Self>> {
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let Some(seccomp) = seccomp.filter(|seccomp| asks(seccomp)) else { return Ok(None) };
        let Some(path) = seccomp.listener_path().clone() else {
            return Err(Error::usage("linux.seccomp", "SCMP_ACT_NOTIFY needs a listenerPath"));
        };
        let state = ContainerState {
            oci_version: spec.version().clone(),
            id: String::new(),
            status: Status::Created,
            pid: None,
            bundle: PathBuf::new(),
            annotations: spec.annotations().clone().unwrap_or_default(),
        };
        let state = ProcessState {
            oci_version: spec.version().clone(),
            fds: ["seccompFd"],
            pid: 0,
            metadata: seccomp.listener_metadata().clone(),
            state,
        };
        Ok(Some(Self { path, state, connection: None, message: Vec::new() }))
    }

    /// Whose process it is. Without an `init` it is the container's own.
    pub(in crate::launch) fn tell_container(&mut self, id: &ContainerId, bundle: &Path, init: Option<i32>) {
        let state = &mut self.state.state;
        (state.id, state.bundle) = (id.to_string(), bundle.to_owned());
        if init.is_some() {
            (state.pid, state.status) = (init, Status::Running);
        }
    }

    /// Connects to the listener, from where its path is known.
    pub(in crate::launch) fn connect(&mut self) -> Result<()> {
        let failed = |errno| {
            Error::at("connect to the seccomp listener", &self.path, errno)
                .hint("linux.seccomp.listenerPath is the socket of the program that decides")
        };
        let address = SocketAddrUnix::new(&self.path).map_err(failed)?;
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(failed)?;
        // One that does not accept holds nobody up.
        rustix::net::connect(&socket, &address).map_err(failed)?;
        rustix::io::ioctl_fionbio(&socket, false).map_err(failed)?;
        self.connection = Some(Rc::new(socket));
        Ok(())
    }

    /// What the child must keep for it.
    pub(in crate::launch) fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.connection.as_ref().map(|socket| socket.as_fd())
    }

    /// Writes the message down, for the process that is `pid` to the one who connected.
    pub(in crate::launch) fn prepare(&mut self, pid: i32) -> Result<()> {
        self.state.pid = pid;
        self.state.state.pid.get_or_insert(pid);
        self.message = serde_json::to_vec(&self.state)
            .map_err(|error| Error::failed("write the state for a seccomp listener", error.to_string()))?;
        Ok(())
    }

    /// Hands the descriptor of the filter over.
    pub(super) fn hand_over(&self, listener: &OwnedFd) -> Result<()> {
        let failed = |errno| Error::at("hand the filter to the seccomp listener", &self.path, errno);
        let socket = self.fd().ok_or_else(|| failed(Errno::NOTCONN))?;
        let mut sent = pass::send(socket, &self.message, &[listener.as_fd()]).map_err(failed)?;
        while let Some(rest) = self.message.get(sent..).filter(|rest| !rest.is_empty()) {
            sent += pass::send(socket, rest, &[]).map_err(failed)?;
        }
        Ok(())
    }
}

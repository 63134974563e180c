//! A process inside, seen to its end whatever becomes of the shims.
//!
//! ```text
//!  Exec + witness ──▶ shim ──clone──▶ child ── "I" + pid ──▶ witness
//!                                 └── or why it did not become the command, where no shim could tell
//!       shim dies ─┬─ the child had spoken, or its pid was told: ExecWait to the next shim
//!                  └─ the witness is at its end: there never was a child: Exec to the next shim
//! ```
//!
//! So it runs once: neither twice, nor not at all.

use std::io::{IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType, recvmsg,
    socketpair, sockopt,
};

use super::reach::{Reached, reach};
use super::{Client, Received};
use crate::error::{Error, Result};
use crate::paths::{ContainerId, Roots};
use crate::protocol::frame::MAX_BODY;
use crate::protocol::{Exec, Reply, Request};
use crate::state::ProcessRef;
use crate::state::store::View;
use crate::sys::fd::is_unread;

/// One process that a client has run.
#[derive(Debug)]
pub struct Execution<'a> {
    roots: &'a Roots,
    id: &'a ContainerId,
    request: Request,
    fds: [BorrowedFd<'a>; 3],
    client: Client,
    /// Speaks when the process exists, and ends when there is none.
    witness: OwnedFd,
    process: Option<ProcessRef>,
    /// A shim has said that the command was executed.
    started: bool,
    /// The signals of which it is not known that a shim has received them.
    signals: Vec<i32>,
    /// How many have been asked since one last said that it is a shim, or answered.
    unanswered: u32,
}

/// After so many it is not their death that keeps them from answering.
const PATIENCE: u32 = 100;

/// How an execution began.
#[derive(Debug)]
pub enum Begun<'a> {
    /// It was asked for.
    Execution(Box<Execution<'a>>),
    /// There is no shim to ask.
    NotRunning(Box<View>),
}

impl<'a> Execution<'a> {
    /// Asks for a process in container `id`, on `fds`; calls `ready` before there can be one.
    pub fn begin(
        roots: &'a Roots,
        id: &'a ContainerId,
        exec: Exec,
        fds: [BorrowedFd<'a>; 3],
        ready: impl FnOnce() -> Result<()>,
    ) -> Result<Begun<'a>> {
        let mut client = match reach(roots, id)? {
            Reached::Shim(client) => client,
            Reached::Without(view) => return Ok(Begun::NotRunning(view)),
        };
        ready()?;
        tracing::debug!("asks the shim for a process in {id}");
        let request = Request::Exec(Box::new(Exec { witnessed: true, ..exec }));
        let witness = ask(&mut client, &request, fds)?;
        Ok(Begun::Execution(Box::new(Self {
            roots,
            id,
            request,
            fds,
            client,
            witness,
            process: None,
            started: false,
            signals: Vec::new(),
            unanswered: 0,
        })))
    }

    /// The next reply if it is there. Closed: the container ended, and this process with it.
    pub fn try_receive(&mut self) -> Result<Received> {
        loop {
            match self.client.try_receive()? {
                Received::Closed => {
                    if !self.go_on()? {
                        return Ok(Received::Closed);
                    }
                }
                Received::Reply(reply, fds) => {
                    self.unanswered = 0;
                    if let Reply::Started { pid, start_time } = *reply {
                        tracing::debug!("it is process {pid}");
                        self.process = Some(ProcessRef { pid, start_time });
                        self.started = true;
                    }
                    if let (Reply::ExecEnded(_), false, Some(error)) = (&*reply, self.started, self.failure())
                    {
                        return Ok(Received::Reply(Box::new(Reply::Refused(error)), fds));
                    }
                    return Ok(Received::Reply(reply, fds));
                }
                Received::NotYet => return Ok(Received::NotYet),
            }
        }
    }

    /// Whether there ever was a process.
    pub fn began(&self) -> bool {
        self.process.is_some()
    }

    /// Whether a shim has said that the command was executed.
    pub fn started(&self) -> bool {
        self.started
    }

    /// Ends what is not known to have become the command. False: it has.
    pub fn withdraw(&mut self) -> bool {
        if !self.started {
            // A shim that is gone has nothing to withdraw.
            let _ = self.signal(nix::libc::SIGKILL);
        }
        !self.started
    }

    /// Sends the process a signal. Where a shim dies without having received it, the next one does; of two at once
    /// both go to the next one, though the first may have been passed on.
    pub fn signal(&mut self, signal: i32) -> Result<()> {
        let all_heard = !is_unread(self.client.as_fd());
        self.client.send(&Request::ExecSignal { signal }, &[])?;
        // A shim that is still there was so when it was asked about.
        if all_heard && !self.client.unheard {
            self.signals.clear();
        }
        self.signals.push(signal);
        Ok(())
    }

    /// Why the process, which has ended, never became the command, where it was not a shim that told.
    fn failure(&self) -> Option<Error> {
        let mut text = Vec::new();
        let witness = self.witness.try_clone().ok()?;
        std::fs::File::from(witness).take(MAX_BODY as u64).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// With the next shim. False where there will be none.
    fn go_on(&mut self) -> Result<bool> {
        // One that has said what it is was a shim: it may be upgraded as often as anybody likes.
        self.unanswered = if self.client.welcomed { 0 } else { self.unanswered + 1 };
        if self.unanswered > PATIENCE {
            return Err(super::not_a_shim());
        }
        if self.process.is_none() {
            self.process = testimony(&self.witness)?.map(|pid| {
                // It may be gone by now; then it is known by its pid alone.
                ProcessRef::of(pid).unwrap_or(ProcessRef { pid, start_time: 0 })
            });
        }
        let Ok(Reached::Shim(mut client)) = reach(self.roots, self.id) else { return Ok(false) };
        match self.process {
            Some(process) => client.send(&Request::ExecWait(process), &[])?,
            None => self.witness = ask(&mut client, &self.request, self.fds)?,
        }
        let signals = std::mem::take(&mut self.signals);
        let unheard = std::mem::replace(&mut self.client, client).unheard;
        if unheard {
            signals.into_iter().try_for_each(|signal| self.signal(signal))?;
        }
        Ok(true)
    }
}

impl AsFd for Execution<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.client.as_fd()
    }
}

/// Sends the request, and keeps this side of the witness.
fn ask(client: &mut Client, request: &Request, fds: [BorrowedFd<'_>; 3]) -> Result<OwnedFd> {
    let failed = |errno| Error::os("create a socket pair", errno);
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(failed)?;
    sockopt::set_socket_passcred(&ours, true).map_err(failed)?;
    let [stdin, stdout, stderr] = fds;
    client.send(request, &[stdin, stdout, stderr, theirs.as_fd()])?;
    Ok(ours)
}

/// The pid of the process that has spoken, `None` where there is none. The dead shim's copy of the other
/// end is closed, and so this does not wait for longer than a child takes to its first call.
fn testimony(witness: &OwnedFd) -> Result<Option<i32>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = loop {
        match recvmsg(witness, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other.map_err(|errno| Error::os("ask whether the process exists", errno))?,
        }
    };
    if received.bytes == 0 {
        return Ok(None);
    }
    let pid = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(of) => Some(of.pid.as_raw_nonzero().get()),
        _ => None,
    });
    Ok(pid)
}

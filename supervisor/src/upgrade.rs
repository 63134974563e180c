//! Live upgrade: the shim becomes another program in the same process, and its container does not notice.
//!
//! ```text
//!  Request::Upgrade + program ─▶ probe: does it start, and understand our state? ─no─▶ refused
//!                                  │ yes
//!                                  ▼
//!                       keeper: becomes it first ──▶ "renewed"       (or cannot: refused)
//!                                  │
//!                                  ▼
//!         nobody is owed an answer ──▶ Luggage into a memory file ──▶ execve ══▶ resume ─▶ driver
//!                                                                      └ fails: refused, all goes on
//! ```
//!
//! The process stays the same: its pid, its children, whoever waits for them, and the lock. What it holds goes
//! on in descriptors, named by [`Luggage`]; what it knows goes on as the [`Facts`] that also a shim gets which
//! takes over from a dead one. The listening socket never closes, so that clients find somebody at once:
//! those that wait, follow or have a process inside ask the new program again where they were; the one that
//! asked for the upgrade keeps its connection, and is answered by the new program. The log's writer notices
//! that its shim has closed and leaves, and the next one goes on from its journal.
//!
//! The keeper goes first. Should the shim die before it has become the new program, the new keeper makes a new
//! shim of what the old one held: an older state is one that the new program has said it understands.
//!
//! From the moment when the state is taken to the `execve` nothing else runs: it is one step of the one thread.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use podrun::error::{Error, Result};
use podrun::launch::Terminal;
use podrun::log::line::Stream;
use podrun::protocol::Reply;
use podrun::sys;
use rustix::io::Errno;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::driver::Driver;
use crate::exec::Inside;
use crate::keep::Slot;
use crate::ledger::Ledger;
use crate::machine::Ticket;
use crate::memory_file;

mod luggage;
mod probe;

pub(crate) use luggage::{Resumed, format, number, resume, take, understand};
pub(crate) use probe::{CHECK, check};

use luggage::Luggage;
use probe::probe;

/// The argument that tells a shim where its luggage is.
pub(crate) const SHIM: &str = "--state-fd=";

/// How long a program may take to say whether it understands, a keeper to become it, and clients to be
/// answered.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a running shim needs for its upgrade, beyond what its driver has anyway.
#[derive(Debug)]
pub(crate) struct Upgrades {
    pub(crate) listener: Rc<UnixListener>,
    pub(crate) inside: Inside,
    under_way: Option<UnderWay>,
}

#[derive(Debug)]
struct UnderWay {
    ticket: Ticket,
    client: OwnedFd,
    image: Rc<OwnedFd>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Probing(JoinHandle<Result<()>>),
    /// The keeper has until then to become the new program.
    Renewing(Instant),
    /// Clients have until then to be answered.
    Ready(Instant),
}

/// What comes next.
#[derive(Debug)]
pub(crate) enum Step {
    Probed(Result<()>),
    Late(&'static str),
    Go,
}

impl Upgrades {
    pub(crate) fn new(listener: Rc<UnixListener>, inside: Inside) -> Self {
        Self { listener, inside, under_way: None }
    }

    /// Waits for the next step of an upgrade. `calm`: nothing is half done in the container.
    pub(crate) async fn next(&mut self, calm: bool, ledger: &Ledger) -> Step {
        match self.under_way.as_mut().map(|under_way| &mut under_way.stage) {
            None => std::future::pending().await,
            Some(Stage::Probing(task)) => Step::Probed(match task.await {
                Ok(outcome) => outcome,
                Err(error) => Err(Error::failed("check the new program", error.to_string())),
            }),
            Some(Stage::Renewing(until)) => {
                tokio::time::sleep_until(*until).await;
                Step::Late("its keeper does not answer")
            }
            Some(Stage::Ready(until)) => {
                let quiet = async {
                    match calm {
                        true => ledger.all_answered().await,
                        false => std::future::pending().await,
                    }
                };
                match tokio::time::timeout_at(*until, quiet).await {
                    Ok(()) => Step::Go,
                    Err(_) => Step::Late("it is about to do what another client wants"),
                }
            }
        }
    }
}

impl Driver<'_> {
    /// Begins to become `program`; `client` is the connection of whoever wants that.
    pub(crate) fn upgrade(&mut self, ticket: Ticket, program: &OwnedFd, client: OwnedFd) {
        let begun = (|| {
            if self.upgrades.under_way.is_some() {
                return Err(Error::failed("control socket", "it is being upgraded already"));
            }
            let image = sys::program::unwritable(program);
            let image = Rc::new(image.map_err(|error| Error::io("use", "the new program", &error))?);
            let sample = self.sample(client.as_fd())?;
            let task = tokio::task::spawn_local(probe(image.clone(), sample, self.known.clone()));
            Ok(UnderWay { ticket, client, image, stage: Stage::Probing(task) })
        })();
        match begun {
            Ok(under_way) => self.upgrades.under_way = Some(under_way),
            Err(error) => self.answer(ticket, Reply::Refused(self.not_upgraded(&error))),
        }
    }

    /// The next step of an upgrade.
    pub(crate) fn upgrade_step(&mut self, step: Step) {
        let later = Instant::now() + PATIENCE;
        match step {
            Step::Probed(Ok(())) => {
                let Some(under_way) = &mut self.upgrades.under_way else { return };
                under_way.stage = match self.keep.renew(under_way.image.as_fd()) {
                    true => Stage::Renewing(later),
                    false => Stage::Ready(later),
                };
            }
            Step::Probed(Err(error)) => self.refuse_upgrade(&error),
            Step::Late(why) => self.refuse_upgrade(&Error::failed("upgrade", why).hint("try again")),
            Step::Go => {
                let Err(error) = self.become_it();
                self.refuse_upgrade(&error);
            }
        }
    }

    /// The keeper has become the new program, or not: `errno` then says why.
    pub(crate) fn keeper_renewed(&mut self, errno: i32) {
        let Some(under_way) = &mut self.upgrades.under_way else { return };
        if !matches!(under_way.stage, Stage::Renewing(_)) {
            return;
        }
        match errno {
            0 => under_way.stage = Stage::Ready(Instant::now() + PATIENCE),
            errno => {
                self.refuse_upgrade(&Error::os("execute the new program", Errno::from_raw_os_error(errno)))
            }
        }
    }

    /// There is no keeper any more that could be renewed.
    pub(crate) fn no_keeper_to_renew(&mut self) {
        self.keeper_renewed(0);
    }

    fn refuse_upgrade(&mut self, error: &Error) {
        if let Some(under_way) = self.upgrades.under_way.take() {
            tracing::warn!("not upgraded: {error}");
            self.answer(under_way.ticket, Reply::Refused(self.not_upgraded(error)));
        }
    }

    fn not_upgraded(&self, error: &Error) -> Error {
        let refused = Error::failed(format!("upgrade container {}", self.state.id), error.to_string());
        refused.hint(error.hint.clone().unwrap_or_else(|| "its shim goes on as it was".to_owned()))
    }

    /// What is to stay open, each in its place.
    fn held<'a>(
        &'a self,
        stdin: Option<&'a OwnedFd>,
        terminal: Option<&'a Terminal>,
    ) -> Vec<(Slot, BorrowedFd<'a>)> {
        let mut held =
            vec![(Slot::Listener, self.upgrades.listener.as_fd()), (Slot::Init, self.pidfd.as_fd())];
        held.extend(self.lock.iter().map(|lock| (Slot::Lock, lock.as_fd())));
        held.extend(self.closed_gate.iter().map(|gate| (Slot::Gate, gate.as_fd())));
        held.extend(self.ending.iter().map(|ending| (Slot::Ending, ending.as_fd())));
        held.extend(stdin.map(|stdin| (Slot::Stdin, stdin.as_fd())));
        match terminal {
            Some(Terminal { master, slave }) => {
                held.extend([(Slot::Master, master.as_fd()), (Slot::Slave, slave.as_fd())]);
            }
            None => held.extend(self.logger.sources().iter().map(|(stream, pipe)| match stream {
                Stream::Stdout => (Slot::Stdout, pipe.as_fd()),
                Stream::Stderr => (Slot::Stderr, pipe.as_fd()),
            })),
        }
        held
    }

    /// All of it, as the next program reads it.
    fn pack(&self, held: &[(Slot, BorrowedFd<'_>)], client: BorrowedFd<'_>) -> Result<Vec<u8>> {
        let luggage = Luggage {
            format: format().to_owned(),
            facts: self.facts(self.machine.memory().clone()),
            slots: held.iter().map(|(slot, fd)| (*slot, fd.as_raw_fd())).collect(),
            channel: self.keep.channel().as_raw_fd(),
            keeper: self.keep.pid(),
            exits: self.shared.exits.all(),
            execs: self
                .upgrades
                .inside
                .all()
                .iter()
                .map(|(process, pidfd)| (*process, pidfd.as_raw_fd()))
                .collect(),
            client: client.as_raw_fd(),
        };
        serde_json::to_vec(&luggage)
            .map_err(|error| Error::failed("pack the shim's state", error.to_string()))
    }

    /// The same before it is needed, for the probe.
    fn sample(&self, client: BorrowedFd<'_>) -> Result<Vec<u8>> {
        let (stdin, terminal) = (self.shared.stdin.borrow(), self.shared.terminal.borrow());
        self.pack(&self.held(stdin.as_ref(), terminal.as_ref()), client)
    }

    /// Becomes the new program. Returns only if that fails.
    fn become_it(&self) -> Result<std::convert::Infallible> {
        let over = || Error::failed("upgrade", "is over");
        let UnderWay { client, image, .. } = self.upgrades.under_way.as_ref().ok_or_else(over)?;
        let (stdin, terminal) = (self.shared.stdin.borrow(), self.shared.terminal.borrow());
        let held = self.held(stdin.as_ref(), terminal.as_ref());
        let state = memory_file::write(&self.pack(&held, client.as_fd())?)?;
        let execs = self.upgrades.inside.all();
        let others = [self.keep.channel(), client.as_fd(), state.as_fd()];
        let keep = held.iter().map(|(_, fd)| *fd).chain(others);
        let keep: Vec<_> = keep.chain(execs.iter().map(|(_, pidfd)| pidfd.as_fd())).collect();
        let error = sys::program::replace(&**image, &arguments(SHIM, state.as_raw_fd())?, &keep);
        Err(Error::io("execute", "the new program", &error))
    }
}

/// The arguments of this program's successor: its own, and where to go on from.
pub(crate) fn arguments(option: &str, fd: RawFd) -> Result<[CString; 3]> {
    let own = |text: String| {
        CString::new(text).map_err(|_| Error::failed("upgrade", "an argument contains a NUL byte"))
    };
    let id = std::env::args().nth(1).unwrap_or_default();
    Ok([own("podrun-shim".to_owned())?, own(id)?, own(format!("{option}{fd}"))?])
}

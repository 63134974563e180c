//! The first process of a shim stays behind as its keeper, and makes another one when it dies.
//!
//! ```text
//!  podrun ──spawns──▶ keeper ──fork──▶ shim: launches, serves, pumps     SIGKILL, OOM, a crash
//!                       │  ◀──Packet── (descriptors: "hold these")            │
//!                       │ ◀─────────── init and exec'd processes reparent ────┘
//!                       └──fork──▶ the next shim, with all that the keeper holds
//! ```
//!
//! It holds duplicates of what a shim cannot get again: the pipes, the listening socket, the lock,
//! init's pidfd. As subreaper it becomes the parent of whoever the dead shim was the parent of;
//! their exit statuses wait here. It decides nothing, knows no container, and once it runs allocates
//! nothing: what it is asked to remember has fixed places.
//!
//! Init's zombie is left alone until a shim has written its exit record. Every other child is reaped
//! at once, for the init of a pid namespace cannot finish its own end before; its status is kept, and
//! told to the shim of the day.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc::{SIGCHLD, SIGTERM};
use podrun::error::{Error, Result};
use podrun::state::Ending;
use podrun::sys::process::{Forked, ended_child, fork};
use podrun::sys::signal::{self, Blocked, Incoming};
use podrun::sys::{self};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

mod renew;

pub(crate) use renew::{KEEPER, resume};

use crate::child::reap_pid;
use crate::keep::{Exit, Keep, Order, Packet, SLOTS, start_time};

/// A shim that lived this long has not crashed at once.
pub(crate) const LONG: Duration = Duration::from_secs(1);
/// How many shims may die at once one after the other before the next one has to wait.
const FREE: u32 = 3;
/// How long the next one then waits: twice as long each time, up to the second.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// After so long without news, which are many at the beginning, memory is given back.
const QUIET: Duration = Duration::from_secs(1);
/// How many ends of processes are remembered.
const EXITS: usize = 64;

/// What this process is, once it has split.
#[derive(Debug)]
pub(crate) enum Role {
    /// The first shim: the creating command is at the other end of `control`.
    First { control: OwnedFd, keep: Keep },
    /// A shim that takes over from a dead one.
    Next { held: Box<Held>, keep: Keep, before: Predecessor },
    /// The keeper of a container that has ended.
    Over,
}

/// How the shim before this one ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Predecessor {
    /// Its raw `wait` status.
    pub(crate) status: i32,
    /// How many died before it had lived for a moment, this one included.
    pub(crate) quick_deaths: u32,
    /// How long the keeper has waited because of that.
    pub(crate) pause: Duration,
}

/// What the keeper keeps for a shim.
#[derive(Debug)]
pub(crate) struct Held {
    /// By [`Slot`](crate::keep::Slot).
    pub(crate) slots: [Option<OwnedFd>; SLOTS],
    /// Processes that had reparented to the keeper and ended; the oldest are overwritten.
    pub(crate) exits: [Option<Exit>; EXITS],
    next_exit: usize,
    /// Init's pid, 0 before there is one.
    init: i32,
}

/// Splits this process into a keeper and a shim. Returns in each shim, and in the keeper at its end.
pub(crate) fn split(control: OwnedFd) -> Result<Role> {
    let failed = |error: &std::io::Error| Error::io("start", "the keeper", error);
    let blocked = signal::block_all().map_err(|error| failed(&error))?;
    let signals = Incoming::new().map_err(|error| failed(&error))?;
    let pid = rustix::process::getpid();
    let (channel, shim) = match make_shim().map_err(|error| failed(&error))? {
        Made::Keeper { channel, shim } => (channel, shim),
        Made::Shim { channel } => {
            begin_as_shim(blocked)?;
            return Ok(Role::First { control, keep: Keep::new(channel, pid) });
        }
    };
    // The end of the shim must be an end of file for the command.
    drop(control);
    let held = Held { slots: [const { None }; SLOTS], exits: [None; EXITS], next_exit: 0, init: 0 };
    let held = Box::new(held);
    let keeper = Keeper {
        signals,
        blocked,
        channel: Some(channel),
        shim: Some(shim),
        held,
        released: false,
        settled: false,
    };
    keeper.keep()
}

enum Made {
    Keeper { channel: OwnedFd, shim: i32 },
    Shim { channel: OwnedFd },
}

/// Forks a shim, with a channel of its own.
fn make_shim() -> std::io::Result<Made> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    Ok(match fork()? {
        Forked::Parent(shim) => Made::Keeper { channel: ours, shim },
        Forked::Child => Made::Shim { channel: theirs },
    })
}

/// What `fork` does not hand down.
fn begin_as_shim(blocked: Blocked) -> Result<()> {
    drop(blocked);
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| Error::os("become a subreaper", errno))
}

struct Keeper {
    signals: Incoming,
    blocked: Blocked,
    /// To the shim, until it has closed its end.
    channel: Option<OwnedFd>,
    /// The shim that lives.
    shim: Option<i32>,
    held: Box<Held>,
    /// The container has ended, and nothing needs keeping.
    released: bool,
    /// What only ran at the beginning was given back.
    settled: bool,
}

enum Watched {
    Over,
    Next { held: Box<Held>, blocked: Blocked, channel: OwnedFd, before: Predecessor },
}

impl Keeper {
    /// Keeps until there is nothing to keep; returns also in each shim that it makes.
    fn keep(self) -> Result<Role> {
        let pid = rustix::process::getpid();
        match self.watch() {
            Watched::Over => Ok(Role::Over),
            Watched::Next { held, blocked, channel, before } => {
                begin_as_shim(blocked)?;
                Ok(Role::Next { held, keep: Keep::new(channel, pid), before })
            }
        }
    }

    fn watch(mut self) -> Watched {
        let mut born = Instant::now();
        let mut before = Predecessor { status: 0, quick_deaths: 0, pause: Duration::ZERO };
        let mut due = None;
        while !self.released {
            self.wait(due);
            // What the shim has said, before its death is looked at.
            self.listen();
            if let Some(status) = self.reap() {
                // One that has never handed anything over has created nothing.
                if status == 0 || self.held.init == 0 {
                    return Watched::Over;
                }
                self.channel = None;
                before = after_death(status, born.elapsed(), before.quick_deaths);
                due = Some(Instant::now() + before.pause);
            }
            if due.is_none_or(|due| due > Instant::now()) || self.released {
                continue;
            }
            match make_shim() {
                Ok(Made::Shim { channel }) => {
                    return Watched::Next { held: self.held, blocked: self.blocked, channel, before };
                }
                Ok(Made::Keeper { channel, shim }) => {
                    (self.channel, self.shim, due) = (Some(channel), Some(shim), None);
                    born = Instant::now();
                }
                // No process, or no memory: there may be some later.
                Err(_) => due = Some(Instant::now() + BACK_OFF.1),
            }
        }
        Watched::Over
    }

    /// Waits for a packet, a signal, or the time to try again; the first time when nothing comes of that gives
    /// memory back.
    fn wait(&mut self, due: Option<Instant>) {
        let left = match due {
            Some(due) => Some(due.saturating_duration_since(Instant::now())),
            None => (!self.settled).then_some(QUIET),
        };
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let channel = self.channel.as_ref().map_or(self.signals.as_fd(), AsFd::as_fd);
        let mut fds = [
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(channel, PollFlags::IN),
        ];
        let mut woken = poll(&mut fds, left.as_ref());
        // Not where another shim is due.
        if woken == Ok(0) && due.is_none() {
            self.settled = true;
            woken = sys::memory::give_back_and(|| poll(&mut fds, None));
        }
        if woken.is_ok() && fds[0].revents().contains(PollFlags::IN) {
            match self.signals.wait() {
                // Whoever ends every process of a cgroup means the container.
                SIGTERM => self.shim.map_or((), |shim| drop(signal::kill(shim, SIGTERM))),
                // Looked at by whoever called.
                SIGCHLD => {}
                _ => {}
            }
        }
    }

    /// Takes every packet that is there.
    fn listen(&mut self) {
        while let Some(channel) = &self.channel {
            match Packet::receive(channel, &mut self.held.slots) {
                Ok(Some(packet)) => self.obey(packet),
                // The shim has closed, and so is dying.
                Ok(None) => self.channel = None,
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn obey(&mut self, packet: Packet) {
        if packet.init != 0 {
            self.held.init = packet.init;
        }
        match packet.order {
            Order::Keep => {}
            Order::ReapInit => drop(reap_pid(self.held.init)),
            Order::Release => self.released = true,
            Order::Renew => self.renew(),
        }
    }

    /// Reaps every child that has ended but init. The raw status of the shim, if it was among them.
    fn reap(&mut self) -> Option<i32> {
        // By its own number first: init's zombie may hide it.
        let ended = self.shim.and_then(reap_pid);
        if ended.is_some() {
            self.shim = None;
        }
        while let Some(pid) = ended_child() {
            if pid == self.held.init || Some(pid) == self.shim {
                break;
            }
            let start_time = start_time(pid).unwrap_or(0);
            let Some(status) = reap_pid(pid) else { break };
            let exit = Exit { pid, start_time, status };
            self.held.exits[self.held.next_exit] = Some(exit);
            self.held.next_exit = (self.held.next_exit + 1) % EXITS;
            if let Some(channel) = &self.channel {
                // One that is dying needs no news: the next one finds them here.
                let _ = exit.send(channel);
            }
        }
        ended
    }
}

/// What follows the death of a shim that had lived for `life`.
fn after_death(status: i32, life: Duration, quick_deaths: u32) -> Predecessor {
    let quick_deaths = if life < LONG { quick_deaths.saturating_add(1) } else { 0 };
    let pause = match quick_deaths.checked_sub(FREE) {
        None | Some(0) => Duration::ZERO,
        Some(more) => BACK_OFF.0.saturating_mul(1 << (more - 1).min(16)).min(BACK_OFF.1),
    };
    Predecessor { status, quick_deaths, pause }
}

impl Predecessor {
    /// What the container's state says of shims that die one after the other; `None` where they do not.
    pub(crate) fn trouble(&self) -> Option<String> {
        (!self.pause.is_zero()).then(|| format!("its shims die one after the other: {self}"))
    }
}

impl std::fmt::Display for Predecessor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match Ending::from_raw(self.status) {
            Some(Ending::Exited(code)) => write!(f, "the shim before ended with {code}")?,
            Some(Ending::Signaled { signal, .. }) => {
                write!(f, "the shim before was ended by signal {signal}")?;
            }
            None => f.write_str("the shim before ended")?,
        }
        if !self.pause.is_zero() {
            write!(f, ", the {}th in a row: this one waited {:?}", self.quick_deaths, self.pause)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shims_that_crash_at_once_come_ever_more_slowly_and_one_that_lived_comes_at_once() {
        let quick = Duration::from_millis(1);
        let mut deaths = 0;
        let mut pauses = Vec::new();
        for _ in 0..40 {
            let before = after_death(9, quick, deaths);
            deaths = before.quick_deaths;
            pauses.push(before.pause);
        }
        assert_eq!(pauses[..3], [Duration::ZERO; 3]);
        assert_eq!(pauses[3..6].iter().map(Duration::as_millis).collect::<Vec<_>>(), [50, 100, 200]);
        assert_eq!(pauses.last(), Some(&BACK_OFF.1));
        assert!(pauses.is_sorted());
        assert_eq!(after_death(9, LONG, deaths).pause, Duration::ZERO);
    }
}

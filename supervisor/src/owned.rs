//! Everything a shim holds: what it knows, and its descriptors.
//!
//! The driver begins with one [`Owned`] and knows no other beginning. Launching makes one; what the
//! keeper holds for the next shim is the same, descriptor by descriptor ([`Slot`]), with the
//! [`Facts`] as JSON in a memory file: [`Owned::hand_over`] and [`Owned::from_slots`].

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use jiff::Timestamp;
use podrun::error::{Error, Result};
use podrun::paths::{ContainerPaths, Roots};
use podrun::state::State;
use serde::{Deserialize, Serialize};

use crate::keep::{Keep, NOBODY, SLOTS, Slot};
use crate::machine::Memory;
use crate::streams::Streams;

/// What a shim knows of its container beyond `spec.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    /// Where the container lives.
    pub(crate) roots: Roots,
    /// What `state.json` says.
    pub(crate) state: State,
    /// What was decided.
    pub(crate) memory: Memory,
    /// When a container that is being stopped is killed.
    pub(crate) kill_at: Option<Timestamp>,
}

impl Facts {
    /// Has the keeper hold these facts, and `fds`.
    pub(crate) fn hand_over(&self, keep: &Keep, fds: &[(Slot, BorrowedFd<'_>)]) -> Result<()> {
        let bytes = serde_json::to_vec(self)
            .map_err(|error| Error::failed("remember the shim's state", error.to_string()))?;
        keep.hold(self.state.init.map_or(NOBODY, |init| init.pid), &bytes, fds)
    }
}

/// Everything a shim holds.
#[derive(Debug)]
pub(crate) struct Owned {
    /// What it knows.
    pub(crate) facts: Facts,
    /// The container's lock.
    pub(crate) lock: OwnedFd,
    /// The control socket, listening.
    pub(crate) listener: OwnedFd,
    /// Init.
    pub(crate) pidfd: OwnedFd,
    /// The container's output and input.
    pub(crate) streams: Streams,
    /// The gate at which init waits; absent once it was opened.
    pub(crate) gate: Option<OwnedFd>,
    /// Where a minimal init tells how the command ended (`--init`).
    pub(crate) ending: Option<OwnedFd>,
}

impl Owned {
    /// Every path of the container.
    pub(crate) fn paths(&self) -> ContainerPaths {
        self.facts.roots.container(&self.facts.state.id)
    }

    /// Has the keeper hold all of it for the next shim.
    pub(crate) fn hand_over(&self, keep: &Keep) -> Result<()> {
        let always = [(Slot::Lock, &self.lock), (Slot::Listener, &self.listener), (Slot::Init, &self.pidfd)];
        let some = [(Slot::Gate, &self.gate), (Slot::Ending, &self.ending)];
        let some = some.into_iter().filter_map(|(slot, fd)| Some((slot, fd.as_ref()?)));
        let streams = self.streams.slots();
        let fds = always.into_iter().chain(some).chain(streams);
        let fds: Vec<_> = fds.map(|(slot, fd)| (slot, fd.as_fd())).collect();
        self.facts.hand_over(keep, &fds)
    }

    /// What the keeper held for a shim that died.
    pub(crate) fn from_slots(mut slots: [Option<OwnedFd>; SLOTS]) -> Result<Self> {
        let wrong = |why: String| Error::failed("take over from a dead shim", why);
        let facts = slots[Slot::Facts as usize].take().ok_or_else(|| wrong("its state is missing".into()))?;
        let mut text = Vec::new();
        // Its offset is where the last one stopped writing, or reading.
        rustix::fs::seek(&facts, rustix::fs::SeekFrom::Start(0))
            .map_err(|errno| Error::os("read the shim's state", errno))?;
        std::fs::File::from(facts)
            .read_to_end(&mut text)
            .map_err(|error| Error::io("read", "the shim's state", &error))?;
        let facts = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        let mut take = |slot: Slot| slots[slot as usize].take();
        let missing = |slot: Slot| move || wrong(format!("its {slot:?} is missing"));
        Ok(Self {
            facts,
            lock: take(Slot::Lock).ok_or_else(missing(Slot::Lock))?,
            listener: take(Slot::Listener).ok_or_else(missing(Slot::Listener))?,
            pidfd: take(Slot::Init).ok_or_else(missing(Slot::Init))?,
            streams: Streams::from_slots(&mut take).ok_or_else(missing(Slot::Stdout))?,
            gate: take(Slot::Gate),
            ending: take(Slot::Ending),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podrun::launch::Terminal;
    use podrun::state::{Mode, Status};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    fn kept(streams: Streams) -> Streams {
        let id = "c".parse().unwrap();
        let state = State {
            status: Status::Created,
            ..State::creating(&id, Mode::Supervised, "/c".into(), "/b".into())
        };
        let facts = Facts {
            roots: Roots::new(None, None).unwrap(),
            state,
            memory: Memory { killed: true, ..Memory::default() },
            kill_at: None,
        };
        let owned = Owned {
            facts: facts.clone(),
            lock: fd(),
            listener: fd(),
            pidfd: fd(),
            streams,
            gate: None,
            ending: None,
        };
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        owned.hand_over(&Keep::new(theirs, rustix::process::getpid())).unwrap();
        drop(owned);
        let mut slots = [const { None }; SLOTS];
        crate::keep::Packet::receive(&ours, &mut slots).unwrap().unwrap();
        let owned = Owned::from_slots(slots).unwrap();
        assert_eq!(owned.facts, facts);
        assert!(owned.gate.is_none());
        assert!(Owned::from_slots([const { None }; SLOTS]).is_err());
        owned.streams
    }

    #[test]
    fn what_a_shim_holds_survives_in_its_keeper() {
        let pipes = Streams::Pipes { stdout: fd(), stderr: fd(), stdin: Some(fd()) };
        assert!(matches!(kept(pipes), Streams::Pipes { stdin: Some(_), .. }));
        let terminal = Streams::Terminal(Terminal { master: fd(), slave: fd() });
        assert!(matches!(kept(terminal), Streams::Terminal(_)));
    }
}

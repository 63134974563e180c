//! A keeper that becomes another program, in the same process, so that the next shim it forks is that one.
//!
//! ```text
//!  shim ── Renew + program ──▶ keeper ══ execve ══▶ keeper ── renewed ──▶ shim
//!                                 └ fails: "not renewed", and it goes on
//! ```
//!
//! Its children stay its children. Every signal is blocked before and after, and one that comes meanwhile waits.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use podrun::error::{Error, Result};
use podrun::sys::program;
use podrun::sys::signal::{self, Incoming};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{EXITS, Held, Keeper, Role};
use crate::keep::{Exit, SLOTS, Slot};
use crate::{memory_file, upgrade};

/// The argument that tells a keeper where its luggage is.
pub(crate) const KEEPER: &str = "--keeper-fd=";

/// What one program leaves to the next.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Luggage {
    format: String,
    channel: RawFd,
    shim: i32,
    init: i32,
    /// Descriptors, by their number.
    slots: Vec<(usize, RawFd)>,
    exits: Vec<Exit>,
}

impl Keeper {
    /// Becomes the program that the shim has sent, or tells the shim why not.
    pub(super) fn renew(&mut self) {
        let Err(error) = self.become_it();
        self.tell(error.errno().unwrap_or(Errno::INVAL).raw_os_error());
    }

    /// Whether it was renewed: 0, or the errno that says why not.
    fn tell(&self, errno: i32) {
        if let Some(channel) = &self.channel {
            let _ = Exit { pid: 0, start_time: 0, status: errno }.send(channel);
        }
    }

    fn become_it(&mut self) -> Result<std::convert::Infallible> {
        let missing = || Error::os("renew the keeper", Errno::INVAL);
        let image = self.held.slots[Slot::Program as usize].take().ok_or_else(missing)?;
        let channel = self.channel.as_ref().ok_or_else(missing)?;
        let held = self.held.slots.iter().enumerate();
        let held: Vec<_> = held.filter_map(|(slot, fd)| Some((slot, fd.as_ref()?.as_fd()))).collect();
        let luggage = Luggage {
            format: upgrade::format().to_owned(),
            channel: channel.as_raw_fd(),
            shim: self.shim.ok_or_else(missing)?,
            init: self.held.init,
            slots: held.iter().map(|(slot, fd)| (*slot, fd.as_raw_fd())).collect(),
            exits: self.held.exits.iter().flatten().copied().collect(),
        };
        let bytes = serde_json::to_vec(&luggage).map_err(|_| missing())?;
        let state = memory_file::write(&bytes)?;
        let keep: Vec<_> =
            held.into_iter().map(|(_, fd)| fd).chain([channel.as_fd(), state.as_fd()]).collect();
        let error = program::replace(&image, &upgrade::arguments(KEEPER, state.as_raw_fd())?, &keep);
        Err(Error::io("execute", "the new program", &error))
    }
}

/// Goes on as the keeper that another program was, with its luggage at the descriptor `fd`.
pub(crate) fn resume(fd: &str) -> Result<Role> {
    let failed = |error: &std::io::Error| Error::io("renew", "the keeper", error);
    let lost = || Error::failed("renew the keeper", "its state is incomplete");
    let one = |number: RawFd| -> Result<OwnedFd> { upgrade::take(&[number])?.pop().ok_or_else(lost) };
    let text = memory_file::read(one(upgrade::number(fd)?)?)?;
    let luggage: Luggage = serde_json::from_slice(&text)
        .map_err(|error| Error::failed("renew the keeper", error.to_string()))?;
    upgrade::understand(&luggage.format)?;
    let mut held =
        Held { slots: [const { None }; SLOTS], exits: [None; EXITS], next_exit: 0, init: luggage.init };
    for (slot, number) in luggage.slots {
        if let Some(place) = held.slots.get_mut(slot) {
            *place = Some(one(number)?);
        }
    }
    for (place, exit) in held.exits.iter_mut().zip(&luggage.exits) {
        *place = Some(*exit);
    }
    held.next_exit = luggage.exits.len() % EXITS;
    let blocked = signal::already_blocked().map_err(|error| failed(&error))?;
    let signals = Incoming::new().map_err(|error| failed(&error))?;
    let channel = Some(one(luggage.channel)?);
    let held = Box::new(held);
    let shim = Some(luggage.shim);
    let keeper = Keeper { signals, blocked, channel, shim, held, released: false, settled: false };
    keeper.tell(0);
    keeper.keep()
}

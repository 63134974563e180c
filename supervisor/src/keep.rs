//! What a shim and its keeper say to each other: one packet each, over a socketpair that is made anew
//! for every shim.
//!
//! ```text
//!  shim ──Packet: hold these descriptors, drop those; reap init; you may go──▶ keeper
//!       ◀──────────────── Exit: a process of yours ended, and how ───────────
//! ```
//!
//! A packet that was sent arrives, also where its sender dies right after it. Both sides send without
//! ever waiting: a stopped keeper holds nobody up.

use std::cell::Cell;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podrun::error::{Error, Result};
use podrun::sys::signal;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use crate::{fd, memory_file};

/// How many descriptors a keeper holds at most.
pub(crate) const SLOTS: usize = 12;

/// The pid of an init that is not there: the kernel gives it to nobody (`pid_max` is at most 2²²).
pub(crate) const NOBODY: i32 = i32::MAX;

/// The place of a descriptor in the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub(crate) enum Slot {
    /// A memory file with the [`Facts`](crate::owned::Facts).
    Facts,
    /// The container's lock.
    Lock,
    /// The control socket, listening.
    Listener,
    /// Init.
    Init,
    /// The reading end of the container's stdout.
    Stdout,
    /// The reading end of the container's stderr.
    Stderr,
    /// The writing end of the container's stdin.
    Stdin,
    /// The gate at which init waits.
    Gate,
    /// Where a minimal init tells how the command ended.
    Ending,
    /// The master of the container's terminal.
    Master,
    /// Its slave.
    Slave,
    /// What the keeper is to become ([`Order::Renew`]).
    Program,
}

impl Slot {
    fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// What a keeper is to do beyond holding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Nothing.
    Keep,
    /// Reap init: its exit record is written.
    ReapInit,
    /// End.
    Release,
    /// Become the program that is beside it, and tell.
    Renew,
}

/// One packet from a shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    /// The slots of the descriptors beside it, which are in this order.
    pub(crate) hold: u16,
    /// The slots to empty.
    pub(crate) drop: u16,
    /// Init's pid, 0 for no news, [`NOBODY`] where there is none for now.
    pub(crate) init: i32,
    pub(crate) order: Order,
}

const PACKET: usize = 9;

impl Packet {
    const NOTHING: Self = Self { hold: 0, drop: 0, init: 0, order: Order::Keep };

    fn encode(self) -> [u8; PACKET] {
        let mut bytes = [0; PACKET];
        bytes[..2].copy_from_slice(&self.hold.to_le_bytes());
        bytes[2..4].copy_from_slice(&self.drop.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.init.to_le_bytes());
        bytes[8] = self.order as u8;
        bytes
    }

    fn decode(bytes: [u8; PACKET]) -> Self {
        let [hold0, hold1, drop0, drop1, init @ .., order] = bytes;
        Self {
            hold: u16::from_le_bytes([hold0, hold1]),
            drop: u16::from_le_bytes([drop0, drop1]),
            init: i32::from_le_bytes(init),
            order: match order {
                1 => Order::ReapInit,
                2 => Order::Release,
                3 => Order::Renew,
                _ => Order::Keep,
            },
        }
    }

    fn send(self, channel: impl AsFd, fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SLOTS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Errno::MSGSIZE);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        sendmsg(channel, &[IoSlice::new(&self.encode())], &mut control, flags).map(drop)
    }

    /// The next packet, its descriptors put into `slots` already; `None` at the end. Allocates nothing.
    pub(crate) fn receive(
        channel: impl AsFd,
        slots: &mut [Option<OwnedFd>; SLOTS],
    ) -> rustix::io::Result<Option<Self>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SLOTS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut bytes = [0; PACKET];
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let received = recvmsg(channel, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
        if received.bytes != PACKET {
            return Ok(None);
        }
        let packet = Self::decode(bytes);
        let mut places = (0..SLOTS).filter(|slot| packet.hold & (1 << slot) != 0);
        for message in control.drain() {
            let RecvAncillaryMessage::ScmRights(fds) = message else { continue };
            for (fd, place) in fds.zip(&mut places) {
                slots[place] = Some(fd);
            }
        }
        for (place, slot) in slots.iter_mut().enumerate() {
            if packet.drop & (1 << place) != 0 {
                *slot = None;
            }
        }
        Ok(Some(packet))
    }
}

/// The end of a process that had reparented to the keeper; with a pid of 0, what came of [`Order::Renew`]: an
/// errno, or 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    /// Its pid, free for others by now.
    pub(crate) pid: i32,
    /// Field 22 of its `/proc/PID/stat`, 0 where that could not be read.
    pub(crate) start_time: u64,
    /// Its raw `wait` status.
    pub(crate) status: i32,
}

const EXIT: usize = 16;

impl Exit {
    pub(crate) fn send(self, channel: impl AsFd) -> rustix::io::Result<()> {
        let mut bytes = [0; EXIT];
        bytes[..4].copy_from_slice(&self.pid.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.status.to_le_bytes());
        bytes[8..].copy_from_slice(&self.start_time.to_le_bytes());
        rustix::net::send(channel, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
    }

    fn decode(bytes: [u8; EXIT]) -> Self {
        let [p0, p1, p2, p3, s0, s1, s2, s3, start @ ..] = bytes;
        Self {
            pid: i32::from_le_bytes([p0, p1, p2, p3]),
            status: i32::from_le_bytes([s0, s1, s2, s3]),
            start_time: u64::from_le_bytes(start),
        }
    }
}

/// When the process `pid` was started: field 22 of `/proc/PID/stat`. Allocates nothing.
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    let mut path = [0; 32];
    let mut rest = &mut path[..];
    std::io::Write::write_fmt(&mut rest, format_args!("/proc/{pid}/stat\0")).ok()?;
    let path = std::ffi::CStr::from_bytes_until_nul(&path).ok()?;
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = [0; 1024];
    let length = rustix::io::read(&file, &mut text).ok()?;
    parse_start_time(&text[..length])
}

/// The second field is a name in brackets, which may hold brackets and spaces of its own.
fn parse_start_time(stat: &[u8]) -> Option<u64> {
    let after = memchr::memrchr(b')', stat)? + 2;
    let field = stat.get(after..)?.split(|byte| *byte == b' ').nth(19)?;
    std::str::from_utf8(field).ok()?.parse().ok()
}

/// A shim's side.
#[derive(Debug)]
pub(crate) struct Keep {
    channel: OwnedFd,
    keeper: Pid,
    lives: Cell<bool>,
}

impl Keep {
    pub(crate) fn new(channel: OwnedFd, keeper: Pid) -> Self {
        Self { channel, keeper, lives: Cell::new(true) }
    }

    /// The keeper's pid, while it lives.
    pub(crate) fn pid(&self) -> Option<i32> {
        self.lives.get().then(|| self.keeper.as_raw_nonzero().get())
    }

    /// Has the keeper hold `facts` and `fds` from now on, for the container whose init is `init`.
    pub(crate) fn hold(&self, init: i32, facts: &[u8], fds: &[(Slot, BorrowedFd<'_>)]) -> Result<()> {
        let file = memory_file::write(facts)?;
        let mut fds: Vec<(Slot, BorrowedFd<'_>)> =
            [(Slot::Facts, file.as_fd())].into_iter().chain(fds.iter().copied()).collect();
        fds.sort_by_key(|(slot, _)| *slot as u8);
        let hold = fds.iter().fold(0, |mask, (slot, _)| mask | slot.bit());
        let fds: Vec<BorrowedFd<'_>> = fds.into_iter().map(|(_, fd)| fd).collect();
        self.send(Packet { hold, init, ..Packet::NOTHING }, &fds);
        Ok(())
    }

    /// Has the keeper close what it holds at `slot`.
    pub(crate) fn let_go(&self, slot: Slot) {
        self.send(Packet { drop: slot.bit(), ..Packet::NOTHING }, &[]);
    }

    /// Has the keeper do `order`.
    pub(crate) fn order(&self, order: Order) {
        self.send(Packet { order, ..Packet::NOTHING }, &[]);
        if order == Order::Release {
            self.wake();
        }
    }

    /// Has a keeper that was stopped go on: it would never end, and never let go of the lock. Only while it is the
    /// parent: its number may be another one's afterwards.
    fn wake(&self) {
        if rustix::process::getppid() == Some(self.keeper) {
            let _ = signal::kill(self.keeper.as_raw_nonzero().get(), nix::libc::SIGCONT);
        }
    }

    /// Has the keeper become `program`; what came of it is a notice. False where there is no keeper.
    pub(crate) fn renew(&self, program: BorrowedFd<'_>) -> bool {
        self.send(Packet { hold: Slot::Program.bit(), order: Order::Renew, ..Packet::NOTHING }, &[program]);
        self.lives.get()
    }

    /// The way to the keeper.
    pub(crate) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// A keeper that is gone needs nothing; that it is shows in [`Notices`].
    fn send(&self, packet: Packet, fds: &[BorrowedFd<'_>]) {
        if !self.lives.get() {
            return;
        }
        match packet.send(&self.channel, fds) {
            Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
            Err(errno) => tracing::warn!("tell the keeper: {errno}"),
        }
    }

    /// What the keeper has to say.
    pub(crate) fn notices(&self) -> Result<Notices> {
        let channel = self.channel.try_clone();
        let channel = channel.map_err(|error| Error::io("watch", "the keeper", &error))?;
        fd::watch(channel, "the keeper").map(|channel| Notices(Some(channel)))
    }

    /// The keeper is gone.
    pub(crate) fn lost(&self) {
        self.lives.set(false);
    }
}

/// What a keeper says.
#[derive(Debug)]
pub(crate) struct Notices(Option<AsyncFd<OwnedFd>>);

impl Notices {
    /// The next end of a process; `None`, once, for the keeper's own.
    pub(crate) async fn next(&mut self) -> Option<Exit> {
        loop {
            let Some(channel) = &self.0 else { return std::future::pending().await };
            let Ok(mut guard) = channel.readable().await else { return std::future::pending().await };
            let mut bytes = [0; EXIT];
            match rustix::io::read(channel, &mut bytes) {
                Ok(EXIT) => return Some(Exit::decode(bytes)),
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(Errno::INTR) => {}
                Ok(_) | Err(_) => {
                    drop(guard);
                    self.0 = None;
                    return None;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let own = std::process::id().try_into().unwrap();
        let reference = podrun::state::ProcessRef::of(own).unwrap();
        assert_eq!(start_time(own), Some(reference.start_time));
        let fields: Vec<String> = (3..=52).map(|field| field.to_string()).collect();
        let stat = format!("1 (a) b (c)) {}\n", fields.join(" "));
        assert_eq!(parse_start_time(stat.as_bytes()), Some(22));
    }

    #[test]
    fn descriptors_arrive_at_their_places_and_leave_them() {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::SEQPACKET,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        let keep = Keep::new(theirs, Pid::from_raw(1).unwrap());
        let (read, write) = rustix::pipe::pipe().unwrap();
        keep.hold(7, b"facts", &[(Slot::Stdin, write.as_fd()), (Slot::Lock, read.as_fd())]).unwrap();
        let mut slots = [const { None }; SLOTS];
        let packet = Packet::receive(&ours, &mut slots).unwrap().unwrap();
        assert_eq!((packet.init, packet.order), (7, Order::Keep));
        rustix::io::write(slots[Slot::Stdin as usize].as_ref().unwrap(), b"x").unwrap();
        let mut byte = [0];
        rustix::io::read(slots[Slot::Lock as usize].as_ref().unwrap(), &mut byte).unwrap();
        assert_eq!(byte, *b"x");
        keep.let_go(Slot::Stdin);
        keep.order(Order::Release);
        Packet::receive(&ours, &mut slots).unwrap();
        assert!(slots[Slot::Stdin as usize].is_none() && slots[Slot::Lock as usize].is_some());
        assert_eq!(Packet::receive(&ours, &mut slots).unwrap().unwrap().order, Order::Release);
        drop(keep);
        assert_eq!(Packet::receive(&ours, &mut slots).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_stat_is_read_without_a_panic(stat in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_start_time(&stat);
        }
    }
}

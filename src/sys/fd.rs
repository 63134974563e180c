//! File descriptors as numbers: closing what nobody asked to keep.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc;

/// What `close_range(2)` does to the descriptors it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are closed now.
    Close,
    /// They are closed by the next `execve`.
    CloseOnExec,
}

/// Applies `fate` to every descriptor but those in `keep`, which is sorted.
#[expect(unsafe_code, reason = "close_range acts on descriptors that others own")]
pub(super) fn all_but(keep: &[RawFd], fate: Fate) -> io::Result<()> {
    // CLOSE_RANGE_CLOEXEC; a c_int in libc, unsigned in the kernel.
    let flags: libc::c_uint = if fate == Fate::Close { 0 } else { 4 };
    let mut first: libc::c_uint = 0;
    let close = |first: libc::c_uint, last: libc::c_uint| {
        // SAFETY: only called by a child that shares no descriptor table, holds nothing but
        // `keep`, and ends in execve or _exit: no owner of a closed number will ever use it.
        super::check(unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) }).map(drop)
    };
    for fd in keep {
        let fd = fd.unsigned_abs();
        if fd > first {
            close(first, fd - 1)?;
        }
        first = first.max(fd + 1);
    }
    close(first, libc::c_uint::MAX)
}

/// The numbers of `fds`, sorted.
pub(super) fn sorted(fds: &[BorrowedFd<'_>]) -> Vec<RawFd> {
    let mut numbers: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    numbers.sort_unstable();
    numbers
}

/// The descriptor that this program was started with at number `fd`. Once only: there is one owner.
#[expect(unsafe_code, reason = "takes ownership of a number")]
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: an integer; the call fails on a number that is not open.
    super::check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    // SAFETY: it is open, came with the program, and TAKEN makes this its only owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The descriptors of these numbers, which the program that this process ran before has left open for this
/// one. EBADF where one is not open, or is not of that kind.
#[expect(unsafe_code, reason = "takes ownership of numbers")]
pub fn left_open(numbers: &[RawFd]) -> io::Result<Vec<OwnedFd>> {
    let take = |fd: &RawFd| {
        // SAFETY: integers; the call fails on a number that is not open.
        let flags = super::check(unsafe { libc::fcntl(*fd, libc::F_GETFD) }.into())?;
        if *fd < 3 || flags & libc::c_long::from(libc::FD_CLOEXEC) != 0 {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        // SAFETY: as above.
        super::check(unsafe { libc::fcntl(*fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
        // SAFETY: it is open. Everything this program opens itself is close-on-exec, and so is what was
        // taken once: this one came through the execve, and has no owner yet.
        Ok(unsafe { OwnedFd::from_raw_fd(*fd) })
    };
    numbers.iter().map(take).collect()
}

/// The first `count` descriptors from 3 on that this program was started with. Once only: there is one
/// owner. EBADF where one of them is not open; then none was taken.
#[expect(unsafe_code, reason = "takes ownership of numbers")]
pub fn preserved(count: usize) -> io::Result<Vec<OwnedFd>> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let last = RawFd::try_from(count).ok().and_then(|count| count.checked_add(2));
    let fds = 3..=last.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
    for fd in fds.clone() {
        // SAFETY: an integer; the call fails on a number that is not open.
        super::check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) }.into())?;
    }
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: they are open, came with the program, since its first command asks before it opens
    // anything that lives on, and TAKEN makes this their only owner.
    Ok(fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}

/// Leaves 0, 1, 2 and as many as `preserved` from 3 on to the program that this process is about to
/// execute.
#[expect(unsafe_code, reason = "changes flags by number")]
pub fn only_stdio_survives_exec(preserved: usize) -> io::Result<()> {
    let more = RawFd::try_from(preserved).unwrap_or(RawFd::MAX - 3);
    let keep: Vec<RawFd> = (0..3 + more).collect();
    for fd in &keep[3..] {
        // SAFETY: integers; the number stays open, only its flag changes.
        super::check(unsafe { libc::fcntl(*fd, libc::F_SETFD, 0) }.into())?;
    }
    all_but(&keep, Fate::CloseOnExec)
}

/// Whether something that was sent to `socket` was not received yet. Of a peer that is gone this knows nothing.
#[expect(unsafe_code, reason = "neither rustix nor nix has this ioctl")]
pub fn is_unread(socket: BorrowedFd<'_>) -> bool {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the kernel writes one int, and this is one. SIOCOUTQ has this number, too.
    let asked = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    asked != 0 || bytes > 0
}

/// Closes everything but `keep`: for a child that will never use, nor drop, anything else.
pub fn close_all_but(keep: &[BorrowedFd<'_>]) -> io::Result<()> {
    all_but(&sorted(keep), Fate::Close)
}

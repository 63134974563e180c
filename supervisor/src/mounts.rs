//! A container's mounts, held for as long as it runs.
//!
//! Whoever ends as the last process of a mount namespace takes it apart before anybody hears of that end:
//! it unmounts everything, and waits for every processor to have noticed (RCU). That is 0.2 ms of the way
//! from init's end to those who wait for it. Held here, the namespace goes once they were told.
//!
//! Nothing depends on it: a shim that dies, or that could not open it, only makes an end slower.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

/// A mount namespace, which lives as long as this.
#[derive(Debug)]
pub(crate) struct Mounts {
    _namespace: OwnedFd,
}

impl Mounts {
    /// Those of the process `pid`, which the caller knows not to have been reaped. `None` where it has
    /// ended.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let path = format!("/proc/{pid}/ns/mnt");
        let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        opened.ok().map(|namespace| Self { _namespace: namespace })
    }
}

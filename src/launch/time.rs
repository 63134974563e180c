//! A time namespace: the monotonic clock and the one since boot, moved.

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::AsFd;

use super::plan::TimeOffset;
use crate::error::{Error, Result};

/// `CLONE_NEWTIME` (`time_namespaces(7)`), which nix does not name.
const NEWTIME: i32 = 0x80;

/// Makes a time namespace with these offsets, and enters it. By unshare, which keeps this process outside
/// until the offsets are written: they are final once somebody is inside. The host's `/proc` is still
/// there.
pub(super) fn enter_new(offsets: &[TimeOffset]) -> Result<()> {
    let failed = |errno| Error::os("make a time namespace", errno);
    nix::sched::unshare(CloneFlags::from_bits_retain(NEWTIME))
        .map_err(|errno| failed(rustix::io::Errno::from_raw_os_error(errno as i32)))?;
    let lines = |offset: &TimeOffset| format!("{} {} {}\n", offset.clock, offset.seconds, offset.nanoseconds);
    let lines: String = offsets.iter().map(lines).collect();
    if !lines.is_empty() {
        let file = "/proc/self/timens_offsets";
        std::fs::write(file, lines)
            .map_err(|error| Error::io("set config linux.timeOffsets through", file, &error))?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace =
        rustix::fs::open(c"/proc/self/ns/time_for_children", flags, Mode::empty()).map_err(failed)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Time)).map_err(failed)
}

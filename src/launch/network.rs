//! The loopback device of a new network namespace: there, but down.

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sendto, socket_with};

use crate::error::{Error, Result};

/// `RTM_NEWLINK` (`rtnetlink(7)`): changes a device, where it exists.
const NEWLINK: u16 = 16;
/// `NLM_F_REQUEST`. The change is done when the call returns; its failure would be a message, so
/// an acknowledgement is asked for as well.
const REQUEST_ACK: u16 = 0x1 | 0x4;
/// `IFF_UP`
const UP: u32 = 1;
/// The index of `lo` in every network namespace.
const LO: u32 = 1;

/// Brings `lo` up.
pub(super) fn loopback_up() -> Result<()> {
    let failed = |errno| Error::os("bring up lo", errno);
    // Protocol 0 of netlink is NETLINK_ROUTE.
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None).map_err(failed)?;
    sendto(&socket, &message(), SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map_err(failed)?;
    // struct nlmsghdr, then the errno of NLMSG_ERROR: zero is the acknowledgement.
    let mut answer = [0; 64];
    let length = rustix::io::read(&socket, &mut answer).map_err(failed)?;
    let errno = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok());
    match errno.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(errno) => Err(failed(rustix::io::Errno::from_raw_os_error(-errno))),
        None => Err(Error::failed("bring up lo", "a short answer from the kernel")),
    }
}

/// `struct nlmsghdr` and `struct ifinfomsg`.
fn message() -> [u8; 32] {
    let mut message = [0; 32];
    message[0..4].copy_from_slice(&32_u32.to_ne_bytes());
    message[4..6].copy_from_slice(&NEWLINK.to_ne_bytes());
    message[6..8].copy_from_slice(&REQUEST_ACK.to_ne_bytes());
    message[20..24].copy_from_slice(&LO.to_ne_bytes());
    message[24..28].copy_from_slice(&UP.to_ne_bytes());
    message[28..32].copy_from_slice(&UP.to_ne_bytes());
    message
}

//! The host's journal, as far as a command has to know of it: whether it is there.

use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::error::{Error, Result};

/// Where the journal listens (`systemd-journald.service(8)`).
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// Fails where no journal listens: a container's output would wait for it.
pub fn listens() -> Result<()> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::os("make a socket", errno))?;
    let failed = |errno: Errno| {
        Error::at("--log-driver journald: connect to", SOCKET, errno)
            .hint("it needs systemd-journald on the host; --log-driver k8s-file needs nothing")
    };
    let address = SocketAddrUnix::new(Path::new(SOCKET)).map_err(failed)?;
    connect(&socket, &address).map_err(failed)
}

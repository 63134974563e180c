//! Bytes and descriptors through a unix socket: one system call each, for blocking and
//! nonblocking sockets alike. Descriptors arrive close-on-exec.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bytes::{BufMut, BytesMut};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::{Error, Result};
use crate::sys::pass;
pub use crate::sys::pass::send;

/// How much one receive asks for.
const CHUNK: usize = 4096;

/// Receives what is there: bytes to the end of `buffer`, descriptors to the end of `fds`. Zero bytes
/// means that the other side closed.
pub fn receive(
    socket: impl AsFd,
    buffer: &mut BytesMut,
    fds: &mut Vec<OwnedFd>,
) -> rustix::io::Result<usize> {
    let mut chunk = [0; CHUNK];
    let received = pass::receive(socket, &mut chunk, fds)?;
    buffer.put_slice(&chunk[..received]);
    Ok(received)
}

/// A socket address for `path`, however long it is: `sockaddr_un` holds 108 bytes, so the
/// directory is opened and named through `/proc/self/fd`. The descriptor must live until the
/// address was used.
fn address(path: &Path) -> Result<(SocketAddrUnix, OwnedFd)> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::at("use socket", path, Errno::INVAL));
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir_fd =
        rustix::fs::open(dir, flags, Mode::empty()).map_err(|errno| Error::at("open", dir, errno))?;
    let short = format!("/proc/self/fd/{}/{}", std::os::fd::AsRawFd::as_raw_fd(&dir_fd), name.display());
    let address = SocketAddrUnix::new(short).map_err(|errno| Error::at("use socket", path, errno))?;
    Ok((address, dir_fd))
}

fn stream() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::os("create a unix socket", errno))
}

/// Listens at `path`, mode 0600. What a dead listener left there is replaced.
pub fn listen(path: &Path) -> Result<OwnedFd> {
    let socket = stream()?;
    let (address, _dir) = address(path)?;
    match rustix::net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            std::fs::remove_file(path).map_err(|error| Error::io("replace", path, &error))?;
            rustix::net::bind(&socket, &address).map_err(|errno| Error::at("listen at", path, errno))?;
        }
        other => other.map_err(|errno| Error::at("listen at", path, errno))?,
    }
    let mode = Mode::RUSR | Mode::WUSR;
    rustix::fs::chmod(path, mode).map_err(|errno| Error::at("set the mode of", path, errno))?;
    rustix::net::listen(&socket, 4096).map_err(|errno| Error::at("listen at", path, errno))?;
    Ok(socket)
}

/// Connects to `path`; `None` where nobody listens.
pub fn connect(path: &Path) -> Result<Option<OwnedFd>> {
    let (address, _dir) = match address(path) {
        Err(error) if matches!(error.errno(), Some(Errno::NOENT | Errno::NOTDIR)) => return Ok(None),
        other => other?,
    };
    let socket = stream()?;
    loop {
        return match rustix::net::connect(&socket, &address) {
            Ok(()) => Ok(Some(socket)),
            Err(Errno::INTR) => continue,
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR) => Ok(None),
            Err(errno) => Err(Error::at("connect to", path, errno)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_longer_than_a_socket_address_works() {
        let dir = tempfile::tempdir().unwrap();
        let long = dir.path().join("d".repeat(120)).join("e".repeat(120));
        std::fs::create_dir_all(&long).unwrap();
        let path = long.join("shim.sock");
        assert!(connect(&path).unwrap().is_none());
        let listener = listen(&path).unwrap();
        assert!(connect(&path).unwrap().is_some());
        drop(listener);
        assert!(connect(&path).unwrap().is_none(), "a dead listener is nobody");
        listen(&path).unwrap();
    }

    #[test]
    fn descriptors_travel_beside_the_bytes() {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(&a, b"x", &[writer.as_fd()]).unwrap();
        drop(writer);
        let (mut buffer, mut fds) = (BytesMut::new(), Vec::new());
        assert_eq!(receive(&b, &mut buffer, &mut fds).unwrap(), 1);
        rustix::io::write(&fds[0], b"y").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&reader, &mut byte).unwrap(), 1);
    }
}

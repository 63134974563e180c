//! Descriptors in the event loop.

use std::os::fd::{AsFd, OwnedFd};

use podrun::error::{Error, Result};
use podrun::launch::gate;
use podrun::sys::{pass, signal};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the event loop; `what` it is, for the error.
#[expect(deprecated, reason = "unsound only for types that may change their descriptor; an OwnedFd cannot")]
pub(crate) fn watch(fd: OwnedFd, what: &str) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(fd).map_err(|error| Error::io("watch", what, &error))
}

/// Everything that comes through the socket `pipe` until its other end is closed.
pub(crate) async fn read_to_end(pipe: OwnedFd) -> Result<Vec<u8>> {
    read_report(pipe).await.map(|(report, _)| report)
}

/// What a child, process `pid`, says until it has executed its command, with the descriptors beside it. One that was
/// stopped before it could is ended.
pub(crate) async fn read_outcome(
    pipe: OwnedFd,
    pid: i32,
    pidfd: impl AsFd,
) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut report = std::pin::pin!(read_report(pipe));
    loop {
        if let Ok(report) = tokio::time::timeout(gate::PATIENCE, &mut report).await {
            return report;
        }
        gate::check_going(pid).inspect_err(|_| {
            let _ = signal::send(&pidfd, nix::libc::SIGKILL);
        })?;
    }
}

/// Everything that comes through the socket `pipe`, with the descriptors that come beside it.
async fn read_report(pipe: OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let failed = |errno: Errno| Error::os("read a child's report", errno);
    rustix::io::ioctl_fionbio(&pipe, true).map_err(failed)?;
    let pipe = watch(pipe, "a child's report")?;
    let (mut report, mut fds, mut chunk) = (Vec::new(), Vec::new(), [0; 512]);
    loop {
        let mut guard =
            pipe.readable().await.map_err(|error| Error::io("watch", "a child's report", &error))?;
        match pass::receive(&pipe, &mut chunk, &mut fds) {
            Ok(0) => return Ok((report, fds)),
            Ok(length) => report.extend_from_slice(&chunk[..length]),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => guard.clear_ready(),
            // The other end of a socket died with unread bytes in it.
            Err(Errno::CONNRESET) => return Ok((report, fds)),
            Err(errno) => return Err(failed(errno)),
        }
    }
}

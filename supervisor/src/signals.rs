//! Signals to the shim itself: SIGTERM stops the container; SIGINT, SIGHUP, SIGQUIT, SIGUSR1 and
//! SIGUSR2 are for others and ignored.
//! SIGCHLD has what reparented to the shim as subreaper reaped.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use podrun::error::{Error, Result};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::low_level::pipe;

/// Signals that mean nothing to a shim.
const IGNORED: [i32; 5] = [SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2];

/// The signals a shim acts on, as events.
#[derive(Debug)]
pub(crate) struct Signals {
    /// SIGTERM.
    pub(crate) terminate: Wakeup,
    /// SIGCHLD.
    pub(crate) child: Wakeup,
}

impl Signals {
    /// From now on.
    pub(crate) fn new() -> Result<Self> {
        for signal in IGNORED {
            // A handler that does nothing, and not SIG_IGN: execve undoes it.
            signal_hook::flag::register(signal, Arc::default()).map_err(failed)?;
        }
        Ok(Self { terminate: Wakeup::new(SIGTERM)?, child: Wakeup::new(SIGCHLD)? })
    }
}

/// A signal that makes a socket readable: its handler writes one byte.
#[derive(Debug)]
pub(crate) struct Wakeup(tokio::net::UnixStream);

impl Wakeup {
    fn new(signal: i32) -> Result<Self> {
        let (reader, writer) = UnixStream::pair().map_err(failed)?;
        pipe::register(signal, writer).map_err(failed)?;
        reader.set_nonblocking(true).map_err(failed)?;
        tokio::net::UnixStream::from_std(reader).map(Self).map_err(failed)
    }

    /// Waits for the signal, once for all that came meanwhile.
    pub(crate) async fn comes(&mut self) {
        loop {
            if self.0.readable().await.is_err() {
                return std::future::pending().await;
            }
            let mut bytes = [0; 64];
            if matches!(self.0.try_read(&mut bytes), Ok(1..)) {
                return;
            }
        }
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::io("watch", "signals", &error)
}

//! The signals that a foreground command passes on, as a descriptor for `poll`.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use podrun::error::{Error, Result};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// What a person, a shell or a supervisor sends to the process it believes to be the container.
/// SIGPIPE, SIGCHLD and the job control signals are this process's own.
const PASSED_ON: [i32; 8] = [SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH];

/// Registered signals: readable when one has come.
#[derive(Debug)]
pub(super) struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// From now on these signals do nothing else.
    pub(super) fn register() -> Result<Self> {
        let failed = |error: std::io::Error| Error::failed("catch signals", error.to_string());
        let (read, write) = UnixStream::pair().map_err(failed)?;
        SignalDelivery::with_pipe(read, write, SignalOnly, PASSED_ON).map(Self).map_err(failed)
    }

    /// Those that came since the last call.
    pub(super) fn pending(&mut self) -> impl Iterator<Item = i32> + use<> {
        self.0.pending()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}

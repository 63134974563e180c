//! The signals that a foreground command passes on, as a descriptor for `poll`.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use podrun::error::{Error, Result};
use podrun::sys::signal::is_ignored;
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
    /// From now on these signals do nothing else. A SIGHUP that was ignored from the beginning, as by `nohup`, stays
    /// so; SIGINT and SIGQUIT do not, which a shell has every command in the background ignore.
    pub(super) fn register() -> Result<Self> {
        let failed = |error: std::io::Error| Error::failed("catch signals", error.to_string());
        let (read, write) = UnixStream::pair().map_err(failed)?;
        let heard = PASSED_ON.into_iter().filter(|signal| *signal != SIGHUP || !is_ignored(SIGHUP));
        SignalDelivery::with_pipe(read, write, SignalOnly, heard).map(Self).map_err(failed)
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

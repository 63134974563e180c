//! Descriptors that the caller passes on to a container: `--preserve-fds`.

use std::os::fd::OwnedFd;

use podrun::error::{Error, Result};

/// The `count` descriptors from 3 on, which the caller must have left open.
pub(super) fn preserved(count: usize) -> Result<Vec<OwnedFd>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    podrun::runtime::preserved(count).map_err(|error| {
        Error::failed(
            format!("--preserve-fds {count}"),
            format!("of 3 to {}: {}", count.saturating_add(2), error.why),
        )
        .hint("the caller has to leave that many descriptors from 3 on open")
    })
}

/// How many sockets a service manager passed to us (`sd_listen_fds(3)`). Not by the pid that it names:
/// it may have meant an engine, which has executed us since.
pub(super) fn listen_fds() -> Result<usize> {
    match std::env::var("LISTEN_FDS") {
        Ok(text) => text.parse().map_err(|_| Error::usage(format!("LISTEN_FDS={text:?}"), "is no number")),
        Err(_) => Ok(0),
    }
}

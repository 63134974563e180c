//! The loopback device of a new network namespace: there, but down.

use super::netlink::{Index, Route};
use crate::error::{Error, Result};

/// Brings `lo` up.
pub(super) fn loopback_up() -> Result<()> {
    Route::open().and_then(|mut route| route.up(Index::LO)).map_err(|errno| Error::os("bring up lo", errno))
}

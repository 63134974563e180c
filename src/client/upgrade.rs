//! Having a running shim become another program.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use super::{Reached, reach, shim_program};
use crate::error::{Error, Result};
use crate::paths::{ContainerId, Roots};
use crate::protocol::{Reply, Request};

/// Has the shim of container `id`, and its keeper, become the `podrun-shim` that is installed now. False where
/// there is none, because the container does not run.
pub fn upgrade(roots: &Roots, id: &ContainerId) -> Result<bool> {
    let path = shim_program()?;
    let program = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::at("open", &path, errno))?;
    let Reached::Shim(mut client) = reach(roots, id)? else { return Ok(false) };
    client.send(&Request::Upgrade, &[program.as_fd()])?;
    match client.receive()? {
        Some((Reply::Refused(error), _)) => Err(error),
        Some(_) => Ok(true),
        None => match reach(roots, id)? {
            // It has ended meanwhile.
            Reached::Without(_) => Ok(false),
            Reached::Shim(_) => {
                let why =
                    "its shim closed the connection: it does not know how, or has died and was replaced";
                Err(Error::failed(format!("upgrade container {id}"), why)
                    .hint(format!("`podrun restart {id}` gives it a new one")))
            }
        },
    }
}

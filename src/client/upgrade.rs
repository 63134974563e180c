//! Having a running shim become another program.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

use super::{Reached, reach, shim_program};
use crate::error::{Error, Result};
use crate::paths::{ContainerId, Roots};
use crate::protocol::{Reply, Request};

/// How many shims are asked: one may die, and be replaced, before it answers.
const TRIES: usize = 3;

/// Has the shim of container `id`, and its keeper, become the `podrun-shim` that is installed now. False where
/// there is none, because the container does not run.
pub fn upgrade(roots: &Roots, id: &ContainerId) -> Result<bool> {
    let path = shim_program()?;
    let program = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::at("open", &path, errno))?;
    for _ in 0..TRIES {
        let Reached::Shim(mut client) = reach(roots, id)? else { return Ok(false) };
        if client.send(&Request::Upgrade, &[program.as_fd()]).is_err() {
            continue;
        }
        match client.receive()? {
            Some((Reply::Refused(error), _)) => return Err(error),
            Some(_) => return Ok(true),
            // It has ended, or died: the next look tells.
            None => {}
        }
    }
    let why = "its shim closed the connection: it does not know how, or dies again and again";
    Err(Error::failed(format!("upgrade container {id}"), why)
        .hint(format!("`podrun restart {id}` gives it a new one")))
}

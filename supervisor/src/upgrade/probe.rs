//! Whether a program can be upgraded to: it is started, and asked.
//!
//! ```text
//!  shim ──fork──▶ podrun-shim --check-state=STATE,ANSWER ──reads STATE──▶ "understood", or why not
//! ```

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;

use podrun::error::{Error, Result};
use podrun::sys;
use podrun::sys::clone::{Clone3, exit};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use serde::{Deserialize, Serialize};

use super::PATIENCE;
use super::luggage::{no_state, number, take, unpack};
use crate::child::{self, Known};
use crate::{fd, memory_file};

/// The argument by which a program is asked whether it understands a state: the numbers of the state's
/// descriptor and of the one for the answer.
pub(crate) const CHECK: &str = "--check-state=";

/// Has the program in `image` say whether it understands `state`.
pub(super) async fn probe(image: Rc<OwnedFd>, state: Vec<u8>, known: Known) -> Result<()> {
    let wrong = |why: &str| {
        Error::failed("the new program", why).hint("install podrun and podrun-shim of the same release")
    };
    let state = memory_file::write(&state)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::os("create a socket pair", errno))?;
    let keep = [image.as_fd(), state.as_fd(), theirs.as_fd()];
    let child = Clone3 { keep: &keep, ..Clone3::default() }
        .spawn((&*image, &state, &theirs), become_probe)
        .map_err(|error| Error::io("start", "the new program", &error))?;
    drop(theirs);
    known.add(child.pid);
    let answer = tokio::time::timeout(PATIENCE, fd::read_to_end(ours)).await;
    // It has said what it has to say, or it hangs.
    let _ = sys::signal::send(&child.pidfd, nix::libc::SIGKILL);
    let pidfd = fd::watch(child.pidfd, "the new program")?;
    let _ = pidfd.readable().await;
    let _ = child::reap(pidfd.as_fd());
    known.remove(child.pid);
    let answer = answer.map_err(|_| wrong("does not answer"))??;
    match serde_json::from_slice(&answer) {
        Ok(Answer::Understood) => Ok(()),
        Ok(Answer::Refused(error)) => Err(error),
        Err(_) => Err(wrong("is not a podrun-shim that can be upgraded to")),
    }
}

/// What a program says of a state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Answer {
    Understood,
    Refused(Error),
}

impl Answer {
    fn send(&self, to: impl AsFd) {
        // Nobody listens any more: then nobody needs to know.
        let _ = serde_json::to_vec(self).map(|bytes| rustix::io::write(to, &bytes));
    }
}

fn become_probe((image, state, answer): (&OwnedFd, &OwnedFd, &OwnedFd)) -> ! {
    let option = format!("{CHECK}{},{}", state.as_raw_fd(), answer.as_raw_fd());
    let args = [Ok(c"podrun-shim".to_owned()), CString::new(option)];
    if let [Ok(name), Ok(option)] = args {
        let error = sys::program::replace(image, &[name, option], &[state.as_fd(), answer.as_fd()]);
        Answer::Refused(Error::io("execute", "the new program", &error)).send(answer);
    }
    exit(127)
}

/// The program that is asked whether it understands a state: what it says.
pub(crate) fn check(fds: &str) -> Result<()> {
    let (state, answer) = fds.split_once(',').unwrap_or_default();
    let mut fds = take(&[number(state)?, number(answer)?])?.into_iter();
    let (Some(state), Some(to)) = (fds.next(), fds.next()) else { return Err(no_state()) };
    match memory_file::read(state).and_then(|text| unpack(&text)) {
        Ok(_) => Answer::Understood.send(to),
        Err(error) => Answer::Refused(error).send(to),
    }
    Ok(())
}

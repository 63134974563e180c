//! Everything a shim holds: what it knows, and its descriptors.
//!
//! The driver begins with one [`Owned`] and knows no other beginning. Launching makes one; taking
//! over a container from a dead shim, or from an older release of this program, will make others
//! from the same parts: [`Owned::pack`] and [`Owned::unpack`] turn it into bytes and descriptors
//! and back.

use std::os::fd::OwnedFd;

use podrun::error::{Error, Result};
use podrun::paths::{ContainerPaths, Roots};
use podrun::protocol::LogPosition;
use podrun::state::State;
use serde::{Deserialize, Serialize};

/// What a shim knows of its container beyond `spec.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Facts {
    /// Where the container lives.
    pub(crate) roots: Roots,
    /// What `state.json` says.
    pub(crate) state: State,
    /// How far the log has come.
    pub(crate) log: LogPosition,
}

/// Everything a shim holds.
#[derive(Debug)]
pub(crate) struct Owned {
    /// What it knows.
    pub(crate) facts: Facts,
    /// The container's lock.
    pub(crate) lock: OwnedFd,
    /// The control socket, listening.
    pub(crate) listener: OwnedFd,
    /// Init.
    pub(crate) pidfd: OwnedFd,
    /// The reading end of the container's stdout.
    pub(crate) stdout: OwnedFd,
    /// The reading end of the container's stderr.
    pub(crate) stderr: OwnedFd,
    /// The gate at which init waits; absent once it was opened.
    pub(crate) gate: Option<OwnedFd>,
    /// Where a minimal init tells how the command ended (`--init`).
    pub(crate) ending: Option<OwnedFd>,
    /// The writing end of the container's stdin (`-i`).
    pub(crate) stdin: Option<OwnedFd>,
}

/// The serialised form: the facts, and for each descriptor that may be absent whether it is there.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Packed {
    facts: Facts,
    gate: bool,
    ending: bool,
    stdin: bool,
}

impl Owned {
    /// Every path of the container.
    pub(crate) fn paths(&self) -> ContainerPaths {
        self.facts.roots.container(&self.facts.state.id)
    }

    /// As bytes, and the descriptors in the order that [`Owned::unpack`] expects.
    #[cfg_attr(not(test), expect(dead_code, reason = "the other ways to begin are built on it"))]
    pub(crate) fn pack(self) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
        let packed = Packed {
            facts: self.facts,
            gate: self.gate.is_some(),
            ending: self.ending.is_some(),
            stdin: self.stdin.is_some(),
        };
        let bytes = serde_json::to_vec(&packed)
            .map_err(|error| Error::failed("pack the shim's state", error.to_string()))?;
        let always = [self.lock, self.listener, self.pidfd, self.stdout, self.stderr];
        Ok((bytes, always.into_iter().chain(self.gate).chain(self.ending).chain(self.stdin).collect()))
    }

    /// The inverse of [`Owned::pack`].
    #[cfg_attr(not(test), expect(dead_code, reason = "the other ways to begin are built on it"))]
    pub(crate) fn unpack(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<Self> {
        let wrong = |why: String| Error::failed("unpack the shim's state", why);
        let packed: Packed = serde_json::from_slice(bytes).map_err(|error| wrong(error.to_string()))?;
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(|| wrong("a descriptor is missing".to_owned()));
        Ok(Self {
            facts: packed.facts,
            lock: next()?,
            listener: next()?,
            pidfd: next()?,
            stdout: next()?,
            stderr: next()?,
            gate: packed.gate.then(&mut next).transpose()?,
            ending: packed.ending.then(&mut next).transpose()?,
            stdin: packed.stdin.then(&mut next).transpose()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podrun::state::{Mode, STATE_VERSION, Status};
    use std::os::fd::AsRawFd;

    fn fd() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn what_a_shim_holds_survives_packing() {
        let state = State {
            version: STATE_VERSION,
            id: "c".parse().unwrap(),
            status: Status::Created,
            mode: Mode::Supervised,
            boot_id: "b".into(),
            init: None,
            shim: None,
            cgroup_path: "/c".into(),
            bundle: "/b".into(),
            rootfs: "/r".into(),
            args: vec![],
            created_at: jiff::Timestamp::UNIX_EPOCH,
            started_at: None,
            reason: None,
        };
        let facts = Facts {
            roots: Roots::new(None, None).unwrap(),
            state,
            log: LogPosition { rotation: 0, offset: 7 },
        };
        let owned = Owned {
            facts: facts.clone(),
            lock: fd(),
            listener: fd(),
            pidfd: fd(),
            stdout: fd(),
            stderr: fd(),
            gate: None,
            ending: None,
            stdin: Some(fd()),
        };
        let stdin = owned.stdin.as_ref().unwrap().as_raw_fd();
        let (bytes, fds) = owned.pack().unwrap();
        let missing = Owned::unpack(&bytes, vec![fd()]);
        assert!(missing.is_err());
        let owned = Owned::unpack(&bytes, fds).unwrap();
        assert_eq!(owned.facts, facts);
        assert_eq!(owned.stdin.unwrap().as_raw_fd(), stdin);
    }
}

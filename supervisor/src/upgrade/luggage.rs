//! What one program leaves to the next, and how that one begins with it.

use std::os::fd::{OwnedFd, RawFd};

use bytes::BytesMut;
use podrun::error::{Error, Result};
use podrun::events::{What, emit};
use podrun::paths::ContainerPaths;
use podrun::protocol::{Hello, Reply, frame, socket};
use podrun::spec::Spec;
use podrun::state::{ProcessRef, publish};
use podrun::sys;
use rustix::io::Errno;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::bootstrap::Creator;
use crate::exec::Carried;
use crate::exits::Exits;
use crate::keep::{Exit, Keep, SLOTS, Slot};
use crate::memory_file;
use crate::owned::{Facts, Owned};

/// The form of [`Luggage`], of the keeper's, and of the facts in both.
const FORMAT: &str = "podrun-shim state 1";
/// Those that this program understands beside its own: the previous minor version's.
const UNDERSTOOD: &[&str] = &[];

/// What one program leaves to the next.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Luggage {
    pub(super) format: String,
    pub(super) facts: Facts,
    /// Descriptors, by their number.
    pub(super) slots: Vec<(Slot, RawFd)>,
    /// The channel to the keeper, and the keeper's pid while it lives.
    pub(super) channel: RawFd,
    pub(super) keeper: Option<i32>,
    /// How processes ended that an earlier shim started.
    pub(super) exits: Vec<Exit>,
    /// Processes inside that are still to be reaped.
    pub(super) execs: Vec<(ProcessRef, RawFd)>,
    /// The connection of the client that asked for it.
    pub(super) client: RawFd,
}

/// The form of what this program writes. Not folded into the code that compares it.
pub(crate) fn format() -> &'static str {
    std::hint::black_box(FORMAT)
}

/// Whether this program understands that form.
pub(crate) fn understand(their: &str) -> Result<()> {
    if their == format() || UNDERSTOOD.contains(&their) {
        return Ok(());
    }
    let why = format!("{} understands {}, not {their}", Hello::ours().build, format());
    Err(Error::failed("read the shim's state", why))
}

/// The luggage that `text` describes, if this program understands it.
pub(super) fn unpack(text: &[u8]) -> Result<Luggage> {
    #[derive(Deserialize)]
    struct Form {
        format: String,
    }
    let wrong = |error: serde_json::Error| Error::failed("read the shim's state", error.to_string());
    understand(&serde_json::from_slice::<Form>(text).map_err(wrong)?.format)?;
    serde_json::from_slice(text).map_err(wrong)
}

pub(super) fn no_state() -> Error {
    Error::failed("read the shim's state", "there is none")
}

/// The number in an argument.
pub(crate) fn number(text: &str) -> Result<RawFd> {
    text.parse().map_err(|_| no_state())
}

/// The descriptors of these numbers, which the program before has left.
pub(crate) fn take(numbers: &[RawFd]) -> Result<Vec<OwnedFd>> {
    sys::fd::left_open(numbers).map_err(|error| Error::io("take over", "descriptors", &error))
}

/// A shim that goes on where another program left off.
#[derive(Debug)]
pub(crate) struct Resumed {
    pub(crate) owned: Owned,
    pub(crate) spec: Spec,
    pub(crate) keep: Keep,
    pub(crate) exits: Exits,
    pub(crate) execs: Vec<Carried>,
    pub(crate) client: Option<Creator>,
}

/// Takes over what the program before has left, with its luggage at the descriptor `fd`.
pub(crate) fn resume(fd: &str, log: impl FnOnce(&ContainerPaths)) -> Result<Resumed> {
    let state = sys::fd::left_open(&[number(fd)?]).map_err(|error| Error::io("use", "the state", &error))?;
    let luggage = unpack(&memory_file::read(state.into_iter().next().ok_or_else(no_state)?)?)?;
    let mut slots = [const { None }; SLOTS];
    for (slot, fd) in luggage.slots.iter().map(|(slot, fd)| (*slot, *fd)) {
        slots[slot as usize] = take(&[fd])?.pop();
    }
    let owned = Owned::of(luggage.facts, slots)?;
    let paths = owned.paths();
    log(&paths);
    let keeper = luggage.keeper.and_then(Pid::from_raw);
    let keep = Keep::new(take(&[luggage.channel])?.pop().ok_or_else(no_state)?, keeper.unwrap_or(Pid::INIT));
    if keeper.is_none() {
        keep.lost();
    }
    let exits = Exits::default();
    luggage.exits.into_iter().for_each(|exit| exits.add(exit));
    let execs = luggage
        .execs
        .into_iter()
        .map(|(process, pidfd)| Ok(Carried { process, pidfd: take(&[pidfd])?.pop().ok_or_else(no_state)? }));
    let execs = execs.collect::<Result<_>>()?;
    owned.facts.hand_over(&keep, &[])?;
    let path = paths.spec();
    let spec = publish::read_json::<Spec>(&path)?.ok_or_else(|| Error::at("read", &path, Errno::NOENT))?;
    let (roots, id) = (&owned.facts.roots, &owned.facts.state.id);
    emit(roots, id, What::Upgrade { build: Hello::ours().build });
    // It may be gone; then nobody needs to know.
    let client = take(&[luggage.client])?.pop().and_then(|client| tell_client(client).ok());
    tracing::info!("upgraded: this is {}", Hello::ours().build);
    Ok(Resumed { owned, spec, keep, exits, execs, client })
}

/// Answers the client that wanted the upgrade.
fn tell_client(client: OwnedFd) -> Result<Creator> {
    let mut bytes = BytesMut::new();
    frame::encode(&Reply::Done, &mut bytes)?;
    let failed = |error: std::io::Error| Error::io("write", "the control socket", &error);
    socket::send(&client, &bytes, &[]).map_err(|errno| failed(errno.into()))?;
    let stream = std::os::unix::net::UnixStream::from(client);
    stream.set_nonblocking(true).map_err(failed)?;
    Ok(Creator { stream, buffer: BytesMut::new() })
}

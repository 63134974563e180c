//! What a container is made of and its own processes may not make: mounts of the host's files.
//!
//! Without a user namespace init takes them itself. With one a builder does, and sends them as
//! descriptors, the root first, then for each mount of the plan one or none, each with a byte that
//! says what it is. An error takes the place of what failed.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::mounts::{self, Source, copy_tree};
use super::plan::{Mount, Plan};
use super::root::Target;
use super::{rootfs, userns};
use crate::error::{Error, Result};

/// For each mount of a plan the user namespace of its own map, where it has one.
pub(super) type OwnMaps = Vec<Option<OwnedFd>>;

const ROOT: u8 = b'R';
const DIRECTORY: u8 = b'D';
const FILE: u8 = b'F';
const NOTHING: u8 = b'-';
const ERROR: u8 = b'E';
/// No error is longer: it is one message.
const MAX_MESSAGE: usize = 64 << 10;

/// The user namespaces of the maps that single mounts have. Made by the parent: who is in a pid
/// namespace does not find its children in the host's `/proc`.
pub(super) fn own_maps(plan: &Plan) -> Result<OwnMaps> {
    let own = |mount: &Mount| {
        let own = mount.idmap.as_ref().and_then(|idmap| idmap.own.as_ref());
        own.map(userns::namespace_of).transpose()
    };
    plan.mounts.iter().map(own).collect()
}

/// What `plan` mounts of the host; idmapped mounts without a map of their own are mapped as `namespace`
/// has it. To be taken before this process's mounts are cut off from the host's: what shall go on
/// hearing of mounts there (`rslave`, `rshared`) could not any more.
pub(super) fn open(
    plan: &Plan,
    maps: &OwnMaps,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<Vec<Option<Source>>> {
    let mut sources = Vec::new();
    for (mount, own) in plan.mounts.iter().zip(maps) {
        let source = if mount.options.bind {
            Some(mounts::bind(mount, own.as_ref().map(AsFd::as_fd).or(namespace))?)
        } else if namespace.is_some() && shows_the_hosts(plan, mount) {
            Some((mounts::file_system(mount)?, Target::Directory))
        } else {
            None
        };
        sources.push(source);
    }
    Ok(sources)
}

/// Whether a file system tells about a namespace that the container shares with the host. The root of
/// another user namespace may not mount it.
fn shows_the_hosts(plan: &Plan, mount: &Mount) -> bool {
    use oci_spec::runtime::LinuxNamespaceType::{Ipc, Network, Pid};
    match mount.kind.as_str() {
        "sysfs" => !plan.namespaces.is_new(Network),
        "mqueue" => !plan.namespaces.is_new(Ipc),
        "proc" => !plan.namespaces.is_new(Pid),
        "cgroup" | "cgroup2" => !plan.namespaces.cgroup,
        _ => false,
    }
}

/// Builder: the root and everything else, detached.
pub(super) fn build(
    plan: &Plan,
    maps: &OwnMaps,
    namespace: BorrowedFd<'_>,
) -> Result<(OwnedFd, Vec<Option<Source>>)> {
    let sources = open(plan, maps, Some(namespace))?;
    let root = rootfs::build(plan, Some(namespace))?;
    let root =
        copy_tree(&root, true).map_err(|errno| Error::at("copy the mounts of", &plan.rootfs, errno))?;
    Ok((root, sources))
}

/// Builder: hands everything to init.
pub(super) fn send(to: &OwnedFd, root: &OwnedFd, mounts: &[Option<Source>]) -> Result<()> {
    send_one(to, ROOT, Some(root))?;
    for source in mounts {
        match source {
            Some((tree, Target::Directory)) => send_one(to, DIRECTORY, Some(tree))?,
            Some((tree, Target::File)) => send_one(to, FILE, Some(tree))?,
            None => send_one(to, NOTHING, None)?,
        }
    }
    Ok(())
}

fn send_one(to: &OwnedFd, tag: u8, fd: Option<&OwnedFd>) -> Result<()> {
    let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    sendmsg(to, &[IoSlice::new(&[tag])], &mut control, SendFlags::NOSIGNAL)
        .map(drop)
        .map_err(|errno| Error::os("hand a mount to init", errno))
}

/// Builder: says why there is nothing more.
pub(super) fn send_error(to: &OwnedFd, error: &Error) {
    let mut message = vec![ERROR];
    if serde_json::to_writer(&mut message, error).is_ok() {
        // Init may be gone; then nobody needs to know.
        let _ = rustix::net::send(to, &message, SendFlags::NOSIGNAL);
    }
}

/// Init: waits for the root and the mounts of `plan`.
pub(super) fn receive(from: &OwnedFd, plan: &Plan) -> Result<(OwnedFd, Vec<Option<Source>>)> {
    let (_, root) = receive_one(from)?;
    let root = root.ok_or_else(gone)?;
    let mut sources = Vec::new();
    for _ in &plan.mounts {
        sources.push(match receive_one(from)? {
            (FILE, Some(tree)) => Some((tree, Target::File)),
            (_, Some(tree)) => Some((tree, Target::Directory)),
            (_, None) => None,
        });
    }
    Ok((root, sources))
}

fn receive_one(from: &OwnedFd) -> Result<(u8, Option<OwnedFd>)> {
    let failed = |errno| Error::os("receive a mount", errno);
    let mut message = vec![0; MAX_MESSAGE];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut iov = [IoSliceMut::new(&mut message)];
        match recvmsg(from, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other.map_err(failed)?,
        }
    };
    match message.get(..received.bytes) {
        Some([ERROR, text @ ..]) => Err(serde_json::from_slice(text).unwrap_or_else(|_| gone())),
        Some([tag]) => {
            let fd = control.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            Ok((*tag, fd))
        }
        _ => Err(gone()),
    }
}

fn gone() -> Error {
    Error::failed("build the root filesystem", "the builder of its mounts ended early")
}

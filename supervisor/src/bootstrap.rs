//! The beginning of a shim: the creating command's first request, and the launch; or what the keeper
//! held of a shim that died.
//!
//! ```text
//!  Hello, Launch + lock ──▶ listen ─▶ state "creating" ─▶ cgroup ─▶ launch ─▶ state "created"
//!                       ◀── Launched, or Refused after everything was undone
//! ```
//!
//! Synchronous, because there is nobody else to serve yet: clients that come early wait in the
//! socket's backlog.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use bytes::BytesMut;
use jiff::Timestamp;
use podrun::cgroup;
use podrun::error::{Error, Result};
use podrun::events::{What, emit};
use podrun::launch::Hooks;
use podrun::paths::{ContainerId, ContainerPaths, Roots};
use podrun::protocol::{Hello, Reply, Request, frame, socket};
use podrun::spec::Spec;
use podrun::state::lock::Lock;
use podrun::state::process::boot_id;
use podrun::state::publish::{self, Durability};
use podrun::state::{Ending, ExitRecord, ProcessRef, State, Status, store};
use rustix::io::Errno;

use crate::construct::{self, Built};
use crate::keep::{Keep, SLOTS};
use crate::keeper::Predecessor;
use crate::machine::Memory;
use crate::owned::{Facts, Owned};

/// The creating command's connection, with what it has sent already.
#[derive(Debug)]
pub(crate) struct Creator {
    /// Nonblocking.
    pub(crate) stream: UnixStream,
    /// What came behind its first request.
    pub(crate) buffer: BytesMut,
}

/// What a launch comes to.
#[derive(Debug)]
pub(crate) struct Launched {
    /// Everything this shim holds from now on.
    pub(crate) owned: Owned,
    /// What the container is.
    pub(crate) spec: Spec,
    /// The command that asked for it.
    pub(crate) creator: Creator,
}

/// Serves the first request on `control`. `None`: there is nothing to supervise, and whoever could
/// be told was told.
pub(crate) fn launch(
    control: OwnedFd,
    keep: &Keep,
    log: impl FnOnce(&ContainerPaths),
) -> Result<Option<Launched>> {
    let mut creator = Blocking { socket: control, buffer: BytesMut::new(), fds: Vec::new() };
    let Some(hello) = creator.receive::<Hello>()? else { return Ok(None) };
    creator.send(&Hello::ours())?;
    if let Err(error) = hello.agree() {
        creator.send(&Reply::Refused(error))?;
        return Ok(None);
    }
    let Some(request) = creator.receive::<Request>()? else { return Ok(None) };
    let (id, roots, adopts) = match request {
        Request::Launch { id, roots } => (id, roots, false),
        Request::Adopt { id, roots } => (id, roots, true),
        _ => {
            let error = Error::failed("control socket", "the first request must be a launch");
            creator.send(&Reply::Refused(error))?;
            return Ok(None);
        }
    };
    let Some(lock) = creator.fds.pop() else {
        let error = Error::failed("control socket", "a launch needs the lock");
        creator.send(&Reply::Refused(error))?;
        return Ok(None);
    };
    let attempt = Attempt { paths: roots.container(&id), id, roots, keep };
    log(&attempt.paths);
    let made = if adopts { attempt.adopt(lock) } else { attempt.launch(lock) };
    let (owned, spec) = match made {
        Ok(launched) => launched,
        Err(error) => {
            // The command may be gone; then nobody needs to know.
            let _ = creator.send(&Reply::Refused(error));
            return Ok(None);
        }
    };
    let pid = owned.facts.state.init.map_or(0, |init| init.pid);
    // Likewise: the container is there, whoever may have died since.
    let _ = creator.send(&Reply::Launched { pid });
    let failed = |error: std::io::Error| Error::io("use", "the control socket", &error);
    let stream = UnixStream::from(creator.socket);
    stream.set_nonblocking(true).map_err(failed)?;
    Ok(Some(Launched { owned, spec, creator: Creator { stream, buffer: creator.buffer } }))
}

/// Takes over from a shim that died, with what the keeper held for it. `None`: it had only to end.
pub(crate) fn take_over(
    slots: [Option<OwnedFd>; SLOTS],
    keep: &Keep,
    before: Predecessor,
    log: impl FnOnce(&ContainerPaths),
) -> Result<Option<(Owned, Spec)>> {
    let mut owned = Owned::from_slots(slots)?;
    let paths = owned.paths();
    let lock = Lock::from_fd(owned.lock);
    if paths.lock.exists() && !lock.protects(&paths.lock) {
        // It had deleted the container. What is there now is somebody else's. (A lock that only is missing was
        // taken away by somebody who tidied up: the container is still there.)
        return Ok(None);
    }
    if !paths.dir.exists() {
        // It died while it deleted the container.
        store::remove(&owned.facts.roots, &owned.facts.state.id)?;
        lock.remove(&paths.lock)?;
        return Ok(None);
    }
    owned.lock = lock.into();
    log(&paths);
    tracing::warn!("{before}");
    let state = &mut owned.facts.state;
    state.shim = ProcessRef::of(rustix::process::getpid().as_raw_nonzero().get());
    state.adoptions += 1;
    if state.status != Status::Stopped {
        state.reason = before.trouble();
    }
    if let Err(error) = store::write_state(&paths, state, Durability::Eventual) {
        tracing::warn!("{error}");
    }
    owned.facts.hand_over(keep, &[])?;
    let Facts { roots, state, .. } = &owned.facts;
    emit(roots, &state.id, What::Adopt { adoptions: state.adoptions });
    let path = paths.spec();
    let spec = publish::read_json::<Spec>(&path)?.ok_or_else(|| Error::at("read", &path, Errno::NOENT))?;
    Ok(Some((owned, spec)))
}

#[derive(Debug)]
struct Attempt<'a> {
    id: ContainerId,
    roots: Roots,
    paths: ContainerPaths,
    keep: &'a Keep,
}

impl Attempt<'_> {
    /// Builds the container, or undoes what was built of it.
    fn launch(&self, lock: OwnedFd) -> Result<(Owned, Spec)> {
        let previous = publish::read_json::<State>(&self.paths.state())?.ok_or_else(|| {
            let path = self.paths.state();
            match publish::is_unwritten(&path) {
                true => Error::failed(format!("read {}", path.display()), "a power cut took what it said")
                    .hint(format!("`podrun delete {}` removes what is left of it", self.id)),
                false => Error::no_such_container(&self.id),
            }
        })?;
        // What was created before a reboot is there all the same, whatever of its state had reached the disk.
        let is_new = previous.status == Status::Creating && !previous.again && previous.boot_id == boot_id();
        let result = self.build(previous.clone(), is_new);
        match result {
            Ok((built, spec)) => {
                let owned = built.into_owned(self.roots.clone(), lock);
                // Without it a shim that dies is not replaced; the container is there all the same.
                if let Err(error) = owned.hand_over(self.keep) {
                    tracing::warn!("{error}");
                }
                if is_new {
                    emit(&self.roots, &self.id, What::Create);
                }
                Ok((owned, spec))
            }
            Err(error) => {
                self.undo(previous, is_new, lock, &error);
                Err(error)
            }
        }
    }

    /// Takes over the container, or leaves it as it was.
    fn adopt(&self, lock: OwnedFd) -> Result<(Owned, Spec)> {
        let state = publish::read_json::<State>(&self.paths.state())?
            .ok_or_else(|| Error::no_such_container(&self.id))?;
        let path = self.paths.spec();
        let spec =
            publish::read_json::<Spec>(&path)?.ok_or_else(|| Error::at("read", &path, Errno::NOENT))?;
        let owned = crate::adopt::adopt(self.roots.clone(), &self.paths, state, lock, self.keep)?;
        tracing::warn!("adopted: the keeper and the shim before were gone");
        store::write_state(&self.paths, &owned.facts.state, Durability::Eventual)?;
        owned.hand_over(self.keep)?;
        emit(&self.roots, &self.id, What::Adopt { adoptions: owned.facts.state.adoptions });
        if spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false)) {
            let reason = "its terminal went with its shim and its keeper: what it writes is lost".to_owned();
            emit(&self.roots, &self.id, What::LogGap { reason });
        }
        Ok((owned, spec))
    }

    fn build(&self, mut state: State, is_new: bool) -> Result<(Launching, Spec)> {
        let (spec, settings) = construct::read_spec(&self.paths)?;
        store::make_dir(&self.paths.run_dir)?;
        let listener = socket::listen(&self.paths.socket())?;
        state.shim = ProcessRef::of(rustix::process::getpid().as_raw_nonzero().get());
        state.keeper = self.keep.pid().and_then(ProcessRef::of);
        state.adoptions = 0;
        state.cgroup_path = settings.cgroups.cgroup_path(&self.roots, &self.id, &spec)?;
        state.cgroups = settings.cgroups;
        if !is_new {
            self.begin_again(&mut state)?;
        }
        let (built, _) = construct::build(&self.paths, &spec, &settings, &mut state)?;
        store::write_state(&self.paths, &state, Durability::Eventual)?;
        Ok((Launching { state, listener, built }, spec))
    }

    /// A stopped container runs again: its last record moves aside.
    fn begin_again(&self, state: &mut State) -> Result<()> {
        (state.status, state.again) = (Status::Creating, true);
        state.boot_id = boot_id();
        state.init = None;
        state.started_at = None;
        state.restarts = Default::default();
        state.stopped_by = None;
        state.reason = None;
        store::write_state(&self.paths, state, Durability::Eventual)?;
        construct::move_record_aside(&self.paths)?;
        let _ = std::fs::remove_file(self.paths.run_exit());
        Ok(())
    }

    /// After a failed build: a new container leaves nothing; one that ran before stays, stopped, and
    /// says why it does not run.
    fn undo(&self, previous: State, is_new: bool, lock: OwnedFd, error: &Error) {
        // It knows which scope was made for it.
        let written = publish::read_json::<State>(&self.paths.state()).ok().flatten();
        let last = written.as_ref().unwrap_or(&previous);
        if cgroup::is_of(&self.roots, &self.id, &last.cgroup_path)
            && let Err(error) = cgroup::end(&last.cgroup_path, last.unit())
        {
            tracing::warn!("{error}");
        }
        let result = if is_new {
            let hooks = construct::read_spec(&self.paths)
                .and_then(|(spec, _)| Hooks::of(&spec, &self.id, &previous.bundle));
            let removed = store::remove(&self.roots, &self.id)
                .and_then(|()| Lock::from_fd(lock).remove(&self.paths.lock));
            // The hooks before may have set something up.
            let _ = hooks.inspect(Hooks::poststop);
            removed
        } else {
            self.record_failure(previous, error)
        };
        if let Err(error) = result {
            tracing::warn!("{error}");
        }
    }

    fn record_failure(&self, mut state: State, error: &Error) -> Result<()> {
        let mut record = ExitRecord::unknown(None, "").ended(Ending::Exited(error.launch_exit_code().into()));
        record.finished_at = Some(Timestamp::now());
        record.reason = Some(error.to_string());
        // What failed may have come before that.
        let moved = construct::move_record_aside(&self.paths);
        let published = publish::json(&self.paths.exit(), &record, Durability::Synced);
        match &published {
            Ok(()) => drop(std::fs::remove_file(self.paths.run_exit())),
            // On a full disk the record before is better than none.
            Err(_) => drop(moved.and_then(|()| construct::move_record_back(&self.paths))),
        }
        state.status = Status::Stopped;
        state.reason = record.reason;
        let _ = std::fs::remove_file(self.paths.socket());
        published.and(store::write_state(&self.paths, &state, Durability::Synced))
    }
}

/// What a launch comes to: everything but the lock.
#[derive(Debug)]
struct Launching {
    state: State,
    listener: OwnedFd,
    built: Built,
}

impl Launching {
    fn into_owned(self, roots: Roots, lock: OwnedFd) -> Owned {
        let Built { pidfd, streams, gate, ending } = self.built;
        let facts = Facts { roots, state: self.state, memory: Memory::default(), kill_at: None };
        Owned { facts, lock, listener: self.listener, pidfd, streams, gate, ending }
    }
}

/// The creating command, before there is a loop.
#[derive(Debug)]
struct Blocking {
    socket: OwnedFd,
    buffer: BytesMut,
    fds: Vec<OwnedFd>,
}

impl Blocking {
    fn receive<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(message) = frame::decode(&mut self.buffer)? {
                return Ok(Some(message));
            }
            match socket::receive(&self.socket, &mut self.buffer, &mut self.fds) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::os("read the control socket", errno)),
            }
        }
    }

    fn send<T: serde::Serialize>(&self, message: &T) -> Result<()> {
        let mut bytes = BytesMut::new();
        frame::encode(message, &mut bytes)?;
        while !bytes.is_empty() {
            match socket::send(&self.socket, &bytes, &[]) {
                Ok(sent) => bytes::Buf::advance(&mut bytes, sent),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::os("write the control socket", errno)),
            }
        }
        Ok(())
    }
}

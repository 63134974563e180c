//! The end of a container: everything it had goes, with its shim or without.

use std::time::Duration;

use jiff::Timestamp;

use super::connection::Received;
use super::patience::Patience;
use super::{BUSY, Client, Holder, is_busy, look_for_holder};
use crate::cgroup;
use crate::error::{Error, Kind, Result};
use crate::events::{What, emit};
use crate::launch::Hooks;
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::protocol::{Reply, Request};
use crate::spec::Spec;
use crate::state::lock::Lock;
use crate::state::{Mode, State, Status, publish, store};
use crate::sys;

/// How long what is killed may take to be gone, and its log to be written.
const END: Duration = Duration::from_secs(60);

/// Removes a container and everything it had; with `force`, ends it first.
pub fn delete(roots: &Roots, id: &ContainerId, force: bool) -> Result<()> {
    let paths = roots.container(id);
    // What we have asked the shim to delete.
    let mut asked: Option<Asked> = None;
    let mut patience = Patience::of(BUSY);
    let mut stuck = 0;
    let lock = loop {
        if !paths.dir.exists() && !paths.lock.exists() && !store::has_leftovers(roots, id) {
            // A shim that died as it did what we asked has done it.
            return if asked.is_some() { Ok(()) } else { Err(Error::no_such_container(id)) };
        }
        // Before we look who holds it: with what is read later another container's shim could be told.
        let created = created_at(&paths);
        if let Some(asked) = &asked
            && asked.is_gone(id, created)?
        {
            return Ok(());
        }
        match look_for_holder(&paths)? {
            // A keeper that was stopped, or a shim that nothing leads to any more.
            None if force && stuck < 2 && kill_supervisors(&paths, created, None) => stuck += 1,
            None => return Err(is_busy(id)),
            Some(Holder::Shim(mut client)) => {
                let created = asked.map_or(created, |asked| asked.created);
                client.send(&Request::Delete { force, created }, &[])?;
                let first = asked.replace(Asked { created }).is_none();
                if force && !client.is_ready_within(BUSY)? {
                    stuck += 1;
                    if stuck > 2 || !kill_supervisors(&paths, created, Some(&client)) {
                        return Err(Error::failed(format!("container {id}"), "its shim does not answer")
                            .hint("nobody is known whose end would help: end its podrun-shim, and delete it again"));
                    }
                    continue;
                }
                let answer = match client.receive_within(END)? {
                    Received::Reply(reply, _) => Some(*reply),
                    Received::Closed => None,
                    // It waits for what is to be done after the deletion.
                    Received::NotYet if !force || is_gone(&paths, created) => {
                        client.receive()?.map(|(reply, _)| reply)
                    }
                    Received::NotYet => {
                        let hint = format!(
                            "the kernel holds them up: frozen in a cgroup v1, or waiting for a file system; \
                             `podrun ps {id}` shows them"
                        );
                        let error = format!("container {id}");
                        return Err(
                            Error::failed(error, "its processes were killed and do not end").hint(hint)
                        );
                    }
                };
                match answer {
                    Some(Reply::Refused(error)) => return Err(error),
                    // Another one had got the name before we asked for anything.
                    Some(Reply::Nothing) if first && patience.lasts() => asked = None,
                    Some(Reply::Nothing) if first => {
                        return Err(Error::failed(
                            format!("container {id}"),
                            "its shim knows of another container than its state.json",
                        ));
                    }
                    Some(_) => return Ok(()),
                    None => {}
                }
            }
            Some(Holder::Us(lock)) => {
                // From here on nobody else can take the name.
                if let Some(asked) = &asked
                    && asked.is_gone(id, created_at(&paths))?
                {
                    return Ok(());
                }
                break lock;
            }
        }
    };
    match store::find_locked(roots, id) {
        Ok(Some(view)) if view.pid_alive && view.state.status != Status::Created && !force => {
            Err(Error::new(Kind::WrongState, format!("container {id}"), "is running")
                .hint(format!("stop it first, or use `podrun delete -f {id}`")))
        }
        Ok(Some(_)) => clean_and_tell(roots, id, lock),
        Ok(None) => {
            let nothing = !store::has_leftovers(roots, id);
            clean(roots, id, lock)?;
            if nothing { Err(Error::no_such_container(id)) } else { Ok(()) }
        }
        // Files that cannot be read protect nothing, but only `-f` says that they may go.
        Err(error) if !force => Err(error),
        Err(_) => clean_and_tell(roots, id, lock),
    }
}

/// The container that a shim was asked to delete.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// When it was created, which no other one was; `None` where that could not be read.
    created: Option<Timestamp>,
}

impl Asked {
    /// Whether it is gone, because the container that has its name now was created at the moment `now`.
    fn is_gone(self, id: &ContainerId, now: Option<Timestamp>) -> Result<bool> {
        match (self.created, now) {
            (Some(asked), Some(now)) => Ok(asked != now),
            (Some(_), None) | (None, None) => Ok(false),
            (None, Some(_)) => Err(Error::failed(
                format!("container {id}"),
                "its shim died, and its state could not be read until now",
            )
            .hint("look whether it is the one that is meant, and delete it again")),
        }
    }
}

/// Whether the container that was created at that moment is, also where another one has its name by now.
fn is_gone(paths: &ContainerPaths, created: Option<Timestamp>) -> bool {
    !paths.dir.exists() || created_at(paths) != created
}

/// When the container that has the name was created.
fn created_at(paths: &ContainerPaths) -> Option<Timestamp> {
    publish::read_json::<State>(&paths.state()).ok().flatten().map(|state| state.created_at)
}

/// Ends a shim that does not answer, and its keeper before it could make another one, of the container that was
/// created at that moment. False where nobody knows who they are.
fn kill_supervisors(paths: &ContainerPaths, created: Option<Timestamp>, client: Option<&Client>) -> bool {
    let Ok(state) = publish::read_json::<State>(&paths.state()) else { return false };
    // Gone meanwhile, or another one's by now: whoever looks again will see.
    let Some(state) = state.filter(|state| Some(state.created_at) == created) else {
        return created.is_some();
    };
    // While a container is being built its files do not name them; its keeper ends with its shim then.
    let listens = || client.and_then(Client::listener).filter(|_| state.status == Status::Creating);
    let known = [state.keeper, state.shim.or_else(listens)];
    let mut found = false;
    for process in known.into_iter().flatten() {
        let pid = rustix::process::Pid::from_raw(process.pid);
        let opened = pid.map(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
        // Looked at after it was opened: what the start time fits is what the pidfd stands for.
        if let Some(Ok(pidfd)) = opened.filter(|_| process.is_alive()) {
            found |= sys::signal::send(pidfd, nix::libc::SIGKILL).is_ok();
        }
    }
    found
}

/// Ends and removes everything a container may have left, whatever state it is in.
pub(super) fn clean(roots: &Roots, id: &ContainerId, lock: Lock) -> Result<()> {
    remove(roots, id, lock).map(|hooks| hooks.iter().for_each(Hooks::poststop))
}

/// The same for one whose deletion was asked for. It is told before its hooks, as a shim does.
fn clean_and_tell(roots: &Roots, id: &ContainerId, lock: Lock) -> Result<()> {
    let hooks = remove(roots, id, lock)?;
    emit(roots, id, What::Delete);
    hooks.iter().for_each(Hooks::poststop);
    Ok(())
}

/// Leaves of the container no more than the hooks that are to be run now.
fn remove(roots: &Roots, id: &ContainerId, lock: Lock) -> Result<Option<Hooks>> {
    let paths = roots.container(id);
    let state = publish::read_json::<State>(&paths.state()).ok().flatten();
    let own = cgroup::container_path(roots, id, None)?;
    // A path from a file that was tampered with must not decide what is killed.
    let recorded = state
        .as_ref()
        .filter(|state| state.mode == Mode::Oci || cgroup::is_of(roots, id, &state.cgroup_path))
        .filter(|state| state.id == *id && state.cgroup_path != own)
        .map(|state| (state.cgroup_path.clone(), state.unit()));
    for (path, unit) in std::iter::once((own, None)).chain(recorded) {
        cgroup::end(&path, unit)?;
    }
    let hooks = state.as_ref().and_then(|state| poststop(&paths, state));
    store::remove(roots, id)?;
    lock.remove(&paths.lock)?;
    Ok(hooks)
}

/// What is to be done once the container is gone; nothing, where its configuration cannot be read.
fn poststop(paths: &ContainerPaths, state: &State) -> Option<Hooks> {
    let spec = publish::read_json::<Spec>(&paths.spec()).ok()??;
    Hooks::of(&spec, &state.id, &state.bundle).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::publish::Durability;
    use crate::state::store::tests::state;

    #[test]
    fn a_container_is_gone_once_its_name_is_nobodys_or_anothers() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(Some(dir.path()), Some(&dir.path().join("run"))).unwrap();
        let id: ContainerId = "c".parse().unwrap();
        let paths = roots.container(&id);
        let create = |at: Timestamp| {
            let state = State { created_at: at, ..state(Status::Running, None) };
            store::insert(&roots, &id, |new| store::write_state(new, &state, Durability::Atomic)).unwrap();
        };
        let [first, second] = [Timestamp::UNIX_EPOCH, Timestamp::now()];
        create(first);
        assert!(!is_gone(&paths, Some(first)));
        store::remove(&roots, &id).unwrap();
        assert!(is_gone(&paths, Some(first)) && is_gone(&paths, None));
        create(second);
        assert!(is_gone(&paths, Some(first)) && !is_gone(&paths, Some(second)));
    }
}

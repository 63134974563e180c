//! The directory of all containers: how one appears in it, leaves it, and is seen.
//!
//! ```text
//!  .new-ID-PID/ ──rename──▶ ID/ ──rename──▶ .old-ID-PID/ ──▶ removed
//! ```
//!
//! A container appears and disappears by one rename, so that a reader never meets half of one;
//! what a crash leaves under another name is swept by the next `create` or `delete` of that ID, by `prune`, and by
//! `recover --all`. Names that begin with a dot are no IDs.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::state::health::HealthState;
use crate::state::lock::Lock;
use crate::state::process::boot_id;
use crate::state::publish::{self, Durability};
use crate::state::{ExitRecord, Mode, State, Status, tree};

/// Creates `dir` and what is missing above it, mode 0700.
pub fn make_dir(dir: &Path) -> Result<()> {
    let result = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    result.map_err(|error| {
        Error::io("create", dir, &error)
            .hint("podrun keeps its state there; `--root DIR` chooses another place")
    })
}

/// Every container's ID, sorted. A root that does not exist yet holds none.
pub fn list(roots: &Roots) -> Result<Vec<ContainerId>> {
    let dir = roots.containers();
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", dir, &error)),
    };
    let mut ids: Vec<ContainerId> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    ids.sort_unstable();
    Ok(ids)
}

/// Puts a new container into the store: `fill` writes its files into a directory that nobody sees
/// until they are all there. The caller holds the container's lock.
pub fn insert(
    roots: &Roots,
    id: &ContainerId,
    fill: impl FnOnce(&ContainerPaths) -> Result<()>,
) -> Result<ContainerPaths> {
    let paths = roots.container(id);
    if paths.dir.symlink_metadata().is_ok() {
        return Err(Error::failed(format!("container {id}"), "already exists")
            .hint(format!("choose another ID, or remove it first: `podrun delete -f {id}`")));
    }
    make_dir(&roots.containers())?;
    // What a crash left under another name is in nobody's way. What lies in the volatile directory would be taken
    // for this container's: another one's exit record, for example.
    let _ = sweep(roots, id).inspect_err(|error| tracing::warn!("{error}"));
    remove_tree(&paths.run_dir)?;
    let new = ContainerPaths {
        dir: roots.containers().join(format!(".new-{id}-{}", std::process::id())),
        ..paths.clone()
    };
    let result =
        make_dir(&new.dir).and_then(|()| make_dir(&new.log_dir())).and_then(|()| fill(&new)).and_then(|()| {
            std::fs::rename(&new.dir, &paths.dir).map_err(|error| Error::io("create", &paths.dir, &error))
        });
    match result {
        Ok(()) => Ok(paths),
        Err(error) => {
            let _ = remove_tree(&new.dir);
            Err(error)
        }
    }
}

/// Takes a container out of the store and removes its files. The caller holds its lock, and no
/// process and no mount of it is left.
pub fn remove(roots: &Roots, id: &ContainerId) -> Result<()> {
    let paths = roots.container(id);
    let old = roots.containers().join(format!(".old-{id}-{}", std::process::id()));
    match std::fs::rename(&paths.dir, &old) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io("remove", &paths.dir, &error)),
    }
    for dir in [&old, &paths.run_dir] {
        remove_tree(dir)?;
    }
    sweep(roots, id)
}

fn remove_tree(dir: &Path) -> Result<()> {
    tree::remove(dir).map_err(|errno| Error::at("remove", dir, errno))
}

/// Whether a crash left something of `id` under another name.
pub fn has_leftovers(roots: &Roots, id: &ContainerId) -> bool {
    roots.container(id).run_dir.exists() || !leftovers(roots, id).is_empty()
}

/// Whose they are: of containers that were never made, or never removed, completely, or are on their way.
pub fn left_over(roots: &Roots) -> BTreeSet<ContainerId> {
    every_leftover(roots).map(|(owner, _)| owner).collect()
}

fn leftovers(roots: &Roots, id: &ContainerId) -> Vec<PathBuf> {
    every_leftover(roots).filter(|(owner, _)| owner == id).map(|(_, path)| path).collect()
}

fn every_leftover(roots: &Roots) -> impl Iterator<Item = (ContainerId, PathBuf)> {
    let owner = |name: &str| -> Option<ContainerId> {
        let rest = name.strip_prefix(".new-").or_else(|| name.strip_prefix(".old-"));
        let (owner, pid) = rest.and_then(|rest| rest.rsplit_once('-'))?;
        owner.parse().ok().filter(|_| pid.bytes().all(|c| c.is_ascii_digit()))
    };
    let entries = std::fs::read_dir(roots.containers()).into_iter().flatten().flatten();
    entries.filter_map(move |entry| Some((owner(entry.file_name().to_str()?)?, entry.path())))
}

/// Removes what a crash left of `id` under another name: as much as goes, then the first failure is told. The caller
/// holds its lock.
pub fn sweep(roots: &Roots, id: &ContainerId) -> Result<()> {
    let mut swept = Ok(());
    for dir in leftovers(roots, id) {
        swept = swept.and(remove_tree(&dir));
    }
    swept
}

/// A container as it is now: what its files say, held against the processes that live.
#[derive(Clone, Debug)]
pub struct View {
    /// `state.json`, with `status` and `reason` corrected to what is true now.
    pub state: State,
    /// A shim holds the container's lock.
    pub shim_alive: bool,
    /// Init runs.
    pub pid_alive: bool,
    /// How it ended, once it did.
    pub exit: Option<ExitRecord>,
    /// Whether it does its work, where its shim checks that.
    pub health: Option<HealthState>,
}

/// The container `id` as it is now; an error that says so where it does not exist.
pub fn view(roots: &Roots, id: &ContainerId) -> Result<View> {
    // Deleted between the listing and the look is the same as never there.
    find(roots, id)?.ok_or_else(|| Error::no_such_container(id))
}

/// The container `id` as it is now, `None` where it does not exist.
pub fn find(roots: &Roots, id: &ContainerId) -> Result<Option<View>> {
    find_with(roots, id, &boot_id(), Trust::Look)
}

/// The same for the one who holds the container's lock: no shim lives, whatever the lock says.
pub fn find_locked(roots: &Roots, id: &ContainerId) -> Result<Option<View>> {
    find_with(roots, id, &boot_id(), Trust::NoShim)
}

/// The same for a listing of `ids`, in their order: a shim that lives is believed that its init does too. What
/// many cost is the kernel's work of opening their files, so all processors do it.
pub fn glance(roots: &Roots, ids: &[ContainerId]) -> Vec<Result<Option<View>>> {
    /// Below that many a thread costs more than it brings.
    const SHARE: usize = 64;
    let boot_id = &boot_id();
    let look = |ids: &[ContainerId]| -> Vec<_> {
        ids.iter().map(|id| find_with(roots, id, boot_id, Trust::Shim)).collect()
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let share = ids.len().div_ceil(processors).max(SHARE);
    let Some((own, others)) = ids.split_at_checked(share) else { return look(ids) };
    std::thread::scope(|scope| {
        let others: Vec<_> = others
            .chunks(share)
            .map(|ids| (ids, std::thread::Builder::new().spawn_scoped(scope, || look(ids))))
            .collect();
        let mut views = look(own);
        for (ids, thread) in others {
            // Where there is no room for a thread, without.
            views.extend(match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                Err(_) => look(ids),
            });
        }
        views
    })
}

/// Who waits for the init of container `id`, by its files alone; `None` where it does not exist. For the
/// commands that have to know no more than that.
pub fn mode(roots: &Roots, id: &ContainerId) -> Result<Option<Mode>> {
    #[derive(serde::Deserialize)]
    struct Excerpt {
        mode: Mode,
    }
    let excerpt = publish::read_json::<Excerpt>(&roots.container(id).state())?;
    Ok(excerpt.map(|excerpt| excerpt.mode))
}

/// What the container was compiled to: its `spec.json`.
pub fn spec(paths: &ContainerPaths) -> Result<Spec> {
    let path = paths.spec();
    match publish::read_json(&path)? {
        Some(spec) => Ok(spec),
        // Deleted since.
        None if !paths.dir.exists() => Err(Error::no_such_container(&paths.id()?)),
        None => Err(Error::at("read", &path, Errno::NOENT)),
    }
}

/// Whose word counts for init being alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trust {
    /// `/proc`'s.
    Look,
    /// The shim's, where one lives.
    Shim,
    /// `/proc`'s, and the lock is the caller's own.
    NoShim,
}

fn find_with(roots: &Roots, id: &ContainerId, boot_id: &str, trust: Trust) -> Result<Option<View>> {
    let paths = roots.container(id);
    // The lock first: where it is free, whoever held it has written its last word before.
    let held = trust != Trust::NoShim && Lock::is_held(&paths.lock)?;
    let Some(state) = publish::read_json::<State>(&paths.state())? else {
        if publish::is_unwritten(&paths.state()) {
            return Ok(Some(unwritten(&paths, id)));
        }
        if paths.dir.exists() {
            return Err(Error::failed(format!("container {id}"), "has no state.json")
                .hint(format!("`podrun delete -f {id}` removes what is left of it")));
        }
        return Ok(None);
    };
    if state.id != *id {
        return Err(Error::failed(
            format!("read {}", paths.state().display()),
            format!("it is the state of container {}", state.id),
        )
        .hint(format!("`podrun delete -f {id}` removes what is left of it")));
    }
    let exit = match publish::read_json::<ExitRecord>(&paths.run_exit())? {
        Some(exit) => Some(exit),
        // A shim that lives has no end to tell that it did not tell there first; only between two runs
        // what is there is about the next one.
        None if trust == Trust::Shim && held && state.restarts.due.is_none() => None,
        None => publish::read_json(&paths.exit())?,
    };
    let mut view = observe(state, exit, held, boot_id, trust);
    if matches!(view.state.status, Status::Running | Status::Paused) {
        // Of another run it says nothing about this one.
        let health = publish::read_json::<HealthState>(&paths.health()).ok().flatten();
        view.health = health.filter(|health| Some(health.run) == view.state.started_at);
    }
    Ok(Some(view))
}

/// A container that was new when the power went: its name had reached the disk, and its files had not.
fn unwritten(paths: &ContainerPaths, id: &ContainerId) -> View {
    let reason = "the host went down before its files were on the disk";
    let mut state = State::creating(id, Mode::Supervised, PathBuf::new(), paths.dir.clone());
    let made = paths.dir.metadata().and_then(|dir| dir.modified()).ok();
    state.created_at = made.and_then(|made| made.try_into().ok()).unwrap_or_default();
    (state.status, state.reason) = (Status::Stopped, Some(reason.to_owned()));
    let exit = ExitRecord::unknown(None, reason);
    View { state, shim_alive: false, pid_alive: false, exit: Some(exit), health: None }
}

/// What is true now of a container whose files say `state` and `exit`.
fn observe(mut state: State, exit: Option<ExitRecord>, held: bool, boot_id: &str, trust: Trust) -> View {
    let same_boot = state.boot_id == boot_id;
    let shim_alive = held && same_boot && state.mode == Mode::Supervised;
    if state.status == Status::Stopped {
        // With a restart to come it still has one.
        let shim_alive = shim_alive && state.restarts.due.is_some();
        if let Some(due) = state.restarts.due {
            state.reason = Some(pending(&state, due, shim_alive, exit.as_ref()));
        }
        return View { state, shim_alive, pid_alive: false, exit, health: None };
    }
    if !same_boot {
        let reason = "the host was restarted";
        state.status = Status::Stopped;
        state.reason = Some(reason.to_owned());
        let exit = exit.unwrap_or_else(|| ExitRecord::unknown(state.started_at, reason));
        return View { state, shim_alive: false, pid_alive: false, exit: Some(exit), health: None };
    }
    let believed = trust == Trust::Shim && shim_alive && exit.is_none();
    let pid_alive = state.init.is_some_and(|init| believed || init.is_alive());
    if trust == Trust::Look && shim_alive && state.shim.is_some_and(|shim| !shim.is_alive()) {
        state.reason.get_or_insert_with(|| "its shim has died: its keeper makes another one".to_owned());
    }
    // A shim that lives will see init's end and tell of it itself, unless it has told already.
    if pid_alive || (shim_alive && exit.is_none()) || (state.status == Status::Creating && held) {
        return View { state, shim_alive, pid_alive, exit: None, health: None };
    }
    if state.status == Status::Creating && state.again {
        let reason = "whoever was starting it is gone";
        (state.status, state.reason) = (Status::Stopped, Some(reason.to_owned()));
        let exit = exit.unwrap_or_else(|| ExitRecord::unknown(None, reason));
        return View { state, shim_alive: false, pid_alive, exit: Some(exit), health: None };
    }
    if state.status == Status::Creating {
        state.reason = Some("the command that was creating it is gone".to_owned());
        return View { state, shim_alive, pid_alive, exit: None, health: None };
    }
    state.status = Status::Stopped;
    let exit = exit.unwrap_or_else(|| {
        ExitRecord::unknown(
            state.started_at,
            match state.mode {
                Mode::Supervised => "its shim was gone when it ended",
                Mode::Oci => "the engine that created it has the exit status",
            },
        )
    });
    state.reason = state.reason.or_else(|| exit.reason.clone());
    // One that has told the end is on its way out, however long that takes.
    View { state, shim_alive: false, pid_alive, exit: Some(exit), health: None }
}

/// That a container is about to be started again.
fn pending(state: &State, due: jiff::Timestamp, shim_alive: bool, exit: Option<&ExitRecord>) -> String {
    let code = exit.and_then(|exit| exit.exit_code).map_or("unknown".to_owned(), |code| code.to_string());
    let number = state.restarts.count;
    let why = exit.and_then(|exit| exit.reason.as_ref()).map_or(String::new(), |why| format!(": {why}"));
    match shim_alive {
        true => format!("restart pending: number {number}, at {due}, after exit code {code}{why}"),
        false => {
            let id = &state.id;
            format!("restart pending: `podrun recover {id}` does it, after exit code {code}{why}")
        }
    }
}

/// Publishes `state` at its place.
pub fn write_state(paths: &ContainerPaths, state: &State, durability: Durability) -> Result<()> {
    publish::json(&paths.state(), state, durability)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::state::{Ending, ProcessRef};

    pub(crate) fn state(status: Status, init: Option<ProcessRef>) -> State {
        let id = "c".parse().unwrap();
        State {
            status,
            boot_id: "this".into(),
            init,
            ..State::creating(&id, Mode::Supervised, "/sys/fs/cgroup/x".into(), "/b".into())
        }
    }

    fn own() -> Option<ProcessRef> {
        ProcessRef::of(std::process::id().try_into().unwrap())
    }

    #[test]
    fn after_a_reboot_every_container_is_stopped_with_the_reason() {
        let view = observe(state(Status::Running, own()), None, true, "next", Trust::Look);
        assert_eq!(view.state.status, Status::Stopped);
        assert_eq!(view.state.reason.as_deref(), Some("the host was restarted"));
        assert_eq!(view.exit.unwrap().exit_code, None);
        assert!(!view.shim_alive && !view.pid_alive);
    }

    #[test]
    fn a_running_container_without_a_shim_is_running_and_says_that_the_shim_is_gone() {
        let view = observe(state(Status::Running, own()), None, false, "this", Trust::Look);
        assert_eq!(view.state.status, Status::Running);
        assert!(!view.shim_alive && view.pid_alive);
    }

    #[test]
    fn an_end_that_nobody_saw_is_unknown_and_never_zero() {
        let gone = own().map(|own| ProcessRef { start_time: 1, ..own });
        let view = observe(state(Status::Running, gone), None, false, "this", Trust::Look);
        assert_eq!(view.state.status, Status::Stopped);
        assert_eq!(view.exit.unwrap().exit_code, None);
    }

    #[test]
    fn the_exit_record_is_believed_before_the_state_says_stopped() {
        let gone = own().map(|own| ProcessRef { start_time: 1, ..own });
        let record = ExitRecord::unknown(None, "").ended(Ending::Exited(42));
        let view = observe(state(Status::Running, gone), Some(record), true, "this", Trust::Look);
        assert_eq!(view.state.status, Status::Stopped);
        assert_eq!(view.exit.unwrap().exit_code, Some(42));
    }

    #[test]
    fn one_whose_files_a_power_cut_took_is_stopped_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(Some(dir.path()), None).unwrap();
        let id: ContainerId = "c".parse().unwrap();
        let paths = insert(&roots, &id, |_| Ok(())).unwrap();
        for taken in [&b""[..], &[0; 700]] {
            std::fs::write(paths.state(), taken).unwrap();
            assert!(view(&roots, &id).is_err(), "of this boot, it is damaged");
            let file = std::fs::File::options().write(true).open(paths.state()).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
            let view = view(&roots, &id).unwrap();
            assert_eq!((view.state.status, view.pid_alive), (Status::Stopped, false));
            assert!(view.state.reason.unwrap().contains("went down"));
            assert_eq!(view.exit.unwrap().exit_code, None);
        }
        std::fs::write(paths.state(), "{").unwrap();
    }

    #[test]
    fn many_are_looked_at_in_their_order_and_a_damaged_one_is_an_error_at_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(Some(dir.path()), Some(&dir.path().join("run"))).unwrap();
        for number in 0..300 {
            let id: ContainerId = format!("c{number:03}").parse().unwrap();
            insert(&roots, &id, |new| {
                let state = State { id: id.clone(), ..state(Status::Stopped, None) };
                write_state(new, &state, Durability::Atomic)
            })
            .unwrap();
        }
        let ids = list(&roots).unwrap();
        std::fs::write(roots.container(&ids[200]).state(), "{").unwrap();
        remove(&roots, &ids[100]).unwrap();
        let views = glance(&roots, &ids);
        assert_eq!(views.len(), ids.len());
        for (number, (id, view)) in ids.iter().zip(views).enumerate() {
            match number {
                100 => assert!(view.unwrap().is_none()),
                200 => assert!(view.is_err()),
                _ => assert_eq!(view.unwrap().unwrap().state.id, *id),
            }
        }
    }

    #[test]
    fn insertion_is_one_rename_and_failure_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(Some(dir.path()), None).unwrap();
        let id: ContainerId = "c".parse().unwrap();
        let refused = insert(&roots, &id, |_| Err(Error::failed("x", "y")));
        assert!(refused.is_err());
        assert_eq!(std::fs::read_dir(roots.containers()).unwrap().count(), 0);
        insert(&roots, &id, |_| Ok(())).unwrap();
        assert_eq!(list(&roots).unwrap(), std::slice::from_ref(&id));
        assert!(insert(&roots, &id, |_| Ok(())).is_err());
        std::fs::create_dir(roots.containers().join(".old-c-17")).unwrap();
        std::fs::create_dir(roots.containers().join(".old-c-d-17")).unwrap();
        remove(&roots, &id).unwrap();
        let left: Vec<_> =
            std::fs::read_dir(roots.containers()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert_eq!(left, [".old-c-d-17"], "the leftovers of c are swept, those of c-d are not");
    }
}

//! The construction of a container from its `spec.json`: its cgroup, its stdio, and an init that waits at
//! its gate. Each start does it, by hand or by its restart policy.

use std::os::fd::OwnedFd;

use podrun::cgroup::Cgroup;
use podrun::error::{Error, Result};
use podrun::launch::{self, Gate};
use podrun::paths::ContainerPaths;
use podrun::spec::limits;
use podrun::spec::settings::Settings;
use podrun::spec::{Spec, validate};
use podrun::state::publish::{self, Durability};
use podrun::state::store;
use podrun::state::{FileRef, PipeRefs, ProcessRef, State, Status};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

use crate::streams::Streams;

/// How much a pipe of the container holds.
const PIPE_SIZE: usize = 1 << 20;

/// What a shim has of a container that was built.
#[derive(Debug)]
pub(crate) struct Built {
    /// Init.
    pub(crate) pidfd: OwnedFd,
    /// Its output and input.
    pub(crate) streams: Streams,
    /// The gate at which it waits.
    pub(crate) gate: Option<OwnedFd>,
    /// Where a minimal init tells how the command ended.
    pub(crate) ending: Option<OwnedFd>,
}

/// What the container is, and what podrun does with it.
pub(crate) fn read_spec(paths: &ContainerPaths) -> Result<(Spec, Settings)> {
    let path = paths.spec();
    let spec = publish::read_json::<Spec>(&path)?.ok_or_else(|| Error::at("read", &path, Errno::NOENT))?;
    let settings = validate::validate(&spec).and_then(|()| Settings::of(&spec)).map_err(|error| {
        let error = Error::failed(format!("read {}", path.display()), error.to_string());
        match paths.id() {
            Ok(id) => error.hint(format!("`podrun delete -f {id}` removes the container")),
            Err(_) => error,
        }
    })?;
    Ok((spec, settings))
}

/// Builds the container up to, not including, its command; `state`, which names its cgroup, tells of it then.
pub(crate) fn build(
    paths: &ContainerPaths,
    spec: &Spec,
    settings: &Settings,
    state: &mut State,
) -> Result<(Built, Option<Cgroup>)> {
    let _waiting = state.cgroups.begin(&state.cgroup_path, &state.id, spec)?;
    let cgroup = Cgroup::create_for(&state.cgroup_path, limits::resources(spec))?;
    if state.remember_unit(cgroup.as_ref())? {
        store::write_state(paths, state, Durability::Eventual)?;
    }
    crate::log::create_files(&settings.logging, paths)?;
    let plan = launch::plan(spec, settings, paths, &paths.dir)?;
    let (stdio, pipes) = match launch::Stdio::terminal_of(spec) {
        Some(terminal) => (terminal, None),
        None => pipes(settings.interactive).map(|(stdio, pipes)| (stdio, Some(pipes)))?,
    };
    let init = launch::create(plan, cgroup.as_ref(), stdio, Gate::Socketpair)?;
    let streams = init.terminal.map(Streams::Terminal).or(pipes);
    let streams = streams.ok_or_else(|| Error::failed("create", "the container's terminal is missing"))?;
    state.init = ProcessRef::of(init.pid);
    let (stdout, stderr) = match &streams {
        Streams::Pipes { stdout, stderr, .. } => (Some(stdout), Some(stderr)),
        Streams::Terminal(_) => (None, None),
    };
    state.pipes = PipeRefs {
        stdout: file_ref(stdout),
        stderr: file_ref(stderr),
        ending: file_ref(init.ending.as_ref()),
        lost: false,
    };
    state.status = Status::Created;
    Ok((Built { pidfd: init.pidfd, streams, gate: init.gate, ending: init.ending }, cgroup))
}

/// The record of the run before is the older one from now on.
pub(crate) fn move_record_aside(paths: &ContainerPaths) -> Result<()> {
    let exit = paths.exit();
    match std::fs::rename(&exit, exit.with_added_extension("1")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::io("move aside", &exit, &error))
        }
        _ => Ok(()),
    }
}

/// The record of the last run is the last one again, where there is no later one.
pub(crate) fn move_record_back(paths: &ContainerPaths) -> Result<()> {
    let exit = paths.exit();
    if exit.exists() {
        return Ok(());
    }
    std::fs::rename(exit.with_added_extension("1"), &exit)
        .map_err(|error| Error::io("move back", &exit, &error))
}

/// The container's stdio by pipes: its own ends, and the shim's.
fn pipes(interactive: bool) -> Result<(launch::Stdio, Streams)> {
    let (stdin, writer) = if interactive {
        let (reader, writer) = pipe()?;
        (reader, Some(writer))
    } else {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty())
            .map_err(|errno| Error::at("open", "/dev/null", errno))?;
        (null, None)
    };
    let (stdout, stdout_writer) = output()?;
    let (stderr, stderr_writer) = output()?;
    let stdio = launch::Stdio::Files([stdin, stdout_writer, stderr_writer]);
    Ok((stdio, Streams::Pipes { stdout, stderr, stdin: writer }))
}

fn file_ref(fd: Option<&OwnedFd>) -> Option<FileRef> {
    rustix::fs::fstat(fd?).ok().as_ref().map(FileRef::of)
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| Error::os("create a pipe", errno))
}

/// A pipe for output. The container's end is open for reading too, so that the death of a reader
/// raises no SIGPIPE in it; a full pipe makes it wait.
fn output() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = pipe()?;
    // Best effort: a smaller pipe only means smaller batches.
    let _ = rustix::pipe::fcntl_setpipe_size(&reader, PIPE_SIZE);
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer));
    let both = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::os("open a pipe for reading and writing", errno))?;
    Ok((reader, both))
}

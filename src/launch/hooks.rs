//! Hooks: programs that the configuration wants to be run at six moments of a container's life.
//!
//! ```text
//!  create  parent  prestart, createRuntime      namespaces and mounts are there, the root is the host's
//!          init    createContainer              likewise, inside the container's namespaces
//!                  ── pivot_root ──
//!  start   init    startContainer               inside, just before execve
//!          caller  poststart                    after execve
//!  delete  caller  poststop                     after everything is gone
//! ```
//!
//! One after the other, each to its end; the container's state comes on stdin. What fails before the
//! command runs fails the container; what fails afterwards is a warning (runtime specification,
//! "Lifecycle").

use std::collections::HashMap;
use std::ffi::CString;
use std::io::{Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::{Hook, Spec};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, Mode};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde::Serialize;

use super::gate::PATIENCE;
use super::plan::c_string;
use crate::error::{Error, Result, errno_text};
use crate::paths::ContainerId;
use crate::state::{Ending, Status};
use crate::sys::{Clone3, clone, fd, signal};

/// How much of what a hook says is told when it fails.
const MAX_WORDS: usize = 1024;

/// The time of a poststop hook that has none of its own. Whoever deletes the container waits for it, and nothing is
/// left by which it could be ended.
const POSTSTOP: Duration = Duration::from_secs(60);

/// The hooks of a container, and what all of them are told of it.
#[derive(Clone, Debug)]
pub struct Hooks {
    pub(super) prestart: Vec<Program>,
    pub(super) create_runtime: Vec<Program>,
    pub(super) create_container: Vec<Program>,
    pub(super) start_container: Vec<Program>,
    poststart: Vec<Program>,
    poststop: Vec<Program>,
    container: Container,
}

/// What does not change of the state that a hook reads.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Container {
    oci_version: String,
    id: String,
    bundle: PathBuf,
    annotations: HashMap<String, String>,
}

/// The state of `runtime.md`, as a hook gets it.
#[derive(Debug, Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    container: &'a Container,
    status: Status,
    pid: i32,
}

/// One hook.
#[derive(Clone, Debug)]
pub(super) struct Program {
    name: String,
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    timeout: Option<Duration>,
}

impl Program {
    fn of(kind: &str, hook: &Hook) -> Result<Self> {
        let name = format!("hooks.{kind} {}", hook.path().display());
        let strings =
            |texts: &[String]| texts.iter().map(|text| c_string(&name, text)).collect::<Result<_>>();
        let path = c_string(&name, hook.path())?;
        Ok(Self {
            args: match hook.args().as_deref() {
                Some([]) | None => vec![path.clone()],
                Some(args) => strings(args)?,
            },
            env: strings(hook.env().as_deref().unwrap_or_default())?,
            timeout: hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
            path,
            name,
        })
    }
}

impl Hooks {
    /// The hooks of `spec`, for the container `id` whose bundle is at `bundle`.
    pub fn of(spec: &Spec, id: &ContainerId, bundle: &Path) -> Result<Self> {
        let hooks = spec.hooks().clone().unwrap_or_default();
        let programs = |kind: &str, list: &Option<Vec<Hook>>| {
            list.iter().flatten().map(|hook| Program::of(kind, hook)).collect::<Result<Vec<_>>>()
        };
        let mut poststop = programs("poststop", hooks.poststop())?;
        for program in &mut poststop {
            program.timeout.get_or_insert(POSTSTOP);
        }
        Ok(Self {
            poststop,
            prestart: programs("prestart", hooks.prestart())?,
            create_runtime: programs("createRuntime", hooks.create_runtime())?,
            create_container: programs("createContainer", hooks.create_container())?,
            start_container: programs("startContainer", hooks.start_container())?,
            poststart: programs("poststart", hooks.poststart())?,
            container: Container {
                oci_version: spec.version().clone(),
                id: id.to_string(),
                bundle: bundle.to_owned(),
                annotations: spec.annotations().clone().unwrap_or_default(),
            },
        })
    }

    /// Whether the parent has some to run while init waits.
    pub(super) fn are_for_parent(&self) -> bool {
        !self.prestart.is_empty() || !self.create_runtime.is_empty()
    }

    /// Those of the parent, while init (`pid` on the host) waits with its namespaces and mounts.
    pub(super) fn create_runtime(&self, pid: i32) -> Result<()> {
        let all = self.prestart.iter().chain(&self.create_runtime);
        self.run(all, Status::Creating, pid, Session::Own)
    }

    /// Those of init before it enters its root.
    pub(super) fn create_container(&self) -> Result<()> {
        self.run(&self.create_container, Status::Creating, own_pid(), Session::Inside)
    }

    /// Those of init before it executes the command.
    pub(super) fn start_container(&self) -> Result<()> {
        self.run(&self.start_container, Status::Created, own_pid(), Session::Inside)
    }

    /// Those of whoever started the command, which is `pid` on the host. All of them are run, in this process's
    /// own session.
    pub fn poststart(&self, pid: i32) {
        self.run_all(&self.poststart, Status::Running, pid, Session::Shared);
    }

    /// Those of whoever has removed the container. All of them are run.
    pub fn poststop(&self) {
        self.run_all(&self.poststop, Status::Stopped, 0, Session::Own);
    }

    fn run<'a>(
        &self,
        programs: impl IntoIterator<Item = &'a Program>,
        status: Status,
        pid: i32,
        session: Session,
    ) -> Result<()> {
        programs.into_iter().try_for_each(|program| run(program, &self.state(status, pid)?, session))
    }

    fn run_all(&self, programs: &[Program], status: Status, pid: i32, session: Session) {
        for program in programs {
            if let Err(error) = self.state(status, pid).and_then(|state| run(program, &state, session)) {
                tracing::warn!("{error}");
            }
        }
    }

    fn state(&self, status: Status, pid: i32) -> Result<Vec<u8>> {
        serde_json::to_vec(&Document { container: &self.container, status, pid })
            .map_err(|error| Error::failed("write the state for a hook", error.to_string()))
    }
}

fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_nonzero().get()
}

/// Whom a hook shares its session, and its process group, with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    /// Nobody: `kill 0` in it ends nobody else.
    Own,
    /// The same, beside processes of others that can stop it.
    Inside,
    /// Whoever runs it.
    Shared,
}

struct Child<'a> {
    program: &'a Program,
    session: Session,
    stdin: OwnedFd,
    output: OwnedFd,
}

/// Runs one hook to its end, or to the end of its time.
fn run(program: &Program, state: &[u8], session: Session) -> Result<()> {
    let failed = |errno| Error::os(program.name.clone(), errno);
    let (output, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
    let child = Child { program, session, stdin: stdin_with(state, program)?, output: theirs };
    let keep = [child.stdin.as_fd(), child.output.as_fd()];
    let made = Clone3 { namespaces: 0, cgroup: None, keep: &keep }
        .spawn(&child, main)
        .map_err(|error| Error::io("start", &program.name, &error))?;
    drop(child);
    let deadline = program.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let (words, attended) = attend(&made.pidfd, &output, deadline, session).map_err(failed)?;
    if attended != Attended::Ended {
        if session != Session::Shared {
            // What it has started too: until it is reaped, its number is that of its group alone.
            let _ = signal::kill(-made.pid, nix::libc::SIGKILL);
        }
        let _ = signal::send(&made.pidfd, nix::libc::SIGKILL);
    }
    let status =
        rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(made.pidfd.as_fd()), WaitIdOptions::EXITED));
    let ending = status.map_err(failed)?.as_ref().and_then(Ending::of);
    let why = match (attended, ending) {
        (Attended::Ended, Some(Ending::Exited(0))) => return Ok(()),
        (Attended::OutOfTime, _) => {
            format!("has not ended after {} s", program.timeout.unwrap_or_default().as_secs())
        }
        (Attended::Stopped, _) => "was stopped".to_owned(),
        (_, Some(Ending::Exited(code))) => format!("exited with code {code}"),
        (_, Some(Ending::Signaled { signal, .. })) => format!("was ended by signal {signal}"),
        (_, None) => "ended in no known way".to_owned(),
    };
    let words = String::from_utf8_lossy(&words);
    let words = words.trim();
    let why = if words.is_empty() { why } else { format!("{why}: {words}") };
    Err(Error::failed(program.name.clone(), why))
}

/// The state as a file in memory: a hook that does not read it holds nobody up.
fn stdin_with(state: &[u8], program: &Program) -> Result<OwnedFd> {
    let failed = |error: std::io::Error| Error::io("write the state for", &program.name, &error);
    let file =
        rustix::fs::memfd_create(c"state", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let mut file = std::fs::File::from(file);
    file.write_all(state).and_then(|()| file.rewind()).map_err(failed)?;
    Ok(file.into())
}

/// What became of a hook that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attended {
    Ended,
    OutOfTime,
    /// By a signal, and nobody let it go on: whoever shares its pid namespace can do that.
    Stopped,
}

fn is_stopped(process: &OwnedFd) -> bool {
    let look = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(waitid(WaitId::PidFd(process.as_fd()), look), Ok(Some(_)))
}

/// Waits until the process has ended, `deadline` has come, or it is found stopped, and keeps the beginning of what it
/// says meanwhile. Who holds its output open longer is not waited for.
fn attend(
    process: &OwnedFd,
    output: &OwnedFd,
    deadline: Option<Instant>,
    session: Session,
) -> Result<(Vec<u8>, Attended), Errno> {
    let mut words = Vec::new();
    let mut buffer = [0; 4096];
    let mut open = true;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(PATIENCE, |left| left.min(PATIENCE));
        let mut fds = vec![PollFd::new(process, PollFlags::IN)];
        if open {
            fds.push(PollFd::new(output, PollFlags::IN));
        }
        match poll(&mut fds, Timespec::try_from(timeout).ok().as_ref()) {
            Ok(0) if left.is_some_and(|left| left <= PATIENCE) => return Ok((words, Attended::OutOfTime)),
            Ok(0) if session == Session::Inside && is_stopped(process) => {
                return Ok((words, Attended::Stopped));
            }
            Ok(0) => continue,
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno),
        }
        let ended = !fds[0].revents().is_empty();
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            let length = rustix::io::read(output, &mut buffer)?;
            open = length > 0;
            let room = MAX_WORDS.saturating_sub(words.len()).min(length);
            words.extend_from_slice(&buffer[..room]);
            if ended && room == 0 {
                return Ok((words, Attended::Ended));
            }
        } else if ended {
            return Ok((words, Attended::Ended));
        }
    }
}

fn main(child: &Child<'_>) -> ! {
    let Err(error) = become_hook(child);
    let _ = rustix::io::write(&child.output, errno_text(error).as_bytes());
    clone::exit(EXIT_NOT_EXECUTED)
}

/// What a hook that could not be executed exits with, as a shell has it.
const EXIT_NOT_EXECUTED: i32 = 127;

fn become_hook(child: &Child<'_>) -> Result<std::convert::Infallible, Errno> {
    rustix::stdio::dup2_stdin(&child.stdin)?;
    rustix::stdio::dup2_stdout(&child.output)?;
    rustix::stdio::dup2_stderr(&child.output)?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if child.session != Session::Shared {
        rustix::process::setsid()?;
    }
    fd::only_stdio_survives_exec(0).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    signal::reset();
    let Err(errno) = nix::unistd::execve(&child.program.path, &child.program.args, &child.program.env);
    Err(Errno::from_raw_os_error(errno as i32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clone::tests::alone;

    fn hooks(script: &str, timeout: Option<u64>) -> Hooks {
        let hook = serde_json::json!({"path": "/bin/sh", "args": ["sh", "-c", script], "timeout": timeout});
        let spec = serde_json::json!({"ociVersion": "1.0.2", "annotations": {"a": "b"},
            "hooks": {"prestart": [hook], "createRuntime": [hook], "poststop": [hook]}});
        let spec: Spec = serde_json::from_value(spec).unwrap();
        Hooks::of(&spec, &"c".parse().unwrap(), Path::new("/bundle")).unwrap()
    }

    #[test]
    fn a_hook_reads_the_state_and_its_failure_is_told_in_its_words() {
        alone(|| {
            let script = r#"read -r state; test "$state" = '{"ociVersion":"1.0.2","id":"c","bundle":"/bundle","annotations":{"a":"b"},"status":"creating","pid":7}' || { echo "$state"; exit 3; }"#;
            hooks(script, None).create_runtime(7).unwrap();
            let error = hooks("echo why >&2; exit 4", None).create_runtime(7).unwrap_err();
            assert_eq!(error.to_string(), "hooks.prestart /bin/sh: exited with code 4: why");
            hooks("exit 1", None).poststop();
        });
    }

    #[test]
    fn a_hook_has_its_time_and_endless_words_are_cut() {
        alone(|| {
            let error = hooks("exec sleep 1000", Some(1)).create_runtime(7).unwrap_err();
            assert!(error.why.contains("has not ended after 1 s"), "{error}");
            let error = hooks("yes", Some(1)).create_runtime(7).unwrap_err();
            assert!(error.why.len() < 3000, "{}", error.why.len());
            // A child that keeps the output open.
            hooks("sleep 2 & exit 0", None).create_runtime(7).unwrap();
        });
    }

    #[test]
    fn after_the_end_no_hook_takes_for_ever() {
        let timeouts = |hooks: Hooks| [hooks.prestart[0].timeout, hooks.poststop[0].timeout];
        assert_eq!(timeouts(hooks("", None)), [None, Some(POSTSTOP)]);
        assert_eq!(timeouts(hooks("", Some(600))), [Some(Duration::from_secs(600)); 2]);
    }

    #[test]
    fn a_program_that_is_not_there_is_said() {
        alone(|| {
            let hook = serde_json::json!({"path": "/no/such/hook"});
            let spec = serde_json::json!({"ociVersion": "1.0.2", "hooks": {"createRuntime": [hook]}});
            let spec: Spec = serde_json::from_value(spec).unwrap();
            let hooks = Hooks::of(&spec, &"c".parse().unwrap(), Path::new("/")).unwrap();
            let error = hooks.create_runtime(7).unwrap_err().to_string();
            assert!(error.contains("/no/such/hook") && error.contains("no such file"), "{error}");
        });
    }
}

//! `podrun exec`: runs a process inside a container, on our own descriptors.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_spec::runtime::Capability;
use podrun::client::{Begun, Execution, Received};
use podrun::error::{Error, Result};
use podrun::launch::Process;
use podrun::paths::{ContainerId, Roots};
use podrun::protocol::{Exec, Reply};
use podrun::runtime;
use podrun::spec::bundle::{self, Warn};
use podrun::state::publish::{self, Durability};
use podrun::state::{Ending, store};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::Rlimit;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::container::{WINDOW, not_running, own_window, variables};
use super::session::{self, Left};
use super::signals::Signals;
use super::start::is_oci;
use super::{Outcome, descriptors, host};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Run a process inside a running container";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun exec web --env FOO=bar --cwd /tmp -- /bin/sh -c 'pwd; echo $FOO'\n\
             Example: podrun exec -it web bash\n\
             Without -t the process gets our own standard output and error, and with -i our own standard input: it may \n\
             do with them what we may. From a terminal, `-t` gives it one of its own. What it gets must be no directory.")]
pub(super) struct Args {
    /// Pass our stdin on
    #[arg(long, short)]
    interactive: bool,
    /// Return at once; the process runs on with nothing attached, whatever -i says
    #[arg(long, short)]
    detach: bool,
    /// Give it a terminal
    #[arg(long, short)]
    tty: bool,
    /// Send the master of its terminal over this unix socket; for containers that an engine supervises
    #[arg(long, value_name = "SOCKET")]
    console_socket: Option<PathBuf>,
    /// Set an environment variable on top of the container's; a bare KEY passes on your own value
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// The working directory [default: the container's]
    #[arg(long, short = 'w', visible_alias = "workdir", value_name = "DIR")]
    cwd: Option<String>,
    /// The user, and the group, by name or number [default: the container's]
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Give it one more capability; may be repeated
    #[arg(long, value_name = "CAPABILITY", value_parser = capability)]
    cap: Vec<Capability>,
    /// With every capability and without a seccomp filter; the namespaces, mounts and devices stay the
    /// container's
    #[arg(long, conflicts_with = "cap")]
    privileged: bool,
    /// The process as JSON, as `process` in a config.json has it; for containers that an engine supervises
    #[arg(long, short, value_name = "FILE")]
    process: Option<PathBuf>,
    /// Write the pid of the process here
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Also pass on this many descriptors from 3 on; for containers that an engine supervises
    #[arg(long, value_name = "N", default_value_t = 0)]
    preserve_fds: usize,
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// The command and its arguments
    #[arg(value_name = "CMD", required_unless_present = "process", trailing_var_arg = true)]
    command: Vec<String>,
}

/// A capability with or without `CAP_`, in any case.
fn capability(text: &str) -> std::result::Result<Capability, String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    let known = name.parse().or_else(|_| format!("CAP_{name}").parse());
    known.map_err(|_| format!("{text} is no capability"))
}

impl Args {
    #[cfg(test)]
    pub(super) fn command(&self) -> &[String] {
        &self.command
    }
}

pub(super) fn run(roots: &Roots, args: Args, stack: Option<Rlimit>, warn: Warn<'_>) -> Outcome {
    if is_oci(roots, &args.id)? {
        host::protect_program(stack)?;
        return by_ourselves(roots, args, stack, warn);
    }
    by_shim(roots, args)
}

/// In a container that an engine supervises. Our descriptors are the process's, whatever they are.
fn by_ourselves(roots: &Roots, args: Args, stack: Option<Rlimit>, warn: Warn<'_>) -> Outcome {
    // While nothing else of ours is open that could have one of their numbers.
    let preserved = descriptors::preserved(args.preserve_fds)?;
    let base = match &args.process {
        Some(file) => {
            let text = std::fs::read(file).map_err(|error| Error::io("read", file, &error))?;
            let warn = |error: &Error| warn(&error.clone().at_file(file));
            Some(bundle::parse_process(&text, &warn).map_err(|error| error.at_file(file))?)
        }
        None => None,
    };
    let wanted = Process {
        base,
        args: args.command,
        env: variables(&args.env)?,
        cwd: args.cwd,
        user: args.user,
        capabilities: args.cap,
        privileged: args.privileged,
        terminal: args.tty,
    };
    let mut signals = if args.detach { None } else { Some(Signals::register()?) };
    let beside = runtime::Beside {
        preserved,
        pid_file: args.pid_file.as_deref(),
        console_socket: args.console_socket.as_deref(),
        stack,
    };
    let running = runtime::exec(roots, &args.id, &wanted, beside)?;
    let Some(signals) = &mut signals else { return Ok(0) };
    loop {
        let mut fds = [PollFd::new(&running, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("poll", errno).into()),
        }
        if !fds[0].revents().is_empty() {
            return Ok(u8::try_from(running.wait()?.code()).unwrap_or(u8::MAX));
        }
        signals.pending().for_each(|signal| running.signal(signal));
    }
}

fn by_shim(roots: &Roots, args: Args) -> Outcome {
    let what = || format!("exec in {}", args.id);
    for (flag, given) in [
        ("--process", args.process.is_some()),
        ("--cap", !args.cap.is_empty()),
        ("--preserve-fds", args.preserve_fds > 0),
        ("--console-socket", args.console_socket.is_some()),
    ] {
        if given {
            return Err(
                Error::usage(what(), format!("{flag} is for containers that an engine supervises")).into()
            );
        }
    }
    if args.tty && args.detach {
        return Err(Error::usage(what(), "-t and -d exclude each other: nobody would sit there").into());
    }
    let pid_file = args.pid_file.as_deref();
    let request = Exec {
        env: variables(&args.env)?,
        args: args.command.clone(),
        cwd: args.cwd.clone(),
        user: args.user.clone(),
        detach: args.detach,
        privileged: args.privileged,
        terminal: args.tty.then(|| own_window().unwrap_or(WINDOW)),
        ..Exec::default()
    };
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Error::io("open", "/dev/null", &error))?;
    let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let fds = match (args.detach, args.interactive) {
        _ if args.tty => [null.as_fd(); 3],
        (true, _) => [null.as_fd(); 3],
        (false, true) => own,
        (false, false) => [null.as_fd(), own[1], own[2]],
    };
    let mut signals = None;
    // No later: from then on there may be a process, and whoever hears of it may send one.
    let register = || {
        signals = if args.detach { None } else { Some(Signals::register()?) };
        Ok(())
    };
    let mut execution = match Execution::begin(roots, &args.id, request, fds, register)? {
        Begun::Execution(execution) => execution,
        Begun::NotRunning(view) => return Err(not_running(what(), &view).into()),
    };
    let attended = match signals {
        Some(signals) if args.tty => sit(&mut execution, args.interactive, signals, pid_file)?,
        signals => attend(&mut execution, signals, pid_file)?,
    };
    match attended {
        Some(Attended::Signalled(signal)) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        Some(Attended::Detached) => Ok(0),
        Some(Attended::Ended(ending)) => Ok(u8::try_from(ending.code()).unwrap_or(u8::MAX)),
        // It came to a shim that was about to leave.
        None if !execution.began() => Err(not_running(what(), &store::view(roots, &args.id)?).into()),
        None => Err(Error::failed(what(), "its exit code is unknown: the container ended").into()),
    }
}

/// The signals that end this command while the process is not known to run: in a container that froze meanwhile it
/// may be long in coming.
const ENDING: [i32; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];
/// How long after such a signal a process that runs may take to be known for it.
const GRACE: Duration = Duration::from_millis(500);

/// What came before the process was known to run. It may have run all the same, and has been told.
#[derive(Debug, Default)]
struct Early(Option<(i32, Instant)>);

impl Early {
    /// Passes `signal` on.
    fn take(&mut self, process: &mut Execution<'_>, signal: i32) -> Result<()> {
        let sent = process.signal(signal);
        if process.started() {
            return sent;
        }
        if ENDING.contains(&signal) {
            // Whoever asks twice does not wait.
            let until = if self.0.is_some() { Instant::now() } else { Instant::now() + GRACE };
            self.0 = Some((signal, until));
        }
        Ok(())
    }

    /// How long it may still take.
    fn left(&self, process: &Execution<'_>) -> Option<Timespec> {
        let (_, until) = self.0.filter(|_| !process.started())?;
        Timespec::try_from(until.saturating_duration_since(Instant::now())).ok()
    }

    /// The signal that ends this command now, with what it has asked for.
    fn ends(&self, process: &mut Execution<'_>) -> Option<i32> {
        let (signal, until) = self.0?;
        (until <= Instant::now() && process.withdraw()).then_some(signal)
    }
}

/// How an exec was left.
enum Attended {
    Detached,
    Ended(Ending),
    Signalled(i32),
}

/// Sits before the process's terminal until its end. `None` where the container ended first.
fn sit(
    process: &mut Execution<'_>,
    interactive: bool,
    mut signals: Signals,
    pid_file: Option<&Path>,
) -> Result<Option<Attended>> {
    let mut early = Early::default();
    let master = loop {
        match process.try_receive()? {
            Received::Reply(reply, fds) => match *reply {
                Reply::Refused(error) => return Err(error),
                // Its shim died before it had passed the terminal on, which went with it.
                Reply::ExecEnded(ending) => return Ok(Some(Attended::Ended(ending))),
                Reply::Started { pid, .. } => {
                    publish_pid(pid, pid_file)?;
                    break fds.into_iter().next();
                }
                _ => {}
            },
            Received::Closed => return Ok(None),
            Received::NotYet => {}
        }
        if let Some(signal) = early.ends(process) {
            return Ok(Some(Attended::Signalled(signal)));
        }
        let left = early.left(process);
        let mut fds = [PollFd::new(process, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("poll", errno)),
        }
        signals.pending().try_for_each(|signal| early.take(process, signal))?;
    };
    let master = master.ok_or_else(|| Error::failed("exec", "the shim passed no terminal"))?;
    Ok(match session::run(process, master, interactive, signals)? {
        Left::Ended(ending) => Some(Attended::Ended(ending)),
        Left::Signalled(signal) => Some(Attended::Signalled(signal)),
        Left::Lost => None,
    })
}

fn publish_pid(pid: i32, file: Option<&Path>) -> Result<()> {
    file.map_or(Ok(()), |file| publish::bytes(file, pid.to_string().as_bytes(), Durability::Atomic))
}

/// Waits for the process's end, and passes signals on meanwhile. Without `signals` it is left alone
/// once it runs. `None` where the container ended first.
fn attend(
    process: &mut Execution<'_>,
    mut signals: Option<Signals>,
    pid_file: Option<&Path>,
) -> Result<Option<Attended>> {
    let mut early = Early::default();
    loop {
        match process.try_receive()? {
            Received::Reply(reply, _) => match *reply {
                Reply::Started { pid, .. } => {
                    publish_pid(pid, pid_file)?;
                    if signals.is_none() {
                        return Ok(Some(Attended::Detached));
                    }
                    // Its end may have come with the same bytes.
                    continue;
                }
                Reply::ExecEnded(ending) => return Ok(Some(Attended::Ended(ending))),
                Reply::Refused(error) => return Err(error),
                _ => continue,
            },
            Received::Closed => return Ok(None),
            Received::NotYet => {}
        }
        if let Some(signal) = early.ends(process) {
            return Ok(Some(Attended::Signalled(signal)));
        }
        let left = early.left(process);
        let mut fds = vec![PollFd::new(process, PollFlags::IN)];
        fds.extend(signals.as_ref().map(|signals| PollFd::new(signals, PollFlags::IN)));
        match poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("poll", errno)),
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            drop(fds);
            for signal in signals.iter_mut().flat_map(Signals::pending) {
                early.take(process, signal)?;
            }
        }
    }
}

//! `podrun exec`: runs a process inside a container, on our own descriptors.

use std::fs::File;
use std::os::fd::AsFd;

use podrun::client::{Begun, Execution, Received};
use podrun::error::{Error, Result};
use podrun::paths::{ContainerId, Roots};
use podrun::protocol::{Exec, Reply};
use podrun::state::Ending;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::Outcome;
use super::container::{not_running, variables};
use super::signals::Signals;

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Run a process inside a running container";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun exec web --env FOO=bar --cwd /tmp -- /bin/sh -c 'pwd; echo $FOO'")]
pub(super) struct Args {
    /// Pass our stdin on
    #[arg(long, short)]
    interactive: bool,
    /// Return at once; the process runs on with nothing attached
    #[arg(long, short, conflicts_with = "interactive")]
    detach: bool,
    /// Set an environment variable on top of the container's; a bare KEY passes on your own value
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// The working directory [default: the container's]
    #[arg(long, short = 'w', visible_alias = "workdir", value_name = "DIR")]
    cwd: Option<String>,
    /// The user, and the group, by name or number [default: the container's]
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// The command and its arguments
    #[arg(value_name = "CMD", required = true, trailing_var_arg = true)]
    command: Vec<String>,
}

impl Args {
    #[cfg(test)]
    pub(super) fn command(&self) -> &[String] {
        &self.command
    }
}

pub(super) fn run(roots: &Roots, args: Args) -> Outcome {
    let id = args.id;
    let what = || format!("exec in {id}");
    let request = Exec {
        env: variables(&args.env)?,
        args: args.command,
        cwd: args.cwd,
        user: args.user,
        detach: args.detach,
        ..Exec::default()
    };
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|error| Error::io("open", "/dev/null", &error))?;
    let own = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let fds = match (args.detach, args.interactive) {
        (true, _) => [null.as_fd(); 3],
        (false, true) => own,
        (false, false) => [null.as_fd(), own[1], own[2]],
    };
    let mut execution = match Execution::begin(roots, &id, request, fds)? {
        Begun::Execution(execution) => execution,
        Begun::NotRunning(view) => return Err(not_running(what(), &view).into()),
    };
    let signals = if args.detach { None } else { Some(Signals::register()?) };
    match attend(&mut execution, signals)? {
        Some(Attended::Detached) => Ok(0),
        Some(Attended::Ended(ending)) => Ok(u8::try_from(ending.code()).unwrap_or(u8::MAX)),
        None => Err(Error::failed(what(), "its exit code is unknown: the container ended").into()),
    }
}

/// How an exec was left.
enum Attended {
    Detached,
    Ended(Ending),
}

/// Waits for the process's end, and passes signals on meanwhile. Without `signals` it is left alone
/// once it runs. `None` where the container ended first.
fn attend(process: &mut Execution<'_>, mut signals: Option<Signals>) -> Result<Option<Attended>> {
    loop {
        match process.try_receive()? {
            Received::Reply(reply, _) => match *reply {
                Reply::Started { .. } if signals.is_none() => return Ok(Some(Attended::Detached)),
                Reply::ExecEnded(ending) => return Ok(Some(Attended::Ended(ending))),
                Reply::Refused(error) => return Err(error),
                _ => continue,
            },
            Received::Closed => return Ok(None),
            Received::NotYet => {}
        }
        let mut fds = vec![PollFd::new(process, PollFlags::IN)];
        fds.extend(signals.as_ref().map(|signals| PollFd::new(signals, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("poll", errno)),
        }
        if fds.get(1).is_some_and(|fd| !fd.revents().is_empty()) {
            drop(fds);
            for signal in signals.iter_mut().flat_map(Signals::pending) {
                process.signal(signal)?;
            }
        }
    }
}

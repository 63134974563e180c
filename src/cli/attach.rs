//! `podrun attach`: sits down before a running container.
//!
//! Output comes by way of the log, from now on and without a gap; input goes straight to the
//! container. So any number of commands may be attached at once, and one that does not read, or
//! is stopped, holds up neither the container nor another one.

use podrun::client::{self, Client, Reached};
use podrun::error::{Error, Result};
use podrun::log::reader::{Reader, Selection};
use podrun::paths::{ContainerId, Roots};
use podrun::protocol::{Reply, Request};
use podrun::spec::Spec;
use podrun::spec::settings::Settings;
use podrun::state::{ExitRecord, store};

use super::Outcome;
use super::container::not_running;
use super::detach::DetachKeys;
use super::follow::{Follower, Left, OnClosedOutput};
use super::logs::watched;
use super::output::Output;
use super::signals::Signals;
use super::stdin::Stdin;
use super::terminal::{Mode, Terminal};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Join a container's input and output; ctrl-p ctrl-q leaves it alone again";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun attach web")]
pub(super) struct Args {
    /// Only watch
    #[arg(long)]
    no_stdin: bool,
    /// The keys that leave the container alone; empty for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

pub(super) fn run(roots: &Roots, args: Args) -> Outcome {
    let id = &args.id;
    let what = || format!("attach to {id}");
    let paths = roots.container(id);
    let mut client = match client::reach(roots, id)? {
        Reached::Shim(client) => client,
        Reached::Without(view) => return Err(not_running(what(), &view).into()),
    };
    let spec = store::spec(&paths)?;
    let log = watched(&paths, &Settings::of(&spec)?.logging)?;
    let selection = Selection { tail: Some(0), ..Selection::default() };
    let reader = Reader::open(&log.path, log.format, selection)?;
    let signals = Signals::register()?;
    let seat = Seat { stdin: !args.no_stdin, once: false, keys: Some(args.detach_keys), signals };
    let Some(seated) = seat.take(&mut client, &spec)? else {
        return Err(not_running(what(), &store::view(roots, id)?).into());
    };
    seated.stay(Before { roots, id, client, reader }, Tie::Guest)
}

/// How a command sits before a container.
pub(super) struct Seat {
    /// Whether our stdin goes to it.
    pub(super) stdin: bool,
    /// Whether its stdin ends with ours.
    pub(super) once: bool,
    /// The keys that end this.
    pub(super) keys: Option<DetachKeys>,
    /// Our signals, which are the container's.
    pub(super) signals: Signals,
}

/// What that comes to. Whoever has it gives our terminal back by dropping it.
pub(super) struct Seated {
    signals: Signals,
    stdin: Option<Stdin>,
    terminal: Option<Terminal>,
    /// Our own terminal's mode, where the container has none.
    mode: Option<Mode>,
}

/// Whom a command sits before, and how it hears of it.
pub(super) struct Before<'a> {
    pub(super) roots: &'a Roots,
    pub(super) id: &'a ContainerId,
    pub(super) client: Client,
    pub(super) reader: Reader,
}

/// What a command is to the container.
#[derive(Clone, Copy, Debug)]
pub(super) enum Tie {
    /// It runs it: what happens to the command, happens to the container.
    Own {
        /// The container goes with its end, and is waited for.
        rm: bool,
    },
    /// It looks in.
    Guest,
}

impl Seated {
    /// Stays until the container ends or this command leaves it; the exit code that follows.
    pub(super) fn stay(self, before: Before<'_>, tie: Tie) -> Outcome {
        let Before { roots, id, client, reader } = before;
        let forward = |signal| client::signal(roots, id, signal, false);
        let follower = Follower {
            roots,
            id,
            client: Some(client),
            reader,
            output: Output::new(),
            signals: Some((self.signals, &forward)),
            stdin: self.stdin,
            terminal: self.terminal,
            until: None,
            wants_record: true,
            on_closed_output: match tie {
                Tie::Own { .. } => OnClosedOutput::Signal,
                Tie::Guest => OnClosedOutput::Leave,
            },
            until_gone: matches!(tie, Tie::Own { rm: true }),
        };
        let left = follower.run();
        // Before anything is said.
        drop(self.mode);
        match left? {
            Left::Ended(Some(record)) => code(id, &record),
            Left::Ended(None) => code(id, &client::wait(roots, id)?),
            // The container runs on.
            Left::Detached => Ok(0),
            Left::Signalled(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
        }
    }
}

/// The exit code that `record` tells.
fn code(id: &ContainerId, record: &ExitRecord) -> Outcome {
    match record.exit_code.and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(code),
        None => {
            let why = record.reason.clone().unwrap_or_else(|| "nobody saw it end".to_owned());
            Err(Error::failed(format!("container {id}"), format!("its exit code is unknown: {why}")).into())
        }
    }
}

impl Seat {
    /// Sits down before the container of `spec`. `None` where its shim went away.
    pub(super) fn take(self, client: &mut Client, spec: &Spec) -> Result<Option<Seated>> {
        let signals = self.signals;
        let interactive = self.stdin && Settings::of(spec)?.interactive;
        let has_terminal = spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false));
        if has_terminal {
            let Some(master) = passed(client, &Request::Terminal)? else { return Ok(None) };
            let terminal = Terminal::attach(master, interactive)?;
            let stdin = match interactive {
                true => Some(Stdin::new(terminal.input()?)?),
                false => None,
            };
            let stdin = match self.keys {
                // Keys are typed on a terminal only.
                Some(keys) if terminal.is_raw() => stdin.map(|stdin| stdin.detachable(keys)),
                _ => stdin,
            };
            return Ok(Some(Seated { signals, stdin, terminal: Some(terminal), mode: None }));
        }
        let stdin = match interactive {
            true => match passed(client, &Request::Stdin { once: self.once })? {
                Some(writer) => Some(Stdin::new(writer)?),
                None => return Ok(None),
            },
            false => None,
        };
        // Lines are still ours to edit; only the keys are told at once.
        let mode = match &self.keys {
            Some(keys) if self.stdin => Mode::telling(keys.sequence())?,
            _ => None,
        };
        let stdin = match (self.keys, &mode) {
            (Some(keys), Some(_)) => Some(stdin.unwrap_or_else(Stdin::nowhere).detachable(keys)),
            _ => stdin,
        };
        Ok(Some(Seated { signals, stdin, terminal: None, mode }))
    }
}

/// The descriptor that answers `request`; `None` where the shim went away.
pub(super) fn passed(client: &mut Client, request: &Request) -> Result<Option<std::os::fd::OwnedFd>> {
    client.send(request, &[])?;
    match client.receive()? {
        Some((Reply::Refused(error), _)) => Err(error),
        Some((_, fds)) => match fds.into_iter().next() {
            Some(fd) => Ok(Some(fd)),
            None => Err(Error::failed("attach", "the shim passed no descriptor")),
        },
        None => Ok(None),
    }
}

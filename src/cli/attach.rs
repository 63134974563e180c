//! `podrun attach`: sits down before a running container.
//!
//! Output comes by way of the log, from now on and without a gap; input goes straight to the
//! container. So any number of commands may be attached at once, and one that does not read, or
//! is stopped, holds up neither the container nor another one.

use podrun::client::{self, Client, Reached};
use podrun::error::{Error, Result};
use podrun::log::reader::{Reader, Selection};
use podrun::paths::{ContainerId, ContainerPaths, Roots};
use podrun::protocol::{Reply, Request};
use podrun::spec::Spec;
use podrun::spec::settings::Settings;
use podrun::state::{publish, store};

use super::Outcome;
use super::container::not_running;
use super::detach::DetachKeys;
use super::follow::{Follower, Left, OnClosedOutput};
use super::logs::Readable;
use super::output::Output;
use super::run::code;
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
    let spec = spec_of(&paths)?;
    let log = Readable::of(&paths, &Settings::of(&spec)?.logging).ok_or_else(|| unreadable(what()))?;
    let selection = Selection { tail: Some(0), ..Selection::default() };
    let reader = Reader::open(&log.path, log.format, selection)?;
    let seat = Seat { stdin: !args.no_stdin, once: false, keys: Some(args.detach_keys) };
    let Some(seated) = seat.take(&mut client, &spec)? else {
        return Err(not_running(what(), &store::view(roots, id)?).into());
    };
    let signals = Signals::register()?;
    let forward = |signal| client::signal(roots, id, signal, false);
    let follower = Follower {
        roots,
        id,
        client: Some(client),
        reader,
        output: Output::new(),
        signals: Some((signals, &forward)),
        stdin: seated.stdin,
        terminal: seated.terminal,
        until: None,
        wants_record: true,
        on_closed_output: OnClosedOutput::Leave,
        until_gone: false,
    };
    let left = follower.run();
    // Before anything is said.
    drop(seated.mode);
    match left? {
        Left::Ended(Some(record)) => code(id, &record),
        Left::Ended(None) => code(id, &client::wait(roots, id)?),
        Left::Detached => Ok(0),
        Left::Signalled(signal) => Ok(u8::try_from(128 + signal).unwrap_or(u8::MAX)),
    }
}

/// That there is no log by way of which output could come.
pub(super) fn unreadable(what: String) -> Error {
    Error::failed(what, "its log cannot be read back, and output comes by way of it")
        .hint("create the container with --log-driver k8s-file, json-file or raw, perhaps beside another one")
}

/// What the container is.
fn spec_of(paths: &ContainerPaths) -> Result<Spec> {
    let path = paths.spec();
    publish::read_json(&path)?.ok_or_else(|| Error::failed(format!("read {}", path.display()), "it is gone"))
}

/// How a command sits before a container.
pub(super) struct Seat {
    /// Whether our stdin goes to it.
    pub(super) stdin: bool,
    /// Whether its stdin ends with ours.
    pub(super) once: bool,
    /// The keys that end this.
    pub(super) keys: Option<DetachKeys>,
}

/// What that comes to. Whoever has it gives our terminal back by dropping it.
pub(super) struct Seated {
    pub(super) stdin: Option<Stdin>,
    pub(super) terminal: Option<Terminal>,
    /// Our own terminal's mode, where the container has none.
    pub(super) mode: Option<Mode>,
}

impl Seat {
    /// Sits down before the container of `spec`. `None` where its shim went away.
    pub(super) fn take(self, client: &mut Client, spec: &Spec) -> Result<Option<Seated>> {
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
            return Ok(Some(Seated { stdin, terminal: Some(terminal), mode: None }));
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
        Ok(Some(Seated { stdin, terminal: None, mode }))
    }
}

/// The descriptor that answers `request`; `None` where the shim went away.
fn passed(client: &mut Client, request: &Request) -> Result<Option<std::os::fd::OwnedFd>> {
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

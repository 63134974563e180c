//! Follows a container: its log to our output, our stdin to it, our signals to it, until it ends.
//!
//! ```text
//!  shim ──Log{position}──▶ ┌──────────┐ ◀── signals ──▶ forward
//!  log file ──reader─────▶ │ one poll │
//!  own stdin ────────────▶ └──────────┘ ──▶ own stdout, stderr
//! ```
//!
//! The shim says how far the log has come and when it has ended, so nobody polls a file and
//! nobody guesses. A shim that dies is followed by the next one, from what was seen on.

use std::os::fd::OwnedFd;

use jiff::Timestamp;
use nix::libc::{SIGPIPE, SIGWINCH};
use podrun::client::{self, Client, Reached, Received};
use podrun::error::{Error, Result};
use podrun::log::line::Stream;
use podrun::log::reader::{Progress, ReadError, Reader};
use podrun::paths::{ContainerId, Roots};
use podrun::protocol::{LogPosition, Reply, Request};
use podrun::state::{ExitRecord, Status, store};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::attach::passed;
use super::output::Output;
use super::signals::Signals;
use super::stdin::Stdin;
use super::terminal::Terminal;

/// How much of the log is taken at once: what is pending in memory stays bounded by it.
const STEP: u64 = 256 << 10;

/// What a reader of our stdout that goes away means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OnClosedOutput {
    /// What it means to a process that has its output there itself: SIGPIPE, once it writes again
    /// (`run`). A container that does not end by it is left alone.
    Signal,
    /// There is nobody left to follow for (`logs -f`).
    Leave,
}

/// Why a following is over.
#[derive(Debug)]
pub(super) enum Left {
    /// The container has ended; its exit record, where the shim told it.
    Ended(Option<ExitRecord>),
    /// The keys to detach were typed.
    Detached,
    /// This signal ended the following, not the container: nobody reads our output any more, or it came
    /// while our terminal was the container's, whose own keys make its signals.
    Signalled(i32),
}

/// Gives one signal to the container.
pub(super) type Forward<'a> = dyn Fn(i32) -> Result<()> + 'a;

/// Everything that one following needs.
pub(super) struct Follower<'a> {
    /// Whom it is about.
    pub(super) roots: &'a Roots,
    pub(super) id: &'a ContainerId,
    /// The shim; without one the log has ended.
    pub(super) client: Option<Client>,
    pub(super) reader: Reader,
    pub(super) output: Output,
    /// Our signals, and what to do with each.
    pub(super) signals: Option<(Signals, &'a Forward<'a>)>,
    pub(super) stdin: Option<Stdin>,
    /// The container's terminal.
    pub(super) terminal: Option<Terminal>,
    /// When to stop at the latest.
    pub(super) until: Option<Timestamp>,
    /// Whether to ask for the exit record at the end.
    pub(super) wants_record: bool,
    pub(super) on_closed_output: OnClosedOutput,
    /// Whether to stay until the shim, and with `--rm` the container, is gone.
    pub(super) until_gone: bool,
}

/// The one request that the shim has not answered yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Log,
    Record,
}

/// What became ready.
#[derive(Clone, Copy, Debug)]
enum Ready {
    Client,
    /// The terminal was hung up.
    HungUp,
    Signals,
    Output(Stream),
    OwnStdin,
    Stdin,
}

/// How far a following has come.
struct Progressing {
    /// What the shim said last.
    seen: LogPosition,
    /// Nothing will follow what is there now.
    ended: bool,
    asked: Asked,
    record: Option<ExitRecord>,
    /// There is nothing left to read up to `seen`.
    exhausted: bool,
    past_until: bool,
    /// That some output was missed; said once.
    told_missed: bool,
    /// A signal that was meant for us.
    signalled: Option<i32>,
    /// The terminal was hung up: its run is over.
    hung_up: bool,
}

impl Follower<'_> {
    /// Follows to the end, or until we leave.
    pub(super) fn run(mut self) -> Result<Left> {
        let mut state = Progressing {
            seen: LogPosition::default(),
            ended: false,
            asked: Asked::Nothing,
            record: None,
            exhausted: false,
            past_until: false,
            told_missed: false,
            signalled: None,
            hung_up: false,
        };
        if self.client.is_none() {
            self.end(&mut state)?;
        }
        loop {
            self.ask(&mut state)?;
            while self.output.is_empty() && !state.exhausted && !state.past_until {
                self.read(&mut state)?;
            }
            let served = self.output.is_empty() && (state.ended && state.exhausted || state.past_until);
            let told =
                !self.wants_record || state.record.is_some() || self.client.is_none() || state.past_until;
            if served && told {
                break;
            }
            if self.is_unread() {
                return Ok(Left::Signalled(SIGPIPE));
            }
            if !self.poll(&mut state)? {
                break;
            }
            if let Some(signal) = state.signalled {
                return Ok(Left::Signalled(signal));
            }
            if self.stdin.as_ref().is_some_and(Stdin::is_detached) {
                return Ok(Left::Detached);
            }
        }
        if self.reader.skipped() > 0 {
            tracing::warn!(lines = self.reader.skipped(), "the log has lines that are no records");
        }
        self.output.finish()?;
        // A command's own exit code is its own; of a log it is asked whether that is all.
        if self.on_closed_output == OnClosedOutput::Leave && self.reader.has_missed() {
            let what = format!("logs of {}", self.id);
            return Err(Error::failed(what, "some of the output was rotated away before it could be shown"));
        }
        Ok(Left::Ended(state.record))
    }

    /// Whether to leave because nobody reads our output any more.
    fn is_unread(&mut self) -> bool {
        match (self.on_closed_output, &self.signals) {
            (OnClosedOutput::Leave, _) => self.output.is_closed(),
            (OnClosedOutput::Signal, Some((_, forward))) if self.output.is_refused() => {
                let sent = forward(SIGPIPE);
                // One that has ended is followed to its end.
                let status = store::view(self.roots, self.id).map(|view| view.state.status);
                sent.is_ok() && matches!(status, Ok(Status::Running | Status::Paused))
            }
            (OnClosedOutput::Signal, _) => false,
        }
    }

    /// Keeps one question before the shim.
    fn ask(&mut self, state: &mut Progressing) -> Result<()> {
        let Some(client) = &mut self.client else { return Ok(()) };
        if state.asked != Asked::Nothing {
            return Ok(());
        }
        let (asked, request) = match state.ended {
            false => (Asked::Log, Request::Follow { seen: state.seen }),
            true if self.wants_record && state.record.is_none() => (Asked::Record, Request::Wait),
            true => return Ok(()),
        };
        match client.send(&request, &[]) {
            Ok(()) => state.asked = asked,
            // It is on its way out: what it had to say is on the disk.
            Err(_) => self.close(state)?,
        }
        Ok(())
    }

    /// The shim is gone: the next one goes on, if there is one.
    fn close(&mut self, state: &mut Progressing) -> Result<()> {
        self.client = None;
        state.asked = Asked::Nothing;
        // One that cannot be reached, for whatever reason, tells no more than the files do.
        if let Ok(Reached::Shim(mut client)) = client::reach(self.roots, self.id) {
            // Where the keeper died, too, nobody but this command still has the terminal: nothing it
            // prints will ever be seen, so it hangs up.
            if self.terminal.is_some() && client.call(&Request::Terminal).is_err() {
                (self.terminal, self.stdin) = (None, None);
            }
            self.client = Some(client);
            return Ok(());
        }
        self.end(state)
    }

    /// Without a shim the log is what the file holds.
    fn end(&mut self, state: &mut Progressing) -> Result<()> {
        state.ended = true;
        state.exhausted = false;
        self.reader.refresh()?;
        state.seen.offset = self.reader.end()?;
        Ok(())
    }

    /// Takes one step of the log into the output.
    fn read(&mut self, state: &mut Progressing) -> Result<()> {
        let output = &mut self.output;
        if self.reader.has_missed() && !std::mem::replace(&mut state.told_missed, true) {
            output.push(Stream::Stderr, b"podrun: some output came too fast to be shown here\n");
        }
        let progress = self.reader.read_some(Some(state.seen.offset), STEP, &mut |stream, bytes| {
            output.push(stream, bytes);
            Ok(())
        });
        match progress {
            Ok(Progress::PastUntil) => state.past_until = true,
            Ok(Progress::Exhausted) => state.exhausted = true,
            Ok(Progress::More) => {}
            Err(ReadError::Log(error)) => return Err(error),
            Err(ReadError::Sink(error)) => return Err(Error::io("write", "stdout", &error)),
        }
        Ok(())
    }

    /// Waits for something to happen, and does it. False when the time is up.
    fn poll(&mut self, state: &mut Progressing) -> Result<bool> {
        let timeout = match self.until.map(|until| until.duration_since(Timestamp::now())) {
            Some(left) if left.is_negative() => return Ok(false),
            Some(left) => Timespec::try_from(left.unsigned_abs()).ok(),
            None => None,
        };
        let client = self.client.as_ref().filter(|_| state.asked != Asked::Nothing);
        let signals = self.signals.as_ref().map(|(signals, _)| signals);
        let stdin = self.stdin.as_ref();
        let terminal = self.terminal.as_ref().filter(|_| !state.hung_up);
        let sources = [
            (Ready::HungUp, terminal.map(|terminal| PollFd::new(terminal, PollFlags::empty()))),
            (Ready::Client, client.map(|client| PollFd::new(client, PollFlags::IN))),
            (Ready::Signals, signals.map(|signals| PollFd::new(signals, PollFlags::IN))),
            (Ready::Output(Stream::Stdout), self.output.poll(Stream::Stdout)),
            (Ready::Output(Stream::Stderr), self.output.poll(Stream::Stderr)),
            (Ready::OwnStdin, stdin.and_then(Stdin::poll_own)),
            (Ready::Stdin, stdin.and_then(Stdin::poll_writer)),
        ];
        let (what, mut fds): (Vec<_>, Vec<_>) =
            sources.into_iter().filter_map(|(what, fd)| Some((what, fd?))).unzip();
        match poll(&mut fds, timeout.as_ref()) {
            Err(Errno::INTR) => return Ok(true),
            other => other.map_err(|errno| Error::os("poll", errno))?,
        };
        let ready: Vec<_> = what.into_iter().zip(fds.iter().map(PollFd::revents)).collect();
        for (what, flags) in ready.into_iter().filter(|(_, flags)| !flags.is_empty()) {
            let hung_up = state.hung_up;
            match what {
                Ready::HungUp => state.hung_up = true,
                Ready::Client => self.receive(state)?,
                Ready::Signals => self.forward(state),
                Ready::Output(stream) => self.output.write(stream, flags),
                Ready::OwnStdin => {
                    self.sit_down_again(state)?;
                    self.stdin.iter_mut().for_each(Stdin::read);
                }
                Ready::Stdin => self.stdin.iter_mut().for_each(|stdin| stdin.write(flags)),
            }
            // What was ready of the old terminal is not of the new one.
            if hung_up && !state.hung_up {
                break;
            }
        }
        Ok(true)
    }

    /// Where the terminal was hung up: takes the next run's, once there is one. Asked for where something
    /// tells of such a run, or is typed for it.
    fn sit_down_again(&mut self, state: &mut Progressing) -> Result<()> {
        let Some(terminal) = self.terminal.as_mut().filter(|_| state.hung_up) else { return Ok(()) };
        let master = match client::reach(self.roots, self.id) {
            Ok(Reached::Shim(mut client)) => passed(&mut client, &Request::Terminal).ok().flatten(),
            _ => None,
        };
        // Between two runs it is the last one's.
        let Some(master) = master.filter(|master| !is_hung_up(master)) else { return Ok(()) };
        state.hung_up = false;
        terminal.renew(master);
        match &mut self.stdin {
            Some(stdin) => stdin.renew(terminal.input()?),
            None => Ok(()),
        }
    }

    /// Takes what the shim says.
    fn receive(&mut self, state: &mut Progressing) -> Result<()> {
        let Some(client) = &mut self.client else { return Ok(()) };
        let reply = match client.try_receive() {
            Ok(Received::Reply(reply, _)) => *reply,
            Ok(Received::NotYet) => return Ok(()),
            Ok(Received::Closed) | Err(_) => return self.close(state),
        };
        state.asked = Asked::Nothing;
        match reply {
            Reply::Log { position, ended } => {
                state.exhausted &= position == state.seen;
                if position.rotation != state.seen.rotation || ended || self.reader.is_empty() {
                    self.reader.refresh()?;
                }
                (state.seen, state.ended) = (position, ended);
                if !ended {
                    self.sit_down_again(state)?;
                }
            }
            Reply::Ended(record) => {
                state.record = Some(*record);
                // Closing tells the shim that we have it.
                let client = self.client.take();
                if self.until_gone {
                    client.map_or(Ok(()), Client::wait_gone)?;
                }
            }
            Reply::Refused(error) => return Err(error),
            _ => {}
        }
        Ok(())
    }

    /// Passes our signals on. A container that has just ended hears none, which is no error. With a raw
    /// terminal they were not typed, and are for this command alone.
    fn forward(&mut self, state: &mut Progressing) {
        let Some((signals, forward)) = &mut self.signals else { return };
        for signal in signals.pending() {
            match &self.terminal {
                Some(terminal) if signal == SIGWINCH => {
                    terminal.resized();
                    continue;
                }
                Some(terminal) if terminal.is_raw() => {
                    state.signalled = Some(signal);
                    continue;
                }
                _ => {}
            }
            if let Err(error) = forward(signal) {
                tracing::debug!(signal, %error, "not forwarded");
            }
        }
    }
}

/// Whether nobody has the other end of the terminal `master`.
fn is_hung_up(master: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(master, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

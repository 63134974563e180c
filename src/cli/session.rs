//! A process with a terminal that is ours alone: `exec -t`. The shim has passed on the master and
//! is out of the way.
//!
//! ```text
//!  own stdin ──▶ ┌──────────┐ ──▶ master        shim ──ExecEnded──▶ the rest of the output, and out
//!  own stdout ◀─ │ one poll │ ◀── master
//!                └──────────┘ ◀── SIGWINCH ──▶ its size
//! ```

use std::os::fd::{AsFd, OwnedFd};

use nix::libc::SIGWINCH;
use podrun::client::{Execution, Received};
use podrun::error::{Error, Result};
use podrun::log::line::Stream;
use podrun::protocol::Reply;
use podrun::state::Ending;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::output::Output;
use super::signals::Signals;
use super::stdin::Stdin;
use super::terminal::Terminal;

/// How much output is taken at once.
const STEP: usize = 64 << 10;

/// How a session was left.
#[derive(Debug)]
pub(super) enum Left {
    /// The process has ended.
    Ended(Ending),
    /// This signal was for us.
    Signalled(i32),
    /// The shim went away.
    Lost,
}

/// Sits before `master` until `process` ends; with `interactive`, with our stdin.
pub(super) fn run(
    process: &mut Execution<'_>,
    master: OwnedFd,
    interactive: bool,
    mut signals: Signals,
) -> Result<Left> {
    rustix::io::ioctl_fionbio(&master, true).map_err(|errno| Error::os("prepare the terminal", errno))?;
    let terminal = Terminal::attach(master, interactive)?;
    let mut stdin = if interactive { Some(Stdin::new(terminal.input()?)?) } else { None };
    let mut output = Output::new();
    let mut hung_up = false;
    let mut left = None;
    loop {
        match process.try_receive()? {
            Received::Reply(reply, _) => {
                if let Reply::ExecEnded(ending) = *reply {
                    left = Some(Left::Ended(ending));
                }
            }
            Received::Closed if left.is_none() => left = Some(Left::Lost),
            Received::Closed | Received::NotYet => {}
        }
        // What it printed last is there once its end is known.
        while output.is_empty() && !hung_up {
            match take(&terminal, &mut output) {
                Taken::Some => {}
                Taken::Nothing => break,
                Taken::End => hung_up = true,
            }
        }
        if output.is_empty()
            && let Some(left) = left.take()
        {
            output.finish()?;
            return Ok(left);
        }
        let mut fds = vec![
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(process, if left.is_none() { PollFlags::IN } else { PollFlags::empty() }),
        ];
        let sources = [
            output.poll(Stream::Stdout),
            stdin.as_ref().and_then(Stdin::poll_own),
            stdin.as_ref().and_then(Stdin::poll_writer),
            (output.is_empty() && !hung_up).then(|| PollFd::new(&terminal, PollFlags::IN)),
        ];
        let places = sources.map(|source| {
            source.map(|fd| {
                fds.push(fd);
                fds.len() - 1
            })
        });
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("poll", errno)),
        }
        let ready = |place: Option<usize>| place.map_or(PollFlags::empty(), |place| fds[place].revents());
        let [to_stdout, own, writer, _] = places.map(ready);
        let signalled = !fds[0].revents().is_empty();
        drop(fds);
        if !to_stdout.is_empty() {
            output.write(Stream::Stdout, to_stdout);
        }
        if let Some(stdin) = &mut stdin {
            if !own.is_empty() {
                stdin.read();
            }
            if !writer.is_empty() {
                stdin.write(writer);
            }
        }
        if signalled {
            for signal in signals.pending() {
                match signal {
                    SIGWINCH => terminal.resized(),
                    _ if terminal.is_raw() => return Ok(Left::Signalled(signal)),
                    _ => process.signal(signal)?,
                }
            }
        }
    }
}

/// What a read of the terminal brought.
enum Taken {
    Some,
    Nothing,
    /// Nobody has it open any more.
    End,
}

fn take(terminal: &Terminal, output: &mut Output) -> Taken {
    let mut bytes = [0; STEP];
    match rustix::io::read(terminal.as_fd(), &mut bytes) {
        Ok(0) | Err(Errno::IO) => Taken::End,
        Ok(length) => {
            output.push(Stream::Stdout, &bytes[..length]);
            Taken::Some
        }
        Err(Errno::INTR) => Taken::Some,
        Err(_) => Taken::Nothing,
    }
}

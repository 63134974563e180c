//! `podrun events`: what happens to containers, a line each, as it happens.
//!
//! ```text
//!  listener ──▶ lines that wait ──▶ stdout      signals, or a reader that went away: the end
//! ```
//!
//! Nothing is heard while lines wait for a slow reader: what comes meanwhile waits in the listener's FIFO, and
//! what does not fit there any more is counted.

use std::time::Duration;

use clap::ValueEnum;
use jiff::Timestamp;
use podrun::error::{Error, Result};
use podrun::events::{Heard, Listener};
use podrun::paths::{ContainerId, Roots};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use super::out;
use super::signals::Signals;
use super::{Outcome, engine_stats};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Tell what happens to containers, as it happens";

#[derive(Debug, clap::Args)]
#[command(
    about = ABOUT,
    after_help = "Example: podrun events web\nExample: podrun events --format json | jq -r 'select(.event == \"die\").id'"
)]
pub(super) struct Args {
    /// Only of these containers, which need not exist yet [default: all]
    #[arg(value_name = "ID")]
    ids: Vec<ContainerId>,
    /// How an event is printed
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
    /// Print what the container uses instead, as JSON in runc's form
    #[arg(long, conflicts_with = "format")]
    stats: bool,
    /// Do that again every so many seconds, until the container has ended
    #[arg(long, value_name = "SECONDS", requires = "stats", value_parser = seconds)]
    interval: Option<Duration>,
}

/// A number of seconds, also as engines write it: `5s`.
fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse::<u32>().ok().filter(|number| *number > 0);
    number
        .map(|number| Duration::from_secs(number.into()))
        .ok_or_else(|| "is no number of seconds".to_owned())
}

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// A pipe that polls as writable takes so much without waiting (`pipe(7)`).
const AT_ONCE: usize = 4096;

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    if args.stats {
        return match args.ids.as_slice() {
            [id] => engine_stats::run(roots, id, args.interval),
            _ => Err(Error::usage("--stats", "is of one container").hint("podrun events --stats ID").into()),
        };
    }
    let mut signals = Signals::register()?;
    let mut listener = Listener::new(roots)?;
    let stdout = rustix::stdio::stdout();
    let mut waiting = Vec::new();
    loop {
        let (out, heard) = match waiting.is_empty() {
            true => (PollFlags::empty(), PollFlags::IN),
            false => (PollFlags::OUT, PollFlags::empty()),
        };
        let mut fds =
            [PollFd::new(&signals, PollFlags::IN), PollFd::new(&stdout, out), PollFd::new(&listener, heard)];
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(|errno| Error::os("wait for events", errno))?,
        };
        let [_, out, heard] = fds.map(|fd| fd.revents());
        if signals.pending().any(|signal| [SIGINT, SIGTERM, SIGHUP, SIGQUIT].contains(&signal)) {
            return Ok(0);
        }
        if out.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            return Ok(0);
        }
        if out.contains(PollFlags::OUT) {
            match rustix::io::write(stdout, &waiting[..waiting.len().min(AT_ONCE)]) {
                Ok(written) => drop(waiting.drain(..written)),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(Errno::PIPE) => return Ok(0),
                Err(errno) => return Err(Error::at("write", "stdout", errno).into()),
            }
        }
        if heard.contains(PollFlags::IN) {
            for heard in listener.receive()? {
                waiting.extend(args.line(heard)?.into_bytes());
            }
        }
    }
}

impl Args {
    /// The line for what was heard; empty where it is of no interest.
    fn line(&self, heard: Heard) -> Result<String> {
        let (line, fields) = match heard {
            Heard::Event { line, fields } => {
                let id = fields.get("id").and_then(Value::as_str).unwrap_or_default();
                if !self.ids.is_empty() && !self.ids.iter().any(|wanted| wanted.as_str() == id) {
                    return Ok(String::new());
                }
                (line, fields)
            }
            Heard::Lost(count) => {
                let fields = json!({ "time": Timestamp::now(), "event": "lost", "count": count });
                (fields.to_string(), serde_json::from_value(fields).unwrap_or_default())
            }
        };
        Ok(match self.format {
            Format::Json => out::escape(line),
            Format::Text => text(&fields),
        } + "\n")
    }
}

/// `TIME EVENT ID key=value…`
fn text(fields: &Map<String, Value>) -> String {
    let word = |key: &str| fields.get(key).and_then(Value::as_str);
    let first = ["time", "event", "id"];
    let mut words: Vec<String> = first.into_iter().filter_map(word).map(str::to_owned).collect();
    for (key, value) in fields.iter().filter(|(key, _)| !first.contains(&key.as_str())) {
        let value = match value {
            Value::String(text) if !text.is_empty() && text.chars().all(is_plain) => text.clone(),
            other => other.to_string(),
        };
        words.push(format!("{key}={value}"));
    }
    out::escape(words.join(" "))
}

fn is_plain(c: char) -> bool {
    !c.is_whitespace() && !c.is_control() && c != '"'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_its_texts_contain() {
        let fields = json!({
            "time": "T", "id": "c", "event": "exec", "pid": 7, "command": "sh -c 'a\nb'\u{1b}[2J\u{9b}", "x": "",
        });
        let fields = serde_json::from_value(fields).expect("an object");
        let expected = r#"T exec c command="sh -c 'a\nb'\u001b[2J\u009b" pid=7 x="""#;
        assert_eq!(text(&fields), expected);
    }
}

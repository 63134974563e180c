//! `shim.log`: what a shim has to say about itself, a line for each event.
//!
//! Opened when there is something to say: a quiet shim has no file open. No more than that, and no
//! general subscriber, whose registry of spans (there are none) is 32 kB of memory in every shim.

use std::fmt::{self, Write as _};
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use jiff::Timestamp;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Writes events from a level on to a file.
#[derive(Debug)]
pub(crate) struct Diary {
    path: PathBuf,
    level: Level,
}

impl Diary {
    /// A diary at `path`.
    pub(crate) fn new(path: PathBuf, level: Level) -> Self {
        Self { path, level }
    }
}

impl Subscriber for Diary {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        let (level, target) = (event.metadata().level(), event.metadata().target());
        let line = format!("{} {level:>5} {target}:{}\n", Timestamp::now(), text.0);
        let mut options = OpenOptions::new();
        // There is nobody to whom a failure could be told.
        let _ = options
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .and_then(|mut file| file.write_all(line.as_bytes()));
    }

    // There are no spans.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// The fields of an event, on one line whatever they hold.
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = match field.name() {
            "message" => format!(" {value:?}"),
            name => format!(" {name}={value:?}"),
        };
        for c in value.chars() {
            // A path may hold anything.
            let written =
                if c.is_control() { write!(self.0, "{}", c.escape_default()) } else { self.0.write_char(c) };
            // A String takes everything.
            let _ = written;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_what_is_below_the_level_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("shim.log");
        let (level, odd) = (Level::INFO, "a\nb\u{1b}[2J");
        tracing::subscriber::with_default(Diary::new(path.clone(), level), || {
            tracing::warn!(number = 7, "{odd}");
            tracing::debug!("silence");
        });
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains("  WARN podrun_shim::diary::tests: a\\nb\\u{1b}[2J number=7\n"), "{text}");
    }
}

//! What happens to containers, told to whoever listens at that moment.
//!
//! ```text
//!  shim ────┐                       RUN/.events/LISTENER       ─▶ podrun events
//!  podrun ──┴─ emit: a line for each ▶ (a FIFO)                ─▶ podrun events
//!                  └─ its pipe is full ▶ LISTENER.lost: a byte for each line it missed
//! ```
//!
//! There is no daemon that could pass anything on: each listener has a FIFO of its own, and whoever does
//! something writes a line to all of them. No emitter ever waits: a listener that is too slow is told how
//! much it missed, and one that is dead (nobody has its FIFO open) is removed. With no listener there is no
//! directory, and emitting costs one failed `open`.
//!
//! An event is told once it is true: what it is about is on its way to the disk, and shows in `state`. One
//! that was under way when its shim died may be told again by the next shim; none is left out.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::{Dir, Mode, OFlags, openat};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::paths::{ContainerId, Roots};
use crate::state::ExitRecord;

mod listener;

pub use listener::{Heard, Listener};

/// The longest line, with its newline: PIPE_BUF, up to which a write to a FIFO is whole (`pipe(7)`).
const LONGEST: usize = 4096;
/// The longest text in an event: JSON may need six bytes for one.
const LONGEST_TEXT: usize = 512;
/// Behind the name of a listener's FIFO: the file that counts what it missed.
const LOST: &str = ".lost";

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it was told.
    pub time: Timestamp,
    /// The container.
    pub id: ContainerId,
    /// What happened to it.
    #[serde(flatten)]
    pub what: What,
}

/// What happened to a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum What {
    /// It was built.
    Create,
    /// Its command was executed.
    Start {
        /// Init's pid on the host.
        pid: i32,
    },
    /// Another process was executed inside.
    Exec {
        /// Its pid on the host.
        pid: i32,
        /// Its command line, perhaps only the beginning of it.
        command: String,
    },
    /// It has ended.
    Die {
        /// As in the exit record: absent where it cannot be known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        /// The signal that ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_signal: Option<i32>,
        /// Init was ended by the kernel's OOM killer.
        oom_killed: bool,
        /// What the code does not say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// The kernel's OOM killer has ended processes inside.
    Oom {
        /// How many, in the whole life of the container's cgroup.
        kills: u64,
    },
    /// Its health changed.
    Health {
        /// What it is now.
        status: String,
    },
    /// It runs again because its restart policy says so.
    Restart {
        /// How often it did since somebody started it.
        count: u32,
    },
    /// Every process inside stands still.
    Pause,
    /// They go on.
    Resume,
    /// Its limits were changed.
    Update,
    /// Some of its output is not in its log.
    LogGap {
        /// What is missing, and why.
        reason: String,
    },
    /// A new shim has taken it over from one that died.
    Adopt {
        /// How often that happened since it was started.
        adoptions: u32,
    },
    /// Its shim is another program now.
    Upgrade {
        /// The release of the new one.
        build: String,
    },
    /// It is gone, with everything it had.
    Delete,
}

impl What {
    /// The end that `record` tells of.
    pub fn die(record: &ExitRecord) -> Self {
        Self::Die {
            exit_code: record.exit_code,
            exit_signal: record.exit_signal,
            oom_killed: record.oom_killed,
            reason: record.reason.clone(),
        }
    }

    /// The same with texts that fit into a line.
    fn shortened(mut self) -> Self {
        match &mut self {
            Self::Exec { command: text, .. }
            | Self::Health { status: text }
            | Self::LogGap { reason: text }
            | Self::Upgrade { build: text }
            | Self::Die { reason: Some(text), .. } => shorten(text),
            _ => {}
        }
        self
    }
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST_TEXT {
        text.truncate(text.floor_char_boundary(LONGEST_TEXT));
        text.push('…');
    }
}

/// Tells every listener under `roots` that `what` has happened to container `id`. Never waits, and never
/// fails: what was done is done, whoever hears of it.
pub fn emit(roots: &Roots, id: &ContainerId, what: What) {
    let path = roots.events();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(&path, flags, Mode::empty()) {
        Ok(dir) => tell_all(&path, &dir, id, what),
        Err(Errno::NOENT) => {}
        Err(errno) => tracing::warn!("open {}: {errno}", path.display()),
    }
}

fn tell_all(path: &Path, dir: &OwnedFd, id: &ContainerId, what: What) {
    let event = Event { time: Timestamp::now(), id: id.clone(), what: what.shortened() };
    let Ok(mut line) = serde_json::to_vec(&event) else { return };
    line.push(b'\n');
    if line.len() > LONGEST {
        return tracing::warn!("an event is too long to be told: {} bytes", line.len());
    }
    let Ok(entries) = Dir::read_from(dir) else { return };
    for entry in entries.flatten() {
        // A listener that is only being made has a dot in its name, as has what it missed.
        if let Ok(name) = entry.file_name().to_str()
            && !name.contains('.')
        {
            match tell(dir, name, &line) {
                // It went away, or died.
                Err(Errno::NOENT) => {}
                Err(Errno::NXIO) => remove(path, name),
                Err(errno) => tracing::warn!("tell {} of an event: {errno}", path.join(name).display()),
                Ok(()) => {}
            }
        }
    }
}

fn tell(dir: &OwnedFd, name: &str, line: &[u8]) -> rustix::io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fifo = openat(dir, name, flags, Mode::empty())?;
    match write(&fifo, line) {
        Err(Errno::AGAIN) => {
            let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let lost = openat(dir, [name, LOST].concat(), flags, Mode::empty())?;
            write(&lost, b".")?;
            // If it has read everything meanwhile and sleeps: it must look. If not, it will anyway.
            match write(&fifo, b"\n") {
                Err(Errno::AGAIN) => Ok(()),
                other => other,
            }
        }
        other => other,
    }
}

/// One write: whole, or not at all.
fn write(fd: impl AsFd, bytes: &[u8]) -> rustix::io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::io::write(&fd, bytes)).map(drop)
}

/// Removes the listener `name`, and `dir` after the last one.
fn remove(dir: &Path, name: &str) {
    let _ = std::fs::remove_file(dir.join(name));
    let _ = std::fs::remove_file(dir.join([name, LOST].concat()));
    // Refused while there is another one.
    let _ = std::fs::remove_dir(dir);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_event_fits_into_a_line_that_is_written_at_once(text in "\\PC{0,600}|[\\x00-\\x1f]{0,600}") {
            let id = "x".repeat(ContainerId::MAX).parse().unwrap();
            let reason = Some(text.clone());
            let die = What::Die { exit_code: Some(255), exit_signal: Some(64), oom_killed: true, reason };
            for what in [die, What::Exec { pid: i32::MAX, command: text }] {
                let event = Event { time: Timestamp::MAX, id: ContainerId::clone(&id), what: what.shortened() };
                let line = serde_json::to_vec(&event).unwrap();
                prop_assert!(line.len() < LONGEST, "{}", line.len());
                prop_assert_eq!(serde_json::from_slice::<Event>(&line).unwrap(), event);
            }
        }
    }

    fn roots() -> (tempfile::TempDir, Roots) {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(Some(&dir.path().join("root")), Some(&dir.path().join("run"))).unwrap();
        std::fs::create_dir(&roots.run_root).unwrap();
        (dir, roots)
    }

    fn names(heard: &[Heard]) -> Vec<String> {
        let name = |heard: &Heard| match heard {
            Heard::Event { fields, .. } => fields["event"].as_str().unwrap().to_owned(),
            Heard::Lost(count) => count.to_string(),
        };
        heard.iter().map(name).collect()
    }

    #[test]
    fn each_listener_hears_what_happens_while_it_listens_and_leaves_nothing() {
        let (_dir, roots) = roots();
        let id: ContainerId = "c".parse().unwrap();
        emit(&roots, &id, What::Create);
        let mut first = Listener::new(&roots).unwrap();
        emit(&roots, &id, What::Pause);
        let mut second = Listener::new(&roots).unwrap();
        emit(&roots, &id, What::Resume);
        assert_eq!(names(&first.receive().unwrap()), ["pause", "resume"]);
        assert_eq!(names(&second.receive().unwrap()), ["resume"]);
        drop(first);
        emit(&roots, &id, What::Delete);
        assert_eq!(names(&second.receive().unwrap()), ["delete"]);
        assert!(roots.events().exists());
        drop(second);
        assert!(!roots.events().exists());
    }

    #[test]
    fn a_listener_that_is_too_slow_delays_nobody_and_is_told_how_much_it_missed() {
        let (_dir, roots) = roots();
        let id: ContainerId = "c".parse().unwrap();
        let mut slow = Listener::new(&roots).unwrap();
        let mut sent = 0;
        while slow.missed().unwrap() < 3 {
            emit(&roots, &id, What::LogGap { reason: "x".repeat(400) });
            sent += 1;
        }
        let heard = slow.receive().unwrap();
        assert_eq!((heard.len() - 1, heard.last().unwrap()), (sent - 3, &Heard::Lost(3)));
        emit(&roots, &id, What::Update);
        assert_eq!(names(&slow.receive().unwrap()), ["update"]);
    }

    #[test]
    fn a_dead_listener_is_removed_by_whoever_meets_it() {
        let (_dir, roots) = roots();
        let id: ContainerId = "c".parse().unwrap();
        Listener::new(&roots).unwrap().abandon();
        assert!(roots.events().exists());
        emit(&roots, &id, What::Create);
        assert!(!roots.events().exists());
    }
}

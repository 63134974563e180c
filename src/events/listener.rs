//! A listener's side: its FIFO, from its making to its removal.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde_json::{Map, Value};

use super::LOST;
use crate::error::{Error, Result};
use crate::paths::Roots;

/// How much the FIFO is to hold.
const PIPE_SIZE: usize = 1 << 20;
/// How much one read asks for.
const CHUNK: usize = 64 << 10;

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// An event.
    Event {
        /// As it was told: one JSON object, without a newline.
        line: String,
        /// The same, to be read. An emitter of another release may have told what this one does not know.
        fields: Map<String, Value>,
    },
    /// So many events were missed, because the listener was too slow.
    Lost(u64),
}

/// One who hears every event from its making on. Dropped, it is removed.
#[derive(Debug)]
pub struct Listener {
    dir: PathBuf,
    name: String,
    /// Open for writing too: it never comes to an end.
    fifo: OwnedFd,
    /// The file that counts what was missed.
    lost: OwnedFd,
    told: u64,
    buffer: Vec<u8>,
}

/// Readable when there is something to hear.
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fifo.as_fd()
    }
}

impl Listener {
    /// Begins to listen to what happens under `roots`.
    pub fn new(roots: &Roots) -> Result<Self> {
        let dir = roots.events();
        loop {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(&dir);
            made.map_err(|error| Error::io("create", &dir, &error))?;
            match Self::begin(&dir) {
                // The last one before has removed the directory meanwhile.
                Err(error) if error.errno() == Some(Errno::NOENT) => {}
                other => return other,
            }
        }
    }

    fn begin(dir: &Path) -> Result<Self> {
        let name = format!("{}-{:x}", std::process::id(), Timestamp::now().as_nanosecond());
        // An emitter that met a FIFO which nobody has open yet would take it for a dead one's.
        let new = dir.join(format!("{name}.new"));
        let lost = dir.join([&name, LOST].concat());
        let mode = Mode::RUSR | Mode::WUSR;
        let at = |operation: &'static str, path: &Path| {
            let path = path.to_owned();
            move |errno: Errno| Error::at(operation, path, errno)
        };
        let begun = (|| {
            rustix::fs::mknodat(CWD, &new, FileType::Fifo, mode, 0).map_err(at("create", &new))?;
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fifo = rustix::fs::open(&new, flags, Mode::empty()).map_err(at("open", &new))?;
            // Best effort: a smaller one is full earlier.
            let _ = rustix::pipe::fcntl_setpipe_size(&fifo, PIPE_SIZE);
            let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let count = rustix::fs::open(&lost, flags, mode).map_err(at("create", &lost))?;
            rustix::fs::rename(&new, dir.join(&name)).map_err(at("create", &new))?;
            Ok((fifo, count))
        })();
        match begun {
            Ok((fifo, lost)) => {
                Ok(Self { dir: dir.to_owned(), name, fifo, lost, told: 0, buffer: Vec::new() })
            }
            Err(error) => {
                let _ = (std::fs::remove_file(&new), std::fs::remove_file(&lost), std::fs::remove_dir(dir));
                Err(error)
            }
        }
    }

    /// What has come since the last call. Does not wait.
    pub fn receive(&mut self) -> Result<Vec<Heard>> {
        let mut heard = Vec::new();
        // No more than the FIFO holds: whoever tells faster than we hear must not keep us here.
        for _ in 0..PIPE_SIZE / CHUNK {
            let mut chunk = vec![0; CHUNK];
            match rustix::io::read(&self.fifo, &mut chunk) {
                Ok(length) => self.buffer.extend_from_slice(&chunk[..length]),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => break,
                Err(errno) => return Err(Error::at("read", self.dir.join(&self.name), errno)),
            }
        }
        let whole = memchr::memrchr(b'\n', &self.buffer).map_or(0, |end| end + 1);
        for line in self.buffer.drain(..whole).collect::<Vec<_>>().split(|byte| *byte == b'\n') {
            // An empty line says that something was missed.
            if let Ok(fields) = serde_json::from_slice(line) {
                heard.push(Heard::Event { line: String::from_utf8_lossy(line).into_owned(), fields });
            }
        }
        let missed = self.missed()?;
        if missed > self.told {
            heard.push(Heard::Lost(missed - self.told));
            self.told = missed;
        }
        Ok(heard)
    }

    /// How many events were missed in all.
    pub(super) fn missed(&self) -> Result<u64> {
        let stat = rustix::fs::fstat(&self.lost);
        let stat =
            stat.map_err(|errno| Error::at("read", self.dir.join([&self.name, LOST].concat()), errno))?;
        Ok(stat.st_size.try_into().unwrap_or(0))
    }

    /// Leaves everything behind, as one that is killed does.
    #[cfg(test)]
    pub(super) fn abandon(mut self) {
        self.fifo = std::fs::File::open("/dev/null").expect("open /dev/null").into();
        self.dir = "/nonexistent".into();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        super::remove(&self.dir, &self.name);
    }
}

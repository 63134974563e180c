//! The file that is written now, and what still has to go into it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use bytes::{Buf, BytesMut};
use podrun::error::{Error, Result};
use podrun::protocol::LogPosition;
use rustix::io::Errno;

/// The log file, and what still has to go into it.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    path: PathBuf,
    /// The end of the last whole record in the file.
    pub(super) position: LogPosition,
    /// Formatted records; the first `torn` bytes of the first one are in the file already.
    pub(super) pending: BytesMut,
    torn: u64,
}

impl Writer {
    /// Opens or creates the file at `path`, to go on behind what is there.
    pub(super) fn open(path: &Path, rotation: u64) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io("open", path, &error);
        let file =
            OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path).map_err(failed)?;
        let offset = file.metadata().map_err(failed)?.len();
        Ok(Self {
            file,
            path: path.to_owned(),
            position: LogPosition { rotation, offset },
            pending: BytesMut::new(),
            torn: 0,
        })
    }

    /// Writes what is pending; an error leaves the rest pending.
    pub(super) fn flush(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(0) => return Err(Error::at("write", &self.path, Errno::NOSPC)),
                Ok(written) => {
                    // Whole or not, these bytes are in the file.
                    let whole = memchr::memrchr(b'\n', &self.pending[..written]).map_or(0, |end| end + 1);
                    if whole > 0 {
                        self.position.offset += self.torn + whole as u64;
                        self.torn = 0;
                    }
                    self.torn += (written - whole) as u64;
                    self.pending.advance(written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("write", &self.path, &error)),
            }
        }
        Ok(())
    }

    /// Gives up what cannot be written, and cuts off a torn record.
    pub(super) fn abandon(&mut self) {
        self.pending.clear();
        if self.torn > 0 {
            self.torn = 0;
            if let Err(error) = self.file.set_len(self.position.offset) {
                tracing::warn!("cut off a torn record of {}: {error}", self.path.display());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_holds_the_output_back_and_loses_only_what_cannot_wait() {
        // RLIMIT_FSIZE would do, but it is the whole process's; /dev/full is the disk that is full.
        let mut writer = Writer {
            file: OpenOptions::new().write(true).open("/dev/full").unwrap(),
            path: "/dev/full".into(),
            position: LogPosition::default(),
            pending: BytesMut::from(&b"2026-01-01T00:00:00.000000000Z stdout F x\n"[..]),
            torn: 0,
        };
        let error = writer.flush().unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOSPC));
        assert!(!writer.pending.is_empty(), "it is kept for the next try");
        writer.abandon();
        assert!(writer.pending.is_empty());
    }
}

//! Files in memory, by which a shim leaves what it knows to the next one.

use std::io::Read;
use std::os::fd::OwnedFd;

use podrun::error::{Error, Result};
use rustix::fs::{MemfdFlags, SeekFrom};

/// A file in memory that holds `bytes`.
pub(crate) fn write(bytes: &[u8]) -> Result<OwnedFd> {
    let failed = |errno| Error::os("write the shim's state", errno);
    let file = rustix::fs::memfd_create(c"podrun", MemfdFlags::CLOEXEC).map_err(failed)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::retry_on_intr(|| rustix::io::write(&file, rest)).map_err(failed)?;
        rest = &rest[written..];
    }
    Ok(file)
}

/// Everything in a memory file, whoever read or wrote it last.
pub(crate) fn read(file: OwnedFd) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    rustix::fs::seek(&file, SeekFrom::Start(0)).map_err(|errno| Error::os("read the shim's state", errno))?;
    let read = std::fs::File::from(file).read_to_end(&mut text);
    read.map_err(|error| Error::io("read", "the shim's state", &error))?;
    Ok(text)
}

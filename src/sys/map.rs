//! A file mapped into memory, shared with whoever else maps it: what is stored there is still there
//! when this process is not, at whatever instruction it was killed.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use nix::libc;
use rustix::fs::{FallocateFlags, FlockOperation, fallocate, flock};

/// The part of the map that is read and written a word at a time.
const WORDS: usize = 4096;

/// A file of two parts, mapped and locked: [`words`](SharedMap::words), each of which is stored
/// whole or not at all, and [`bytes`](SharedMap::bytes).
#[derive(Debug)]
pub struct SharedMap {
    start: NonNull<u8>,
    length: usize,
    /// Keeps the lock.
    file: File,
}

impl SharedMap {
    /// Maps `file`, with room for `bytes` behind the words. Waits, however long it takes, until no other
    /// process has it mapped by this function: its lock lasts as long as the descriptor, which must have
    /// been opened by this process. ENOSPC where there is no room for it: later stores cannot
    /// fail.
    #[expect(unsafe_code, reason = "mmap")]
    pub fn lock(file: File, bytes: usize) -> io::Result<Self> {
        while let Err(errno) = flock(&file, FlockOperation::LockExclusive) {
            if errno != rustix::io::Errno::INTR {
                return Err(errno.into());
            }
        }
        let length = WORDS + bytes;
        fallocate(&file, FallocateFlags::empty(), 0, length as u64)?;
        let (access, shared) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping, at an address of the kernel's choice, of a file that is that long.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, access, shared, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length, file })
    }

    /// The words at its beginning.
    #[expect(unsafe_code, reason = "memory that the kernel gave")]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is at least that long, page-aligned, and lives as long as `self`; atomics
        // may change under anybody's hands.
        unsafe { std::slice::from_raw_parts(self.start.cast().as_ptr(), WORDS / size_of::<AtomicU64>()) }
    }

    /// The bytes behind them.
    #[expect(unsafe_code, reason = "memory that the kernel gave")]
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: inside the mapping, disjoint from the words, and borrowed like `self`. Nobody else
        // writes there: the lock keeps other maps of this file away, and only root can open it.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(WORDS).as_ptr(), self.length - WORDS) }
    }

    /// The same as [`bytes`](Self::bytes), to be read beside the words.
    #[expect(unsafe_code, reason = "memory that the kernel gave")]
    pub fn peek(&self) -> &[u8] {
        // SAFETY: as in `bytes`.
        unsafe { std::slice::from_raw_parts(self.start.add(WORDS).as_ptr(), self.length - WORDS) }
    }

    /// Gives the memory of the bytes back; their content is lost.
    pub fn shrink(self) -> io::Result<()> {
        self.file.set_len(WORDS as u64)
    }
}

impl Drop for SharedMap {
    #[expect(unsafe_code, reason = "munmap")]
    fn drop(&mut self) {
        // SAFETY: this mapping, which nothing borrows any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn what_was_stored_is_there_for_the_next_one_and_two_at_once_there_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("map");
        let open =
            || File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
        let mut map = SharedMap::lock(open(), 100).unwrap();
        map.words()[7].store(u64::MAX, Ordering::Relaxed);
        map.bytes()[99] = 5;
        assert!(flock(open(), FlockOperation::NonBlockingLockExclusive).is_err());
        drop(map);
        let map = SharedMap::lock(open(), 100).unwrap();
        assert_eq!((map.words()[7].load(Ordering::Relaxed), map.peek()[99]), (u64::MAX, 5));
        map.shrink().unwrap();
        assert_eq!(open().metadata().unwrap().len(), 4096);
    }
}

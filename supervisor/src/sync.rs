//! Getting a container's last word onto the disk without waiting for it.
//!
//! `fsync` of a slow disk takes milliseconds, of a stalled one for ever, and nothing but a process
//! of its own keeps that away from the loop. So the files are published by rename at once, and a
//! child that holds only their descriptors sees them onto the disk.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use podrun::error::{Error, Result};
use podrun::paths::ContainerPaths;
use podrun::sys::clone::{Clone3, exit};
use tokio::io::unix::AsyncFd;

use crate::child::{self, Known};
use crate::fd;

/// A child that ends once the files are on the disk. Dropped, it goes on by itself.
#[derive(Debug)]
pub(crate) struct Syncing {
    pidfd: AsyncFd<OwnedFd>,
    pid: i32,
    known: Known,
}

/// Begins to see the exit record and the state onto the disk.
pub(crate) fn begin(paths: &ContainerPaths, known: &Known) -> Result<Syncing> {
    let open = |path: std::path::PathBuf| {
        File::open(&path).map(OwnedFd::from).map_err(|error| Error::io("open", path, &error))
    };
    // The renames are on the disk once the directory is.
    let files = [open(paths.exit())?, open(paths.state())?, open(paths.dir.clone())?];
    let keep = files.each_ref().map(AsFd::as_fd);
    let child = Clone3 { keep: &keep, ..Clone3::default() }
        .spawn(&files, sync)
        .map_err(|error| Error::io("sync", &paths.dir, &error))?;
    known.add(child.pid);
    Ok(Syncing { pidfd: fd::watch(child.pidfd, "a process")?, pid: child.pid, known: known.clone() })
}

fn sync(files: &[OwnedFd; 3]) -> ! {
    let synced = files.iter().all(|file| rustix::fs::fsync(file).is_ok());
    exit(i32::from(!synced))
}

impl Syncing {
    /// Waits for the end of it.
    pub(crate) async fn done(&self) -> Result<()> {
        loop {
            let mut guard =
                self.pidfd.readable().await.map_err(|error| Error::io("watch", "a process", &error))?;
            if let Some(ending) = child::reap(self.pidfd.as_fd())? {
                self.known.remove(self.pid);
                return match ending.code() {
                    0 => Ok(()),
                    _ => Err(Error::failed("sync the exit record", "input/output error")),
                };
            }
            guard.clear_ready();
        }
    }
}

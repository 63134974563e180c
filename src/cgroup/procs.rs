//! The processes of a cgroup: which they are, and signals to all of them.
//!
//! ```text
//!  a listing ──▶ each is opened ──▶ another listing ──▶ a signal to those that are in it still
//!                   └── as many at once as there are descriptors for ──┘
//! ```

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::libc::SIGKILL;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Resource, getrlimit, pidfd_open};

use super::{Cgroup, DIRECTORY, names_below};
use crate::error::{Error, Result};
use crate::sys::signal;

/// The most processes that are open at once.
const MOST: u64 = 1024;
/// Who makes processes faster than they are killed must not keep its supervisor for longer.
const PATIENCE: Duration = Duration::from_secs(2);

impl Cgroup {
    /// Ends every process in it and below, by SIGKILL. The call returns at once: wait for
    /// [`events`](Self::events), or for the processes.
    pub fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let (mut told, mut result) = (HashSet::new(), Ok(()));
        // The kernel kills the first thread of each. A process that lives on without that one hears nothing of it
        // (Linux 6.18), and is told as a whole; what it has made meanwhile is in the next listing.
        loop {
            match self.write("cgroup.kill", "1") {
                Err(error) if is_gone(&error) => return result,
                other => other?,
            }
            let mut new = self.procs_left()?;
            new.retain(|pid| told.insert(*pid));
            if new.is_empty() {
                return result;
            }
            result = result.and(self.signal_those(&new, SIGKILL));
            if Instant::now() >= deadline {
                return result;
            }
        }
    }

    /// Sends `signal` to every process in it and below, but not to `except`. After a failure, to all the others.
    pub fn signal(&self, signal: i32, except: Option<i32>) -> Result<()> {
        let mut pids = self.procs_left()?;
        pids.retain(|pid| Some(*pid) != except);
        self.signal_those(&pids, signal)
    }

    /// A pid may have passed to a stranger between the listing and the opening: only what another listing still has
    /// is what the first one meant.
    fn signal_those(&self, pids: &[i32], signal: i32) -> Result<()> {
        let mut result = Ok(());
        for batch in pids.chunks(batch()) {
            let mut opened = Vec::with_capacity(batch.len());
            for pid in batch.iter().filter_map(|pid| Pid::from_raw(*pid)) {
                match pidfd_open(pid, PidfdFlags::empty()) {
                    Ok(pidfd) => opened.push((pid.as_raw_nonzero().get(), pidfd)),
                    // It has ended: the number is nobody's, or a group's that is called so still, or a thread's.
                    Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => {}
                    Err(errno) => result = result.and(Err(Error::os("open a process", errno))),
                }
            }
            if opened.is_empty() {
                continue;
            }
            let still: HashSet<i32> = self.procs_left()?.into_iter().collect();
            for (_, process) in opened.iter().filter(|(pid, _)| still.contains(pid)) {
                match signal::send(process, signal) {
                    Err(error) if Errno::from_io_error(&error) != Some(Errno::SRCH) => {
                        let failed = Error::io(&format!("send signal {signal} to"), &self.path, &error);
                        result = result.and(Err(failed));
                    }
                    _ => {}
                }
            }
        }
        result
    }

    /// Every process in it and below; none, where it is gone.
    fn procs_left(&self) -> Result<Vec<i32>> {
        match self.procs() {
            Err(error) if is_gone(&error) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Every process in it and below. However many cgroups those are, this holds a descriptor or two.
    pub fn procs(&self) -> Result<Vec<i32>> {
        let mut pids = self.own_procs()?;
        let Some(mut at) = self.near(c".")? else { return Ok(pids) };
        // Of each cgroup from here down to `at`, what is right below and was not looked at.
        let mut way = vec![at.names()?];
        while let Some(names) = way.last_mut() {
            if let Some(name) = names.pop() {
                let Some(below) = at.near(&name)? else { continue };
                match below.own_procs() {
                    // Removed between the listing and the look.
                    Err(error) if is_gone(&error) => continue,
                    other => pids.extend(other?),
                }
                way.push(below.names()?);
                at = below;
            } else {
                way.pop();
                // One that was removed still knows what was above it.
                let above = if way.is_empty() { None } else { at.near(c"..")? };
                let Some(above) = above else { break };
                at = above;
            }
        }
        Ok(pids)
    }

    /// Those in it alone.
    fn own_procs(&self) -> Result<Vec<i32>> {
        let text = match self.read("cgroup.procs") {
            // Of a threaded cgroup, which the container made: its processes are listed above it.
            Err(error) if error.errno() == Some(Errno::OPNOTSUPP) => String::new(),
            other => other?,
        };
        // A process of a pid namespace that this process cannot see shows as 0.
        Ok(text.lines().filter_map(|pid| pid.parse().ok()).filter(|pid| *pid > 0).collect())
    }

    /// The names of those right below; none, where it is gone.
    fn names(&self) -> Result<Vec<CString>> {
        match names_below(self.as_fd()) {
            Err(Errno::NOENT) => Ok(Vec::new()),
            other => other.map_err(|errno| Error::at("read cgroup", &self.path, errno)),
        }
    }

    /// The cgroup of this name from here, called as this one is in errors: a path may be longer than the kernel
    /// takes. `None` where there is none any more.
    fn near(&self, name: &CStr) -> Result<Option<Self>> {
        match rustix::fs::openat(&self.dir, name, DIRECTORY, Mode::empty()) {
            Ok(dir) => Ok(Some(Self::of(&self.path, dir))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::at("open what is below cgroup", &self.path, errno)),
        }
    }
}

/// How many processes may be open at once.
fn batch() -> usize {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 4;
    usize::try_from(most.clamp(1, MOST)).unwrap_or(1)
}

/// Whether `error` says that the cgroup was removed, and nothing is in it any more.
fn is_gone(error: &Error) -> bool {
    matches!(error.errno(), Some(Errno::NODEV | Errno::NOENT))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::super::{mount, remove};
    use super::*;

    fn create(name: &str) -> Option<Cgroup> {
        let path = mount().unwrap().join(format!("podrun-test-{name}-{}", std::process::id()));
        rustix::process::geteuid().is_root().then(|| Cgroup::create(&path).unwrap())
    }

    #[test]
    fn a_number_that_is_no_process_any_more_keeps_nobody_from_being_signalled() {
        let Some(cgroup) = create("numbers") else { return };
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        cgroup.write("cgroup.procs", &pid.to_string()).unwrap();
        // Not the first thread of this process, and so none that `pidfd_open` takes.
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        cgroup.signal_those(&[thread, i32::MAX, pid], SIGKILL).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(SIGKILL));
        remove(cgroup.path()).unwrap();
    }

    #[test]
    fn a_cgroup_that_is_gone_has_nobody_to_signal() {
        let Some(cgroup) = create("gone") else { return };
        remove(cgroup.path()).unwrap();
        cgroup.kill().unwrap();
        cgroup.signal(SIGKILL, None).unwrap();
        assert!(cgroup.procs().is_err(), "who looks is told");
    }

    #[test]
    fn a_cgroup_that_was_removed_knows_what_was_above_it() {
        let Some(cgroup) = create("above") else { return };
        Cgroup::create(&cgroup.path().join("a")).unwrap();
        let below = cgroup.near(c"a").unwrap().unwrap();
        std::fs::remove_dir(cgroup.path().join("a")).unwrap();
        let above = below.near(c"..").unwrap().unwrap();
        assert_eq!(rustix::fs::fstat(&above).unwrap().st_ino, rustix::fs::fstat(&cgroup).unwrap().st_ino);
        remove(cgroup.path()).unwrap();
    }
}

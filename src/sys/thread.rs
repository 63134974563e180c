//! Whether it is safe to fork: a child of a process with one thread finds every lock free.

use std::io;

use nix::libc;

/// Whether this process has one thread. The kernel's own io_uring workers do not count: they
/// hold no lock of ours.
#[expect(unsafe_code, reason = "the kernel's cheapest answer is an unshare that changes nothing")]
pub fn is_single_threaded() -> io::Result<bool> {
    // SAFETY: CLONE_THREAD in unshare(2) changes nothing: it is EINVAL for a process with threads.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Ok(true);
    }
    let mut ours = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let comm = match std::fs::read(task?.path().join("comm")) {
            Ok(comm) => comm,
            // A worker that ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        ours += u32::from(!comm.starts_with(b"iou-"));
    }
    Ok(ours <= 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_thread_is_seen() {
        // The test harness runs this in a thread beside its own.
        assert!(!is_single_threaded().unwrap());
        super::super::clone::tests::alone(|| assert!(is_single_threaded().unwrap()));
    }
}

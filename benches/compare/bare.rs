//! The kernel's own part, next to what it is a part of.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::runtime::{Podrun, Runtime, kill};

/// What the kernel takes for the same, with nothing supervised, recorded or formatted: no runtime comes below it.
pub(crate) struct Bare {
    pub(crate) podrun: Podrun,
    pub(crate) rootfs: PathBuf,
    pub(crate) dir: PathBuf,
}

impl Runtime for Bare {
    fn name(&self) -> String {
        "the kernel alone".to_owned()
    }

    /// Until init's pidfd says so to this process.
    fn end_to_wait(&self, id: &str) -> Option<Duration> {
        assert!(self.podrun.background(id, &["sleep", "1000"]));
        let init = Pid::from_raw(self.podrun.init(id)?).expect("a pid");
        let pidfd = pidfd_open(init, PidfdFlags::empty()).expect("it lives");
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        let begin = kill(init.as_raw_nonzero().get());
        poll(&mut fds, None).expect("a pidfd");
        let elapsed = begin.elapsed();
        self.podrun.remove(id);
        Some(elapsed)
    }

    /// The same bytes read from a pipe, and as many as a k8s-file has written, in pieces as large as podrun's.
    fn log(&self, _id: &str, argv: &[&str]) -> Option<(Duration, u64)> {
        const PIECE: usize = 256 << 10;
        const HEADER: usize = "2026-01-02T03:04:05.000000000Z stdout F ".len();
        let source = self.rootfs.join("lines");
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        rustix::pipe::fcntl_setpipe_size(&read, 1 << 20).expect("a large one");
        let mut writer = Command::new("dd");
        writer.arg(format!("if={}", source.display())).args(&argv[2..]).stdin(Stdio::null()).stdout(write);
        let path = self.dir.join("bare.log");
        let mut file = fs::File::create(&path).expect("make a file");
        let (mut piece, records) = (vec![0; PIECE], vec![b'x'; PIECE / 100 * (100 + HEADER) + 100 + HEADER]);
        let begin = Instant::now();
        let mut child = writer.spawn().expect("run dd");
        drop(writer);
        loop {
            match rustix::io::read(&read, &mut piece).expect("read the pipe") {
                0 => break,
                length => file.write_all(&records[..length / 100 * (100 + HEADER)]).expect("write a file"),
            }
        }
        let elapsed = begin.elapsed();
        let size = file.metadata().expect("a file").len();
        child.wait().expect("it ends");
        fs::remove_file(path).expect("remove a file");
        Some((elapsed, size))
    }
}

//! Somebody at a terminal: a pty of the test's own, with a command on it.
//!
//! ```text
//!  scenario ── types, resizes ──▶ master ═pty═ slave ── stdin, stdout, stderr, controlling ──▶ podrun
//!           ◀─ until("text") ─────┘              └── settings(): is it as it was?
//! ```

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};

use super::process::Pidfd;
use super::{Podrun, hang_limit};

/// A command on a terminal. Dropping it kills it.
pub(crate) struct Screen {
    master: File,
    slave: OwnedFd,
    child: Child,
    pidfd: Pidfd,
    chunks: Option<Receiver<Vec<u8>>>,
    shown: Vec<u8>,
    /// How much of `shown` was asked for already.
    seen: usize,
    before: String,
    what: String,
}

/// What this terminal is set to.
fn settings(slave: &OwnedFd) -> String {
    format!("{:?}", tcgetattr(slave).expect("the settings of a terminal"))
}

impl Screen {
    /// `podrun ARGS` on a terminal of 40 lines and 100 columns that somebody reads.
    #[track_caller]
    pub(crate) fn new<const N: usize>(podrun: &Podrun, args: [&str; N]) -> Self {
        let mut screen = Self::unread(podrun, args);
        let mut master = screen.master.try_clone().expect("a second descriptor");
        let (sender, chunks) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(length @ 1..) = master.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        screen.chunks = Some(chunks);
        screen
    }

    /// The same on a terminal that nobody reads: it fills, and then stops its writer.
    #[track_caller]
    pub(crate) fn unread<const N: usize>(podrun: &Podrun, args: [&str; N]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a pty");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("prepare a pty");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).expect("the other end of a pty");
        let master = File::from(master);
        tcsetwinsize(&master, size(40, 100)).expect("set the size of a terminal");
        let before = settings(&slave);
        let end = || Stdio::from(slave.try_clone().expect("a second descriptor"));
        // A session of its own, controlled by this terminal.
        let child = Command::new("setsid")
            .args(["--ctty", super::PODRUN])
            .args(args)
            .env("PODRUN_ROOT", podrun.root())
            .env("PODRUN_RUN_ROOT", podrun.run_root())
            .current_dir(podrun.dir())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("run podrun on a terminal");
        let pidfd = Pidfd::open(child.id().cast_signed()).expect("a child has a pidfd");
        let what = format!("podrun {}", args.join(" "));
        Self { master, slave, child, pidfd, chunks: None, shown: Vec::new(), seen: 0, before, what }
    }

    /// Types `keys`.
    #[track_caller]
    pub(crate) fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("type");
    }

    /// Waits until `wanted` is shown behind what was waited for before.
    #[track_caller]
    pub(crate) fn until(&mut self, wanted: &str) {
        let deadline = Instant::now() + hang_limit();
        loop {
            if let Some(at) = memchr::memmem::find(&self.shown[self.seen..], wanted.as_bytes()) {
                self.seen += at + wanted.len();
                return;
            }
            let chunks = self.chunks.as_ref().expect("somebody reads this terminal");
            match chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(chunk) => self.shown.extend(chunk),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("no {wanted:?} from `{}`: {:?}", self.what, self.text())
                }
            }
        }
    }

    /// Everything that was shown so far.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.shown).into_owned()
    }

    /// The window gets another size.
    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, size(rows, columns)).expect("set the size of a terminal");
    }

    /// Whether the terminal is set as before the command.
    pub(crate) fn is_restored(&self) -> bool {
        settings(&self.slave) == self.before
    }

    /// Sends the command a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Waits for the command's end; its exit code. The terminal is then as it was before.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Option<i32> {
        assert!(self.pidfd.wait(Instant::now() + hang_limit()), "`{}` hangs: {:?}", self.what, self.text());
        assert_eq!(settings(&self.slave), self.before, "the terminal after `{}`: {}", self.what, self.text());
        self.child.wait().expect("wait for a child").code()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

//! Running one command, and asserting output, error output and exit code together.
//!
//! ```text
//!  podrun.cmd(["wait", "c"])  ──▶ Cmd ──prints / ok / fails──▶ asserted
//!                                  └──spawn──▶ Running ──line / finish──▶ Output
//! ```
//!
//! Nothing here waits for a while: it waits for the event, and [`hang_limit`] turns an event that
//! never comes into a failure that says which command hung.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::process::Pidfd;

/// How long an event may take before the test calls it a hang.
pub(crate) fn hang_limit() -> Duration {
    match super::peer::peer() {
        // It may be known to hang.
        Some(_) => Duration::from_secs(20),
        None => Duration::from_secs(if super::in_guest() { 240 } else { 90 }),
    }
}

/// A command about to run.
pub(crate) struct Cmd {
    command: Command,
    stdin: Option<Vec<u8>>,
    keep_stdin: bool,
    what: String,
}

impl Cmd {
    /// `program` with `args`; stdin is `/dev/null` unless said otherwise.
    pub(crate) fn new<I, S>(program: impl AsRef<OsStr>, args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let args: Vec<OsString> = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        let name = Path::new(&program).file_name().unwrap_or(program.as_ref()).to_owned();
        let words: Vec<_> =
            std::iter::once(&name).chain(&args).map(|word| word.to_string_lossy().into_owned()).collect();
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, stdin: None, keep_stdin: false, what: words.join(" ") }
    }

    /// With one more environment variable.
    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// With only these environment variables.
    pub(crate) fn only_env<const N: usize>(mut self, pairs: [(&str, &OsStr); N]) -> Self {
        self.command.env_clear().envs(pairs);
        self
    }

    /// In this working directory.
    pub(crate) fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// With these bytes on stdin, then its end.
    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.command.stdin(Stdio::piped());
        self.stdin = Some(bytes.into());
        self
    }

    /// With a stdin that stays open until [`Running::finish`].
    pub(crate) fn open_stdin(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self.keep_stdin = true;
        self
    }

    /// Starts it; its output is collected in the background.
    #[track_caller]
    pub(crate) fn spawn(mut self) -> Running {
        let mut child = match self.command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("cannot run {:?}: {error}", self.command.get_program()),
        };
        let pid = child.id().cast_signed();
        let pidfd = Pidfd::open(pid).expect("a child that was not waited for has a pidfd");
        let mut stdin = child.stdin.take();
        if let Some(bytes) = self.stdin.take() {
            let mut pipe = stdin.take().expect("stdin is a pipe");
            // A command that does not read its stdin to the end is no failure of the test's.
            thread::spawn(move || pipe.write_all(&bytes).ok());
        }
        if !self.keep_stdin {
            stdin = None;
        }
        let (sender, chunks) = channel();
        pump(child.stdout.take(), sender.clone(), Chunk::Out);
        pump(child.stderr.take(), sender, Chunk::Err);
        let output = Output { what: self.what, ..Output::default() };
        Running { child, pid, pidfd, stdin, chunks, output, read: 0, drained: false }
    }

    /// Runs it to its end.
    #[track_caller]
    pub(crate) fn run(self) -> Output {
        self.spawn().finish()
    }

    /// Asserts success without a word on stderr, and gives its stdout.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        let output = self.run();
        output.expect(0);
        assert_eq!(output.err(), "", "stderr of: {output}");
        output.out()
    }

    /// Asserts success with exactly this output and nothing on stderr.
    #[track_caller]
    pub(crate) fn prints(self, expected: &str) {
        let output = self.run();
        let got = (output.out(), output.err(), output.code);
        assert_eq!(got, (expected.to_owned(), String::new(), Some(0)), "{output}");
    }

    /// Asserts that it ends with this code and without a word.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) {
        let output = self.run();
        assert_eq!(
            (output.code, output.out(), output.err()),
            (Some(code), String::new(), String::new()),
            "{output}"
        );
    }

    /// Asserts that it fails as podrun fails: this code, nothing on stdout, one line on stderr that
    /// begins with `podrun: ` and contains `reason`, and at most a hint behind it.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, reason: &str) -> Output {
        let output = self.run();
        output.is_a_failure(code, reason);
        output
    }
}

enum Chunk {
    Out(Vec<u8>),
    Err(Vec<u8>),
}

fn pump<R: Read + Send + 'static>(source: Option<R>, sender: Sender<Chunk>, wrap: fn(Vec<u8>) -> Chunk) {
    let Some(mut source) = source else { return };
    thread::spawn(move || {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = source.read(&mut buffer) {
            if sender.send(wrap(buffer[..length].to_vec())).is_err() {
                break;
            }
        }
    });
}

/// A command that runs. Dropping it kills it.
pub(crate) struct Running {
    child: Child,
    pid: i32,
    pidfd: Pidfd,
    stdin: Option<std::process::ChildStdin>,
    chunks: Receiver<Chunk>,
    output: Output,
    /// How much of stdout `line` has given out.
    read: usize,
    drained: bool,
}

impl Running {
    /// Its process ID.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Writes to its stdin.
    #[track_caller]
    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().expect("stdin is kept open").write_all(bytes).expect("write to stdin");
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        // It may have ended already.
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, signal);
    }

    /// Kills it as `kill -9` does, and waits until it is gone.
    pub(crate) fn kill(mut self) {
        self.signal(rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }

    /// Its next line on stdout, without the newline; `None` at the end of its output.
    #[track_caller]
    pub(crate) fn line(&mut self) -> Option<String> {
        let deadline = Instant::now() + hang_limit();
        loop {
            let rest = &self.output.stdout[self.read..];
            if let Some(length) = memchr::memchr(b'\n', rest) {
                let line = String::from_utf8_lossy(&rest[..length]).into_owned();
                self.read += length + 1;
                return Some(line);
            }
            if !self.receive(deadline) {
                return None;
            }
        }
    }

    /// Reads lines until `wanted`.
    #[track_caller]
    pub(crate) fn until(&mut self, wanted: &str) {
        loop {
            match self.line() {
                Some(line) if line.trim_end() == wanted => return,
                Some(_) => {}
                None => panic!("the output ended before {wanted:?}: {}", self.output),
            }
        }
    }

    /// Takes the next piece of output; false at the end.
    #[track_caller]
    fn receive(&mut self, deadline: Instant) -> bool {
        match self.chunks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Chunk::Out(bytes)) => self.output.stdout.extend(bytes),
            Ok(Chunk::Err(bytes)) => self.output.stderr.extend(bytes),
            Err(RecvTimeoutError::Disconnected) => {
                self.drained = true;
                return false;
            }
            Err(RecvTimeoutError::Timeout) => {
                let ended = self.pidfd.has_ended();
                let why = if ended { "ended, but another process holds its output open" } else { "hangs" };
                panic!("{why}: {}", self.output);
            }
        }
        true
    }

    /// Waits for its end and the end of its output.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Output {
        self.stdin = None;
        let deadline = Instant::now() + hang_limit();
        while self.receive(deadline) {}
        if !self.pidfd.wait(deadline) {
            panic!("hangs, though it has closed its output: {}", self.output);
        }
        let status = self.child.wait().expect("wait for a child");
        self.output.code = status.code();
        self.output.signal = status.signal();
        std::mem::take(&mut self.output)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.output.what.is_empty() {
            return; // finished
        }
        self.signal(rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// What a command wrote and how it ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output {
    /// The command line.
    pub(crate) what: String,
    /// Its exit code, where it exited.
    pub(crate) code: Option<i32>,
    /// The signal that ended it, where one did.
    pub(crate) signal: Option<i32>,
    /// What it wrote to stdout.
    pub(crate) stdout: Vec<u8>,
    /// What it wrote to stderr.
    pub(crate) stderr: Vec<u8>,
}

impl Output {
    /// Stdout as text.
    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Stderr as text.
    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Asserts the exit code.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32) -> &Self {
        assert_eq!(self.code, Some(code), "exit code of: {self}");
        self
    }

    /// Asserts what [`Cmd::fails`] asserts.
    #[track_caller]
    pub(crate) fn is_a_failure(&self, code: i32, reason: &str) {
        if super::peer::peer().is_some() {
            return assert!(self.code.is_some_and(|code| code != 0), "no failure: {self}");
        }
        self.expect(code);
        assert_eq!(self.out(), "", "stdout of: {self}");
        let err = self.err();
        let lines: Vec<_> = err.lines().collect();
        let shape = matches!(lines[..], [_]) || matches!(lines[..], [_, hint] if hint.starts_with("hint: "));
        assert!(shape, "not one line and perhaps a hint: {self}");
        assert!(lines[0].starts_with("podrun: "), "{self}");
        assert!(err.ends_with('\n'), "{self}");
        assert!(lines[0].contains(reason), "no {reason:?} in: {self}");
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(2000)]).into_owned();
            if bytes.len() > 2000 { format!("{text}... ({} bytes)", bytes.len()) } else { text }
        };
        writeln!(f, "`{}` (code {:?}, signal {:?})", self.what, self.code, self.signal)?;
        write!(f, "  stdout: {}\n  stderr: {}", short(&self.stdout), short(&self.stderr))
    }
}

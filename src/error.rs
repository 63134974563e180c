//! What failed, on what, why, and what would mend it.
//!
//! An [`Error`] is made where the failure is understood, carried up unchanged, also across the
//! control socket, and printed once, in `main`, as one line and perhaps a hint:
//!
//! ```text
//! podrun: mount proc on /proc: operation not permitted
//! hint: podrun needs root in the initial user namespace
//! ```

use std::fmt;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The result of everything that can fail in podrun.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it was: decides the exit code, never the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    /// podrun could not do what it was asked to.
    Failed,
    /// The command line or a value on it is wrong.
    Usage,
    /// There is no container with that ID.
    NoSuchContainer,
    /// The container is not in a state that allows the operation.
    WrongState,
    /// The container's command exists but cannot be executed.
    CannotExecute,
    /// The container's command does not exist.
    CommandNotFound,
}

/// One failure: `what` was being done (with the path or name), and `why` it failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Error {
    /// What sort of failure it is.
    pub kind: Kind,
    /// The operation and its object: `open /var/lib/podrun`, `container web`.
    pub what: String,
    /// The reason, in lower case as engines match it: `no such file or directory`.
    pub why: String,
    /// What the user can do about it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The raw errno where a system call refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

impl Error {
    /// A failure of `kind`.
    pub fn new(kind: Kind, what: impl Into<String>, why: impl Into<String>) -> Self {
        Self { kind, what: what.into(), why: why.into(), hint: None, errno: None }
    }

    /// podrun could not do `what`.
    pub fn failed(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what, why)
    }

    /// A value on the command line, or in a file the user wrote, is wrong.
    pub fn usage(what: impl Into<String>, why: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what, why)
    }

    /// A system call refused while doing `what`.
    pub fn os(what: impl Into<String>, errno: impl Into<Errno>) -> Self {
        let errno = errno.into();
        let mut error = Self::failed(what, errno_text(errno));
        error.errno = Some(errno.raw_os_error());
        error
    }

    /// A system call refused while doing `operation` on `path`.
    pub fn at(operation: &str, path: impl AsRef<Path>, errno: impl Into<Errno>) -> Self {
        Self::os(format!("{operation} {}", path.as_ref().display()), errno)
    }

    /// A standard library call failed while doing `operation` on `path`.
    pub fn io(operation: &str, path: impl AsRef<Path>, error: &std::io::Error) -> Self {
        let what = format!("{operation} {}", path.as_ref().display());
        match Errno::from_io_error(error) {
            Some(errno) => Self::os(what, errno),
            None => Self::failed(what, error.to_string()),
        }
    }

    /// There is no container `id`.
    pub fn no_such_container(id: impl fmt::Display) -> Self {
        Self::new(Kind::NoSuchContainer, format!("container {id}"), "does not exist")
            .hint("`podrun list` shows every container")
    }

    /// The same failure with a remedy.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure, found in the file at `path`.
    #[must_use]
    pub fn at_file(mut self, path: impl AsRef<Path>) -> Self {
        self.what = format!("read {}: {}", path.as_ref().display(), self.what);
        self
    }

    /// The same failure as another kind.
    #[must_use]
    pub fn kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The errno, where a system call refused.
    pub fn errno(&self) -> Option<Errno> {
        self.errno.map(Errno::from_raw_os_error)
    }

    /// The exit code of `run`, `exec` and `create --rootfs`, where every code below 125 is the
    /// command's own.
    pub fn launch_exit_code(&self) -> u8 {
        match self.kind {
            Kind::CannotExecute => 126,
            Kind::CommandNotFound => 127,
            _ => 125,
        }
    }

    /// The exit code of every other command.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Usage => 2,
            _ => 1,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One error is one line, whatever a name or a path in it contains.
        write!(f, "{}: {}", escaped(&self.what), escaped(&self.why))
    }
}

/// `text` on one line, as it reads: nothing in it acts on a terminal or moves what stands beside it.
pub fn escaped(text: &str) -> impl fmt::Display + '_ {
    struct Escaped<'a>(&'a str);
    impl fmt::Display for Escaped<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.chars().try_for_each(|c| match acts(c) {
                true => write!(f, "{}", c.escape_default()),
                false => fmt::Write::write_char(f, c),
            })
        }
    }
    Escaped(text)
}

/// Whether a terminal acts on `c` rather than show it: a control character, a line or paragraph separator,
/// or one that turns the direction of writing, so that a line reads as another than it is.
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

impl std::error::Error for Error {}

/// The text of an errno as engines expect it: without a capital, without the number.
pub fn errno_text(errno: Errno) -> String {
    if errno == Errno::AGAIN {
        // As the C library has it; "try again" would be advice.
        return "resource temporarily unavailable".to_owned();
    }
    let text = nix::errno::Errno::from_raw(errno.raw_os_error()).desc();
    let mut chars = text.chars();
    match chars.next() {
        // "RPC ..." and the like keep their capitals.
        Some(first) if !chars.as_str().starts_with(char::is_uppercase) => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_whatever_the_path_contains() {
        let error = Error::at("open", "/tmp/a\nb\x1b[2J", Errno::NOENT);
        assert_eq!(error.to_string(), "open /tmp/a\\nb\\u{1b}[2J: no such file or directory");
        assert_eq!(escaped("é\u{202e}gpj.exe\u{2028}").to_string(), "é\\u{202e}gpj.exe\\u{2028}");
    }

    #[test]
    fn exit_codes_follow_the_kind() {
        assert_eq!(Error::new(Kind::CommandNotFound, "x", "y").launch_exit_code(), 127);
        assert_eq!(Error::new(Kind::CannotExecute, "x", "y").launch_exit_code(), 126);
        assert_eq!(Error::usage("x", "y").launch_exit_code(), 125);
        assert_eq!(Error::usage("x", "y").exit_code(), 2);
        assert_eq!(Error::no_such_container("x").exit_code(), 1);
    }
}

//! How both programs begin.
//!
//! ```text
//!  libc ──▶ main ──▶ run: 0, 1 and 2 are open ▸ no SIGPIPE ▸ the program ▸ what it printed is written
//! ```
//!
//! Rust's own beginning does the same, and prepares to tell of an overflow of the stack: it reads
//! `/proc/self/maps` to find the guard page, and maps a stack for a signal handler, at each of the five starts
//! that a container's life takes. Here an overflow is what it is in C, a SIGSEGV.

use std::io::Write;

use nix::libc;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::signal;

/// Makes `$program`, a `fn() -> u8`, what this program does: its exit code. The crate is
/// `#![cfg_attr(all(not(test), target_env = "gnu"), no_main)]`: of other C libraries Rust learns the arguments
/// only by its own beginning.
#[macro_export]
macro_rules! begin {
    ($program:path) => {
        #[cfg(all(not(test), target_env = "gnu"))]
        #[expect(unsafe_code, reason = "the C library calls it by this name")]
        // SAFETY: nothing else of this program has the name, and it is of the type that C gives `main`.
        #[unsafe(no_mangle)]
        extern "C" fn main(_count: i32, _arguments: *const *const std::ffi::c_char) -> i32 {
            $crate::sys::start::run($program)
        }

        #[cfg(not(all(not(test), target_env = "gnu")))]
        fn main() -> std::process::ExitCode {
            std::process::ExitCode::from($program())
        }
    };
}

/// The life of a process: what it exits with.
pub fn run(program: fn() -> u8) -> i32 {
    occupy_standard_descriptors();
    // A reader that went away is an error of writing.
    signal::ignore(libc::SIGPIPE);
    let code = program();
    // Whoever could not be told is gone.
    let _ = std::io::stdout().flush();
    code.into()
}

/// Where 0, 1 or 2 is closed, what is opened first would take its place, and be read or written for it.
fn occupy_standard_descriptors() {
    for standard in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        if rustix::io::fcntl_getfd(standard) == Err(Errno::BADF) {
            // The lowest number that is free: those below it are open.
            match rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty()) {
                Ok(null) => std::mem::forget(null),
                Err(_) => std::process::abort(),
            }
        }
    }
}

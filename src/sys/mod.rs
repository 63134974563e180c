//! The only unsafe code of podrun: system calls that neither rustix nor nix wraps, and the ones
//! whose danger depends on what the whole process is doing (clone, close everything).
//!
//! Imports nothing of podrun. Each function says which fact makes its unsafe block sound.

pub mod bpf;
pub mod clone;
pub mod fd;
pub mod keyring;
pub mod limit;
pub mod map;
pub mod memory;
pub mod mount;
pub mod pass;
pub mod process;
pub mod program;
pub mod scheduling;
pub mod seccomp;
pub mod signal;
pub mod spawn;
pub mod start;
pub mod thread;

pub use clone::{Clone3, Cloned};
pub use mount::mount_setattr;
pub use thread::is_single_threaded;

use std::io;

/// A raw system call's result: negative means that errno tells why.
fn check(result: nix::libc::c_long) -> io::Result<nix::libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

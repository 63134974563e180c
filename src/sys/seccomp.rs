//! `seccomp(2)`: the last thing that a process does before it executes what it does not trust.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use nix::libc;

/// `struct sock_filter`: one instruction of a classic BPF program.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// What is done.
    pub code: u16,
    /// How many instructions are skipped where a comparison holds.
    pub jt: u8,
    /// How many are skipped where it does not.
    pub jf: u8,
    /// The operand.
    pub k: u32,
}

/// `struct sock_fprog`.
#[repr(C)]
struct Program {
    length: libc::c_ushort,
    instructions: *const Instruction,
}

/// Every system call of this process, and of all it will ever become, is judged by `program` from here
/// on. `flags` are `SECCOMP_FILTER_FLAG_*`. EPERM without CAP_SYS_ADMIN and without
/// no-new-privileges; EINVAL for a program that the kernel's checker refuses. With
/// `SECCOMP_FILTER_FLAG_NEW_LISTENER` a descriptor comes back, close-on-exec, for whoever decides
/// (`seccomp_unotify(2)`).
#[expect(unsafe_code, reason = "neither rustix nor nix wraps seccomp")]
pub fn load(program: &[Instruction], flags: u32) -> io::Result<Option<OwnedFd>> {
    const NEW_LISTENER: u32 = 8;
    let length = program.len().try_into().map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
    let program = Program { length, instructions: program.as_ptr() };
    // SAFETY: `program` is a live struct whose pointer and length are those of a live slice of
    // instructions as the kernel lays them out; the kernel only reads both.
    let made = super::check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
    })?;
    if flags & NEW_LISTENER == 0 {
        return Ok(None);
    }
    let fd = made.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: with that flag the kernel returns a new descriptor, which is nobody else's.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

//! The session keyring: what a process and its children may look up of the kernel's keys.

use std::io;

use nix::libc;

/// `KEYCTL_JOIN_SESSION_KEYRING` (`keyctl(2)`)
const JOIN_SESSION_KEYRING: libc::c_int = 1;

/// Gives this process a new, empty session keyring; the one it had is not reachable from it.
#[expect(unsafe_code, reason = "keyctl has no wrapper")]
pub fn new_session() -> io::Result<()> {
    // SAFETY: a null name, which asks for an anonymous keyring; no memory is involved.
    super::check(unsafe {
        libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<libc::c_char>())
    })
    .map(drop)
}

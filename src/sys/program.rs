//! The program images that a container might see: podrun-shim, and podrun in OCI mode.
//!
//! Every process of a container begins as a copy of its maker: until `execve`, its `/proc/PID/exe` is the
//! host's podrun-shim (or podrun, where there is no shim). `--init` stays that way. And a command that is
//! `#!/proc/self/exe` *becomes* it, with the container's own rights. Whoever is root inside may open
//! that file, and write it as soon as nobody executes it any more (CVE-2019-5736).
//!
//! ```text
//!  podrun-shim ──open_tree(CLONE)──▶ a mount of that one file ──mount_setattr──▶ read-only
//!     │                                  └ detached: of no namespace, once the descriptor is closed
//!     └──────────────────────────────────────── execveat(that mount) ──▶ /proc/PID/exe is on it
//! ```
//!
//! What is executed from such a mount keeps it alive, and nothing else does. It can be opened, but not for
//! writing (EROFS, before any permission is asked), and the mount cannot be changed: `mount_setattr`,
//! `open_tree(CLONE)`, `move_mount`, a bind mount and a remount of it are EINVAL for every caller,
//! since they want a mount of the caller's own namespace, and this one is in none. No capability
//! comes into it, so none undoes it; the suite's `attacks::binary` carries all of that out.
//!
//! That is the same page cache and no copy: no memory, and some 30 µs for each program started; whoever closes the mount
//! last waits some 0.25 ms more for every processor (see [`spawn`](super::spawn)). A second image is
//! made only where the first cannot be had (a program that is itself in a memfd, an unbindable
//! mount): a sealed copy in memory, of the size of the file.
//!
//! Who may use file handles (CAP_DAC_READ_SEARCH with `open_by_handle_at`) or the host's disk reaches any
//! file of the host, and this one among them; that is what device rules, the seccomp filter and the
//! capability set are there for.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags, StatxFlags, statx};
use rustix::io::FdFlags;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mount::{MountAttr, RDONLY, mount_setattr};
use super::signal;

/// An image of `program`, to be executed by descriptor, that can be written through no
/// `/proc/PID/exe`, whatever capabilities the writer has.
pub fn unwritable(program: impl AsFd) -> io::Result<OwnedFd> {
    read_only_view(&program).or_else(|_| sealed_copy(&program))
}

/// Goes on as an unwritable image of this very program: begins it anew where it is not one. Returns only
/// if it is.
pub fn run_unwritable() -> io::Result<()> {
    let own = rustix::fs::open(c"/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    if is_unwritable(&own) {
        return Ok(());
    }
    let image = unwritable(&own)?;
    let args: Vec<CString> =
        std::env::args_os().map(|arg| c_string(arg.into_vec())).collect::<Result<_, _>>()?;
    let env: Vec<CString> = std::env::vars_os()
        .map(|(name, value)| c_string([name.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect::<Result<_, _>>()?;
    let Err(errno) = nix::unistd::execveat(&image, c"", &args, &env, nix::fcntl::AtFlags::AT_EMPTY_PATH);
    Err(errno.into())
}

/// Becomes the program in `image`, with `args` and this process's own environment, with 0, 1, 2 and `keep` still
/// open, and with every signal blocked: none is lost, and none acts before the program is ready for it. Returns
/// only where that fails, and then nothing has changed.
pub fn replace(image: impl AsFd, args: &[CString], keep: &[BorrowedFd<'_>]) -> io::Error {
    let attempt = || -> io::Result<std::convert::Infallible> {
        let _blocked = signal::block_all()?;
        let env: Vec<CString> = std::env::vars_os()
            .map(|(name, value)| c_string([name.as_bytes(), b"=", value.as_bytes()].concat()))
            .collect::<Result<_, _>>()?;
        let set = |flags: FdFlags| keep.iter().try_for_each(|fd| rustix::io::fcntl_setfd(fd, flags));
        let failed = match set(FdFlags::empty()) {
            Ok(()) => {
                let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
                let Err(errno) = nix::unistd::execveat(image.as_fd(), c"", args, &env, flags);
                io::Error::from(errno)
            }
            Err(errno) => errno.into(),
        };
        set(FdFlags::CLOEXEC)?;
        Err(failed)
    };
    let Err(error) = attempt();
    error
}

fn c_string(bytes: Vec<u8>) -> io::Result<CString> {
    CString::new(bytes).map_err(io::Error::from)
}

/// A file on its mount: `statx(2)`'s device, inode and, where the kernel tells it, mount.
type Place = (u32, u32, u64, Option<u64>);

fn place(path: &CStr) -> Option<Place> {
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::INO | StatxFlags::MNT_ID).ok()?;
    let told = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    let mount = told.then_some(found.stx_mnt_id);
    Some((found.stx_dev_major, found.stx_dev_minor, found.stx_ino, mount))
}

/// What this process executes, for all of its life; `None` where `/proc` was not there to say so. Its children that
/// ask again have the answer of whoever of them asked first.
fn own() -> Option<Place> {
    static OWN: OnceLock<Place> = OnceLock::new();
    OWN.get().copied().or_else(|| {
        let own = place(c"/proc/self/exe")?;
        Some(*OWN.get_or_init(|| own))
    })
}

/// Learns what this process executes, so that its children need not ask.
pub fn know_own() {
    let _ = own();
}

/// Whether `file` is what this process executes: the same file on the same mount. A program inside may be a copy of
/// it by another way. False where `/proc` was not there to say so.
pub fn is_own(file: &CStr) -> bool {
    place(file).is_some_and(|file| Some(file) == own())
}

/// A read-only mount is good enough wherever it is: one that is in a namespace is the host's, which nobody
/// inside can remount.
fn is_unwritable(program: &OwnedFd) -> bool {
    let read_only =
        rustix::fs::fstatvfs(program).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    read_only || rustix::fs::fcntl_get_seals(program).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

/// The first of the two; allocates nothing.
pub(super) fn read_only_view(program: impl AsFd) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let view = open_tree(program, c"", flags)?;
    mount_setattr(&view, false, &MountAttr { set: RDONLY, ..MountAttr::default() })?;
    Ok(view)
}

/// The other one.
pub(super) fn sealed_copy(program: impl AsFd) -> io::Result<OwnedFd> {
    // What was given may be open as a path only.
    let path = format!("/proc/self/fd/{}", program.as_fd().as_raw_fd());
    let mut program = File::open(path)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create(c"podrun", flags | MemfdFlags::EXEC)
        // MFD_EXEC: since Linux 6.3, which has no other default unless it is configured.
        .or_else(|_| rustix::fs::memfd_create(c"podrun", flags))?;
    let mut copy = File::from(copy);
    io::copy(&mut program, &mut copy)?;
    // A file that is no program must not become one.
    copy.set_permissions(program.metadata()?.permissions())?;
    rustix::fs::fcntl_add_seals(
        &copy,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn is_refused(image: &OwnedFd, errno: rustix::io::Errno) {
        let path = format!("/proc/self/fd/{}", image.as_raw_fd());
        let error =
            File::options().write(true).open(&path).and_then(|mut file| io::Write::write(&mut file, b"x"));
        assert_eq!(rustix::io::Errno::from_io_error(&error.unwrap_err()), Some(errno));
    }

    #[test]
    fn an_image_cannot_be_written_and_is_known_as_such() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::fs::write(&path, "content").unwrap();
        let program = OwnedFd::from(File::open(&path).unwrap());
        assert!(!is_unwritable(&program));
        if rustix::process::geteuid().is_root() {
            let view = read_only_view(&program).unwrap();
            is_refused(&view, rustix::io::Errno::ROFS);
            let opened = File::open(format!("/proc/self/fd/{}", view.as_raw_fd())).unwrap();
            assert!(is_unwritable(&opened.into()));
        }
        let copy = sealed_copy(&program).unwrap();
        is_refused(&copy, rustix::io::Errno::PERM);
        assert!(is_unwritable(&copy));
        assert_eq!(std::fs::read(&path).unwrap(), b"content");
    }

    #[test]
    fn what_has_no_mount_to_copy_is_copied_itself() {
        let memfd = File::from(rustix::fs::memfd_create(c"x", MemfdFlags::CLOEXEC).unwrap());
        memfd.set_permissions(std::fs::Permissions::from_mode(0o640)).unwrap();
        let image = unwritable(&memfd).unwrap();
        is_refused(&image, rustix::io::Errno::PERM);
        // No more executable than it was.
        assert_eq!(File::from(image).metadata().unwrap().permissions().mode() & 0o777, 0o640);
    }
}

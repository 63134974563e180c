//! Whether podrun can work here at all: root, and a kernel that knows what it is asked.

use podrun::error::{Error, Result};
use rustix::fs::Mode;
use rustix::process::{Resource, getrlimit, umask};

/// The oldest kernel with everything that launch uses.
pub(super) const KERNEL: (u32, u32) = (5, 14);

pub(super) fn check() -> Result<()> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    if version(&release).is_some_and(|version| version < KERNEL) {
        return Err(Error::failed(format!("kernel Linux {release}"), "is too old")
            .hint(format!("podrun needs Linux {}.{} or newer", KERNEL.0, KERNEL.1)));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::failed("user", "podrun needs root").hint("run it as root, for example with sudo"));
    }
    Ok(())
}

/// The first two numbers of a kernel's release; what cannot be read is taken for new.
pub(super) fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// With less a shim could not even tell that it has too few.
const DESCRIPTORS: u64 = 64;

/// Checks that this process, and the shim after it, may have as many descriptors as it takes.
pub(super) fn check_descriptors() -> Result<()> {
    match getrlimit(Resource::Nofile).current {
        Some(few) if few < DESCRIPTORS => Err(Error::failed(
            "start a process",
            format!("this process may have {few} open files, podrun needs {DESCRIPTORS}"),
        )
        .hint(format!("`ulimit -n {DESCRIPTORS}` or more"))),
        _ => Ok(()),
    }
}

/// Whatever the caller's umask takes from others, podrun may use what it makes.
pub(super) fn keep_own_files() {
    let mask = umask(Mode::RWXU);
    umask(mask - Mode::RWXU);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_compared_as_numbers() {
        assert!(version("2.6.40+").unwrap() < KERNEL);
        assert!(version("5.9.0-rc1").unwrap() < KERNEL);
        assert!(version("5.14.0-70.el9.x86_64").unwrap() >= KERNEL);
        assert!(version("6.1").unwrap() >= KERNEL);
        assert_eq!(version("odd"), None);
    }
}

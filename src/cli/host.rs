//! Whether podrun can work here at all: root, and a kernel that knows what it is asked.

use podrun::client;
use podrun::error::{Error, Result};
use podrun::runtime;
use podrun::sys::limit::{DESCRIPTORS, LIFTED, lift};
use podrun::sys::signal;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use signal_hook::consts::SIGXFSZ;

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

/// A stack that every command and its errors fit on. The kernel looks at the limit whenever a stack grows.
pub(super) const STACK: usize = 1 << 20;

/// For a command's first step: it has a stack, and hears of a file that must not grow as of any other error. What
/// the stack was limited to, where that was too little.
pub(super) fn make_room() -> Result<Option<Rlimit>> {
    signal::ignore(SIGXFSZ);
    let limit = getrlimit(Resource::Stack);
    let is_little = |most: Option<u64>| most.is_some_and(|most| most < STACK as u64);
    if !is_little(limit.current) {
        return Ok(None);
    }
    let enough = Rlimit { current: limit.maximum.or(Some(8 * STACK as u64)), ..limit };
    match !is_little(limit.maximum) && setrlimit(Resource::Stack, enough).is_ok() {
        true => Ok(Some(limit)),
        false => Err(Error::failed("start podrun", "the stack is limited to less than 1 MiB")
            .hint("`ulimit -s 8192`, or unlimited")),
    }
}

/// [`runtime::protect_program`] for one whose stack was limited to `stack`: who begins anew finds it so.
pub(super) fn protect_program(stack: Option<Rlimit>) -> Result<()> {
    let limit =
        |limit| setrlimit(Resource::Stack, limit).map_err(|errno| Error::os("limit the stack", errno));
    let Some(stack) = stack else { return runtime::protect_program() };
    let enough = getrlimit(Resource::Stack);
    limit(stack)?;
    runtime::protect_program().and_then(|()| limit(enough))
}

/// A limit as `--ulimit` writes it.
pub(super) fn written(name: &str, limit: Rlimit) -> String {
    let value = |value: Option<u64>| value.map_or("-1".to_owned(), |value| value.to_string());
    format!("{name}={}:{}", value(limit.current), value(limit.maximum))
}

/// Lifts the limits of this process that a shim would inherit; they are the container's, as `--ulimit` writes them.
pub(super) fn lift_limits() -> Result<Vec<String>> {
    client::check_limits()?;
    let limited = LIFTED.iter().map(|limit| (limit, getrlimit(limit.resource)));
    let limited: Vec<_> = limited.filter(|(_, now)| now.current.is_some()).collect();
    for (limit, _) in &limited {
        lift(limit.resource).map_err(|errno| Error::os(format!("lift the limit {}", limit.name), errno))?;
    }
    Ok(limited.into_iter().map(|(limit, now)| written(limit.name, now)).collect())
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

//! Which file a command names, and why it cannot be executed.
//!
//! The question is asked by the process that will execute it: in its root and working directory,
//! as its user. The texts are the ones that engines look for.

use std::ffi::{CStr, CString};

use rustix::fs::{Access, FileType};
use rustix::io::Errno;

use crate::error::{Error, Kind, Result, errno_text};
use crate::sys::program;

/// The file that `name` stands for: `name` itself where it has a slash, else the first executable
/// of that name in the directories of `path`.
pub(super) fn find(name: &CStr, path: &[u8]) -> Result<CString> {
    if name.to_bytes().contains(&b'/') {
        return match executable(name) {
            Ok(()) => foreign(name.to_owned()),
            Err(errno) => Err(refused(name, errno)),
        };
    }
    let mut found_but = None;
    for candidate in candidates(name, path) {
        match executable(&candidate) {
            Ok(()) => return foreign(candidate),
            Err(errno @ (Errno::ACCESS | Errno::ISDIR | Errno::PERM)) => {
                found_but.get_or_insert((candidate, errno));
            }
            Err(_) => {}
        }
    }
    Err(match found_but {
        // A directory of that name is not what anyone meant.
        Some((candidate, errno)) if errno != Errno::ISDIR => refused(&candidate, errno),
        _ => error(Kind::CommandNotFound, name, "executable file not found in $PATH"),
    })
}

/// `file`, unless it is the program that asks: `/proc/self/exe`, by whatever name, is no command of the container.
fn foreign(file: CString) -> Result<CString> {
    match program::is_own(&file) {
        true => Err(error(Kind::CannotExecute, &file, "it is podrun's own program")
            .hint("`/proc/self/exe` is whoever executes it: name the command's own file")),
        false => Ok(file),
    }
}

/// `name` in each directory of `path`; an empty one is the working directory.
fn candidates<'a>(name: &'a CStr, path: &'a [u8]) -> impl Iterator<Item = CString> + 'a {
    path.split(|c| *c == b':').filter_map(|dir| {
        let mut file = if dir.is_empty() { b".".to_vec() } else { dir.to_vec() };
        file.push(b'/');
        file.extend_from_slice(name.to_bytes());
        CString::new(file).ok()
    })
}

/// Whether this process may execute `file`, which must be a regular one.
fn executable(file: &CStr) -> Result<(), Errno> {
    let stat = rustix::fs::stat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => rustix::fs::access(file, Access::EXEC_OK),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::ACCESS),
    }
}

/// Why `file` cannot be the command.
fn refused(file: &CStr, errno: Errno) -> Error {
    let kind = match errno {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NAMETOOLONG => Kind::CommandNotFound,
        _ => Kind::CannotExecute,
    };
    let mut error = error(kind, file, errno_text(errno));
    error.errno = Some(errno.raw_os_error());
    error
}

/// Why `execve` of `file`, which [`find`] had found, failed.
pub(super) fn exec_failed(file: &CStr, errno: Errno) -> Error {
    match errno {
        Errno::NOENT if rustix::fs::stat(file).is_ok() => refused(file, errno).hint(
            "the file exists, its interpreter does not: look at its first line (`#!`), or \
             whether the root filesystem has the loader of a dynamically linked program",
        ),
        Errno::NOEXEC => refused(file, errno)
            .hint("it is no program for this machine's architecture, or a script without `#!`"),
        _ => refused(file, errno),
    }
}

fn error(kind: Kind, file: &CStr, why: impl Into<String>) -> Error {
    Error::new(kind, format!("exec {:?}", file.to_string_lossy()), why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use proptest::prelude::*;

    fn c(text: &str) -> CString {
        CString::new(text).unwrap()
    }

    #[test]
    fn each_refusal_has_its_own_code_and_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| c(dir.path().join(name).to_str().unwrap());
        std::fs::write(dir.path().join("plain"), "").unwrap();
        std::fs::create_dir(dir.path().join("dir")).unwrap();
        let table = [
            (path("none"), Kind::CommandNotFound, "no such file or directory"),
            (path("plain/x"), Kind::CommandNotFound, "not a directory"),
            (path("plain"), Kind::CannotExecute, "permission denied"),
            (path("dir"), Kind::CannotExecute, "is a directory"),
            (c("none"), Kind::CommandNotFound, "executable file not found in $PATH"),
            (c("dir"), Kind::CommandNotFound, "executable file not found in $PATH"),
            (c("plain"), Kind::CannotExecute, "permission denied"),
        ];
        let search = dir.path().to_str().unwrap().as_bytes();
        for (name, kind, why) in table {
            let error = find(&name, search).unwrap_err();
            assert_eq!((error.kind, error.why.as_str()), (kind, why), "{name:?}");
        }
    }

    #[test]
    fn the_first_executable_on_the_path_is_the_one() {
        let dir = tempfile::tempdir().unwrap();
        for (sub, mode) in [("a", 0o644), ("b", 0o755), ("c", 0o755)] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
            let file = dir.path().join(sub).join("x");
            std::fs::write(&file, "").unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
        }
        let d = dir.path().display();
        let found = find(&c("x"), format!("{d}/none:{d}/a:{d}/b:{d}/c").as_bytes()).unwrap();
        assert_eq!(found.to_str().unwrap(), format!("{d}/b/x"));
    }

    #[test]
    fn a_missing_interpreter_is_no_missing_command() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("x");
        std::fs::write(&file, "#!/none\n").unwrap();
        let error = exec_failed(&c(file.to_str().unwrap()), Errno::NOENT);
        assert_eq!(error.kind, Kind::CommandNotFound);
        assert!(error.hint.unwrap().contains("interpreter"));
        assert_eq!(exec_failed(&c("/x"), Errno::NOEXEC).kind, Kind::CannotExecute);
        assert_eq!(exec_failed(&c("/x"), Errno::NOEXEC).why, "exec format error");
    }

    proptest! {
        #[test]
        fn every_candidate_ends_in_the_name(path in "[a-z:/]{0,40}", name in "[a-z]{1,9}") {
            let name = c(&name);
            let candidates: Vec<_> = candidates(&name, path.as_bytes()).collect();
            prop_assert_eq!(candidates.len(), path.split(':').count());
            let end = [b"/", name.as_bytes()].concat();
            prop_assert!(candidates.iter().all(|candidate| candidate.as_bytes().ends_with(&end)));
        }
    }
}

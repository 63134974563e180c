//! The names of older log files: `current.log.1` is the last one, `current.log.2` the one before it.
//!
//! ```text
//!  current.log  .1  .2  .3            max-file=4, and full
//!       └────▶─┘└─▶─┘└─▶─┘            from the right: .2 takes the place of .3, and so on
//! ```
//!
//! The one that has no place any more is deleted, or [kept](podrun::log::kept) for whoever reads it.
//! Killed between two of these renames there is a hole, and what is to the right of it has moved
//! already: the next attempt moves only what is to the left of the first hole.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use podrun::error::{Error, Result};
use podrun::log::kept::Kept;

/// The name of the file `age` rotations before the one at `path`.
fn aged(path: &Path, age: u32) -> PathBuf {
    match age {
        0 => path.to_owned(),
        age => path.with_added_extension(age.to_string()),
    }
}

/// Moves the file at `path`, if it still is the one with this `inode`, and those before it, so that at
/// most `max_files - 1` older ones remain, and those of `kept`.
pub(super) fn move_aside(path: &Path, inode: u64, max_files: u32, kept: Option<&mut Kept>) -> Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.ino() == inode => {}
        // It has happened already.
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Error::io("rotate", path, &error)),
    }
    let oldest = max_files.saturating_sub(1);
    let is_hole = |age: &u32| !fs::exists(aged(path, *age)).unwrap_or(true);
    let hole = (1..oldest).find(is_hole).unwrap_or(oldest);
    // Killed behind this, the last place is free and there is nothing to be kept.
    let took = match kept {
        Some(kept) if hole == oldest && !is_hole(&oldest) => kept.take(&aged(path, oldest))?,
        _ => false,
    };
    if oldest == 0 && !took {
        return fs::remove_file(path).map_err(|error| Error::io("rotate", path, &error));
    }
    for age in (0..hole).rev() {
        let from = aged(path, age);
        fs::rename(&from, aged(path, age + 1)).map_err(|error| Error::io("rotate", &from, &error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(dir: &Path) -> Vec<(String, String)> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap())
            })
            .collect();
        names.sort();
        names
    }

    proptest! {
        /// However many renames of a rotation were made before it was killed, the next attempt ends
        /// where an undisturbed one would have.
        #[test]
        fn a_rotation_that_was_killed_is_finished(there in 0u32..6, max_files in 1u32..6, killed_after in 0u32..6) {
            let make = || {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("log");
                for age in 0..=there.min(max_files - 1) {
                    fs::write(aged(&path, age), age.to_string()).unwrap();
                }
                let inode = fs::metadata(&path).unwrap().ino();
                (dir, path, inode)
            };
            let (whole, path, inode) = make();
            move_aside(&path, inode, max_files, None).unwrap();
            let (again, path, inode) = make();
            let oldest = max_files - 1;
            if oldest > 0 {
                let hole = (1..oldest).find(|age| *age > there).unwrap_or(oldest);
                for age in (0..hole).rev().take(killed_after as usize) {
                    fs::rename(aged(&path, age), aged(&path, age + 1)).unwrap();
                }
            }
            move_aside(&path, inode, max_files, None).unwrap();
            prop_assert_eq!(names(again.path()), names(whole.path()));
            if max_files == 1 {
                // The file is gone, and a new one may have its inode.
                return Ok(());
            }
            // And once more, after the new file was made.
            fs::write(&path, "new").unwrap();
            let before = names(again.path());
            move_aside(&path, inode, max_files, None).unwrap();
            prop_assert_eq!(names(again.path()), before);
        }
    }
}

//! The environment from `--env` and `--env-file`.

use crate::error::{Error, Result};

/// Adds `entry`, a `KEY=VALUE`, to `env`; a key that is there already gets the new value.
pub fn put(env: &mut Vec<String>, entry: String) {
    let key = key(&entry);
    match env.iter_mut().find(|old| self::key(old) == key) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

fn key(entry: &str) -> &str {
    entry.split_once('=').map_or(entry, |(key, _)| key)
}

/// The `KEY=VALUE` that the argument `text` of `--env` means. A bare `KEY` passes on the caller's
/// own value, told by `lookup`, and nothing where the caller has none.
pub fn flag(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>> {
    entry(text, lookup).map_err(|why| {
        Error::usage(format!("--env {text:?}"), why).hint("write KEY=VALUE, or KEY to pass on your own value")
    })
}

/// The entries of the file `name`: a line each, `#` begins a comment line.
pub fn file(name: &str, text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<String>> {
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let entry = entry(line, lookup)
            .map_err(|why| Error::usage(format!("--env-file {name} line {number}"), why))?;
        entries.extend(entry);
    }
    Ok(entries)
}

fn entry(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Option<String>, &'static str> {
    let key = key(text);
    if key.is_empty() {
        return Err("has no name before the =");
    }
    if key.contains(char::is_whitespace) {
        return Err("has a space in its name");
    }
    if text.contains('\0') {
        return Err("has a NUL byte");
    }
    if key.len() < text.len() {
        return Ok(Some(text.to_owned()));
    }
    Ok(lookup(key).map(|value| format!("{key}={value}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(key: &str) -> Option<String> {
        (key == "MINE").then(|| "own".to_owned())
    }

    #[test]
    fn a_bare_key_passes_the_callers_value_on() {
        assert_eq!(flag("A=b=c", &lookup).unwrap().unwrap(), "A=b=c");
        assert_eq!(flag("MINE", &lookup).unwrap().unwrap(), "MINE=own");
        assert_eq!(flag("OTHER", &lookup).unwrap(), None);
        for wrong in ["", "=x", "A B=c", "A=\0"] {
            assert!(flag(wrong, &lookup).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_has_comments_and_errors_name_the_line() {
        let entries = file("f", "# no\n\n  A=1 \r\nMINE\nOTHER\nB=#x\n", &lookup).unwrap();
        assert_eq!(entries, ["A=1 ", "MINE=own", "B=#x"]);
        let error = file("f", "A=1\n=2\n", &lookup).unwrap_err();
        assert_eq!(error.what, "--env-file f line 2");
    }

    #[test]
    fn the_last_value_of_a_key_wins_in_the_first_ones_place() {
        let mut env = vec!["PATH=/bin".to_owned(), "A=1".to_owned()];
        put(&mut env, "PATH=/x".to_owned());
        assert_eq!(env, ["PATH=/x", "A=1"]);
    }
}

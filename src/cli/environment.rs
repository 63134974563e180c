//! What the environment says where the command line says nothing: `PODRUN_ROOT`, `PODRUN_RUN_ROOT`
//! and `PODRUN_LOG`. As everywhere, an empty variable says nothing either.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::ValueEnum;
use podrun::error::{Error, Result};

use super::{Global, LogLevel};

/// Completes `global` from this process's environment.
pub(super) fn complete(global: &mut Global) -> Result<()> {
    fill(global, &|name| std::env::var_os(name))
}

fn fill(global: &mut Global, lookup: &dyn Fn(&str) -> Option<OsString>) -> Result<()> {
    let lookup = |name| lookup(name).filter(|value| !value.is_empty());
    let path = |name| lookup(name).map(PathBuf::from);
    global.root = global.root.take().or_else(|| path("PODRUN_ROOT"));
    global.run_root = global.run_root.take().or_else(|| path("PODRUN_RUN_ROOT"));
    if let (None, Some(level)) = (global.log_level, lookup("PODRUN_LOG")) {
        let level = level.to_string_lossy();
        global.log_level = Some(LogLevel::from_str(&level, true).map_err(|_| {
            Error::usage(format!("PODRUN_LOG={level:?}"), "is no level")
                .hint("error, warn, info, debug or trace")
        })?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn filled(pairs: &[(&str, &str)]) -> Result<Global> {
        let mut global = Global { root: Some("/given".into()), ..Global::default() };
        let find = |name: &str| Some(pairs.iter().find(|(key, _)| *key == name)?.1.into());
        fill(&mut global, &find).map(|()| global)
    }

    #[test]
    fn the_command_line_goes_before_the_environment_and_an_empty_variable_is_none() {
        let pairs = [("PODRUN_ROOT", "/r"), ("PODRUN_RUN_ROOT", "/rr"), ("PODRUN_LOG", "DEBUG")];
        let global = filled(&pairs).unwrap();
        assert_eq!(global.root.as_deref(), Some(Path::new("/given")));
        assert_eq!(global.run_root.as_deref(), Some(Path::new("/rr")));
        assert_eq!(global.log_level, Some(LogLevel::Debug));
        let global = filled(&[("PODRUN_RUN_ROOT", ""), ("PODRUN_LOG", "")]).unwrap();
        assert_eq!((global.run_root, global.log_level), (None, None));
        assert!(filled(&[("PODRUN_LOG", "loud")]).unwrap_err().to_string().contains("PODRUN_LOG"));
    }
}

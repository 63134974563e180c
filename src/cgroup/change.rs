//! Other limits for a cgroup that is in use: all of them, or none.
//!
//! ```text
//!  Setting ─▶ what the file holds now ─▶ written ─▶ … ─▶ the rest of the change
//!               └──────── written back, the last one first, where anything fails ◀──┘
//! ```

use super::limits::{Otherwise, Setting};
use super::{Cgroup, controllers, v1};
use crate::error::{Error, Result};

impl Cgroup {
    /// Makes `settings` true, in order, and then does `rest`. Where a setting is refused, or `rest` fails,
    /// every file is as it was; the hint of the error names those that could not be changed back.
    pub fn change(&self, settings: &[Setting], rest: impl FnOnce() -> Result<()>) -> Result<()> {
        controllers::provide(self, settings)?;
        let mut before = Before::default();
        let each = settings.iter().filter(|setting| setting.v1.is_none()).try_for_each(|setting| {
            let was = self.now(setting);
            self.apply_one(setting)?;
            before.own.extend(was);
            Ok(())
        });
        each.and_then(|()| self.change_legs(settings, &mut before))
            .and_then(|()| rest())
            .map_err(|error| self.change_back(&before, error))
    }

    fn change_legs(&self, settings: &[Setting], before: &mut Before) -> Result<()> {
        for controller in v1::CONTROLLERS {
            let own: Vec<&Setting> =
                settings.iter().filter(|setting| setting.v1 == Some(controller)).collect();
            if own.is_empty() {
                continue;
            }
            let leg = self.make_leg(controller)?;
            let was = own.iter().filter_map(|setting| leg.now(setting)).collect();
            let changed = leg.apply_in_any_order(&own);
            before.legs.push((leg, was));
            changed?;
        }
        Ok(())
    }

    /// What has to be written so that it is again as it is now.
    fn now(&self, setting: &Setting) -> Option<Setting> {
        let (file, value) = self.file_of(setting)?;
        let text = self.read(file).ok()?;
        let value = line_before(&text, value);
        Some(Setting { file: file.to_owned(), value, v1: setting.v1, otherwise: Otherwise::Refuse })
    }

    /// The file that a setting is written to, and what is written.
    fn file_of<'a>(&self, setting: &'a Setting) -> Option<(&'a str, &'a str)> {
        match &setting.otherwise {
            Otherwise::Write(other, value) if self.read(&setting.file).is_err() => Some((other, value)),
            _ => Some((&setting.file, &setting.value)),
        }
    }

    fn change_back(&self, before: &Before, error: Error) -> Error {
        let mut stuck: Vec<&str> = Vec::new();
        for (leg, was) in before.legs.iter().rev() {
            if leg.apply_in_any_order(&was.iter().collect::<Vec<_>>()).is_err() {
                stuck.extend(was.iter().map(|was| was.file.as_str()));
            }
        }
        let own = before.own.iter().rev().filter(|was| self.apply_one(was).is_err());
        stuck.extend(own.map(|was| was.file.as_str()));
        match stuck.is_empty() {
            true => error,
            false => error.hint(format!("changed already, and not changed back: {}", stuck.join(", "))),
        }
    }
}

/// What the files held before a change.
#[derive(Debug, Default)]
struct Before {
    own: Vec<Setting>,
    legs: Vec<(Cgroup, Vec<Setting>)>,
}

/// What has to be written so that a file whose `text` this is holds it again after `value` was written:
/// all of it, or in a file with a line for each device the line that `value` replaces.
fn line_before(text: &str, value: &str) -> String {
    let Some((device, keys)) = value.split_once(' ').filter(|(device, _)| is_device(device)) else {
        // The line for all devices, where others have lines of their own.
        let default = text.lines().find_map(|line| line.strip_prefix("default "));
        let before = default.unwrap_or(text.trim_end());
        // Writing nothing at all would be no write.
        return if before.is_empty() { "\n".to_owned() } else { before.to_owned() };
    };
    let line = |line: &&str| line.strip_prefix(device).is_some_and(|rest| rest.starts_with(' '));
    if let Some(line) = text.lines().find(line) {
        return line.to_owned();
    }
    // Nothing was said of this device.
    let nothing = |key: &str| match key.split_once('=') {
        Some((key, _)) => format!("{key}=max"),
        None => "default".to_owned(),
    };
    let keys: Vec<String> = keys.split(' ').map(nothing).collect();
    format!("{device} {}", keys.join(" "))
}

/// `MAJOR:MINOR`, or the name of one: not a number, as the first word of `cpu.max` is.
fn is_device(word: &str) -> bool {
    word != "max" && word != "default" && word.parse::<u64>().is_err()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_line_before_is_the_one_that_a_value_replaces() {
        for (text, value, before) in [
            ("max\n", "67108864", "max"),
            ("max 100000\n", "50000 100000", "max 100000"),
            ("50000 100000\n", "max 20000", "50000 100000"),
            ("\n", "0-1", "\n"),
            ("default 100\n8:0 50\n", "300", "100"),
            ("default 100\n8:0 50\n", "default 300", "100"),
            ("default 100\n8:0 50\n", "8:0 70", "8:0 50"),
            ("default 100\n", "8:0 70", "8:0 default"),
            (
                "8:0 rbps=1 wbps=max riops=max wiops=max\n",
                "8:0 wbps=7",
                "8:0 rbps=1 wbps=max riops=max wiops=max",
            ),
            ("8:16 rbps=1 wbps=max\n", "8:1 rbps=7", "8:1 rbps=max"),
            (
                "mlx hca_handle=2 hca_object=max\n",
                "mlx hca_handle=3 hca_object=9",
                "mlx hca_handle=2 hca_object=max",
            ),
        ] {
            assert_eq!(line_before(text, value), before, "{value} over {text:?}");
        }
    }

    proptest! {
        #[test]
        fn no_file_and_no_value_break_it(text in "([a-z0-9:= ]{0,9}\n){0,3}", value in "[a-z0-9:= ]{0,12}") {
            prop_assert!(!line_before(&text, &value).is_empty());
        }
    }
}

//! The one place where an error is printed: stderr, and the file that `--log` names.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use jiff::Timestamp;
use podrun::error::{Error, escaped};

use super::{LogFormat, NAMES};

/// Where an error goes besides stderr.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) path: Option<PathBuf>,
    pub(super) format: LogFormat,
}

impl Sink {
    /// One record for all of `message`. A log that cannot be written must not hide the error.
    fn write(&self, message: &str) {
        let Some(path) = &self.path else { return };
        let time = Timestamp::now();
        let line = match self.format {
            LogFormat::Json => {
                serde_json::json!({ "level": "error", "msg": message, "time": time.to_string() }).to_string()
            }
            LogFormat::Text => format!("{time} error {message}"),
        };
        let file = OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            eprint(&format!("podrun: {}\n", Error::io("write", path, &error)));
        }
    }
}

/// Prints `errors`; the exit code follows the first.
pub(super) fn report(errors: &[Error], sink: &Sink, launches: bool) -> ExitCode {
    let mut text = String::new();
    for error in errors {
        text.push_str(&format!("podrun: {error}\n"));
        if let Some(hint) = &error.hint {
            text.push_str(&format!("hint: {}\n", escaped(hint)));
        }
    }
    eprint(&text);
    if !errors.is_empty() {
        sink.write(&errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    let code = |error: &Error| if launches { error.launch_exit_code() } else { error.exit_code() };
    ExitCode::from(errors.first().map_or(0, code))
}

/// Answers a command line that could not be parsed, or one that only asked for help.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // A reader that went away wanted no more of it.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(2);
    }
    let (command, launches) = intent(&args);
    let what = command.map_or_else(|| "usage".to_owned(), |command| command.to_owned());
    let hint = match error.get(ContextKind::SuggestedArg).or(error.get(ContextKind::SuggestedSubcommand)) {
        Some(ContextValue::String(name)) => format!("did you mean {name}?"),
        Some(ContextValue::Strings(names)) if !names.is_empty() => {
            format!("did you mean {}?", names.join(" or "))
        }
        _ => match command {
            Some(command) => format!("`podrun {command} --help` shows how it is used"),
            None => "`podrun --help` shows the commands".to_owned(),
        },
    };
    let error = Error::usage(what, first_paragraph(&error.to_string())).hint(hint);
    let option = |name: &str| {
        let at = args.iter().position(|arg| arg == name)?;
        args.get(at + 1)
    };
    let format = match option("--log-format").map(String::as_str) {
        Some("json") => LogFormat::Json,
        _ => LogFormat::Text,
    };
    report(&[error], &Sink { path: option("--log").map(PathBuf::from), format }, launches)
}

/// Which command was meant, and whether its low exit codes belong to the container's command.
fn intent(args: &[String]) -> (Option<&str>, bool) {
    let mut words = args.iter().map(String::as_str);
    let command = loop {
        match words.next() {
            Some("--root" | "--run-root" | "--log" | "--log-format" | "--log-level") => {
                words.next();
            }
            Some(word) if word.starts_with('-') => {}
            other => break other,
        }
    };
    let bundle = || words.take_while(|word| *word != "--").any(|word| word.starts_with("--bundle"));
    let launches = match command {
        Some("run" | "exec") => true,
        Some("create") => !bundle(),
        _ => false,
    };
    (command.filter(|command| NAMES.contains(command)), launches)
}

/// The first paragraph of a message that clap wrote, as one line.
fn first_paragraph(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let lines = message.lines().map(str::trim).take_while(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" ")
}

/// A closed stderr is no reason to fail otherwise.
fn eprint(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_meant_is_found_behind_global_options() {
        let intent = |line: &str| {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let (command, launches) = intent(&args);
            (command.map(str::to_owned), launches)
        };
        assert_eq!(intent("--root run exec x"), (Some("exec".into()), true));
        assert_eq!(intent("create --bundle b x"), (Some("create".into()), false));
        assert_eq!(intent("create x -- --bundle"), (Some("create".into()), true));
        assert_eq!(intent("frob x"), (None, false));
    }

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(
            first_paragraph("error: the following are required:\n  <ID>\n\nUsage: x"),
            "the following are required: <ID>",
        );
    }
}

//! The one place where an error is printed: stderr, and the file that `--log` names; and a warning, there or here.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use jiff::Timestamp;
use podrun::error::{Error, Kind, escaped};

use super::host::STACK;
use super::{Cli, LogFormat, NAMES};

/// Where an error goes besides stderr.
#[derive(Debug, Default)]
pub(super) struct Sink {
    pub(super) path: Option<PathBuf>,
    pub(super) format: LogFormat,
    /// What is to be told only where no error is: engines read a log of one object.
    held: RefCell<Vec<String>>,
}

impl Sink {
    pub(super) fn new(path: Option<PathBuf>, format: LogFormat) -> Self {
        Self { path, format, held: RefCell::default() }
    }

    /// What is passed over: in the log where there is one, and on stderr otherwise.
    pub(super) fn warn(&self, error: &Error) {
        match (&self.path, self.format) {
            (Some(_), LogFormat::Json) => self.held.borrow_mut().push(error.to_string()),
            (Some(_), LogFormat::Text) => self.write("warning", &error.to_string()),
            (None, _) => eprint(&format!("podrun: warning: {error}\n")),
        }
    }

    /// There was no error.
    pub(super) fn succeeded(&self) {
        self.held.take().iter().for_each(|warning| self.write("warning", warning));
    }

    /// One record for all of `message`. A log that cannot be written must not hide the error.
    fn write(&self, level: &str, message: &str) {
        let Some(path) = &self.path else { return };
        let time = Timestamp::now();
        let line = match self.format {
            LogFormat::Json => {
                serde_json::json!({ "level": level, "msg": message, "time": time.to_string() }).to_string()
            }
            LogFormat::Text => format!("{time} {level} {message}"),
        };
        let file = OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())) {
            eprint(&format!("podrun: {}\n", Error::io("write", path, &error)));
        }
    }
}

/// Prints `errors`; the exit code follows the first.
pub(super) fn report(errors: &[Error], sink: &Sink, launches: bool) -> u8 {
    let mut text = String::new();
    for (index, error) in errors.iter().enumerate() {
        text.push_str(&format!("podrun: {error}\n"));
        let next = errors.get(index + 1).and_then(|next| next.hint.as_ref());
        if let Some(hint) = error.hint.as_ref().filter(|hint| next != Some(*hint)) {
            text.push_str(&format!("hint: {}\n", escaped(hint)));
        }
    }
    eprint(&text);
    if !errors.is_empty() {
        sink.write("error", &errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    }
    let code = |error: &Error| if launches { error.launch_exit_code() } else { error.exit_code() };
    errors.first().map_or(0, code)
}

/// Answers a command line that could not be parsed, or one that only asked for help.
pub(super) fn usage(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that went away wanted no more of it.
            let _ = error.print();
            return 0;
        }
        _ => {}
    }
    let args = args();
    let intent = Intent::of(&args);
    report(&[explain(error, &args, &intent)], &intent.sink, intent.launches)
}

/// Answers who gave this program too little of a stack to look at its command line: on one of its own.
pub(super) fn without_stack(error: Error) -> u8 {
    let answer = move || {
        let args = args();
        let intent = Intent::of(&args);
        report(&[error], &intent.sink, intent.launches)
    };
    let answered = std::thread::Builder::new().stack_size(STACK).spawn(answer).map(|thread| thread.join());
    answered.ok().and_then(Result::ok).unwrap_or(1)
}

fn args() -> Vec<String> {
    std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect()
}

/// What is wrong with the command line, in our own words where we have some.
fn explain(error: &clap::Error, args: &[String], intent: &Intent<'_>) -> Error {
    // One of our own values: it knows best what it wants.
    let own = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
    let string = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let missing = [ErrorKind::MissingSubcommand, ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand];
    if missing.contains(&error.kind()) {
        return Error::usage("command", "is missing").hint(intent.help());
    }
    let argument = string(ContextKind::InvalidArg);
    if let Some(own) = own {
        let mut own = own.clone().kind(Kind::Usage);
        let flag = argument.and_then(|argument| argument.split(' ').next());
        if let Some(flag) = flag.filter(|flag| flag.starts_with("--") && !own.what.contains(flag)) {
            own.what = format!("{flag}: {}", own.what);
        }
        return if own.hint.is_some() { own } else { own.hint(intent.help()) };
    }
    let strings = |kind| match error.get(kind) {
        Some(ContextValue::Strings(texts)) => texts.as_slice(),
        _ => &[],
    };
    let unknown = argument.filter(|_| error.kind() == ErrorKind::UnknownArgument);
    let suggested = string(ContextKind::SuggestedArg).or(string(ContextKind::SuggestedSubcommand));
    let hint = match (suggested, strings(ContextKind::SuggestedSubcommand), unknown) {
        (_, _, Some(word)) if is_global(word) => format!("{word} stands before the command: podrun {word} …"),
        (_, _, Some(word)) if intent.launches && elsewhere(word).is_some() => {
            elsewhere(word).unwrap_or_default().to_owned()
        }
        (Some(name), _, _) => format!("did you mean {name}?"),
        (_, names @ [_, ..], _) => format!("did you mean {}?", names.join(" or ")),
        (_, _, Some(word)) if intent.launches && !word.starts_with('-') => {
            format!("the command stands behind `--`: -- {word} …")
        }
        _ => intent.help(),
    };
    let why = match (argument, strings(ContextKind::PriorArg)) {
        // All that is in conflict would be every option there is.
        (Some(argument), others @ [_, _, ..]) => {
            let given: Vec<_> = others.iter().filter(|other| intent.has(other, args)).collect();
            let given = if given.is_empty() { others.iter().take(1).collect() } else { given };
            let given: Vec<_> = given.into_iter().map(String::as_str).collect();
            format!("the argument '{argument}' cannot be used with: {}", given.join(" "))
        }
        _ => first_paragraph(&error.to_string()),
    };
    Error::usage(intent.command.unwrap_or("usage"), why).hint(hint)
}

/// How what an option of the engines means is done here.
fn elsewhere(option: &str) -> Option<&'static str> {
    match option {
        "--name" => Some("the name is the first argument: `podrun run NAME --rootfs DIR -- CMD`"),
        "--image" | "--pull" | "--platform" => Some(
            "podrun knows no images: `--rootfs DIR` is the root filesystem, `--rootfs DIR:O` one to share",
        ),
        "--entrypoint" => Some("what is run is what stands behind `--`, and nothing before it"),
        "-p" | "-P" | "--publish" | "--publish-all" | "--expose" => Some(
            "podrun makes no networks: on the host's own, the default, every port is the host's; `--network \
             ns:PATH` joins one that was made",
        ),
        _ => None,
    }
}

/// What a command line that cannot be parsed was meant to be.
#[derive(Debug)]
struct Intent<'a> {
    command: Option<&'a str>,
    /// Whether its low exit codes belong to the container's command.
    launches: bool,
    /// Where errors are to go.
    sink: Sink,
}

impl<'a> Intent<'a> {
    fn of(args: &'a [String]) -> Self {
        let mut words = args.iter().map(String::as_str);
        let mut sink = Sink::default();
        let cli = Cli::command();
        let command = loop {
            let Some(word) = words.next() else { break None };
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            let Some(long) = name.strip_prefix("--") else {
                if word.starts_with('-') { continue } else { break Some(word) }
            };
            let takes_value =
                |arg: &&clap::Arg| arg.get_long() == Some(long) && arg.get_action().takes_values();
            let value = match cli.get_opts().find(takes_value) {
                Some(_) => value.or_else(|| words.next()),
                None => None,
            };
            match (long, value) {
                ("log", Some(value)) => sink.path = Some(value.into()),
                ("log-format", Some("json")) => sink.format = LogFormat::Json,
                _ => {}
            }
        };
        let bundle = |word: &str| word.starts_with("--bundle") || word.starts_with("-b");
        let launches = match command {
            Some("run" | "exec") => true,
            Some("create") => !words.take_while(|word| *word != "--").any(bundle),
            _ => false,
        };
        Self { command: command.filter(|command| NAMES.contains(command)), launches, sink }
    }

    /// Where it says how it is done.
    fn help(&self) -> String {
        match self.command {
            Some(command) => format!("`podrun {command} --help` shows how it is used"),
            None => "`podrun --help` shows the commands".to_owned(),
        }
    }

    /// Whether `args` have the argument that clap calls `name`: `--env <KEY=VALUE>`, `[CMD]...`.
    fn has(&self, name: &str, args: &[String]) -> bool {
        let mut cli = Cli::command();
        cli.build();
        let command = self.command.and_then(|command| cli.find_subcommand(command));
        let Some(arg) = command.and_then(|it| it.get_arguments().find(|arg| arg.to_string() == name)) else {
            return false;
        };
        let mut words = args.iter().map(String::as_str).take_while(|word| *word != "--");
        let long = arg.get_long().map(|long| format!("--{long}"));
        let short = arg.get_short().map(|short| format!("-{short}"));
        match (long, short) {
            (None, None) => args.iter().any(|word| word == "--"),
            (long, short) => words.any(|word| {
                let is_long = long.as_deref().is_some_and(|long| word.split('=').next() == Some(long));
                is_long || short.as_deref().is_some_and(|short| word.starts_with(short))
            }),
        }
    }
}

/// Whether `word` is an option that stands before the command.
fn is_global(word: &str) -> bool {
    let name = word.strip_prefix("--");
    Cli::command().get_opts().any(|arg| arg.get_long().is_some() && arg.get_long() == name)
}

/// The first paragraph of a message that clap wrote, as one line.
fn first_paragraph(message: &str) -> String {
    let message = message.strip_prefix("error: ").unwrap_or(message);
    let lines = message.lines().map(str::trim).take_while(|line| !line.is_empty());
    // What Rust says of a number that is none.
    lines.collect::<Vec<_>>().join(" ").replace("invalid digit found in string", "not a number")
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
            let intent = Intent::of(&args);
            (intent.command.map(str::to_owned), intent.launches)
        };
        assert_eq!(intent("--root run exec x"), (Some("exec".into()), true));
        assert_eq!(intent("--root=run --debug exec x"), (Some("exec".into()), true));
        assert_eq!(intent("create --bundle b x"), (Some("create".into()), false));
        assert_eq!(intent("create -b b x"), (Some("create".into()), false));
        assert_eq!(intent("create x -- --bundle"), (Some("create".into()), true));
        assert_eq!(intent("frob x"), (None, false));
    }

    #[test]
    fn only_the_log_that_stands_before_the_command_is_ours() {
        let sink = |line: &str| {
            let args: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let sink = Intent::of(&args).sink;
            (sink.path, sink.format)
        };
        assert_eq!(sink("--log=/l --log-format=json kill"), (Some("/l".into()), LogFormat::Json));
        assert_eq!(sink("--log-format json --log /l kill"), (Some("/l".into()), LogFormat::Json));
        assert_eq!(sink("run -x -- tool --log /l"), (None, LogFormat::Text));
    }

    #[test]
    fn a_message_of_several_lines_becomes_one() {
        assert_eq!(
            first_paragraph("error: the following are required:\n  <ID>\n\nUsage: x"),
            "the following are required: <ID>",
        );
    }
}

//! The command line: one file per command, its arguments first, then its function.
//!
//! ```text
//!  argv ──clap──▶ Cli ──run──▶ command ──▶ exit code
//!                   └────────── errors ──▶ fail: stderr, --log, exit code
//! ```
//!
//! Synchronous, one thread, and nothing initialised that a command does not need: most of a
//! command's time is the kernel's.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use clap::{ArgMatches, Args as _, FromArgMatches, Parser, Subcommand, ValueEnum};
use podrun::error::Error;
use podrun::paths::{ContainerId, Roots};
use podrun::spec::bundle::Warn;
use rustix::process::Rlimit;

mod attach;
mod care;
mod completion;
mod container;
mod create;
mod delete;
mod descriptors;
mod detach;
mod doctor;
mod document;
mod each;
mod engine_stats;
mod environment;
mod events;
mod exec;
mod fail;
mod features;
mod follow;
mod global;
mod host;
mod inspect;
mod kill;
mod limits;
mod list;
mod logs;
mod out;
mod output;
mod pause;
mod prune;
mod ps;
mod recover;
mod restart;
mod resume;
mod run;
mod session;
mod signals;
mod spec;
mod start;
mod state;
mod stats;
mod stdin;
mod stop;
mod terminal;
mod time;
mod trace;
mod update;
mod upgrade;
mod wait;
mod walls;

use global::{Global, LogFormat, LogLevel};

/// A daemonless container runtime: every container gets its own small supervisor.
#[derive(Debug, Parser)]
#[command(
    name = "podrun",
    version,
    args_override_self = true,
    after_help = "Example: podrun run --rm --rootfs /:O -- /bin/echo hello"
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    fn of(args: &[OsString]) -> Result<Self, clap::Error> {
        match Command::alone(args) {
            Some(command) => Ok(Self { global: Global::default(), command: command? }),
            None => Self::try_parse_from(args),
        }
    }
}

/// `--format` of the commands that list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    #[default]
    Table,
    Json,
}

/// Lets a negative number be a value, so that who reads the value says what is wrong with it.
fn negative(command: clap::Command) -> clap::Command {
    command.mut_args(|arg| {
        let takes = arg.get_action().takes_values() && !arg.is_positional();
        let is_time = arg.get_value_names().is_some_and(|names| names.iter().any(|name| *name == "TIME"));
        match takes {
            // `-5m` is no number to clap.
            true if is_time => arg.allow_hyphen_values(true),
            true => arg.allow_negative_numbers(true),
            false => arg,
        }
    })
}

/// A command without its arguments.
fn bare(name: &'static str, about: &'static str) -> clap::Command {
    clap::Command::new(name).about(about).args_override_self(true)
}

/// The commands. Each one's arguments are built when it was chosen: building all of them
/// would take longer than most commands do.
macro_rules! commands {
    ($($variant:ident $module:ident $name:literal $(alias $alias:literal)?,)+) => {
        #[derive(Debug)]
        enum Command {
            $($variant($module::Args),)+
        }

        /// Their names.
        const NAMES: &[&str] = &[$($name, $($alias,)?)+];

        impl Subcommand for Command {
            fn augment_subcommands(command: clap::Command) -> clap::Command {
                command.subcommand_required(true)
                    $(.subcommand(
                        bare($name, $module::ABOUT)
                            $(.visible_alias($alias))?
                            .defer(|command| negative($module::Args::augment_args(command))),
                    ))+
            }

            fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
                Self::augment_subcommands(command)
            }

            fn has_subcommand(name: &str) -> bool {
                NAMES.contains(&name)
            }
        }

        impl Command {
            /// Where the first of `args` behind the program's name is a command's name: what they say. With
            /// nothing before it there is nothing else that clap would have to know (0.2 ms).
            fn alone(args: &[OsString]) -> Option<Result<Self, clap::Error>> {
                let name = args.get(1)?.to_str()?;
                let matches = |command: clap::Command, name| {
                    let called = command.bin_name(format!("podrun {name}"));
                    negative(called).try_get_matches_from(&args[1..])
                };
                match name {
                    $($name $(| $alias)? => {
                        let command = $module::Args::augment_args(bare($name, $module::ABOUT));
                        let matches = matches(command, $name);
                        Some(matches.and_then(|m| $module::Args::from_arg_matches(&m)).map(Self::$variant))
                    })+
                    _ => None,
                }
            }
        }

        impl FromArgMatches for Command {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                match matches.subcommand() {
                    $(Some(($name, matches)) => $module::Args::from_arg_matches(matches).map(Self::$variant),)+
                    _ => Err(clap::Error::new(clap::error::ErrorKind::MissingSubcommand)),
                }
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }
    };
}

commands! {
    Create create "create",
    Run run "run",
    Start start "start",
    Exec exec "exec",
    Attach attach "attach",
    Wait wait "wait",
    Kill kill "kill",
    Stop stop "stop",
    Restart restart "restart",
    Pause pause "pause",
    Resume resume "resume" alias "unpause",
    Update update "update",
    Stats stats "stats",
    Delete delete "delete",
    State state "state",
    Inspect inspect "inspect",
    List list "list" alias "ls",
    Logs logs "logs",
    Ps ps "ps",
    Events events "events",
    Recover recover "recover",
    Prune prune "prune",
    Upgrade upgrade "upgrade",
    Doctor doctor "doctor",
    Features features "features",
    Spec spec "spec",
    Completion completion "completion",
}

impl Command {
    /// Whether exit codes below 125 are the container's command's own.
    fn launches(&self) -> bool {
        match self {
            Self::Create(args) => args.launches(),
            Self::Run(_) | Self::Exec(_) => true,
            _ => false,
        }
    }
}

impl Command {
    /// Whether it may start a shim.
    fn makes_shims(&self) -> bool {
        match self {
            Self::Create(args) => args.supervises(),
            other => other.makes_processes() && !matches!(other, Self::Exec(_)),
        }
    }

    /// Whether it starts a shim, or a process in a container.
    fn makes_processes(&self) -> bool {
        matches!(
            self,
            Self::Create(_)
                | Self::Run(_)
                | Self::Start(_)
                | Self::Restart(_)
                | Self::Exec(_)
                | Self::Recover(_)
        )
    }
}

/// What a command returns: its exit code, or everything that went wrong.
type Outcome = Result<u8, Errors>;

/// What went wrong, in order: a command over several containers goes on after a failure.
#[derive(Debug, Default)]
struct Errors(Vec<Error>);

impl From<Error> for Errors {
    fn from(error: Error) -> Self {
        Self(vec![error])
    }
}

/// Does `each` for every ID, all of them, also after a failure.
fn for_each(ids: &[ContainerId], mut each: impl FnMut(&ContainerId) -> Result<(), Error>) -> Outcome {
    let errors: Vec<Error> = ids.iter().filter_map(|id| each(id).err()).collect();
    if errors.is_empty() { Ok(0) } else { Err(Errors(errors)) }
}

/// The same for things that take their time: all of them at once, up to a bound; `done` in their order.
fn for_each_at_once(
    ids: &[ContainerId],
    each: impl Fn(&ContainerId) -> Result<(), Error> + Sync,
    mut done: impl FnMut(&ContainerId) -> Result<(), Error>,
) -> Outcome {
    /// Threads that do nothing but wait.
    const MOST: usize = 64;
    if ids.len() == 1 {
        return for_each(ids, |id| each(id).and_then(|()| done(id)));
    }
    let (next, (sender, results)) = (AtomicUsize::new(0), mpsc::channel());
    let work = |sender: mpsc::Sender<_>| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(id) = ids.get(at) else { break };
            // It is received until everybody is through.
            let _ = sender.send((at, each(id)));
        }
    };
    std::thread::scope(|scope| {
        let work = &work;
        for _ in 0..ids.len().min(MOST) {
            let sender = sender.clone();
            scope.spawn(move || work(sender));
        }
        drop(sender);
        let (mut ended, mut at) = (BTreeMap::new(), 0);
        for_each(ids, |id| {
            while !ended.contains_key(&at) {
                let lost = |_| Error::failed(id.as_str(), "its thread has died");
                let (which, result) = results.recv().map_err(lost)?;
                ended.insert(which, result);
            }
            let result = ended.remove(&at).unwrap_or(Ok(()));
            at += 1;
            result.and_then(|()| done(id))
        })
    })
}

/// The whole program: what it exits with.
pub(crate) fn main() -> u8 {
    let stack = match host::make_room() {
        Ok(stack) => stack,
        Err(error) => return fail::without_stack(error),
    };
    let cli = match Cli::of(&std::env::args_os().collect::<Vec<_>>()) {
        Ok(cli) => cli,
        Err(error) => return fail::usage(&error),
    };
    let sink = fail::Sink::new(cli.global.log.clone(), cli.global.log_format);
    let launches = cli.command.launches();
    match run(cli, stack, &|error| sink.warn(error)) {
        Ok(code) => {
            sink.succeeded();
            code
        }
        Err(errors) => fail::report(&errors.0, &sink, launches),
    }
}

fn run(mut cli: Cli, stack: Option<Rlimit>, warn: Warn<'_>) -> Outcome {
    host::keep_own_files();
    environment::complete(&mut cli.global)?;
    trace::start(&cli.global);
    // What only tells about podrun needs neither root nor a kernel.
    match &cli.command {
        Command::Completion(args) => return completion::run(args),
        Command::Features(args) => return features::run(args),
        Command::Spec(args) => return spec::run(args),
        _ => {}
    }
    let roots = || Roots::new(cli.global.root.as_deref(), cli.global.run_root.as_deref());
    // It says what `check` would fail for.
    if let Command::Doctor(args) = &cli.command {
        return doctor::run(&roots()?, args);
    }
    host::check()?;
    if cli.command.makes_processes() {
        host::check_descriptors()?;
    }
    let cgroups = cli.global.manager();
    let mut limits = if cli.command.makes_shims() { host::lift_limits()? } else { Vec::new() };
    limits.extend(stack.map(|stack| host::written("stack", stack)));
    let roots = roots()?;
    tracing::debug!(root = %roots.root.display(), run_root = %roots.run_root.display(), ?cgroups);
    match cli.command {
        Command::Create(args) => create::run(&roots, args, cgroups, limits, stack, warn),
        Command::Run(args) => run::run(&roots, args, cgroups, limits, warn),
        Command::Start(args) => start::run(&roots, &args),
        Command::Exec(args) => exec::run(&roots, args, stack, warn),
        Command::Attach(args) => attach::run(&roots, args),
        Command::Wait(args) => wait::run(&roots, &args),
        Command::Kill(args) => kill::run(&roots, &args),
        Command::Stop(args) => stop::run(&roots, &args),
        Command::Restart(args) => restart::run(&roots, &args),
        Command::Pause(args) => pause::run(&roots, &args),
        Command::Resume(args) => resume::run(&roots, &args),
        Command::Update(args) => update::run(&roots, args),
        Command::Stats(args) => stats::run(&roots, &args),
        Command::Delete(args) => delete::run(&roots, &args),
        Command::State(args) => state::run(&roots, &args),
        Command::Inspect(args) => inspect::run(&roots, &args),
        Command::List(args) => list::run(&roots, &args),
        Command::Logs(args) => logs::run(&roots, args),
        Command::Ps(args) => ps::run(&roots, &args),
        Command::Events(args) => events::run(&roots, &args),
        Command::Recover(args) => recover::run(&roots, &args),
        Command::Prune(args) => prune::run(&roots, &args),
        Command::Upgrade(args) => upgrade::run(&roots, &args),
        Command::Doctor(args) => doctor::run(&roots, &args),
        Command::Features(args) => features::run(&args),
        Command::Spec(args) => spec::run(&args),
        Command::Completion(args) => completion::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        let args: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Cli::of(&args).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let mut command = Cli::command();
        command.clone().debug_assert();
        command.build();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example: podrun"), "{}", sub.get_name());
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
        }
    }

    #[test]
    fn options_of_exec_stand_before_or_after_the_id_and_the_rest_is_the_commands() {
        for line in [
            "podrun exec e1 --env A=b --cwd /tmp -- ls -la --env",
            "podrun exec --env A=b e1 --cwd /tmp ls -la --env",
            "podrun exec -e A=b -w /tmp e1 ls -la --env",
        ] {
            let Command::Exec(args) = parse(line).unwrap() else { panic!() };
            assert_eq!(args.command(), ["ls", "-la", "--env"], "{line}");
        }
    }

    #[test]
    fn exit_codes_of_wrong_usage_follow_the_command() {
        assert!(parse("podrun create e1 --rootfs / -- x").unwrap().launches());
        assert!(!parse("podrun create --bundle /b e1").unwrap().launches());
        assert!(parse("podrun create --bundle /b --rootfs / e1").is_err());
        assert!(parse("podrun create --bundle /b --env A=b e1").is_err());
        assert!(parse("podrun create --bundle /b --memory 64m e1").is_err());
        assert!(parse("podrun create e1").is_err());
        assert!(parse("podrun run -d --rootfs / -- x -t").is_ok());
        assert!(parse("podrun run -itd --rootfs / -- x").is_ok());
        assert!(parse("podrun create --console-socket /s --rootfs / e1 -- x").is_err());
    }
}

//! podrun-shim: the supervisor of one container.
//!
//! Started by `podrun create` and `podrun run` with the control socket as descriptor 3; of no use by
//! hand. It owns the container's init by its pidfd, pumps its output into the log, answers on the
//! control socket, and ends when the container has ended.
//!
//! ```text
//!  keeper ──fork──▶ shim:
//!  bootstrap: launched, or adopted ──┐
//!  what the keeper held ─────────────┼─Owned─▶ driver ◀──▶ machine (decides, pure)
//!  upgrade: what was left by the ────┘           ├── server: a task for each client of the control socket
//!           program before                       ├── log: the pump from the pipes to the file
//!                                                ├── exec: a task for each process run inside
//!                                                ├── construct: the container anew, for another run
//!                                                └── record: the exit record
//! ```
//!
//! One thread, one epoll loop: `clone` without `exec` is only safe in a process that has no
//! other thread.
#![deny(unsafe_code)]
#![cfg_attr(all(not(test), target_env = "gnu"), no_main)]

use std::pin::Pin;

use podrun::error::{Error, Result};
use podrun::paths::ContainerPaths;
use podrun::spec::Spec;

mod adopt;
mod aside;
mod bootstrap;
mod child;
mod clock;
mod connection;
mod construct;
mod diary;
mod driver;
mod events;
mod exec;
mod exits;
mod fd;
mod finish;
mod freezer;
mod guests;
mod keep;
mod keeper;
mod ledger;
mod log;
mod machine;
mod memory_file;
mod mounts;
mod owned;
mod record;
mod rest;
mod server;
mod signals;
mod streams;
mod sync;
mod upgrade;

use bootstrap::Creator;
use diary::Diary;
use exec::Carried;
use exits::Exits;
use keep::Keep;
use keeper::Role;
use owned::Owned;

/// The control socket's descriptor.
const CONTROL: i32 = 3;

const USAGE: &str = "podrun-shim is started by podrun for each container; there is nothing to run by hand.";

podrun::begin!(program);

/// The whole program: what it exits with.
fn program() -> u8 {
    match std::env::args().nth(1).as_deref() {
        Some("--version") => {
            println!("podrun-shim {}", env!("CARGO_PKG_VERSION"));
            return 0;
        }
        Some("--help" | "-h") => {
            println!("{USAGE}");
            return 0;
        }
        _ => {}
    }
    let outcome = match std::env::args().nth(1).as_deref().and_then(|arg| arg.strip_prefix(upgrade::CHECK)) {
        Some(fds) => upgrade::check(fds),
        None => run(),
    };
    match outcome {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!("{error}");
            eprintln!("podrun-shim: {error}");
            1
        }
    }
}

fn run() -> Result<()> {
    // A log that must not grow is an error like that of a full disk.
    podrun::sys::signal::ignore(signal_hook::consts::SIGXFSZ);
    // Who reparents to one of these two is reaped by it, and nobody may trace it or read its memory.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| Error::os("become a subreaper", errno))?;
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(|errno| Error::os("become undumpable", errno))?;
    let Some(shim) = role()? else { return Ok(()) };
    let runtime = event_loop()?;
    let tasks = tokio::task::LocalSet::new();
    // Nothing of what clients still have in flight is of any use afterwards.
    tasks.block_on(&runtime, shim.life())
}

/// What makes a process a shim. Only once it has all of it, and no frame of the beginning is on the stack any more,
/// does it begin to live: a stack stays as large as it was.
struct Shim {
    owned: Owned,
    spec: Spec,
    /// The command that created the container, still connected; without one it was taken over.
    creator: Option<Creator>,
    keep: Keep,
    exits: Exits,
    execs: Vec<Carried>,
}

type Life = Pin<Box<dyn Future<Output = Result<()>>>>;

impl Shim {
    /// From the moment when it has everything to its end. Boxed: on the stack it would lie there once for each
    /// function that it passes through.
    #[inline(never)]
    fn life(self: Box<Self>) -> Life {
        let (id, pid) = (&self.owned.facts.state.id, rustix::process::getpid());
        tracing::debug!(version = env!("CARGO_PKG_VERSION"), "the shim of {id} is process {pid}");
        Box::pin(driver::run(*self))
    }
}

/// Becomes a keeper, or a shim. Returns in each shim, with nothing where there is nothing to supervise, and in the
/// keeper at its end.
fn role() -> Result<Option<Box<Shim>>> {
    let option = std::env::args().nth(2).unwrap_or_default();
    if let Some(fd) = option.strip_prefix(upgrade::SHIM) {
        return resumed(fd).map(Some);
    }
    let role = match option.strip_prefix(keeper::KEEPER) {
        Some(fd) => keeper::resume(fd)?,
        None => {
            let control = podrun::sys::fd::inherited(CONTROL)
                .map_err(|error| Error::io("use", "the control socket", &error).hint(USAGE))?;
            keeper::split(control)?
        }
    };
    shim(role)
}

#[inline(never)]
fn resumed(fd: &str) -> Result<Box<Shim>> {
    let upgrade::Resumed { owned, spec, keep, exits, execs, client } = upgrade::resume(fd, log_to)?;
    Ok(Box::new(Shim { owned, spec, creator: client, keep, exits, execs }))
}

#[inline(never)]
fn shim(role: Role) -> Result<Option<Box<Shim>>> {
    match role {
        Role::First { control, keep } => {
            let Some(launched) = bootstrap::launch(control, &keep, log_to)? else { return Ok(None) };
            let bootstrap::Launched { owned, spec, creator } = launched;
            // Adopted from outside: whatever ran inside was the child of a keeper that is gone.
            let is_adopted = owned.facts.state.adoptions > 0;
            let exits = if is_adopted { Exits::untold() } else { Exits::default() };
            Ok(Some(Box::new(Shim { owned, spec, creator: Some(creator), keep, exits, execs: vec![] })))
        }
        Role::Next { held, keep, before } => {
            let exits = Exits::default();
            held.exits.into_iter().flatten().for_each(|exit| exits.add(exit));
            let taken = bootstrap::take_over(held.slots, &keep, before, log_to)?;
            Ok(taken.map(|(owned, spec)| {
                Box::new(Shim { owned, spec, creator: None, keep, exits, execs: vec![] })
            }))
        }
        Role::Over => Ok(None),
    }
}

#[inline(never)]
fn event_loop() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .on_thread_park(rest::before_sleep)
        // There are never many; the room for 1,024 would be 12 kB of every shim.
        .max_io_events_per_tick(32)
        .build()
        .map_err(|error| Error::io("start", "the event loop", &error))
}

fn log_to(paths: &ContainerPaths) {
    // The command has looked at it: a level in any case.
    let level = std::env::var("PODRUN_LOG").unwrap_or_default().parse();
    let level = level.unwrap_or(tracing::Level::INFO).max(tracing::Level::INFO);
    // Set once, here; a second one cannot happen.
    let _ = tracing::subscriber::set_global_default(Diary::new(paths.shim_log(), level));
    std::panic::set_hook(Box::new(|panic| tracing::error!("{panic}")));
}

//! The one loop of a shim: waits for events, asks the [`machine`](crate::machine) what to do, does it.
//!
//! ```text
//!  commands ─┐                               ┌─▶ gate, signals, cgroup
//!  pidfd ────┤                               ├─▶ exec
//!  gate ─────┼─▶ Event ─▶ machine ─▶ Action ─┼─▶ exit record, state.json
//!  clock ────┤                               ├─▶ another run
//!  health ───┤                               └─▶ answers
//!  SIGTERM ──┘        past the machine: the keeper's notices, upgrades, what the log has come to
//! ```
//!
//! The end, in the order that must not change: init ends and is looked at, not reaped; the cgroup is
//! read; the pipes are drained; `exit.json` is published in the run root; init is reaped; the
//! waiters are answered; the durable copy and `state.json` are written; those who still read are
//! waited for; the socket goes, and with it the shim.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use podrun::cgroup::Cgroup;
use podrun::error::{Error, Result};
use podrun::launch::{self, Stdio};
use podrun::paths::ContainerPaths;
use podrun::protocol::{Exec, Reply};
use podrun::spec::Spec;
use podrun::spec::limits::LinuxResources;
use podrun::spec::settings::Settings;
use podrun::state::publish::{self, Durability};
use podrun::state::{ExitRecord, State, Status, store};
use podrun::sys;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::Shim;
use crate::child::Known;
use crate::clock::{Alarm, Clock, QUIET, SAVE};
use crate::events::Oom;
use crate::exec::{self, Inside};
use crate::fd;
use crate::freezer::{self, Freezing};
use crate::keep::{Exit, Keep, Notices, Order, Slot};
use crate::keeper::LONG;
use crate::log::{Logger, Pump};
use crate::machine::restart::Asked;
use crate::machine::{Action, Delivery, Event, Machine, Memory, Ticket};
use crate::mounts::Mounts;
use crate::owned::Facts;
use crate::rest;
use crate::server::{self, Answer, Command, Shared};
use crate::signals::Signals;
use crate::sync::{self, Syncing};
use crate::upgrade::Upgrades;

mod begin;
mod command;
mod deliver;
mod end;
mod health;
pub(crate) mod hooks;
mod inside;
mod restart;

/// How many questions may wait for the driver; the clients that ask more wait with them.
const QUEUE: usize = 64;
/// How long the clients of a shim that died may take to come to the next one, where the container goes.
const RETURN: Duration = Duration::from_secs(1);

/// Runs a container to its end.
pub(crate) async fn run(shim: Shim) -> Result<()> {
    let Shim { owned, spec, creator, keep, exits, execs } = shim;
    let settings = Settings::of(&spec)?;
    let paths = owned.paths();
    let cgroup = Cgroup::open(&owned.facts.state.cgroup_path)?;
    let streams = owned.streams.split()?;
    let known = Known::default();
    known.add(owned.facts.state.init.map_or(0, |init| init.pid));
    let (pump, log) = Pump::new(&paths, &settings.logging, streams.sources, &known)?;
    let inside = Inside::default();
    execs.into_iter().try_for_each(|exec| exec::go_on(exec, &exits, &known, &inside))?;

    let (commands, inbox) = mpsc::channel(QUEUE);
    let keep = Rc::new(keep);
    let notices = keep.notices()?;
    let shared = Rc::new(Shared {
        keep: keep.clone(),
        exits,
        commands,
        log,
        stdin: streams.stdin.into(),
        terminal: streams.terminal.into(),
        ledger: Default::default(),
        tickets: Default::default(),
        guests: Default::default(),
        leaving: Default::default(),
    });
    let failed = |error: std::io::Error| Error::io("watch", "the control socket", &error);
    let listener = std::os::unix::net::UnixListener::from(owned.listener);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = Rc::new(UnixListener::from_std(listener).map_err(failed)?);
    let returning = creator.is_none().then(|| tokio::time::Instant::now() + RETURN);
    if let Some(creator) = creator {
        let stream = tokio::net::UnixStream::from_std(creator.stream).map_err(failed)?;
        tokio::task::spawn_local(server::serve_creator(stream, creator.buffer, shared.clone()));
    }
    tokio::task::spawn_local(server::listen(listener.clone(), shared.clone()));

    let Facts { roots, state, memory, kill_at } = owned.facts;
    let machine =
        Machine::resume(state.id.to_string(), &settings, state.status, state.restarts, memory.clone());
    let mut clock = Clock::default();
    clock.set(Alarm::Save, SAVE);
    if let Some(at) = kill_at {
        clock.set_at(Alarm::Kill, at);
    }
    let init_lives = state.status != Status::Stopped;
    let oom = Oom::watch(&roots, &state.id, cgroup.as_ref());
    let driver = Driver {
        machine,
        spec: &spec,
        settings,
        paths,
        roots,
        state,
        keep,
        notices,
        remembered: memory,
        oom,
        cgroup,
        stuck: None,
        unsaved: true,
        saving: None,
        pidfd: fd::watch(owned.pidfd, "init")?,
        init_lives,
        mounts: None,
        ending: owned.ending,
        closed_gate: owned.gate,
        gate: None,
        logger: Logger::start(pump),
        due: false,
        health: None,
        shared,
        inbox,
        answers: HashMap::new(),
        execs: HashMap::new(),
        updates: HashMap::new(),
        freezing: None,
        clock,
        lock: Some(podrun::state::lock::Lock::from_fd(owned.lock)),
        finishing: false,
        poststart: None,
        hasty: Vec::new(),
        returning,
        known,
        record: None,
        upgrades: Upgrades::new(listener, inside),
    };
    driver.run().await
}

/// A process that a client wants: what it is, its stdio, and the client's witness.
type Wanted = (Box<Exec>, Stdio, Option<OwnedFd>);

pub(crate) struct Driver<'a> {
    pub(crate) machine: Machine,
    spec: &'a Spec,
    pub(crate) settings: Settings,
    pub(crate) paths: ContainerPaths,
    pub(crate) roots: podrun::paths::Roots,
    pub(crate) state: State,
    pub(crate) keep: Rc<Keep>,
    notices: Notices,
    /// What the keeper has of the machine's memory.
    remembered: Memory,
    pub(crate) oom: Oom,
    pub(crate) cgroup: Option<Cgroup>,
    /// Why it could not be removed.
    pub(crate) stuck: Option<Error>,
    /// What the container is, or its state, may not be on the disk yet, nor on its way there.
    unsaved: bool,
    /// It is on its way there.
    saving: Option<Syncing>,
    /// Init, or the one of the last run.
    pub(crate) pidfd: AsyncFd<OwnedFd>,
    init_lives: bool,
    /// Its mounts, so that their end is not a part of its own.
    pub(crate) mounts: Option<Mounts>,
    /// Where a minimal init tells how the command ended.
    pub(crate) ending: Option<OwnedFd>,
    /// The gate, until it is opened.
    pub(crate) closed_gate: Option<OwnedFd>,
    /// What comes through the gate after it was opened.
    gate: Option<JoinHandle<Result<Vec<u8>>>>,
    pub(crate) logger: Logger,
    /// It is time for another run, once the last one's output is in the log.
    due: bool,
    /// What is known of its health, where that is checked.
    health: Option<health::Health>,
    pub(crate) shared: Rc<Shared>,
    pub(crate) inbox: mpsc::Receiver<Box<Command>>,
    answers: HashMap<Ticket, oneshot::Sender<Answer>>,
    /// What an exec needs, between its request and the machine's word.
    execs: HashMap<Ticket, Wanted>,
    /// What an update changes, likewise.
    pub(crate) updates: HashMap<Ticket, Box<LinuxResources>>,
    /// Tells when everything inside stands still.
    pub(crate) freezing: Option<Freezing>,
    clock: Clock,
    pub(crate) lock: Option<podrun::state::lock::Lock>,
    finishing: bool,
    /// What is run after the command was executed, until it has been.
    pub(crate) poststart: Option<hooks::Poststart>,
    /// Those who start it and do not wait for that.
    hasty: Vec<Ticket>,
    /// Until when those who were connected to the shim before this one may take to come back.
    pub(crate) returning: Option<tokio::time::Instant>,
    pub(crate) known: Known,
    pub(crate) record: Option<ExitRecord>,
    pub(crate) upgrades: Upgrades,
}

impl Driver<'_> {
    async fn run(mut self) -> Result<()> {
        let mut signals = Signals::new()?;
        // The program before this one may have left them blocked, and some waiting.
        sys::signal::unblock_all();
        self.known.reap_strays();
        self.go_on().await?;
        while !self.finishing {
            let calm = self.machine.is_calm();
            tokio::select! {
                biased;
                outcome = outcome(&mut self.gate) => self.gate_opened(outcome).await,
                ending = ended(&self.pidfd), if self.init_lives => {
                    self.init_lives = false;
                    // Init cannot have ended before it was through the gate or refused.
                    if let Some(gate) = self.gate.take() {
                        let outcome = join(gate).await;
                        self.on(Event::Gate(outcome)).await;
                    }
                    ending?;
                    let ending = self.true_ending();
                    let ran = self.state.started_at.map(since);
                    self.on(Event::InitEnded { ending, ran }).await;
                }
                () = signals.terminate.comes() => self.on(Event::Terminate).await,
                () = signals.child.comes() => self.known.reap_strays(),
                outcome = freezer::done(&mut self.freezing) => {
                    self.freezing = None;
                    self.on(Event::Frozen(outcome)).await;
                }
                notice = self.notices.next() => self.notice(notice),
                () = self.logger.rests(), if self.due => {
                    self.due = false;
                    self.on(Event::Due).await;
                }
                () = hooks::done(&self.poststart) => self.poststarted(),
                saved = sync::done(&self.saving) => self.saved(saved),
                found = health::found(&mut self.health) => self.checked(found).await,
                alarm = self.clock.rings() => match alarm {
                    Alarm::Kill => self.on(Event::TimeUp).await,
                    Alarm::Timeout => self.on(Event::RunTimeOver).await,
                    Alarm::Restart => self.due = true,
                    Alarm::Health => self.check_health(),
                    Alarm::Settled => self.settled(),
                    Alarm::Quiet => rest::ask(),
                    Alarm::Save => self.save(),
                },
                Some(command) = self.inbox.recv() => self.command(*command).await,
                // Last: nothing that was asked for is left undone.
                step = self.upgrades.next(calm, &self.shared.ledger) => self.upgrade_step(step),
            }
        }
        // Boxed: it would be the larger half of what a shim is, all of its life.
        Box::pin(self.finish()).await
    }

    /// What a shim that died has left in the middle.
    async fn go_on(&mut self) -> Result<()> {
        if self.state.reason.is_some() {
            self.clock.set(Alarm::Settled, LONG);
        }
        if let Some(record) = publish::read_json::<ExitRecord>(&self.paths.run_exit())? {
            // The record of this run: one of an earlier run is removed before the next begins.
            self.state.status = Status::Stopped;
            self.state.restarts.due = None;
            self.state.stopped_by = self.remembered.asked.and_then(Asked::stopped_by);
            self.state.reason.clone_from(&record.reason);
            self.record = Some(record.clone());
            self.keep.order(Order::ReapInit);
            self.tell_end(&record);
            // All of it was logged before that record; this tells the followers.
            self.logger.drain(true).await;
            self.on(Event::Recorded(Box::new(record))).await;
        } else if self.state.restarts.due.is_some() {
            self.wait_on().await;
        } else if self.remembered.starting {
            if let Err(error) = self.open_gate_again() {
                self.on(Event::Gate(Err(error))).await;
            }
        } else if self.state.status == Status::Running {
            // Half paused for a client that was not told so.
            self.thaw();
            self.watch_run();
            self.settle();
        } else if self.state.status == Status::Paused {
            self.watch_run();
            self.settle();
        }
        Ok(())
    }

    fn notice(&mut self, notice: Option<Exit>) {
        match notice {
            Some(Exit { pid: 0, status, .. }) => self.keeper_renewed(status),
            Some(exit) => self.shared.exits.add(exit),
            None => {
                self.keep.lost();
                self.no_keeper_to_renew();
                tracing::warn!("the keeper is gone: nobody replaces this shim when it dies");
                self.state.keeper = None;
                self.state.reason = self.standing_reason();
                self.write_state();
            }
        }
    }

    /// Has the keeper hold what must outlive this shim.
    pub(crate) fn remember(&mut self, memory: Memory) {
        self.remember_with(memory, []);
    }

    /// The same, with descriptors beside it.
    fn remember_with<'fd>(&mut self, memory: Memory, fds: impl IntoIterator<Item = (Slot, &'fd OwnedFd)>) {
        let fds: Vec<_> = fds.into_iter().map(|(slot, fd)| (slot, fd.as_fd())).collect();
        match self.facts(memory.clone()).hand_over(&self.keep, &fds) {
            Ok(()) => self.remembered = memory,
            Err(error) => tracing::warn!("{error}"),
        }
    }

    /// What the next shim, or the next program, must know.
    pub(crate) fn facts(&self, memory: Memory) -> Facts {
        Facts {
            roots: self.roots.clone(),
            state: self.state.clone(),
            memory,
            kill_at: self.clock.at(Alarm::Kill),
        }
    }

    pub(crate) fn write_state(&mut self) {
        self.has_written();
        if let Err(error) = store::write_state(&self.paths, &self.state, Durability::Eventual) {
            tracing::warn!("{error}");
        }
    }

    /// What the container is, or its state, is to be seen onto the disk in a while.
    pub(crate) fn has_written(&mut self) {
        self.unsaved = true;
        self.clock.set_once(Alarm::Save, SAVE);
    }

    /// Begins to see onto the disk what was written.
    fn save(&mut self) {
        if self.saving.is_some() {
            return self.clock.set(Alarm::Save, SAVE);
        }
        match sync::save(&self.paths, &self.known) {
            Ok(saving) => (self.saving, self.unsaved) = (Some(saving), false),
            // There is no room for another process: the kernel does it, later.
            Err(error) => tracing::warn!("{error}"),
        }
    }

    fn saved(&mut self, saved: Result<()>) {
        self.saving = None;
        // This has used some memory again.
        self.clock.set(Alarm::Quiet, QUIET);
        match saved {
            // What was written since then is not.
            Ok(()) if self.unsaved => {}
            Ok(()) => [self.paths.spec(), self.paths.state()].iter().for_each(|path| publish::saved(path)),
            Err(error) => tracing::warn!("{error}"),
        }
    }

    async fn gate_opened(&mut self, outcome: Result<()>) {
        self.gate = None;
        self.on(Event::Gate(outcome)).await;
    }

    /// Feeds `event` to the machine and performs what it says, until nothing is left to do.
    async fn on(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            tracing::debug!("heard: {event:?}");
            for action in self.machine.on(event) {
                tracing::debug!("does: {action:?}");
                events.extend(self.perform(action).await);
            }
            if self.remembered != *self.machine.memory() {
                self.remember(self.machine.memory().clone());
            }
        }
    }

    async fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Answer(ticket, reply) => self.answer(ticket, reply),
            Action::OpenGate => return self.open_gate().err().map(|error| Event::Gate(Err(error))),
            Action::Running(starters) => {
                self.running();
                self.started(starters);
            }
            Action::Deliver { sender, signal, all } => {
                let delivery = self.deliver(signal, all).unwrap_or_else(Delivery::Failed);
                return Some(Event::Delivered { sender, signal, delivery });
            }
            Action::KillAll => {
                // Whoever sees its end must know.
                self.remember(self.machine.memory().clone());
                self.kill_all();
            }
            Action::Arm(time) => {
                self.clock.set(Alarm::Kill, time);
            }
            Action::Exec(ticket) => self.exec(ticket),
            Action::Freeze => return self.freeze().err().map(|error| Event::Frozen(Err(error))),
            Action::Thaw => self.thaw(),
            Action::Paused(paused) => self.paused(paused),
            Action::Update(ticket) => self.update(ticket),
            Action::Record(verdict) => return Some(self.record(verdict).await),
            Action::Rest(time) => self.clock.set(Alarm::Restart, time),
            Action::Launch => return Some(Event::Launched(self.launch_again())),
            Action::Conclude => return Some(self.conclude()),
            Action::Finish => self.finishing = true,
        }
        None
    }

    pub(crate) fn answer(&mut self, ticket: Ticket, reply: Reply) {
        self.hasty.retain(|hasty| *hasty != ticket);
        if let Some(answer) = self.answers.remove(&ticket) {
            let _ = answer.send(Answer::Reply(reply, self.shared.ledger.answer()));
        }
    }
}

/// How long ago that was.
fn since(moment: Timestamp) -> Duration {
    Timestamp::now().duration_since(moment).try_into().unwrap_or(Duration::ZERO)
}

async fn outcome(gate: &mut Option<JoinHandle<Result<Vec<u8>>>>) -> Result<()> {
    match gate {
        Some(gate) => join(gate).await,
        None => std::future::pending().await,
    }
}

async fn join(gate: impl Future<Output = Result<Result<Vec<u8>>, tokio::task::JoinError>>) -> Result<()> {
    match gate.await {
        Ok(report) => launch::gate::outcome(&report?),
        Err(error) => Err(Error::failed("read the gate", error.to_string())),
    }
}

/// Waits for the end of init; it stays a zombie. A pidfd becomes readable then, and at nothing else.
async fn ended(pidfd: &AsyncFd<OwnedFd>) -> Result<()> {
    let guard = pidfd.readable().await.map_err(|error| Error::io("watch", "init", &error))?;
    drop(guard);
    Ok(())
}

//! The one loop of a shim: waits for events, asks the [`machine`](crate::machine) what to do, does it.
//!
//! ```text
//!  commands ─┐
//!  pidfd ────┤                    ┌─▶ gate, signals, cgroup
//!  gate ─────┼─▶ Event ─▶ machine ─▶ Action ─┼─▶ exec
//!  timer ────┤                    ├─▶ exit record, state.json
//!  SIGTERM ──┘                    └─▶ answers
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
use nix::libc::SIGKILL;
use podrun::cgroup::{self, Cgroup};
use podrun::error::{Error, Result};
use podrun::launch::{self, Stdio};
use podrun::log::line::Stream;
use podrun::paths::ContainerPaths;
use podrun::protocol::{Exec, Reply, Request};
use podrun::spec::Spec;
use podrun::spec::settings::Settings;
use podrun::state::publish::{self, Durability};
use podrun::state::{ExitRecord, State, Status, store};
use podrun::sys;
use rustix::process::{PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::bootstrap::Creator;
use crate::child::{self, Known};
use crate::exec;
use crate::fd;
use crate::log::{Drain, Pump};
use crate::machine::{Action, Delivery, Event, Machine, Ticket, Verdict};
use crate::owned::Owned;
use crate::record;
use crate::server::{self, Answer, Ask, Command, Shared};
use crate::signals::Signals;
use crate::sync::{self, Syncing};

/// How long the end waits for clients that do not acknowledge.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many questions may wait for the driver; the clients that ask more wait with them.
const QUEUE: usize = 64;

/// Runs a container to its end. `creator` is the command that created it, still connected.
pub(crate) async fn run(owned: Owned, spec: &Spec, creator: Option<Creator>) -> Result<()> {
    let settings = Settings::of(spec)?;
    let paths = owned.paths();
    let cgroup = Cgroup::open(&owned.facts.state.cgroup_path)?;
    let sources = vec![(Stream::Stdout, owned.stdout), (Stream::Stderr, owned.stderr)];
    let (pump, progress) = Pump::new(&paths.log(), owned.facts.log, sources)?;
    let (drain, drain_order) = oneshot::channel();
    tokio::task::spawn_local(pump.run(drain_order));

    let (commands, inbox) = mpsc::channel(QUEUE);
    let shared = Rc::new(Shared {
        commands,
        progress,
        stdin: owned.stdin.into(),
        ledger: Default::default(),
        tickets: Default::default(),
        leaving: Default::default(),
    });
    let failed = |error: std::io::Error| Error::io("watch", "the control socket", &error);
    let listener = std::os::unix::net::UnixListener::from(owned.listener);
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    if let Some(creator) = creator {
        let stream = tokio::net::UnixStream::from_std(creator.stream).map_err(failed)?;
        tokio::task::spawn_local(server::serve_creator(stream, creator.buffer, shared.clone()));
    }
    tokio::task::spawn_local(server::listen(listener, shared.clone()));

    let machine = Machine::created(
        owned.facts.state.id.to_string(),
        settings.stop_signal,
        Duration::from_secs(settings.stop_timeout),
    );
    let known = Known::default();
    known.add(owned.facts.state.init.map_or(0, |init| init.pid));
    let driver = Driver {
        machine,
        spec,
        settings,
        paths,
        roots: owned.facts.roots,
        state: owned.facts.state,
        cgroup,
        pidfd: fd::watch(owned.pidfd, "init")?,
        ending: owned.ending,
        closed_gate: owned.gate,
        gate: None,
        drain: Some(drain),
        shared,
        inbox,
        answers: HashMap::new(),
        execs: HashMap::new(),
        deadline: None,
        lock: Some(podrun::state::lock::Lock::from_fd(owned.lock)),
        finishing: false,
        known,
        record: None,
    };
    driver.run().await
}

struct Driver<'a> {
    machine: Machine,
    spec: &'a Spec,
    settings: Settings,
    paths: ContainerPaths,
    roots: podrun::paths::Roots,
    state: State,
    cgroup: Option<Cgroup>,
    pidfd: AsyncFd<OwnedFd>,
    /// Where a minimal init tells how the command ended.
    ending: Option<OwnedFd>,
    /// The gate, until it is opened.
    closed_gate: Option<OwnedFd>,
    /// What comes through the gate after it was opened.
    gate: Option<JoinHandle<Result<Vec<u8>>>>,
    drain: Option<oneshot::Sender<Drain>>,
    shared: Rc<Shared>,
    inbox: mpsc::Receiver<Command>,
    answers: HashMap<Ticket, oneshot::Sender<Answer>>,
    /// What an exec needs, between its request and the machine's word.
    execs: HashMap<Ticket, (Box<Exec>, [OwnedFd; 3])>,
    deadline: Option<tokio::time::Instant>,
    lock: Option<podrun::state::lock::Lock>,
    finishing: bool,
    known: Known,
    record: Option<ExitRecord>,
}

impl Driver<'_> {
    async fn run(mut self) -> Result<()> {
        let mut signals = Signals::new()?;
        let mut init_lives = true;
        while !self.finishing {
            let deadline = self.deadline;
            tokio::select! {
                biased;
                outcome = outcome(&mut self.gate) => self.gate_opened(outcome).await,
                ending = ended(&self.pidfd), if init_lives => {
                    init_lives = false;
                    // Init cannot have ended before it was through the gate or refused.
                    if let Some(gate) = self.gate.take() {
                        let outcome = join(gate).await;
                        self.on(Event::Gate(outcome)).await;
                    }
                    let ending = self.true_ending(ending?);
                    self.on(Event::InitEnded(ending)).await;
                }
                () = signals.terminate.comes() => self.on(Event::Terminate).await,
                () = signals.child.comes() => self.known.reap_strays(),
                () = sleep_until(deadline), if deadline.is_some() => {
                    self.deadline = None;
                    self.on(Event::TimeUp).await;
                }
                Some(command) = self.inbox.recv() => self.command(command).await,
            }
        }
        self.finish().await
    }

    async fn gate_opened(&mut self, outcome: Result<()>) {
        self.gate = None;
        self.on(Event::Gate(outcome)).await;
    }

    async fn command(&mut self, command: Command) {
        let ticket = command.ticket;
        if let Some(answer) = command.answer {
            self.answers.insert(ticket, answer);
        }
        let event = match command.ask {
            Ask::Plain(Request::Start) => Event::Start(ticket),
            Ask::Plain(Request::Signal { signal, all }) => Event::Signal { ticket, signal, all },
            Ask::Plain(Request::Stop { timeout }) => {
                Event::Stop { ticket, timeout: timeout.map(Duration::from_secs) }
            }
            Ask::Plain(Request::Delete { force }) => Event::Delete { ticket, force },
            Ask::Plain(Request::Wait) => Event::Wait(ticket),
            Ask::Plain(other) => unreachable!("the server keeps {other:?}"),
            Ask::Exec(exec, fds) => {
                self.execs.insert(ticket, (exec, fds));
                Event::Exec(ticket)
            }
            Ask::Gone => {
                self.answers.remove(&ticket);
                Event::Gone(ticket)
            }
        };
        self.on(event).await;
        self.execs.remove(&ticket);
    }

    /// Feeds `event` to the machine and performs what it says, until nothing is left to do.
    async fn on(&mut self, event: Event) {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.machine.on(event) {
                events.extend(self.perform(action).await);
            }
        }
    }

    async fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Answer(ticket, reply) => self.answer(ticket, reply),
            Action::OpenGate => return self.open_gate().err().map(|error| Event::Gate(Err(error))),
            Action::Running => self.running(),
            Action::Deliver { sender, signal, all } => {
                let delivery = self.deliver(signal, all).unwrap_or_else(Delivery::Failed);
                return Some(Event::Delivered { sender, signal, delivery });
            }
            Action::KillAll => self.kill_all(),
            // So far away that it never comes: no deadline.
            Action::Arm(time) => self.deadline = tokio::time::Instant::now().checked_add(time),
            Action::Exec(ticket) => self.exec(ticket),
            Action::Record(verdict) => return Some(self.record(verdict).await),
            Action::Finish => self.finishing = true,
        }
        None
    }

    fn answer(&mut self, ticket: Ticket, reply: Reply) {
        if let Some(answer) = self.answers.remove(&ticket) {
            let _ = answer.send(Answer::Reply(reply, self.shared.ledger.unsent()));
        }
    }

    fn open_gate(&mut self) -> Result<()> {
        let Some(gate) = self.closed_gate.take() else {
            return Err(Error::failed(format!("start container {}", self.state.id), "its gate is gone"));
        };
        launch::gate::go(&gate)?;
        self.gate = Some(tokio::task::spawn_local(fd::read_to_end(gate)));
        Ok(())
    }

    fn running(&mut self) {
        self.state.status = Status::Running;
        self.state.started_at = Some(Timestamp::now());
        if let Err(error) = store::write_state(&self.paths, &self.state, Durability::Atomic) {
            tracing::warn!("{error}");
        }
        let ledger = self.shared.ledger.clone();
        tokio::task::spawn_local(async move {
            // What launching and starting took is given back before the long wait begins.
            ledger.all_settled().await;
            tokio::task::yield_now().await;
            sys::memory::forget_code();
            sys::memory::give_back();
        });
    }

    fn deliver(&self, signal: i32, all: bool) -> Result<Delivery> {
        if !(0..=sys::signal::MAX).contains(&signal) {
            return Err(Error::usage(format!("signal {signal}"), "is not one that Linux knows"));
        }
        let init = self.state.init.map_or(0, |init| init.pid);
        if all && signal == SIGKILL {
            self.kill_all();
            return Ok(Delivery::Fatal);
        }
        let others = match (&self.cgroup, all) {
            (Some(cgroup), true) => others(cgroup, init)?,
            _ => Vec::new(),
        };
        // Init first: a shell must have its signal before it sees its children end of theirs.
        // Before it is executed the command cannot hear anything, and its init blocks what comes.
        let deaf = || self.closed_gate.is_some() || !child::hears(init, signal);
        let fatal = signal == SIGKILL || (child::terminates_by_default(signal) && deaf());
        let sent = if fatal { SIGKILL } else { signal };
        sys::signal::send(&self.pidfd, sent)
            .map_err(|error| Error::io("signal container", self.state.id.as_str(), &error))?;
        for pidfd in others {
            // Gone meanwhile is as good as signalled.
            let _ = sys::signal::send(pidfd, signal);
        }
        Ok(if fatal { Delivery::Fatal } else { Delivery::Sent })
    }

    fn kill_all(&self) {
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.kill()
        {
            tracing::warn!("{error}");
        }
        // The end of PID 1 is the end of its namespace, whatever became of the cgroup.
        let _ = sys::signal::send(&self.pidfd, SIGKILL);
    }

    fn exec(&mut self, ticket: Ticket) {
        let Some((exec, [stdin, stdout, stderr])) = self.execs.remove(&ticket) else { return };
        let Some(cgroup) = &self.cgroup else {
            let error = Error::failed(format!("container {}", self.state.id), "has no cgroup");
            return self.answer(ticket, Reply::Refused(error));
        };
        let process = launch::Process { args: exec.args, env: exec.env, cwd: exec.cwd, user: exec.user };
        let running = launch::plan_exec(self.spec, &process)
            .and_then(|plan| launch::exec(plan, self.pidfd.as_fd(), cgroup, Stdio { stdin, stdout, stderr }))
            .and_then(|execed| exec::watch(execed, &self.shared.ledger, &self.known));
        match running {
            Ok(running) => {
                if let Some(answer) = self.answers.remove(&ticket) {
                    let _ = answer.send(Answer::Exec(running));
                }
            }
            Err(error) => self.answer(ticket, Reply::Refused(error)),
        }
    }

    /// How the command ended: as its minimal init tells, where there is one.
    fn true_ending(&self, ending: podrun::state::Ending) -> podrun::state::Ending {
        let mut status = [0; 4];
        let told = self.ending.as_ref().and_then(|fd| rustix::io::read(fd, &mut status).ok());
        match told {
            Some(4) => child::from_raw_status(i32::from_le_bytes(status)).unwrap_or(ending),
            _ => ending,
        }
    }

    /// The container's end, up to the first copy of its record.
    async fn record(&mut self, verdict: Verdict) -> Event {
        self.deadline = None;
        let mut record = record::measure(&self.state, &verdict, self.cgroup.as_ref());
        let (done, drained) = oneshot::channel();
        if self.drain.take().is_some_and(|drain| drain.send(done).is_ok()) {
            record.logs_drained = drained.await.unwrap_or(false);
        }
        self.state.status = Status::Stopped;
        self.state.reason.clone_from(&record.reason);
        if let Err(error) = publish::json(&self.paths.run_exit(), &record, Durability::Atomic) {
            tracing::warn!("{error}");
        }
        if let Err(error) = child::reap(self.pidfd.as_fd()) {
            tracing::warn!("{error}");
        }
        self.record = Some(record.clone());
        Event::Recorded(Box::new(record))
    }

    /// Everything after the exit record: nothing here can change the answer any more.
    async fn finish(mut self) -> Result<()> {
        let ledger = self.shared.ledger.clone();
        self.serving(tokio::time::timeout(PATIENCE, ledger.all_sent())).await;
        self.clean_cgroup();
        let syncing = match self.is_unwanted() {
            true => None,
            false => self.write_durably().inspect_err(|error| tracing::error!("{error}")).ok(),
        };
        if self.is_unwanted() {
            // The files are about to go: who still reads them has a moment to say so.
            self.serving(tokio::time::timeout(PATIENCE, ledger.all_settled())).await;
        }
        if let Some(syncing) = syncing {
            self.serving_until_unwanted(syncing.done()).await;
        }
        if self.is_unwanted() {
            self.delete();
            let _ = tokio::time::timeout(PATIENCE, ledger.all_sent()).await;
        } else {
            let _ = std::fs::remove_file(self.paths.socket());
        }
        Ok(())
    }

    /// Goes on serving clients until `done`.
    async fn serving<T>(&mut self, done: impl Future<Output = T>) {
        tokio::pin!(done);
        loop {
            tokio::select! {
                biased;
                Some(command) = self.inbox.recv() => self.command(command).await,
                _ = &mut done => return,
            }
        }
    }

    /// Goes on serving clients until `done`, which is of no interest once the container has to go.
    async fn serving_until_unwanted(&mut self, done: impl Future<Output = Result<()>>) {
        tokio::pin!(done);
        while !self.is_unwanted() {
            tokio::select! {
                biased;
                Some(command) = self.inbox.recv() => self.command(command).await,
                result = &mut done => {
                    let _ = result.inspect_err(|error| tracing::error!("{error}"));
                    return;
                }
            }
        }
    }

    /// Whether the container goes with its shim.
    fn is_unwanted(&self) -> bool {
        self.settings.rm || !self.machine.deleters().is_empty()
    }

    fn clean_cgroup(&mut self) {
        if let Some(cgroup) = self.cgroup.take() {
            let path = cgroup.path().to_owned();
            let result = cgroup.kill().and_then(|()| cgroup::remove(&path));
            if let Err(error) = result {
                tracing::warn!("{error}");
            }
        }
    }

    /// Publishes the durable copies, and has them seen onto the disk.
    fn write_durably(&self) -> Result<Syncing> {
        if let Some(record) = &self.record {
            publish::json(&self.paths.exit(), record, Durability::Atomic)?;
        }
        store::write_state(&self.paths, &self.state, Durability::Atomic)?;
        sync::begin(&self.paths, &self.known)
    }

    /// Removes the container; whoever asked for it is answered after the last trace is gone.
    fn delete(&mut self) {
        let result = store::remove(&self.roots, &self.state.id)
            .and_then(|()| self.lock.take().map_or(Ok(()), |lock| lock.remove(&self.paths.lock)));
        for ticket in self.machine.deleters().to_vec() {
            let reply = match &result {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Refused(error.clone()),
            };
            self.answer(ticket, reply);
        }
    }
}

/// The processes of `cgroup` but `init`. A pid may have passed to a stranger between the listing and
/// the opening: only what a second listing still has is what the first one meant.
fn others(cgroup: &Cgroup, init: i32) -> Result<Vec<OwnedFd>> {
    let open = |pid: i32| {
        let id = rustix::process::Pid::from_raw(pid).filter(|_| pid != init)?;
        Some((pid, pidfd_open(id, PidfdFlags::empty()).ok()?))
    };
    let opened: Vec<(i32, OwnedFd)> = cgroup.procs()?.into_iter().filter_map(open).collect();
    let still = cgroup.procs()?;
    Ok(opened.into_iter().filter(|(pid, _)| still.contains(pid)).map(|(_, pidfd)| pidfd).collect())
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

/// How init ended, once it has; it stays a zombie.
async fn ended(pidfd: &AsyncFd<OwnedFd>) -> Result<podrun::state::Ending> {
    loop {
        let mut guard = pidfd.readable().await.map_err(|error| Error::io("watch", "init", &error))?;
        match child::look(pidfd.as_fd())? {
            Some(ending) => return Ok(ending),
            None => guard.clear_ready(),
        }
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

//! Health checks: a process inside, now and then, and what its end says about the container.
//!
//! ```text
//!  Alarm::Health ─▶ exec /bin/sh -c CMD ─▶ its end, or its timeout ─▶ learn ─▶ health.json, the next alarm
//!                        └─ output, a bounded part of it                 └─ unhealthy ─▶ machine
//! ```
//!
//! A shim that takes over reads the file, ends the check that it finds under way, and makes another one. A
//! container that stands still is not checked.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use jiff::Timestamp;
use podrun::error::{Error, Result};
use podrun::events::What;
use podrun::launch::{self, Stdio};
use podrun::spec::health::Health as Rule;
use podrun::state::health::{Check, HealthState, OUTPUT};
use podrun::state::publish::{self, Durability};
use podrun::state::{ProcessRef, Status};
use podrun::sys;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use super::Driver;
use crate::clock::Alarm;
use crate::exec::{self, Running};
use crate::fd;
use crate::machine::Event;

/// What is known of the health of a run.
#[derive(Debug)]
pub(super) struct Health {
    rule: Rule,
    state: HealthState,
    check: Option<JoinHandle<Check>>,
}

impl Drop for Health {
    fn drop(&mut self) {
        if let Some(check) = &self.check {
            check.abort();
        }
    }
}

/// What the check that is under way has found, once it has.
pub(super) async fn found(health: &mut Option<Health>) -> Result<Check> {
    let check = health.as_mut().and_then(|health| health.check.as_mut());
    match check {
        Some(check) => check.await.map_err(|error| Error::failed("check the health", error.to_string())),
        None => std::future::pending().await,
    }
}

impl Driver<'_> {
    /// Watches over the health of the run that has just begun, or that an earlier shim watched over.
    pub(super) fn watch_health(&mut self) {
        let (Some(rule), Some(run)) = (self.settings.health.clone(), self.state.started_at) else { return };
        let known = publish::read_json::<HealthState>(&self.paths.health()).ok().flatten();
        let mut state = known.filter(|known| known.run == run).unwrap_or_else(|| HealthState::new(run));
        let mut next = state.next(&rule);
        if let Some(process) = state.checking.take() {
            end_check(process);
            next = Timestamp::now();
        }
        self.clock.set_at(Alarm::Health, next);
        self.health = Some(Health { rule, state, check: None });
        self.write_health();
    }

    /// Begins a check.
    pub(super) fn check_health(&mut self) {
        let Some(health) = &mut self.health else { return };
        if self.state.status != Status::Running || health.check.is_some() {
            return self.clock.set(Alarm::Health, health.rule.interval);
        }
        let (command, timeout) = (health.rule.command.clone(), health.rule.timeout);
        match self.begin_check(command) {
            Ok((running, output)) => {
                let start_time = crate::keep::start_time(running.pid).unwrap_or(0);
                let process = ProcessRef { pid: running.pid, start_time };
                if let Some(health) = &mut self.health {
                    health.state.checking = Some(process);
                    health.check = Some(tokio::task::spawn_local(see_through(running, output, timeout)));
                }
                self.write_health();
            }
            Err(error) => {
                let now = Timestamp::now();
                let (exit_code, output) = (Some(error.launch_exit_code().into()), error.to_string());
                let check = Check { started_at: now, finished_at: now, exit_code, output };
                if let Some(health) = &mut self.health {
                    health.check = Some(tokio::task::spawn_local(std::future::ready(check)));
                }
            }
        }
    }

    fn begin_check(&self, command: String) -> Result<(Running, OwnedFd)> {
        let cgroup = self.cgroup.as_ref();
        if cgroup.is_none() && self.state.has_cgroup() {
            return Err(Error::failed("check the health", "the container's cgroup is gone"));
        }
        if cgroup.is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false)) {
            // A check would be born frozen.
            return Err(Error::failed("check the health", "everything in the container stands still"));
        }
        let failed = |errno| Error::os("check the health", errno);
        let (output, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
        rustix::io::ioctl_fionbio(&output, true).map_err(failed)?;
        let second = writer.try_clone().map_err(|error| Error::io("duplicate", "a pipe", &error))?;
        let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        let null = null.map_err(|errno| Error::at("open", "/dev/null", errno))?;
        let args = vec!["/bin/sh".to_owned(), "-c".to_owned(), command];
        let mut plan = launch::plan_exec(self.spec, &launch::Process { args, ..launch::Process::default() })?;
        plan.tell_container(&self.state);
        let stdio = Stdio::Files([null, writer, second]);
        let execed = launch::exec(plan, self.pidfd.as_fd(), cgroup, stdio, None)?;
        Ok((
            exec::watch(execed, &self.shared.ledger, &self.known, &self.upgrades.inside, None, |_| ())?,
            output,
        ))
    }

    /// What a check has found.
    pub(super) async fn checked(&mut self, found: Result<Check>) {
        let Some(health) = &mut self.health else { return };
        health.check = None;
        health.state.checking = None;
        let before = health.state.status;
        let unhealthy = match found {
            // Whatever became of it while everything stood still says nothing.
            Ok(check) if self.state.status == Status::Running => health.state.learn(&health.rule, check),
            Ok(_) => false,
            Err(error) => {
                tracing::warn!("{error}");
                false
            }
        };
        let (action, status) = (health.rule.on_unhealthy, health.state.status);
        self.clock.set(Alarm::Health, health.rule.interval);
        self.write_health();
        if status != before {
            self.tell(What::Health { status: status.to_string() });
        }
        if unhealthy {
            self.on(Event::Unhealthy(action)).await;
        }
    }

    fn write_health(&self) {
        if let Some(health) = &self.health
            && let Err(error) = publish::json(&self.paths.health(), &health.state, Durability::Atomic)
        {
            tracing::warn!("{error}");
        }
    }
}

/// Sees a check through to its end, or to the end of its time.
async fn see_through(running: Running, output: OwnedFd, timeout: Duration) -> Check {
    let Running { pid, mut started, mut ended, signals } = running;
    let started_at = Timestamp::now();
    let mut text = Vec::new();
    let pipe = fd::watch(output, "a health check's output").ok();
    let ending = tokio::select! {
        biased;
        // Whoever holds the other half waits until this one is dropped, and then reaps it.
        ending = &mut ended => ending.ok().map(|(ending, _)| ending),
        () = tokio::time::sleep(timeout) => {
            // Not reaped yet: the number is its own.
            kill_group(pid);
            signals.send(Signal::KILL.as_raw());
            None
        }
        () = read(pipe.as_ref(), &mut text) => None,
    };
    if let Some(pipe) = &pipe {
        take(pipe, &mut text);
    }
    let mut output = String::from_utf8_lossy(&text).into_owned();
    if let Ok((Err(error), _)) = started.try_recv() {
        output = error.to_string();
    }
    let exit_code = ending.map(podrun::state::Ending::code);
    Check { started_at, finished_at: Timestamp::now(), exit_code, output }
}

/// Takes what comes, for ever; what is more than is kept is thrown away, so that a check that writes much
/// waits for nobody.
async fn read(pipe: Option<&AsyncFd<OwnedFd>>, text: &mut Vec<u8>) {
    while let Some(pipe) = pipe {
        let Ok(mut guard) = pipe.readable().await else { break };
        match take(pipe, text) {
            Taken::Some => {}
            Taken::Nothing => guard.clear_ready(),
            Taken::End => break,
        }
    }
    std::future::pending().await
}

enum Taken {
    Some,
    Nothing,
    End,
}

/// Takes one piece.
fn take(pipe: &AsyncFd<OwnedFd>, text: &mut Vec<u8>) -> Taken {
    let mut bytes = [0; OUTPUT];
    match rustix::io::read(pipe, &mut bytes) {
        Ok(0) => Taken::End,
        Ok(length) => {
            text.extend_from_slice(&bytes[..length.min(OUTPUT - text.len())]);
            Taken::Some
        }
        Err(rustix::io::Errno::INTR) => Taken::Some,
        Err(rustix::io::Errno::AGAIN) => Taken::Nothing,
        Err(_) => Taken::End,
    }
}

/// Ends the check that a dead shim has left.
fn end_check(process: ProcessRef) {
    let pidfd = Pid::from_raw(process.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Looked at after it was opened: what the start time fits is what the pidfd stands for.
    if let Some(pidfd) = pidfd.filter(|_| process.is_alive()) {
        kill_group(process.pid);
        let _ = sys::signal::send(pidfd, Signal::KILL.as_raw());
    }
}

/// Ends what the process `pid` has started: it leads a session of its own, and a group with it.
fn kill_group(pid: i32) {
    if let Some(group) = Pid::from_raw(pid).filter(|pid| !pid.is_init()) {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

//! Strikes one process of podrun at one of its system calls.
//!
//! ```text
//!  scenario ── Order ──▶ tracer ══ptrace══▶ command ─▶ keeper ─▶ shim ─▶ init before execve, helpers
//!           ◀─ Traced ─────┘                   at its nth call: SIGKILL, or the call fails
//! ```
//!
//! The tracer is a process of its own (this test program again, with the hidden "test" [`tracer`]
//! selected): whoever traces waits for every child there is. Its end releases whoever it still traces.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{Cmd, Output, PODRUN, Podrun, process};

/// What a traced process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) enum Role {
    /// The command, and what it forks until that is something else.
    Command,
    Keeper,
    Shim,
    /// What a shim forks for a while: the writer of the log, an usher.
    Helper,
    /// Init or an exec'd process, before its `execve`.
    Init,
}

/// What happens at the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Blow {
    Kill,
    /// One of the calls that ask for something fails with this errno, and only those are counted.
    Fail(i32),
}

/// Whom to strike, when and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Strike {
    pub(crate) role: Role,
    /// At which of its calls, from 1 on.
    pub(crate) nth: usize,
    pub(crate) blow: Blow,
}

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    argv: Vec<String>,
    /// Who runs already.
    seize: Vec<(i32, Role)>,
    strike: Option<Strike>,
    /// Until every supervisor has ended, too.
    whole: bool,
}

/// What came of it.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Traced {
    /// How many calls each made.
    pub(crate) calls: BTreeMap<Role, usize>,
    /// The number of the call that was struck.
    pub(crate) struck: Option<u64>,
    code: Option<i32>,
    signal: Option<i32>,
    /// Of the command.
    #[serde(skip)]
    pub(crate) output: Output,
}

/// Runs `podrun ARGS` under a tracer; `seize` are supervisors that run already.
#[track_caller]
pub(crate) fn traced(
    podrun: &Podrun,
    args: &[String],
    seize: Vec<(i32, Role)>,
    strike: Option<Strike>,
    whole: bool,
) -> Traced {
    let argv = std::iter::once(PODRUN.to_owned()).chain(args.iter().cloned()).collect();
    let order = serde_json::to_string(&Order { argv, seize, strike, whole }).expect("JSON");
    let own = std::env::current_exe().expect("the path of this program");
    let test = "harness::tracer::tracer";
    let mut running = Cmd::new(own, ["--exact", test, "--ignored", "--nocapture", "--test-threads=1"])
        .env("PODRUN_TEST_TRACE", order)
        .env("PODRUN_ROOT", podrun.root())
        .env("PODRUN_RUN_ROOT", podrun.run_root())
        .cwd(podrun.dir())
        .spawn();
    let mut traced: Traced = loop {
        let line = running.line().unwrap_or_else(|| panic!("the tracer died of {strike:?}"));
        if let Some(report) = line.strip_prefix("tracer: ") {
            break serde_json::from_str(report).expect("a report");
        }
    };
    running.finish();
    let file = |name: &str| std::fs::read(podrun.dir().join(name)).unwrap_or_default();
    traced.output = Output {
        what: format!("podrun {}, {strike:?} at call {:?}", args.join(" "), traced.struck),
        code: traced.code,
        signal: traced.signal,
        stdout: file("stdout"),
        stderr: file("stderr"),
    };
    traced
}

/// Not a test: what [`traced`] runs in a process of its own.
#[test]
#[ignore = "the tracer of the scenarios, not a test"]
fn tracer() {
    let Ok(order) = std::env::var("PODRUN_TEST_TRACE") else { return };
    let order: Order = serde_json::from_str(&order).expect("an order");
    let traced = Tracer::begin(&order).run();
    let report = serde_json::to_string(&traced).expect("JSON");
    let mut out = std::io::stdout();
    // libtest has written "test … ... " without a newline.
    write!(out, "\ntracer: {report}\n").and_then(|()| out.flush()).expect("tell the scenario");
    // Whoever is still traced goes on when this process ends.
}

/// The calls that ask the kernel for something it may not have: their failure must be dealt with.
const ASKING: &[i64] = &[
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_rename,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_fsync,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_pipe2,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_memfd_create,
    libc::SYS_mount,
    libc::SYS_fsopen,
    libc::SYS_fsmount,
    libc::SYS_open_tree,
    libc::SYS_pidfd_open,
];

struct Tracer<'a> {
    order: &'a Order,
    command: Pid,
    roles: HashMap<Pid, Role>,
    /// Stopped before anybody said whose children they are.
    held: HashSet<Pid>,
    /// Whose call is about to fail.
    failing: Option<Pid>,
    traced: Traced,
}

fn options() -> Options {
    Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
}

impl<'a> Tracer<'a> {
    #[expect(clippy::zombie_processes, reason = "the loop waits for whatever there is")]
    fn begin(order: &'a Order) -> Self {
        let mut roles = HashMap::new();
        for (pid, role) in &order.seize {
            let pid = Pid::from_raw(*pid);
            ptrace::seize(pid, options()).and_then(|()| ptrace::interrupt(pid)).expect("trace a supervisor");
            roles.insert(pid, *role);
        }
        let file = |name: &str| File::create(name).expect("create a file");
        let mut shell = Command::new("/bin/sh")
            .args(["-c", r#"read go; exec "$@" </dev/null"#, "sh"])
            .args(&order.argv)
            .stdin(Stdio::piped())
            .stdout(file("stdout"))
            .stderr(file("stderr"))
            .spawn()
            .expect("run a shell");
        let command = Pid::from_raw(shell.id().cast_signed());
        ptrace::seize(command, options()).expect("trace a shell");
        // It stops at its execve, and is the command from then on.
        shell.stdin.take().expect("a pipe").write_all(b"go\n").expect("release a shell");
        roles.insert(command, Role::Command);
        Self { order, command, roles, held: HashSet::new(), failing: None, traced: Traced::default() }
    }

    fn run(mut self) -> Traced {
        let mut ended = false;
        // A command that did not come through has not ended the container either.
        while !ended
            || self.order.whole
                && self.traced.code == Some(0)
                && self.roles.values().any(|role| *role != Role::Init)
        {
            let status = match waitpid(None, Some(WaitPidFlag::__WALL)) {
                Ok(status) => status,
                Err(Errno::EINTR) => continue,
                Err(Errno::ECHILD) => break,
                Err(errno) => panic!("wait for a tracee: {errno}"),
            };
            match status {
                WaitStatus::Exited(pid, code) => {
                    self.roles.remove(&pid);
                    if pid == self.command {
                        (ended, self.traced.code) = (true, Some(code));
                    }
                }
                WaitStatus::Signaled(pid, signal, _) => {
                    self.roles.remove(&pid);
                    if pid == self.command {
                        (ended, self.traced.signal) = (true, Some(signal as i32));
                    }
                }
                WaitStatus::PtraceSyscall(pid) => self.call(pid),
                WaitStatus::PtraceEvent(pid, signal, event) => self.event(pid, signal, event),
                WaitStatus::Stopped(pid, signal) => go_on(pid, Some(signal)),
                _ => {}
            }
        }
        self.traced
    }

    /// At the beginning or the end of a call.
    fn call(&mut self, pid: Pid) {
        let strike = self.order.strike.filter(|strike| self.roles.get(&pid) == Some(&strike.role));
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        // At its beginning the kernel has put -ENOSYS there.
        let begins = ptrace::syscall_info(pid).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
        if !begins {
            if let (true, Some(Strike { blow: Blow::Fail(errno), .. })) = (self.failing == Some(pid), strike)
            {
                self.failing = None;
                registers.rax = (-i64::from(errno)).cast_unsigned();
                let _ = ptrace::setregs(pid, registers);
            }
            return go_on(pid, None);
        }
        let fails = matches!(self.order.strike, Some(Strike { blow: Blow::Fail(_), .. }));
        let counts = !fails || ASKING.contains(&registers.orig_rax.cast_signed());
        if let (Some(role), true) = (self.roles.get(&pid), counts) {
            let count = self.traced.calls.entry(*role).or_default();
            *count += 1;
            if let Some(strike) = strike.filter(|strike| strike.nth == *count) {
                self.traced.struck = Some(registers.orig_rax);
                match strike.blow {
                    Blow::Kill => drop(kill(pid, Signal::SIGKILL)),
                    Blow::Fail(_) => {
                        self.failing = Some(pid);
                        registers.orig_rax = u64::MAX;
                        let _ = ptrace::setregs(pid, registers);
                    }
                }
            }
        }
        go_on(pid, None);
    }

    fn event(&mut self, pid: Pid, signal: Signal, event: i32) {
        match event {
            libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_VFORK | libc::PTRACE_EVENT_CLONE => {
                let Ok(child) = ptrace::getevent(pid) else { return };
                let child = Pid::from_raw(i32::try_from(child).expect("a pid"));
                let role = self.child_of(self.roles.get(&pid).copied(), child);
                self.roles.insert(child, role);
                if self.held.remove(&child) {
                    go_on(child, None);
                }
                go_on(pid, None);
            }
            libc::PTRACE_EVENT_EXEC => match self.roles.get(&pid) {
                // From here on it is the container's.
                Some(Role::Init) => {
                    self.roles.remove(&pid);
                    let _ = ptrace::detach(pid, None);
                }
                Some(Role::Command) if pid != self.command => {
                    self.roles.insert(pid, Role::Keeper);
                    go_on(pid, None);
                }
                // The shell may still be on its way.
                _ if process::status_field(pid.as_raw(), "Name").as_deref() == Some("sh") => {
                    let _ = ptrace::cont(pid, None);
                }
                _ => go_on(pid, None),
            },
            libc::PTRACE_EVENT_STOP if !self.roles.contains_key(&pid) => drop(self.held.insert(pid)),
            // Of a process that is new, or was interrupted. A stop that was meant stays one.
            libc::PTRACE_EVENT_STOP => go_on(pid, None),
            _ => go_on(pid, Some(signal)),
        }
    }

    fn child_of(&self, parent: Option<Role>, child: Pid) -> Role {
        let inside = process::status_field(child.as_raw(), "NSpid")
            .is_some_and(|pids| pids.split_whitespace().count() > 1);
        match parent {
            _ if inside => Role::Init,
            Some(Role::Keeper) => Role::Shim,
            Some(Role::Shim | Role::Helper) => Role::Helper,
            Some(role) => role,
            None => Role::Init,
        }
    }
}

fn go_on(pid: Pid, signal: Option<Signal>) {
    // It may have been killed.
    let _ = ptrace::syscall(pid, signal);
}

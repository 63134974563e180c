//! The hooks that the shim has run: `poststart` for every run, `poststop` where it deletes the container.
//!
//! ```text
//!  gate ─▶ running ─▶ a child runs poststart ── its end ──▶ those who started it are answered
//!                     meanwhile everything else is done as ever
//!  finish ─▶ delete ─▶ poststop ─▶ those who deleted it are answered
//! ```
//!
//! Those before `execve` belong to the launch (`podrun::launch::hooks`).

use podrun::error::Result;
use podrun::launch::Hooks;
use podrun::protocol::Reply;
use podrun::sys::clone::exit;

use super::Driver;
use crate::aside::Aside;
use crate::ledger::Debt;
use crate::machine::Ticket;

/// The poststart hooks of a run, and who is answered after them.
#[derive(Debug)]
pub(crate) struct Poststart {
    aside: Aside,
    starters: Vec<Ticket>,
    /// They are owed an answer: no program replaces this one before they have it.
    debt: Option<Debt>,
}

impl Poststart {
    /// What comes does not wait for those who started it.
    pub(crate) fn is_not_waited_for(&mut self) {
        self.debt = None;
    }
}

impl Driver<'_> {
    /// Has the poststart hooks run; `starters` are answered after them.
    pub(super) fn started(&mut self, starters: Vec<Ticket>) {
        // Those of a run before this one take too long.
        self.poststarted();
        // Who stays until the end has nothing to wait for.
        let (hasty, starters) = starters.into_iter().partition(|ticket| self.hasty.contains(ticket));
        self.answer_all(hasty);
        match self.begin_poststart() {
            Ok(Some(aside)) => {
                let debt = (!starters.is_empty()).then(|| self.shared.ledger.answer());
                self.poststart = Some(Poststart { aside, starters, debt });
                return;
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}"),
        }
        self.answer_all(starters);
    }

    fn begin_poststart(&self) -> Result<Option<Aside>> {
        let hooks = self.spec.hooks().as_ref().and_then(|hooks| hooks.poststart().as_ref());
        if hooks.is_none_or(Vec::is_empty) {
            return Ok(None);
        }
        let hooks = Hooks::of(self.spec, &self.state.id, &self.state.bundle)?;
        let pid = self.state.init.map_or(0, |init| init.pid);
        Aside::begin("a process for hooks", (&hooks, pid), run_poststart, &self.known).map(Some)
    }

    /// The poststart hooks have been run, or are not waited for any longer.
    pub(crate) fn poststarted(&mut self) {
        if let Some(poststart) = self.poststart.take() {
            // Where they go on, they do without whom they were for.
            poststart.aside.stop_session();
            self.answer_all(poststart.starters);
        }
    }

    fn answer_all(&mut self, starters: Vec<Ticket>) {
        for ticket in starters {
            self.answer(ticket, Reply::Done);
        }
    }

    /// Runs the poststop hooks: the container is gone.
    pub(crate) fn poststop(&self) {
        let hooks = self.spec.hooks().as_ref().and_then(|hooks| hooks.poststop().as_ref());
        if hooks.is_none_or(Vec::is_empty) {
            return;
        }
        match Hooks::of(self.spec, &self.state.id, &self.state.bundle) {
            Ok(hooks) => hooks.poststop(),
            Err(error) => tracing::warn!("{error}"),
        }
    }
}

fn run_poststart((hooks, pid): (&Hooks, i32)) -> ! {
    // They are ended together, and what they do to their group the shim is not a part of.
    let _ = rustix::process::setsid();
    // What fails is told in the shim's log, and is no failure of the container's.
    hooks.poststart(pid);
    exit(0)
}

/// Waits until the hooks have been run.
pub(crate) async fn done(poststart: &Option<Poststart>) {
    match poststart {
        Some(poststart) => {
            let _ = poststart.aside.done().await.inspect_err(|error| tracing::warn!("{error}"));
        }
        None => std::future::pending().await,
    }
}

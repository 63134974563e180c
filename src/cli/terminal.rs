//! Our own terminal, and the container's behind it.
//!
//! ```text
//!  our terminal: raw ──keys──▶ master of the container's pty
//!       │ SIGWINCH ──size────▶
//!       ▼ dropped: as it was before
//! ```
//!
//! Whatever way a command ends, its [`Mode`] is dropped before anything else is printed; a panic
//! restores the terminal first. SIGKILL leaves nobody who could: interactive shells then put
//! their own settings back, and elsewhere `reset` does.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use podrun::error::{Error, Result};
use podrun::spec::terminal::WindowSize;
use rustix::termios::{
    InputModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr, tcsetattr, tcsetwinsize,
};

use super::container::own_window;

/// What our terminal was before, for as long as it is something else.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Our terminal in another mode, until this is dropped.
#[derive(Debug)]
pub(super) struct Mode(());

impl Mode {
    /// Raw: every key goes to the container. `None` where our stdin is no terminal.
    pub(super) fn raw() -> Result<Option<Self>> {
        Self::enter(|termios| termios.make_raw())
    }

    /// Lines as ever, but the (at most two) `keys` are told at once, without a newline. `None` where
    /// our stdin is no terminal.
    pub(super) fn telling(keys: &[u8]) -> Result<Option<Self>> {
        Self::enter(|termios| {
            // ctrl-q would be taken for flow control.
            termios.input_modes.remove(InputModes::IXON);
            let places = [SpecialCodeIndex::VEOL, SpecialCodeIndex::VEOL2];
            for (place, key) in places.into_iter().zip(keys) {
                termios.special_codes[place] = *key;
            }
        })
    }

    fn enter(change: impl FnOnce(&mut Termios)) -> Result<Option<Self>> {
        let own = rustix::stdio::stdin();
        if !isatty(own) {
            return Ok(None);
        }
        let failed = |errno| Error::os("prepare the terminal", errno);
        let before = tcgetattr(own).map_err(failed)?;
        let mut termios = before.clone();
        change(&mut termios);
        let first = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).replace(before).is_none();
        if first {
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                restore();
                hook(panic);
            }));
        }
        let mode = Self(());
        tcsetattr(own, OptionalActions::Now, &termios).map_err(failed)?;
        Ok(Some(mode))
    }
}

impl Drop for Mode {
    fn drop(&mut self) {
        restore();
    }
}

/// At once, without waiting for output that a stopped terminal may never take.
fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
    }
}

/// The container's terminal, as the one who sits before it has it.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    /// Ours is raw: signals are for us, keys for the container.
    mode: Option<Mode>,
}

impl Terminal {
    /// Sits down before `master`; with `raw`, with our own terminal's every key.
    pub(super) fn attach(master: OwnedFd, raw: bool) -> Result<Self> {
        // A program that is there already redraws itself only for a size that it does not have.
        if let Some(size) = own_window() {
            resize(&master, WindowSize { rows: size.rows.saturating_add(1), ..size });
            resize(&master, size);
        }
        let mode = if raw { Mode::raw()? } else { None };
        Ok(Self { master, mode })
    }

    /// Whether our own terminal is raw.
    pub(super) fn is_raw(&self) -> bool {
        self.mode.is_some()
    }

    /// Our window has another size now.
    pub(super) fn resized(&self) {
        if let Some(size) = own_window() {
            resize(&self.master, size);
        }
    }

    /// The container has another one now.
    pub(super) fn renew(&mut self, master: OwnedFd) {
        self.master = master;
        self.resized();
    }

    /// A second descriptor for what is typed.
    pub(super) fn input(&self) -> Result<OwnedFd> {
        self.master.try_clone().map_err(|error| Error::io("duplicate", "the terminal", &error))
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.master.as_fd()
    }
}

/// Best effort: a terminal of the wrong size is better than none.
fn resize(master: &OwnedFd, size: WindowSize) {
    let _ = tcsetwinsize(master, size.into());
}

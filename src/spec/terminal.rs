//! A terminal's size, as the kernel, the command line and an OCI configuration all have it.

use oci_spec::runtime::{Box as ConsoleSize, BoxBuilder, Process};
use rustix::termios::Winsize;
use serde::{Deserialize, Serialize};

/// The size of a terminal's window, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WindowSize {
    /// Its height.
    pub rows: u16,
    /// Its width.
    pub columns: u16,
}

impl WindowSize {
    /// `process.consoleSize`; a number that no terminal has counts as absent.
    pub fn of(process: &Process) -> Option<Self> {
        let size = process.console_size()?;
        Some(Self { rows: size.height().try_into().ok()?, columns: size.width().try_into().ok()? })
    }

    /// As `process.consoleSize` has it.
    pub fn console_size(self) -> ConsoleSize {
        let size = BoxBuilder::default().height(u64::from(self.rows)).width(u64::from(self.columns));
        // Both are there.
        size.build().unwrap_or_default()
    }
}

impl From<WindowSize> for Winsize {
    fn from(size: WindowSize) -> Self {
        Self { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 }
    }
}

impl From<Winsize> for WindowSize {
    fn from(size: Winsize) -> Self {
        Self { rows: size.ws_row, columns: size.ws_col }
    }
}

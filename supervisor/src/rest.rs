//! Memory is given back where the least is in use: just before the loop sleeps.
//!
//! ```text
//!  Alarm::Quiet ─▶ ask ─▶ … every task has had its turn … ─▶ before_sleep: gives back ─▶ epoll_wait
//! ```

use std::sync::atomic::{AtomicBool, Ordering};

use podrun::launch;
use podrun::sys::memory;

static ASKED: AtomicBool = AtomicBool::new(false);

/// The next time that there is nothing to do.
pub(crate) fn ask() {
    launch::forget();
    ASKED.store(true, Ordering::Relaxed);
}

/// Called whenever there is nothing to do.
pub(crate) fn before_sleep() {
    if ASKED.swap(false, Ordering::Relaxed) {
        memory::give_back_and(|| ());
    }
}

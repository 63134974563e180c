//! Waiting for what has no event: that somebody else gives up a container's lock, or listens.

use std::time::{Duration, Instant};

/// The first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(20));

/// A wait with a bound, in pauses that grow.
#[derive(Debug)]
pub(super) struct Patience {
    deadline: Instant,
    pause: Duration,
}

impl Patience {
    /// One that lasts so long from now on.
    pub(super) fn of(time: Duration) -> Self {
        Self { deadline: Instant::now() + time, pause: PAUSES.0 }
    }

    /// Waits for a moment; false, and at once, where it has come to its end.
    pub(super) fn lasts(&mut self) -> bool {
        if Instant::now() > self.deadline {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(PAUSES.1);
        true
    }
}

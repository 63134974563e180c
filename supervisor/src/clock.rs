//! The moments that a shim waits for, each of them at most once.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// What time it is once a moment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// For a container that is being stopped to be killed.
    Kill,
    /// For its command to be ended: it has run for as long as it may.
    Timeout,
    /// For another run.
    Restart,
    /// For a look at its health.
    Health,
    /// For the shim to be one that lives.
    Settled,
    /// For memory to be given back: nobody has asked for anything for a while.
    Quiet,
    /// For what was written to reach the disk.
    Save,
}

/// How long nobody must have asked for anything before memory is given back: what a launch took is no
/// burden for a moment, and whoever asks again at once finds the code at hand.
pub(crate) const QUIET: Duration = Duration::from_secs(1);

/// How long what was written may be in memory alone, where it is not the end: what lives shorter costs no disk
/// anything.
pub(crate) const SAVE: Duration = Duration::from_secs(1);

/// How many there are.
const ALARMS: usize = 7;

/// The moments that are set.
#[derive(Debug, Default)]
pub(crate) struct Clock([Option<Instant>; ALARMS]);

impl Clock {
    const ALL: [Alarm; ALARMS] = [
        Alarm::Kill,
        Alarm::Timeout,
        Alarm::Restart,
        Alarm::Health,
        Alarm::Settled,
        Alarm::Quiet,
        Alarm::Save,
    ];

    /// Sets `alarm` to `after` from now, instead of what it was set to before. So far away that it never
    /// comes is not set.
    pub(crate) fn set(&mut self, alarm: Alarm, after: Duration) {
        // `as`: the number of a variant.
        self.0[alarm as usize] = Instant::now().checked_add(after);
    }

    /// The same, where it is not set yet.
    pub(crate) fn set_once(&mut self, alarm: Alarm, after: Duration) {
        if self.0[alarm as usize].is_none() {
            self.set(alarm, after);
        }
    }

    /// Sets it to a moment that was written down, by whatever the wall clock says now.
    pub(crate) fn set_at(&mut self, alarm: Alarm, at: Timestamp) {
        let left = at.duration_since(Timestamp::now());
        self.set(alarm, left.try_into().unwrap_or(Duration::ZERO));
    }

    /// When it rings, by the wall clock; `None` where it is not set.
    pub(crate) fn at(&self, alarm: Alarm) -> Option<Timestamp> {
        let left = self.0[alarm as usize]?.saturating_duration_since(Instant::now());
        Timestamp::now().checked_add(left).ok()
    }

    /// It will not ring.
    pub(crate) fn clear(&mut self, alarm: Alarm) {
        self.0[alarm as usize] = None;
    }

    /// Waits for the next one, which is then no longer set.
    pub(crate) async fn rings(&mut self) -> Alarm {
        let next = Self::ALL.into_iter().filter_map(|alarm| Some((self.0[alarm as usize]?, alarm)));
        let Some((at, alarm)) = next.min_by_key(|(at, _)| *at) else { return std::future::pending().await };
        tokio::time::sleep_until(at).await;
        self.clear(alarm);
        alarm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_first_rings_first_and_only_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut clock = Clock::default();
            clock.set(Alarm::Timeout, Duration::from_millis(2));
            clock.set(Alarm::Kill, Duration::MAX);
            assert!(clock.at(Alarm::Kill).is_none() && clock.at(Alarm::Timeout).is_some());
            assert_eq!(clock.rings().await, Alarm::Timeout);
            clock.set_at(Alarm::Kill, Timestamp::UNIX_EPOCH);
            clock.set_once(Alarm::Kill, Duration::from_secs(1000));
            clock.set(Alarm::Timeout, Duration::ZERO);
            clock.clear(Alarm::Timeout);
            assert_eq!(clock.rings().await, Alarm::Kill);
            assert!(tokio::time::timeout(Duration::from_millis(1), clock.rings()).await.is_err());
            clock.set_once(Alarm::Save, Duration::ZERO);
            assert_eq!(clock.rings().await, Alarm::Save);
        });
    }
}

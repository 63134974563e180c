//! The pump as a task of the shim's, one run of the container after the other.
//!
//! ```text
//!  start ─▶ Pumping ── drain: what the run has left ──▶ Resting ── go_on: the next run's pipes ──▶ Pumping
//!                                                          └────── end: the followers are told
//! ```

use std::os::fd::OwnedFd;
use std::time::Duration;

use podrun::error::{Error, Result};
use podrun::log::line::Stream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::{Drain, Pump};

/// How long a record waits for the last output to be in the log.
const PATIENCE: Duration = Duration::from_secs(3);

/// The log of a container.
#[derive(Debug, Default)]
pub(crate) struct Logger {
    now: Now,
    /// The way to the pump that pumps, until it was told to drain.
    order: Option<oneshot::Sender<Drain>>,
    /// Tells whether all was logged, where a record did not wait for that.
    late: Option<oneshot::Receiver<bool>>,
}

#[derive(Debug, Default)]
enum Now {
    Pumping(JoinHandle<Pump>),
    Resting(Box<Pump>),
    /// It has ended, or panicked.
    #[default]
    Over,
}

impl Logger {
    /// Has `pump` pump.
    pub(crate) fn start(pump: Pump) -> Self {
        let (order, orders) = oneshot::channel();
        Self { now: Now::Pumping(tokio::task::spawn_local(pump.run(orders))), order: Some(order), late: None }
    }

    /// Has what is in the pipes logged, with `last` as the end of the log; whether all of it was. What takes
    /// longer follows.
    pub(crate) async fn drain(&mut self, last: bool) -> bool {
        let (done, mut drained) = oneshot::channel();
        match self.order.take() {
            Some(order) => {
                if order.send(Drain { done, last }).is_err() {
                    return false;
                }
                let in_time = tokio::time::timeout(PATIENCE, &mut drained).await;
                in_time.map_or_else(
                    |_| {
                        self.late = Some(drained);
                        false
                    },
                    |answer| answer == Ok(true),
                )
            }
            // Nothing was pumped since.
            None => matches!(self.now, Now::Resting(_)),
        }
    }

    /// Waits until all that was to be drained is in the log.
    pub(crate) async fn rests(&mut self) {
        if let Now::Pumping(task) = &mut self.now {
            self.now = match task.await {
                Ok(pump) => Now::Resting(Box::new(pump)),
                Err(error) => {
                    tracing::error!("the log: {error}");
                    Now::Over
                }
            };
        }
    }

    /// Goes on with the output of another run.
    pub(crate) fn go_on(&mut self, sources: Vec<(Stream, OwnedFd)>) -> Result<()> {
        match std::mem::take(&mut self.now) {
            Now::Resting(pump) => {
                *self = Self::start(pump.with_sources(sources)?);
                Ok(())
            }
            _ => Err(Error::failed("the log", "it cannot go on")),
        }
    }

    /// Waits until it is over: nothing follows. Whether something came late, and is all in the log now.
    pub(crate) async fn end(mut self) -> bool {
        self.rests().await;
        if let Now::Resting(pump) = self.now {
            pump.close();
        }
        self.late.is_some_and(|mut late| late.try_recv() == Ok(true))
    }
}

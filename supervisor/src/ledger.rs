//! Who is still owed something before the shim may end.
//!
//! ```text
//!  answer made ──▶ unsent ──written──▶ unacknowledged ──the client closes or goes on──▶ settled
//! ```
//!
//! The end waits for the first list before it touches the disk, and for the second before the
//! container's files may go (`--rm`).

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

#[derive(Debug, Default)]
struct Counts {
    answers: Cell<usize>,
    unsent: Cell<usize>,
    unacknowledged: Cell<usize>,
    /// Whether there was ever one of the last kind.
    had_last: Cell<bool>,
    changed: Notify,
}

/// The shim's debts to its clients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger(Rc<Counts>);

/// One debt; settled when dropped.
#[derive(Debug)]
pub(crate) struct Debt {
    ledger: Ledger,
    list: fn(&Counts) -> &Cell<usize>,
}

impl Ledger {
    fn owe(&self, list: fn(&Counts) -> &Cell<usize>) -> Debt {
        let count = list(&self.0);
        count.set(count.get() + 1);
        Debt { ledger: self.clone(), list }
    }

    /// The driver's answer, which was not written to its client yet.
    pub(crate) fn answer(&self) -> Debt {
        self.owe(|counts| &counts.answers)
    }

    /// Likewise: anything else that a client is to be told.
    pub(crate) fn unsent(&self) -> Debt {
        self.owe(|counts| &counts.unsent)
    }

    /// A last answer whose client has not closed or asked again yet.
    pub(crate) fn unacknowledged(&self) -> Debt {
        self.0.had_last.set(true);
        self.0.changed.notify_waiters();
        self.owe(|counts| &counts.unacknowledged)
    }

    /// Waits until every answer was written.
    pub(crate) async fn all_sent(&self) {
        self.until(|counts| counts.answers.get() + counts.unsent.get() == 0).await;
    }

    /// Waits until every answer of the driver's was written.
    pub(crate) async fn all_answered(&self) {
        self.until(|counts| counts.answers.get() == 0).await;
    }

    /// Waits until every answer was written and every last one acknowledged.
    pub(crate) async fn all_settled(&self) {
        let none =
            |counts: &Counts| counts.answers.get() + counts.unsent.get() + counts.unacknowledged.get() == 0;
        self.until(none).await;
    }

    /// Waits until the first last answer was made.
    pub(crate) async fn somebody_came(&self) {
        self.until(|counts| counts.had_last.get()).await;
    }

    async fn until(&self, done: impl Fn(&Counts) -> bool) {
        // One thread: nothing changes between the look and the wait.
        while !done(&self.0) {
            self.0.changed.notified().await;
        }
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        let count = (self.list)(&self.ledger.0);
        count.set(count.get() - 1);
        self.ledger.0.changed.notify_waiters();
    }
}

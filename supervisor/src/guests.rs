//! Who may be connected to a shim at once, and who has to leave when somebody else comes.
//!
//! ```text
//!  accept ──▶ idle ──request──▶ busy: answered at once       always a place: an idle one leaves for it
//!              ▲                waiting: wait, follow, exec   at most WAITING; more are refused
//!              └────answer────────┘
//! ```
//!
//! A shim owes an idle client nothing. So ten thousand connections that say nothing, or half a word,
//! keep nobody else out, and what a shim holds for its clients has a bound.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use podrun::error::{Error, Result};
use tokio::sync::Notify;

/// How many clients may wait for something (an end, the log, a process) at once.
const WAITING: usize = 512;
/// How many may be connected: those that wait, and some that do not. Below the 1,024 descriptors
/// that a process usually has, with room for what an exec passes.
const CONNECTED: usize = WAITING + 64;

#[derive(Debug)]
struct Guest {
    /// When it fell idle, counted in such moments; `None` while a request of its is worked on.
    idle: Cell<Option<u64>>,
    leave: Notify,
}

#[derive(Debug, Default)]
struct House {
    guests: RefCell<Vec<Rc<Guest>>>,
    waiting: Cell<usize>,
    moments: Cell<u64>,
    left: Notify,
}

/// All clients that are connected.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guests(Rc<House>);

/// One client's place; given up when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    house: Rc<House>,
    guest: Rc<Guest>,
}

/// The right to wait; given back when dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Rc<House>);

impl Guests {
    /// A place for a client that has just connected. Where there is none left the one that was idle
    /// for the longest leaves; where nobody is idle, this waits until somebody is or leaves.
    pub(crate) async fn welcome(&self) -> Place {
        let house = &self.0;
        while house.guests.borrow().len() >= CONNECTED {
            // One thread: nothing changes between the look and the wait.
            let longest = house
                .guests
                .borrow()
                .iter()
                .filter_map(|guest| guest.idle.get().map(|since| (since, guest.clone())))
                .min_by_key(|(since, _)| *since);
            if let Some((_, guest)) = longest {
                guest.leave.notify_one();
            }
            house.left.notified().await;
        }
        let guest = Rc::new(Guest { idle: Cell::new(None), leave: Notify::new() });
        house.guests.borrow_mut().push(guest.clone());
        let place = Place { house: house.clone(), guest };
        place.is_idle();
        place
    }
}

impl Place {
    /// From now on nothing is owed to this client.
    pub(crate) fn is_idle(&self) {
        let moment = self.house.moments.get();
        self.house.moments.set(moment + 1);
        self.guest.idle.set(Some(moment));
        self.house.left.notify_one();
    }

    /// From now on its request is worked on.
    pub(crate) fn is_busy(&self) {
        self.guest.idle.set(None);
    }

    /// Waits until this client has to leave.
    pub(crate) async fn must_leave(&self) {
        self.guest.leave.notified().await;
    }

    /// The right to wait for something that may take long.
    pub(crate) fn waits(&self) -> Result<Waiting> {
        let waiting = self.house.waiting.get();
        if waiting >= WAITING {
            return Err(Error::failed("control socket", format!("{waiting} clients are waiting already")));
        }
        self.house.waiting.set(waiting + 1);
        Ok(Waiting(self.house.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.house.guests.borrow_mut().retain(|guest| !Rc::ptr_eq(guest, &self.guest));
        self.house.left.notify_one();
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn poll<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut context) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }

    #[test]
    fn the_one_that_was_idle_longest_leaves_and_a_busy_one_never() {
        let guests = Guests::default();
        let places: Vec<_> =
            (0..CONNECTED).map(|_| poll(guests.welcome()).expect("there is a place")).collect();
        places[0].is_busy();
        assert!(poll(guests.welcome()).is_none(), "until somebody has left");
        assert!(poll(places[0].must_leave()).is_none());
        assert!(poll(places[1].must_leave()).is_some());
        assert!(poll(places[2].must_leave()).is_none());
    }

    #[test]
    fn the_right_to_wait_has_a_bound_and_comes_back() {
        let guests = Guests::default();
        let place = poll(guests.welcome()).expect("there is a place");
        let mut rights: Vec<_> = (0..WAITING).map(|_| place.waits().expect("there is room")).collect();
        assert!(place.waits().is_err());
        rights.pop();
        assert!(place.waits().is_ok());
    }
}

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Since when the server does not answer, for all readers together: who asks after a long silence does not wait as long as the first
/// one did.
#[derive(Default)]
pub(crate) struct Outage(Mutex<Option<Instant>>);

impl Outage {
    /// The server answered.
    pub(crate) fn over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// A call that began at `began` had no answer; gives how long there was none.
    pub(crate) fn lasts(&self, began: Instant) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(began).elapsed()
    }

    /// How long there has been no answer; zero when the last call had one.
    pub(crate) fn so_far(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map_or(Duration::ZERO, |began| began.elapsed())
    }
}

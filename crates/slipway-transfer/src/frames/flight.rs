use super::Frame;
use crate::TransferError;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// Why a frame did not come.
#[derive(Clone)]
pub(crate) enum Failure {
    /// Its address has ended; a new layout says where its chunks are now.
    Moved(Arc<TransferError>),
    /// The server's bytes are no frame, or not the one with the chunks that were wanted.
    Bad,
    /// Anything else: it will not come.
    Failed(Arc<TransferError>),
}

/// A frame on its way, and those who wait for it.
#[derive(Default)]
pub(crate) struct Flight {
    outcome: Mutex<Option<Result<Arc<Frame>, Failure>>>,
    landed: Condvar,
}

impl Flight {
    /// Waits until it is there. Who brings it has a time limit, and says so when it is over.
    pub(crate) fn wait(&self) -> Result<Arc<Frame>, Failure> {
        let mut outcome = self.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = &*outcome {
                return outcome.clone();
            }
            outcome = self.landed.wait(outcome).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn land(&self, outcome: Result<Arc<Frame>, Failure>) {
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        self.landed.notify_all();
    }
}

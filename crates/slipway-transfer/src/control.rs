use crate::TransferError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// A part of a transfer that a person may want to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The source is read, cut, hashed and sent.
    Push,
    /// The server makes the version.
    Commit,
    /// The target is read and compared with the image.
    Compare,
    /// Chunks that lie elsewhere on the target are copied to their place.
    Move,
    /// Missing chunks are fetched, verified and written.
    Fetch,
    /// What must read zero is made so.
    Zero,
    /// What was written is read back.
    Verify,
}

impl Step {
    /// The name that is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Commit => "commit",
            Self::Compare => "compare",
            Self::Move => "move",
            Self::Fetch => "fetch",
            Self::Zero => "zero",
            Self::Verify => "verify",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a transfer tells while it runs. Bytes are those of the raw image.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// What a flash will do, once the target has been compared.
    Plan {
        /// Data that is already in its place.
        matched: u64,
        /// Data that lies elsewhere on the target and will be copied.
        moved: u64,
        /// Data that will be fetched.
        fetched: u64,
        /// Holes of the image where the target is not zero; whole holes are counted.
        zeroed: u64,
    },
    /// How far a step is.
    Progress {
        /// The step.
        step: Step,
        /// Bytes done.
        bytes: u64,
        /// Bytes of this step, if known.
        total: Option<u64>,
    },
    /// Something worth knowing.
    Note(String),
    /// Something that a person should look at.
    Warn(String),
}

/// Asks a transfer to stop. A flash that stops has a target that cannot boot, or an untouched one.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug, Default)]
struct Flag {
    set: AtomicBool,
    notify: Notify,
}

impl Cancel {
    /// A flag that nobody has set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the flag, for ever.
    pub fn cancel(&self) {
        self.0.set.store(true, Ordering::SeqCst);
        self.0.notify.notify_waiters();
    }

    /// Whether it is set.
    pub fn is_cancelled(&self) -> bool {
        self.0.set.load(Ordering::SeqCst)
    }

    /// Returns when it is set.
    pub async fn cancelled(&self) {
        loop {
            let mut notified = std::pin::pin!(self.0.notify.notified());
            // Registered before the flag is read, so that a `cancel` between the two is not missed.
            notified.as_mut().enable();
            if self.is_cancelled() {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn check(&self) -> Result<(), TransferError> {
        match self.is_cancelled() {
            true => Err(TransferError::Cancelled),
            false => Ok(()),
        }
    }
}

/// How the caller watches and stops a transfer.
#[derive(Clone)]
pub struct Control {
    events: Arc<dyn Fn(Event) + Send + Sync>,
    /// Stops it.
    pub cancel: Cancel,
}

impl Control {
    /// Hands every event to `events`, from any thread.
    pub fn new(events: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self { events: Arc::new(events), cancel: Cancel::new() }
    }

    /// Nobody watches.
    pub fn quiet() -> Self {
        Self::new(|_| ())
    }

    pub(crate) fn tell(&self, event: Event) {
        (self.events)(event);
    }

    pub(crate) fn meter(&self, step: Step, total: Option<u64>) -> Meter {
        let meter = Meter { control: self.clone(), step, total, done: 0, told: 0 };
        meter.tell();
        meter
    }

    /// Waits for something of the network, but not longer than the caller wants.
    pub(crate) async fn or_cancelled<T, E: Into<TransferError>>(
        &self,
        waiting: impl Future<Output = Result<T, E>>,
    ) -> Result<T, TransferError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(TransferError::Cancelled),
            answer = waiting => answer.map_err(Into::into),
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

/// Counts the bytes of one step and tells of them, at most once for each MiB.
pub(crate) struct Meter {
    control: Control,
    step: Step,
    total: Option<u64>,
    done: u64,
    told: u64,
}

const TELL_EVERY: u64 = 1 << 20;

impl Meter {
    /// Counts, and stops when the caller wants to.
    pub(crate) fn add(&mut self, bytes: u64) -> Result<(), TransferError> {
        self.control.cancel.check()?;
        self.done += bytes;
        if self.done - self.told >= TELL_EVERY || Some(self.done) == self.total {
            self.told = self.done;
            self.tell();
        }
        Ok(())
    }

    fn tell(&self) {
        self.control.tell(Event::Progress { step: self.step, bytes: self.done, total: self.total });
    }
}

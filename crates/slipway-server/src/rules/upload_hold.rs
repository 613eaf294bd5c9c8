//! Holds an upload while its bytes are being cut, however long that takes, and ends the cutting when nobody wants it any more.

use crate::core::{Caller, Core, ms};
use crate::db::{TxError, sql, tx};
use crate::rules::quota::{QuotaLeft, quota_left};
use crate::rules::room::room_check;
use crate::rules::upload_commit::COMMIT_PATIENCE;
use slipway_api::{Code, Problem};
use slipway_chunk::{Fill, SparseRead};
use std::future::Future;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use uuid::Uuid;

/// How often the lease of an upload is renewed, and its end noticed.
const HOLD_EVERY: Duration = Duration::from_secs(5);

/// Says that the cutting of an image shall end, and why. The first reason stays; clones are one.
#[derive(Clone, Debug, Default)]
pub struct Cut(Arc<OnceLock<Problem>>);

impl Cut {
    /// Ends it at its next piece.
    pub fn cut(&self, why: Problem) {
        let _ = self.0.set(why);
    }

    /// Why it shall end, if it shall.
    pub fn why(&self) -> Option<&Problem> {
        self.0.get()
    }
}

/// A source that is asked before each piece whether it shall end, and then ends with that problem. Bytes that a client sent before it hung up
/// may unpack to thousands of times as many, which nobody needs to be cut.
pub(crate) struct Stoppable<S, F> {
    inner: S,
    why: F,
    passed: u64,
}

impl<S: SparseRead, F: FnMut(u64) -> Option<Problem>> Stoppable<S, F> {
    /// `why` is told how many bytes of the image have passed, holes counted.
    pub(crate) fn new(inner: S, why: F) -> Self {
        Self { inner, why, passed: 0 }
    }
}

impl<S: SparseRead, F: FnMut(u64) -> Option<Problem>> SparseRead for Stoppable<S, F> {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        if let Some(problem) = (self.why)(self.passed) {
            return Err(io::Error::other(problem));
        }
        let filled = self.inner.fill(buf)?;
        match &filled {
            Fill::Data(len) => self.passed += *len as u64,
            Fill::Hole(len) => self.passed += len,
            Fill::End => {}
        }
        Ok(filled)
    }
}

/// After so many bytes of an image the free space is looked at again.
const ROOM_EVERY: u64 = 1 << 20;
/// After so many bytes the stored bytes are counted anew.
const STORED_EVERY: u64 = 32 << 20;

/// Asks while an image is cut whether quota and disk allow more of it; what a small body unpacks to is not known before.
pub(crate) struct Meter {
    core: Arc<Core>,
    upload: Uuid,
    cutting: bool,
    left: QuotaLeft,
    room_at: u64,
    stored_at: u64,
}

impl Meter {
    /// For an upload that is being filled, or whose spool is being cut.
    pub(crate) async fn begin(core: &Arc<Core>, upload: &Uuid, cutting: bool) -> Result<Self, Problem> {
        let left = quota_left(core, upload, cutting).await?;
        Ok(Self { core: core.clone(), upload: *upload, cutting, left, room_at: 0, stored_at: 0 })
    }

    /// Why the cutting shall end, when so many bytes have passed. To be asked from a blocking thread.
    pub(crate) fn ask(&mut self, passed: u64) -> Option<Problem> {
        self.check(passed).err()
    }

    fn check(&mut self, passed: u64) -> Result<(), Problem> {
        self.left.logical_check(&self.core, passed)?;
        if passed >= self.room_at {
            self.room_at = passed + ROOM_EVERY;
            room_check(&self.core)?;
        }
        if passed >= self.stored_at && self.left.is_limited() {
            self.stored_at = passed + STORED_EVERY;
            self.left = self.core.runtime.block_on(quota_left(&self.core, &self.upload, self.cutting))?;
            self.left.stored_check(&self.core, 0)?;
        }
        Ok(())
    }
}

/// Does work on an upload that is being committed and renews its lease meanwhile. If the upload ends, the work is cut.
pub(crate) async fn upload_hold<T>(core: &Core, id: &Uuid, cut: &Cut, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        problem = lease_keep(core, id) => cut.cut(problem),
    }
    work.await
}

/// Renews the lease until the upload is not being committed any more.
async fn lease_keep(core: &Core, id: &Uuid) -> Problem {
    let server = Caller::server();
    loop {
        tokio::time::sleep(HOLD_EVERY.min(core.config.upload_lease / 8)).await;
        let renewed: Result<u64, TxError> = tx!(&core.db, &server, |tx| {
            // What a task is cutting has no `commit_until`, and gets none.
            let update = sql("UPDATE upload SET lease_until = $1, \
                 commit_until = CASE WHEN commit_until IS NULL THEN commit_until ELSE $2 END \
                 WHERE id = $3 AND state = 'committing'");
            let now = tx.now();
            Ok(tx.run(update.bind(now + ms(core.config.upload_lease)).bind(now + ms(COMMIT_PATIENCE)).bind(id)).await?)
        });
        match renewed {
            Ok(0) => return Problem::new(Code::Gone, format!("upload {id} has ended")).hint("begin another upload"),
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(upload = %id, error = %Problem::from(error).title, "renewing the lease of an upload")
            }
        }
    }
}

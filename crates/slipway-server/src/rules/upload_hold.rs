//! Holds an upload while its bytes are being cut, however long that takes, and ends the cutting when nobody wants it any more.

use crate::core::{Caller, Core, ms};
use crate::db::{TxError, sql, tx};
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
    pub(crate) inner: S,
    pub(crate) why: F,
}

impl<S: SparseRead, F: FnMut() -> Option<Problem>> SparseRead for Stoppable<S, F> {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        match (self.why)() {
            Some(problem) => Err(io::Error::other(problem)),
            None => self.inner.fill(buf),
        }
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

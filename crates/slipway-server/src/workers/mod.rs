//! What the server does by itself: each worker is one file, takes no input, is idempotent, and runs on a timer and on a nudge.

pub(crate) mod check;
pub(crate) mod digest;
pub(crate) mod expire;
pub(crate) mod hash;
pub(crate) mod import;
mod pace;
pub(crate) mod prune;
pub(crate) mod rehome;
pub(crate) mod retention;
mod run;
pub(crate) mod scrub;
pub(crate) mod verify;

pub use run::{Stop, Workers, workers_start};

use crate::core::{Caller, Core, Nudge};
use crate::db::{DbError, Dialect, TxError, sql, tx};
use futures_util::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// Something that the server does by itself.
pub trait Worker: Send + Sync + 'static {
    /// For the log.
    fn name(&self) -> &'static str;

    /// How often it looks by itself.
    fn period(&self) -> Duration;

    /// Whether it should look now.
    fn wakes(&self, nudge: Nudge) -> bool;

    /// Does what there is to do once; true if there may be more at once.
    fn pass<'a>(&'a self, core: &'a Arc<Core>, stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>>;
}

/// Every worker.
pub fn workers() -> Vec<Box<dyn Worker>> {
    vec![
        Box::new(expire::Expire),
        Box::new(import::Import),
        Box::new(rehome::Rehoming),
        Box::new(prune::Prune),
        Box::new(check::Check),
        Box::new(digest::Digesting),
        Box::new(scrub::Scrub),
        Box::new(verify::Verify),
        Box::new(retention::Retaining),
    ]
}

/// Puts right after a crash what only this process can have been doing.
pub(crate) async fn recover(core: &Core) -> Result<(), DbError> {
    if core.db.dialect() == Dialect::Postgres {
        return Ok(());
    }
    let server = Caller::server();
    let done: Result<(), TxError> = tx!(&core.db, &server, |tx| {
        let now = tx.now();
        tx.run(sql("UPDATE task SET lease_until = $1 WHERE state = 'running'").bind(now - 1)).await?;
        let reset = sql("UPDATE upload SET state = 'open', commit_until = NULL, lease_until = $1 \
             WHERE state = 'committing' AND task_id IS NULL")
        .bind(now + crate::core::ms(core.config.upload_lease));
        tx.run(reset).await?;
        Ok(())
    });
    match done {
        Ok(()) => Ok(()),
        Err(TxError::Db(error)) => Err(error),
        Err(TxError::Refused(problem)) => Err(DbError::Unknown(problem.title)),
    }
}

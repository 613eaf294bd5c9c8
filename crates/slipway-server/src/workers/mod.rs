//! What the server does by itself: each worker is one file, takes no input, is idempotent, and runs on a timer and on a nudge.

use crate::core::{Caller, Core};
use crate::db::{DbError, Dialect, TxError, sql, tx};

/// Puts right after a crash what only this process can have been doing.
pub(crate) async fn recover(core: &Core) -> Result<(), DbError> {
    if core.db.dialect() == Dialect::Postgres {
        return Ok(());
    }
    let server = Caller::server();
    let done: Result<(), TxError> = tx!(&core.db, &server, |tx| {
        let now = tx.now();
        tx.run(sql("UPDATE task SET lease_until = $1 WHERE state = 'running'").bind(now - 1)).await?;
        tx.run(sql("UPDATE upload SET commit_until = $1 WHERE state = 'committing' AND task_id IS NULL").bind(now - 1)).await?;
        Ok(())
    });
    match done {
        Ok(()) => Ok(()),
        Err(TxError::Db(error)) => Err(error),
        Err(TxError::Refused(problem)) => Err(DbError::Unknown(problem.title)),
    }
}

//! Applies rules of retention to every image that has some, each once in a period.

use crate::core::{Core, Nudge};
use crate::db::{DbError, TxError};
use crate::rules::retention::{retention_apply, retention_due};
use crate::workers::Worker;
use crate::workers::run::Stop;
use futures_util::future::BoxFuture;
use slipway_api::Problem;
use std::sync::Arc;
use std::time::Duration;

/// Images in one pass at most.
const BATCH: u64 = 100;

/// Applies the rules that are due. When each image had its turn stands in its row, so that neither a restart nor a second server makes more turns.
pub(crate) struct Retaining;

impl Worker for Retaining {
    fn name(&self) -> &'static str {
        "retention"
    }

    fn period(&self) -> Duration {
        Duration::from_secs(600)
    }

    fn wakes(&self, _: Nudge) -> bool {
        false
    }

    fn pass<'a>(&'a self, core: &'a Arc<Core>, stop: &'a Stop) -> BoxFuture<'a, Result<bool, DbError>> {
        Box::pin(async move {
            let due = retention_due(core, BATCH).await?;
            let mut failed = false;
            for image in &due {
                if stop.is_asked() {
                    return Ok(false);
                }
                match retention_apply(core, image).await {
                    Ok(0) => {}
                    Ok(trashed) => tracing::info!(%image, trashed, "rules of retention put versions into the trash"),
                    Err(TxError::Db(error)) => return Err(error),
                    // One image must not keep the others from their turn.
                    Err(refused @ TxError::Refused(_)) => {
                        failed = true;
                        tracing::error!(%image, error = Problem::from(refused).title, "applying rules of retention");
                    }
                }
            }
            Ok(due.len() as u64 == BATCH && !failed)
        })
    }
}

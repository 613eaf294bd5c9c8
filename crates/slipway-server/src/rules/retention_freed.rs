//! What is free when versions are gone: asked of the store, because versions share chunks.

use crate::core::Core;
use crate::db::{DbError, sql};
use crate::rules::upload_fill::blocking;
use slipway_api::{Problem, Version};
use slipway_store::ContentRef;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Counting that takes longer than this is given up for an estimate: somebody waits for the answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Bytes that would be free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Freed {
    /// So many.
    pub(super) bytes: u64,
    /// Counted, not estimated.
    pub(super) exact: bool,
}

/// Ends the counting when whoever waits for it is gone.
struct Asked(Arc<AtomicBool>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Counts the stored bytes that nothing refers to when these versions are gone, and what is in the trash already with them: it goes before.
pub(super) async fn freed_count(core: &Core, going: &[Version]) -> Result<Freed, Problem> {
    // What each brought when it was committed: less than the truth where others that went before had brought it, more where others use it.
    let estimate = Freed { bytes: going.iter().map(|version| version.new_bytes).sum(), exact: false };
    if going.is_empty() {
        return Ok(Freed { bytes: 0, exact: true });
    }
    let ids: HashSet<Uuid> = going.iter().map(|version| version.content).collect();
    let (gone, stays) = contents_split(core, &ids).await?;
    let (store, ledger, until) = (core.store.clone(), core.ledger(), Instant::now() + PATIENCE);
    let asked = Asked(Arc::default());
    let hung_up = asked.0.clone();
    let stop = move || Instant::now() >= until || hung_up.load(Ordering::Relaxed);
    let counted = blocking(move || store.contents_freed(&gone, &stays, &ledger, &stop)).await?;
    Ok(match counted {
        Ok(Some(freed)) => Freed { bytes: freed.frames + freed.documents, exact: true },
        Ok(None) => estimate,
        Err(error) => {
            tracing::warn!(%error, "counting what a retention would free");
            estimate
        }
    })
}

/// The contents of these ids, and those of all other versions that are not in the trash.
async fn contents_split(core: &Core, ids: &HashSet<Uuid>) -> Result<(Vec<ContentRef>, Vec<ContentRef>), DbError> {
    let mut tx = core.db.read().await?;
    let rows = tx
        .rows(sql("SELECT content.id, content.root, content.spaces, version.trashed_at AS version_trash, \
             image.trashed_at AS image_trash FROM version JOIN content ON content.id = version.content_id \
             JOIN image ON image.id = version.image_id"))
        .await?;
    let (mut gone, mut stays) = (Vec::new(), Vec::new());
    for row in rows {
        let content = ContentRef { root: row.parsed("root")?, spaces: row.json("spaces")? };
        if ids.contains(&row.parsed("id")?) {
            gone.push(content);
        } else if row.int_or_null("version_trash")?.is_none() && row.int_or_null("image_trash")?.is_none() {
            stays.push(content);
        }
    }
    Ok((gone, stays))
}

//! What changes among the images that somebody may read, for who follows it.

use crate::core::{Caller, Core};
use crate::db::{TxError, sql};
use crate::policy::{self, Action, Object};
use crate::rules::image::image_batch;
use crate::rules::owner::server_allowed;
use slipway_api::{PageQuery, Problem};

/// Rows of one question.
const BATCH: usize = 1000;

/// The number of the last change of anything. What one may read has not changed while it stands still.
pub(crate) async fn changes_number(core: &Core) -> Result<u64, Problem> {
    let mut tx = core.db.read().await?;
    Ok(tx.row_must(sql("SELECT value FROM counter WHERE name = 'journal'")).await?.size("value")?)
}

/// A short text that is the same as long as the caller may read the same images in the same revisions; every change of an image or of
/// its versions makes a new revision. It tells nothing of other images, not even that something happened to them.
pub(crate) async fn images_mark(core: &Core, who: &Caller) -> Result<String, Problem> {
    server_allowed(who, Action::ImageList)?;
    let marked: Result<String, TxError> = async {
        let mut tx = core.db.read().await?;
        let (mut owner, mut slug) = (String::new(), String::new());
        let mut hash = blake3::Hasher::new();
        loop {
            let batch =
                image_batch(&mut tx, who, &PageQuery::default(), None, (owner.as_str(), slug.as_str()), BATCH).await?;
            for image in &batch {
                if policy::allowed(who, Action::ImageRead, &Object::Image(image.object())).is_ok() {
                    hash.update(image.id.as_bytes());
                    hash.update(&image.revision.to_le_bytes());
                    // A user who is renamed takes the images along, without a change of theirs.
                    hash.update(image.reference().as_bytes());
                    hash.update(b"\0");
                }
            }
            match batch.last().filter(|_| batch.len() == BATCH) {
                Some(last) => (owner, slug) = (last.owner.name.clone(), last.slug.clone()),
                None => break,
            }
        }
        Ok(hash.finalize().to_hex()[..16].to_owned())
    }
    .await;
    Ok(marked?)
}

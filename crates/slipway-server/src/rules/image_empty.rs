//! An image that begins as an empty disk: a name derived from its title, and version 0, all zeros, which cost no space. Both or neither.

use crate::core::{Caller, Core};
use crate::db::{DbError, Tx, TxError, sql, tx};
use crate::rules::checksum::content_crc32;
use crate::rules::image::{image_insert, image_new_check, owner_of_new, spaces_of_new};
use crate::rules::image_row::{ImageRow, image_by_id};
use crate::rules::owner::Owner;
use crate::rules::quota::{quota_commit, quota_image};
use crate::rules::store_problem::store_problem;
use crate::rules::upload::lookup_of;
use crate::rules::upload_commit::{VersionNew, version_insert};
use crate::rules::upload_fill::blocking;
use slipway_api::{Code, ImageNew, ImageType, Problem};
use slipway_chunk::{ChunkerParams, Fill, SparseRead};
use slipway_store::{IngestSpec, Prepared, SpaceId};
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use uuid::Uuid;

/// How often it is tried again because a prune or another image of the same title came between.
const ROUNDS: u32 = 5;
/// A slug has 63 characters at most; the rest is for what tells images of one title apart.
const STEM_MAX: usize = 54;

/// Makes an image of `size` bytes for an owner (`me` is the caller), with its empty version 0. `new.reference` is not looked at: the name
/// is derived from the title, with `-2`, `-3` and so on behind it when it is taken, since several images may have one title.
pub(crate) async fn image_create_empty(
    core: &Arc<Core>,
    who: &Caller,
    owner: &str,
    new: ImageNew,
    size: u64,
) -> Result<ImageRow, Problem> {
    if size == 0 || size > core.config.image_size_max {
        let title = format!("an image of {size} bytes is not between 1 and the {} allowed", core.config.image_size_max);
        return Err(Problem::new(if size == 0 { Code::BadImage } else { Code::TooLarge }, title).field("size"));
    }
    let stem = slug_derive(new.title.as_deref().unwrap_or_default());
    image_new_check(who, &new, &stem)?;
    let spaces = {
        let mut tx = core.db.read().await?;
        let found: Result<Owner, TxError> = owner_of_new(&mut tx, who, owner, &stem, new.image_type).await;
        spaces_of_new(&found?)
    };
    let summed = new.versioned == Some(false) || new.image_type == Some(ImageType::Machine);
    let mut last = Problem::new(Code::Conflict, "the image could not be made");
    for _ in 0..ROUNDS {
        let upload = Uuid::new_v4();
        let prepared = zeros_store(core, &spaces, size, &upload).await?;
        let crc32 = match summed {
            true => Some(content_crc32(core, lookup_of(&spaces), prepared.root).await?),
            false => None,
        };
        let bytes = Bytes { prepared: &prepared, crc32: crc32.as_deref(), spaces: &spaces, upload: &upload };
        match image_with_zero(core, who, owner, &stem, &new, &bytes).await {
            Err(problem) if matches!(problem.code, Code::ChunksGone | Code::NameTaken) => last = problem,
            other => return other,
        }
    }
    Err(last)
}

/// The stored bytes of version 0.
struct Bytes<'a> {
    prepared: &'a Prepared,
    crc32: Option<&'a str>,
    spaces: &'a [SpaceId],
    upload: &'a Uuid,
}

/// The one transaction of it.
async fn image_with_zero(
    core: &Arc<Core>,
    who: &Caller,
    owner: &str,
    stem: &str,
    new: &ImageNew,
    bytes: &Bytes<'_>,
) -> Result<ImageRow, Problem> {
    core.store.poison_check().map_err(|error| store_problem("making an image", error))?;
    let made: Result<ImageRow, TxError> = tx!(&core.db, who, |tx| {
        let found = owner_of_new(tx, who, owner, stem, new.image_type).await?;
        let slug = slug_free(tx, &found, stem).await?;
        // A token that reaches only some names is held against the one that it came to.
        owner_of_new(tx, who, owner, &slug, new.image_type).await?;
        let checked = image_new_check(who, new, &slug)?;
        quota_image(tx, core, &found).await?;
        let id = image_insert(tx, &found, &slug, &checked).await?;
        let gone =
            || TxError::from(Problem::new(Code::NameTaken, format!("image {}/{slug} exists already", found.name)));
        let id = id.ok_or_else(gone)?;
        let image = image_by_id(tx, &id).await?.ok_or_else(gone)?;
        let made_by = who.user.as_ref().map_or(found.name.as_str(), |user| user.name.as_str()).to_owned();
        let zero = VersionNew {
            spaces: bytes.spaces,
            parent: None,
            message: "empty",
            source_format: "empty",
            claimed: None,
            crc32: bytes.crc32,
            made_by: &made_by,
            upload: bytes.upload,
        };
        version_insert(tx, &image, &zero, bytes.prepared, None).await?;
        quota_commit(tx, core, &found, true).await?;
        // The commit point of both: image and version 0 are there, or neither is.
        image_by_id(tx, &id).await?.ok_or_else(gone)
    });
    Ok(made?)
}

/// Stores the segments and the manifest of zeros; there are no chunks.
async fn zeros_store(core: &Arc<Core>, spaces: &[SpaceId], size: u64, upload: &Uuid) -> Result<Prepared, Problem> {
    let (store, ledger) = (core.store.clone(), core.ledger());
    let space = spaces.first().cloned().unwrap_or_else(crate::rules::image_row::public_space);
    let spec = IngestSpec {
        space,
        lookup: lookup_of(spaces),
        sector_size: 512,
        params: ChunkerParams::default(),
        upload: upload.to_string(),
    };
    let stored = blocking(move || store.ingest(&spec, &mut Zeros(Some(size)), &ledger, &mut |_| {}));
    stored.await?.map_err(|error| store_problem("storing an empty image", error))
}

/// One hole.
struct Zeros(Option<u64>);

impl SparseRead for Zeros {
    fn fill(&mut self, _: &mut [u8]) -> io::Result<Fill> {
        Ok(self.0.take().map_or(Fill::End, Fill::Hole))
    }
}

/// A name out of a title: lower case, what is not allowed becomes one `-`.
fn slug_derive(title: &str) -> String {
    let mut slug = String::new();
    for sign in title.chars().flat_map(char::to_lowercase) {
        match sign {
            'a'..='z' | '0'..='9' => slug.push(sign),
            '.' | '_' if !slug.is_empty() => slug.push(sign),
            _ if slug.is_empty() || slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
        if slug.len() >= STEM_MAX {
            break;
        }
    }
    let slug = slug.trim_end_matches('-');
    match slug {
        "" => "image".to_owned(),
        "me" | "system" | "latest" => format!("{slug}-image"),
        slug => slug.to_owned(),
    }
}

/// `stem`, or the first of `stem-2`, `stem-3` … that the owner does not have, the trash counted.
pub(super) async fn slug_free(tx: &mut Tx, owner: &Owner, stem: &str) -> Result<String, DbError> {
    let like = format!("{}-%", stem.replace('_', "\\_"));
    let query = sql("SELECT slug FROM image WHERE account_id = $1 AND (slug = $2 OR slug LIKE $3 ESCAPE '\\')");
    let rows = tx.rows(query.bind(owner.id).bind(stem).bind(like)).await?;
    let taken: HashSet<String> = rows.iter().map(|row| row.text("slug")).collect::<Result<_, _>>()?;
    if !taken.contains(stem) {
        return Ok(stem.to_owned());
    }
    // Of `n` taken names at most `n` are in the way.
    let free = (2..taken.len() + 3).map(|n| format!("{stem}-{n}")).find(|slug| !taken.contains(slug));
    Ok(free.unwrap_or_else(|| format!("{stem}-{}", taken.len() + 3)))
}

#[cfg(test)]
mod tests {
    use super::slug_derive;
    use slipway_api::Slug;

    #[test]
    fn names_come_from_titles() {
        for (title, slug) in [
            ("Fedora", "fedora"),
            ("Fedora 38 (KDE)", "fedora-38-kde"),
            ("  a  b  ", "a-b"),
            ("../../etc/passwd", "etc-passwd"),
            ("system", "system-image"),
            ("Größe", "gr-e"),
            ("你好", "image"),
            ("_x.y_z", "x.y_z"),
        ] {
            assert_eq!(slug_derive(title), slug, "{title}");
        }
        for title in ["a".repeat(200), "é".repeat(200), "- ".repeat(99), "İ".repeat(99)] {
            let slug = format!("{}-1000000", slug_derive(&title));
            assert!(slug.parse::<Slug>().is_ok(), "{slug}");
        }
    }
}

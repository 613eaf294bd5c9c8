//! Two versions compared.

use slipway_api::{
    Code, DiffBytes, DiffExtent, DiffKind, DiffQuery, ImageRef, Problem, VersionDiff, VersionPick, VersionRef,
};
use slipway_store::ContentDiff;
use std::sync::Arc;
use tokio::sync::Semaphore;

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::http::failure::blocking;
use crate::http::json::printable;
use crate::rules;
use crate::rules::store_problem::store_problem;
use crate::rules::version::VersionContent;

/// Parts of an answer if no number was asked for, and at most.
const LIMIT: u32 = 1000;
const LIMIT_MAX: u32 = 5000;
/// Comparisons at one time: of huge images that differ everywhere each reads thousands of segments.
static SEATS: Semaphore = Semaphore::const_new(4);

/// What `from` names: a version of the same image, or of another.
fn from_read(text: &str, image: &ImageRef) -> Result<(ImageRef, VersionPick), Problem> {
    let bad = |why: String| {
        Problem::new(Code::InvalidRequest, format!("from '{}': {why}", printable(text)))
            .field("from")
            .hint("name a version by number, channel or latest, or as owner/name:N")
    };
    if !text.contains('/') {
        return Ok((image.clone(), text.parse::<VersionPick>().map_err(|error| bad(error.to_string()))?));
    }
    let wanted = text.parse::<VersionRef>().map_err(|error| bad(error.to_string()))?;
    match wanted.root {
        None => Ok((wanted.image, wanted.pick)),
        Some(_) => Err(bad("leave out the part after '@'".to_owned())),
    }
}

pub(crate) async fn version_diff(ask: Ask) -> Answered {
    let query: DiffQuery = ask.query()?;
    let limit = query.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        let title = format!("limit {limit} is not between 1 and {LIMIT_MAX}");
        return Err(Problem::new(Code::InvalidRequest, title).field("limit"));
    }
    let image = ask.image()?;
    let to = rules::version::version_content(ask.core(), &ask.who, &image, &ask.pick()?).await?;
    let (image, pick) = from_read(&query.from, &image)?;
    let from = rules::version::version_content(ask.core(), &ask.who, &image, &pick).await?;
    let _seat = SEATS.try_acquire().map_err(|_| {
        Problem::new(Code::SlowDown, "too many comparisons are under way already").hint("try again in a moment")
    })?;
    let site = Arc::clone(&ask.site);
    let act = format!("comparing {} with {}", to.reference, from.reference);
    let (one, two) = (from.clone(), to.clone());
    let diff = blocking(&act.clone(), move || {
        let ledger = site.core.ledger();
        let (first, second) = ((&one.spaces[..], &one.version.root), (&two.spaces[..], &two.version.root));
        let stop = || site.stop.is_cancelled();
        site.core
            .store
            .contents_diff(first, second, (query.at, limit as usize), &ledger, &stop)
            .map_err(|error| store_problem(&act, error))
    })
    .await?;
    answer::json_get(ask.headers(), &wire(&from, &to, diff), None)
}

fn wire(from: &VersionContent, to: &VersionContent, diff: ContentDiff) -> VersionDiff {
    let extents = diff.ranges.iter().map(|range| DiffExtent {
        offset: range.offset,
        length: range.len,
        kind: match range.kind {
            slipway_chunk::DiffKind::Changed => DiffKind::Changed,
            slipway_chunk::DiffKind::ToHole => DiffKind::BecameHole,
            slipway_chunk::DiffKind::FromHole => DiffKind::WasHole,
            slipway_chunk::DiffKind::CutOff => DiffKind::CutOff,
            slipway_chunk::DiffKind::Added => DiffKind::Added,
        },
    });
    let bytes = diff.bytes.map(|sums| DiffBytes {
        changed: sums.changed,
        became_hole: sums.to_hole,
        was_hole: sums.from_hole,
        cut_off: sums.cut_off,
        added: sums.added,
        shared: to.version.data_bytes.saturating_sub(sums.chunks),
        moved: sums.moved,
        stored: sums.fetch,
    });
    let same = from.version.root == to.version.root || (diff.bytes.is_some() && diff.ranges.is_empty());
    VersionDiff {
        from: from.reference.clone(),
        to: to.reference.clone(),
        from_size: from.version.size,
        to_size: to.version.size,
        same,
        bytes,
        extents: extents.collect(),
        next: diff.next,
    }
}

#[cfg(test)]
mod tests {
    use super::from_read;
    use slipway_api::{Code, ImageRef};

    #[test]
    fn the_other_side_is_of_this_image_or_of_another() {
        let image: ImageRef = "jan/os".parse().unwrap();
        for (text, want) in [
            ("1", "jan/os:1"),
            ("latest", "jan/os:latest"),
            ("stable", "jan/os:stable"),
            ("eva/data:3", "eva/data:3"),
            ("eva/data", "eva/data:latest"),
        ] {
            let (image, pick) = from_read(text, &image).unwrap();
            assert_eq!(format!("{image}:{pick}"), want);
        }
        for text in ["", "9x!", "a/b/c", "eva/data:3@00"] {
            let error = from_read(text, &image).unwrap_err();
            assert_eq!((error.code, error.field.as_deref()), (Code::InvalidRequest, Some("from")), "{text}");
        }
    }
}

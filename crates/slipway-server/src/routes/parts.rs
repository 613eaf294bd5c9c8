//! A version's manifest, segments and layouts.

use axum::body::Body;
use axum::http::Response;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use slipway_api::wire::MEDIA;
use slipway_api::{Code, Problem};
use slipway_chunk::{Manifest, Root, SegmentId};
use slipway_store::StoreError;
use std::sync::Arc;

use crate::http::answer::{self, Answered, header_set};
use crate::http::ask::Ask;
use crate::http::failure::blocking;
use crate::rules;
use crate::rules::store_problem::store_problem;
use crate::rules::version::VersionContent;

/// The body makes a request one thread's at a time, so it is not borrowed while waiting.
fn content(ask: &Ask) -> impl Future<Output = Result<VersionContent, Problem>> + use<> {
    let (site, who, image, pick) = (ask.site.clone(), ask.who.clone(), ask.image(), ask.pick());
    async move { rules::version::version_content(&site.core, &who, &image?, &pick?).await }
}

/// A client that asked for a channel must see which content it got: between two calls the channel may move.
fn rooted(mut answer: Response<Body>, root: &Root) -> Response<Body> {
    header_set(&mut answer, HeaderName::from_static("slipway-root"), root.to_string());
    answer
}

fn segment_id(ask: &Ask, manifest: &Manifest, reference: &str) -> Result<SegmentId, Problem> {
    let index = ask.index()?;
    manifest.segments.get(index).copied().ok_or_else(|| {
        let title = format!("{reference} has {} segments; there is no segment {index}", manifest.segments.len());
        Problem::new(Code::NotFound, title)
    })
}

pub(crate) async fn version_manifest(ask: Ask) -> Answered {
    let content = content(&ask).await?;
    let root = content.version.root;
    let core = ask.site.core.clone();
    let act = format!("reading the manifest of {}", content.reference);
    let bytes = blocking(&act.clone(), move || {
        core.store.manifest_bytes(&content.spaces, &root, &core.ledger()).map_err(|error| store_problem(&act, error))
    })
    .await?;
    Ok(rooted(answer::bytes_tagged(ask.headers(), MEDIA, &format!("\"{root}\""), bytes), &root))
}

pub(crate) async fn version_segment(ask: Ask) -> Answered {
    let content = content(&ask).await?;
    let root = content.version.root;
    let manifest = ask.site.manifest(&content.spaces, root).await?;
    let id = segment_id(&ask, &manifest, &content.reference)?;
    let core = ask.site.core.clone();
    let act = format!("reading a segment of {}", content.reference);
    let bytes = blocking(&act.clone(), move || {
        core.store.segment_bytes(&content.spaces, &id, &core.ledger()).map_err(|error| store_problem(&act, error))
    })
    .await?;
    Ok(rooted(answer::bytes_tagged(ask.headers(), MEDIA, &format!("\"{id}\""), bytes), &root))
}

pub(crate) async fn version_layout(ask: Ask) -> Answered {
    let content = content(&ask).await?;
    let root = content.version.root;
    let manifest = ask.site.manifest(&content.spaces, root).await?;
    let id = segment_id(&ask, &manifest, &content.reference)?;
    let site = Arc::clone(&ask.site);
    let act = format!("laying out a segment of {}", content.reference);
    let now = seconds_now();
    let bytes = blocking(&act.clone(), move || {
        let (core, ledger) = (&site.core, site.core.ledger());
        let failed = |error| store_problem(&act, error);
        core.store.index_sync(&ledger).map_err(failed)?;
        let segment = core.store.segment_read(&content.spaces, &id, &ledger).map_err(failed)?;
        let layout = core
            .store
            .layout(&content.spaces, &segment, &|space, pack, _| site.capabilities.address(space, pack, now))
            .map_err(|error| lost_problem(&act, &content.reference, error))?;
        Ok(layout.encode())
    })
    .await?;
    let mut answer = rooted(answer::bytes(MEDIA, bytes), &root);
    // It holds capabilities and changes whenever prune moves something.
    header_set(&mut answer, CACHE_CONTROL, "no-store");
    Ok(answer)
}

/// Chunks that a reader finds missing are lost; nobody who reads can send them.
fn lost_problem(act: &str, reference: &str, error: StoreError) -> Problem {
    match error {
        StoreError::ChunksMissing { .. } => Problem::new(Code::Damaged, format!("{act}: {error}"))
            .hint(format!("`slipway image verify {reference}` says which parts; pushing a good copy brings them back")),
        error => store_problem(act, error),
    }
}

/// The server's clock, for capabilities.
pub(super) fn seconds_now() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)
}

//! Uploads: begun, filled with chunks, committed.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::HeaderName;
use serde::Deserialize;
use slipway_api::wire::{
    FRAMES_MAX, MEDIA, MISSING_MAX, SEGMENTS_MAX, bits_encode, chunk_ids_decode, segment_ids_decode, segments_split,
};
use slipway_api::{Code, FramesReceived, Problem, UploadFormat};
use slipway_chunk::{Digest, MANIFEST_LEN_MAX, SegmentId};
use slipway_store::ReceiveSpec;
use uuid::Uuid;

use super::content::outcome_status;
use crate::core::Caller;
use crate::http::answer::{self, Answered, header_set};
use crate::http::ask::Ask;
use crate::http::failure::blocking;
use crate::http::json::printable;
use crate::http::repr::ReprCheck;
use crate::http::site::Site;
use crate::http::stream::{body_channel, body_seat};
use crate::rules;
use crate::rules::store_problem::store_problem;
use crate::rules::upload::{CommitAnswer, UploadTarget};

/// How long a commit of a streamed upload is waited for before the client is told to ask again.
const COMMIT_WAIT: Duration = Duration::from_secs(30);

pub(crate) async fn upload_create(mut ask: Ask) -> Answered {
    let new = ask.json().await?;
    let upload = rules::upload::upload_create(ask.core(), &ask.who, new).await?;
    answer::json(StatusCode::CREATED, &upload)
}

pub(crate) async fn upload_get(ask: Ask) -> Answered {
    let upload = rules::upload::upload_get(ask.core(), &ask.who, &ask.id("upload")?).await?;
    let mut answer = answer::json_get(ask.headers(), &upload, None)?;
    header_set(&mut answer, HeaderName::from_static("upload-offset"), upload.offset.to_string());
    Ok(answer)
}

pub(crate) async fn upload_delete(ask: Ask) -> Answered {
    rules::upload::upload_end(ask.core(), &ask.who, &ask.id("upload")?).await?;
    answer::nothing()
}

/// An open upload that is filled with chunks.
async fn target(site: Arc<Site>, who: Caller, id: Result<Uuid, Problem>) -> Result<UploadTarget, Problem> {
    let target = rules::upload::upload_target(&site.core, &who, &id?).await?;
    if target.format == UploadFormat::Chunks {
        return Ok(target);
    }
    let title = format!("upload {} is filled by PATCH, not with chunks", target.id);
    Err(Problem::new(Code::Conflict, title).hint("begin an upload with format chunks"))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct MissingQuery {
    kind: Option<String>,
}

pub(crate) async fn upload_missing(mut ask: Ask) -> Answered {
    let query: MissingQuery = ask.query()?;
    let target = target(ask.site.clone(), ask.who.clone(), ask.id("upload")).await?;
    let body = ask.bytes(32 * MISSING_MAX as u64).await?;
    let bad = || {
        Problem::new(Code::InvalidRequest, format!("the body is not a list of at most {MISSING_MAX} ids of 32 bytes"))
    };
    let core = ask.site.core.clone();
    let act = format!("looking up what {} lacks", target.image);
    let bits = match query.kind.as_deref() {
        None | Some("chunks") => {
            let ids = chunk_ids_decode(&body).ok_or_else(bad)?;
            blocking(&act.clone(), move || {
                core.store.index_sync(&core.ledger()).map_err(|error| store_problem(&act, error))?;
                core.store.chunks_missing(&target.lookup, &ids).map_err(|error| store_problem(&act, error))
            })
            .await?
        }
        Some("segments") => {
            let ids = segment_ids_decode(&body).ok_or_else(bad)?;
            blocking(&act.clone(), move || {
                core.store
                    .segments_missing(&target.lookup, &ids, &core.ledger())
                    .map_err(|error| store_problem(&act, error))
            })
            .await?
        }
        Some(other) => {
            let title = format!("kind '{}' is neither chunks nor segments", printable(other));
            return Err(Problem::new(Code::InvalidRequest, title).field("kind"));
        }
    };
    Ok(answer::bytes(MEDIA, bits_encode(&bits)))
}

pub(crate) async fn upload_frames(ask: Ask) -> Answered {
    let target = target(ask.site.clone(), ask.who.clone(), ask.id("upload")).await?;
    ask.site.space_check()?;
    let left = rules::quota::quota_left(ask.core(), &target.id, false).await?;
    left.stored_check(ask.core(), ask.body.announced().unwrap_or(0))?;
    let _seat = body_seat()?;
    let (pump, mut reader) = body_channel(ReprCheck::from_headers(ask.headers())?);
    let Ask { site, body, .. } = ask;
    let core = site.core.clone();
    let act = format!("storing frames for {}", target.image);
    let name = act.clone();
    let storing = blocking(&name, move || {
        let spec = ReceiveSpec { space: target.space, upload: target.upload };
        core.store.frames_receive(&spec, &mut reader, &core.ledger()).map_err(|error| store_problem(&act, error))
    });
    let (stored, ()) = tokio::join!(storing, pump.run(body, FRAMES_MAX, Some(left), &site));
    let received = stored?;
    let wire = FramesReceived { frames: received.frames, chunks: received.chunks, stored_bytes: received.frames_len };
    answer::json(StatusCode::OK, &wire)
}

pub(crate) async fn upload_segments(mut ask: Ask) -> Answered {
    let target = target(ask.site.clone(), ask.who.clone(), ask.id("upload")).await?;
    ask.site.space_check()?;
    let mut check = ReprCheck::from_headers(ask.headers())?;
    let body = ask.bytes(SEGMENTS_MAX).await?;
    check.update(&body);
    check.finish()?;
    let core = ask.site.core.clone();
    let act = format!("storing segments for {}", target.image);
    blocking(&act.clone(), move || {
        let segments = segments_split(&body).ok_or_else(|| {
            Problem::new(Code::InvalidRequest, format!("{act}: the lengths in the body do not add up"))
        })?;
        let (spec, ledger) = (ReceiveSpec { space: target.space, upload: target.upload }, core.ledger());
        for segment in segments {
            // A segment's id is the digest of its encoding; the store decodes it and compares.
            let id = SegmentId::from_bytes(*Digest::of(segment).as_bytes());
            core.store.segment_receive(&spec, &id, segment, &ledger).map_err(|error| store_problem(&act, error))?;
        }
        Ok(())
    })
    .await?;
    answer::nothing()
}

pub(crate) async fn upload_commit(mut ask: Ask) -> Answered {
    let id = ask.id("upload")?;
    let manifest = ask.bytes(MANIFEST_LEN_MAX as u64).await?;
    let answered = match manifest.is_empty() {
        false => rules::upload::upload_commit_chunks(&ask.site.core, &ask.who, &id, manifest.to_vec())
            .await
            .map(|committed| CommitAnswer::Committed(Box::new(committed))),
        true => rules::upload::upload_commit_stream(&ask.site.core, &ask.who, &id, COMMIT_WAIT).await,
    };
    if !matches!(answered, Ok(CommitAnswer::Running(_))) {
        ask.site.metrics.upload_ended(answered.is_ok());
    }
    match answered? {
        CommitAnswer::Committed(committed) => answer::json(outcome_status(committed.outcome), &committed),
        CommitAnswer::Running(task) => answer::json(StatusCode::ACCEPTED, &task),
    }
}

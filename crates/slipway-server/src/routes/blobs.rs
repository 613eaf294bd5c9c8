//! Bytes of packs, by capability. Nothing here looks at a token, so that a plain HTTP cache may stand in front.

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, RANGE};
use bytes::Bytes;
use serde::Deserialize;
use slipway_api::{CAPABILITY_HEADER, Code, Problem};
use slipway_chunk::PackId;
use slipway_store::{BlobReader, SpaceId, StoreError};

use super::parts::seconds_now;
use crate::http::answer::{self, Answered, header_set};
use crate::http::ask::Ask;
use crate::http::buffer::{piece_read, piece_ready};
use crate::http::failure::blocking;
use crate::http::range::{Wanted, range_read};
use crate::http::stream::{Pieces, body_of};
use crate::http::tag;
use crate::rules::store_problem::store_problem;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Capability {
    e: Option<u64>,
    c: Option<String>,
}

/// The expiry and MAC, from the query or else from the header.
fn capability(ask: &Ask) -> Result<(u64, String), Problem> {
    let none = || {
        Problem::new(Code::Forbidden, "reading a pack needs a capability")
            .hint("ask for a layout: it has one for each pack")
    };
    let query: Capability = ask.query()?;
    if let (Some(expiry), Some(mac)) = (query.e, query.c) {
        return Ok((expiry, mac));
    }
    let (expiry, mac) = ask.header(CAPABILITY_HEADER)?.and_then(|text| text.split_once('.')).ok_or_else(none)?;
    Ok((expiry.parse().map_err(|_| none())?, mac.to_owned()))
}

pub(crate) async fn blob_range(ask: Ask) -> Answered {
    let gone = || Problem::new(Code::NotFound, "there is no such pack").hint("ask for a new layout");
    let space: SpaceId = ask.param("space").parse().map_err(|_| gone())?;
    let pack: PackId = ask.param("pack").parse().map_err(|_| gone())?;
    let (expiry, mac) = capability(&ask)?;
    let now = seconds_now();
    ask.site.capabilities.check(&space, &pack, expiry, &mac, now)?;
    let len = match ask.core().store.pack_len(&space, &pack) {
        Some(len) => len,
        None => {
            // Another server may have written it, or this one has just started.
            let core = ask.site.core.clone();
            let (space, act) = (space.clone(), "looking for a pack");
            blocking(act, move || {
                core.store.index_sync(&core.ledger()).map_err(|error| store_problem(act, error))?;
                Ok(core.store.pack_len(&space, &pack))
            })
            .await?
            .ok_or_else(gone)?
        }
    };
    let tag = format!("\"{pack}\"");
    if tag::none_match(ask.headers(), &tag) {
        let mut answer = answer::response(StatusCode::NOT_MODIFIED, Body::empty());
        header_set(&mut answer, ETAG, tag);
        return Ok(answer);
    }
    let range = ask.header(RANGE.as_str())?.filter(|_| tag::range_holds(ask.headers(), &tag));
    let (status, from, part) = match range_read(range, len)? {
        Wanted::All => (StatusCode::OK, 0, len),
        Wanted::Part { from, len } => (StatusCode::PARTIAL_CONTENT, from, len),
    };
    let body = match ask.is_head() {
        true => Body::empty(),
        false => {
            let (core, act, range) = (ask.site.core.clone(), "opening a pack", from..from + part);
            let reader = match core.store.pack_reader_now(&space, &pack, range.clone()) {
                Some(reader) => reader,
                None => {
                    blocking(act, move || match core.store.pack_reader(&space, &pack, range) {
                        Ok(reader) => Ok(reader),
                        Err(StoreError::NotFound { .. }) => Err(gone()),
                        Err(error) => Err(store_problem(act, error)),
                    })
                    .await?
                }
            };
            body_of(PackPieces { reader, left: part }, "reading a pack")
        }
    };
    let mut answer = answer::response(status, body);
    header_set(&mut answer, CONTENT_TYPE, "application/octet-stream");
    header_set(&mut answer, CONTENT_LENGTH, part.to_string());
    header_set(&mut answer, ACCEPT_RANGES, "bytes");
    header_set(&mut answer, ETAG, tag);
    header_set(&mut answer, CACHE_CONTROL, format!("public, max-age={}, immutable", expiry.saturating_sub(now)));
    if status == StatusCode::PARTIAL_CONTENT {
        header_set(&mut answer, CONTENT_RANGE, format!("bytes {from}-{}/{len}", from + part - 1));
    }
    Ok(answer)
}

struct PackPieces {
    reader: BlobReader,
    left: u64,
}

impl Pieces for PackPieces {
    fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        if self.left == 0 {
            return Ok(None);
        }
        let failed = |why: &str| Problem::new(Code::Damaged, format!("reading a pack: {why}"));
        let piece = piece_read(&mut self.reader, self.left).map_err(|error| failed(&error.to_string()))?;
        if piece.is_empty() {
            return Err(failed("it is shorter than its row says"));
        }
        self.left -= piece.len() as u64;
        Ok(Some(piece))
    }

    fn ready(&mut self) -> Option<Bytes> {
        let piece = piece_ready(&mut self.reader, self.left)?;
        self.left -= piece.len() as u64;
        Some(piece)
    }
}

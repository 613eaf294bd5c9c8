//! The bytes of a version, raw or as a qcow2: every chunk verified before a byte of it goes out, holes generated and never read.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, HeaderName, RANGE, VARY,
};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};
use bytes::Bytes;
use serde::Deserialize;
use slipway_api::{Code, Problem};
use slipway_chunk::Root;
use slipway_format::Qcow2Layout;
use slipway_store::{ContentReader, SpaceId};
use std::sync::Arc;

use super::download_qcow2::{Qcow2Pieces, layout_of};
use crate::core::Core;
use crate::http::answer::{self, Answered, header_set};
use crate::http::ask::{Ask, header_text};
use crate::http::encode::{Coding, Encoded};
use crate::http::failure::blocking;
use crate::http::json::printable;
use crate::http::range::{Wanted, range_read};
use crate::http::repr::{REPR_DIGEST, repr_sha256};
use crate::http::site::Site;
use crate::http::stream::{Pieces, body_of};
use crate::http::tag;
use crate::rules;
use crate::rules::store_problem::store_problem;
use crate::rules::version::VersionContent;

/// Bytes given to a client at one time.
pub(super) const PIECE: u64 = 512 << 10;
static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];
pub(super) const ACT: &str = "reading a version";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ContentQuery {
    format: Option<String>,
}

pub(crate) async fn version_content(ask: Ask) -> Answered {
    let query: ContentQuery = ask.query()?;
    let qcow2 = match query.format.as_deref() {
        None | Some("raw") => false,
        Some("qcow2") => true,
        Some(other) => {
            let title = format!("format '{}' is not written; raw and qcow2 are", printable(other));
            return Err(Problem::new(Code::InvalidRequest, title).field("format"));
        }
    };
    let content = rules::version::version_content(ask.core(), &ask.who, &ask.image()?, &ask.pick()?).await?;
    let ending = if qcow2 { "qcow2" } else { "img" };
    let file = format!("attachment; filename=\"{}-{}.{ending}\"", ask.param("slug"), content.version.number);
    let coding = Coding::wanted(ask.headers());
    let how = Given { coding, media: "application/octet-stream", disposition: file, qcow2 };
    content_answer(&ask.site, &ask.head, &content, how).await
}

/// In which form bytes are given.
pub(super) struct Given {
    pub(super) coding: Coding,
    pub(super) media: &'static str,
    pub(super) disposition: String,
    /// As a qcow2.
    pub(super) qcow2: bool,
}

/// The bytes of a content that the caller was found to be allowed to read: whole, a range of the raw ones, or coded.
pub(super) async fn content_answer(site: &Site, head: &Parts, content: &VersionContent, how: Given) -> Answered {
    let Given { coding, media, disposition, qcow2 } = how;
    let headers = &head.headers;
    let root = content.version.root;
    // The number is of the way the file is laid out: another one has other bytes.
    let form = if qcow2 { "-qcow2-1" } else { "" };
    let tag = match coding.name() {
        None => format!("\"{root}{form}\""),
        Some(name) => format!("\"{root}{form}-{name}\""),
    };
    if tag::none_match(headers, &tag) {
        let mut answer = answer::response(StatusCode::NOT_MODIFIED, Body::empty());
        common_headers(&mut answer, &tag, content);
        return Ok(answer);
    }
    let layout = if qcow2 { Some(layout_of(&site.core, content).await?) } else { None };
    let size = layout.as_ref().map_or(content.version.size, |layout| layout.len());
    let range = header_text(headers, RANGE.as_str())?;
    let range = range.filter(|_| coding == Coding::Identity && tag::range_holds(headers, &tag));
    let (status, from, len) = match range_read(range, size)? {
        Wanted::All => (StatusCode::OK, 0, size),
        Wanted::Part { from, len } => (StatusCode::PARTIAL_CONTENT, from, len),
    };
    let body = match head.method == Method::HEAD {
        true => Body::empty(),
        false => {
            let (core, spaces) = (site.core.clone(), content.spaces.clone());
            let reader = blocking(ACT, move || content_reader(&core, &spaces, &root)).await?;
            body_from(reader, layout, from, from + len, coding).await?
        }
    };
    let mut answer = answer::response(status, body);
    common_headers(&mut answer, &tag, content);
    header_set(&mut answer, CONTENT_TYPE, media);
    header_set(&mut answer, CONTENT_DISPOSITION, disposition);
    match coding.name() {
        Some(name) => header_set(&mut answer, CONTENT_ENCODING, name),
        None => {
            header_set(&mut answer, ACCEPT_RANGES, "bytes");
            header_set(&mut answer, CONTENT_LENGTH, len.to_string());
            let known = content.version.sha256.as_deref().filter(|_| !qcow2);
            if let Some(digest) = known.and_then(repr_sha256) {
                header_set(&mut answer, HeaderName::from_static(REPR_DIGEST), digest);
            }
        }
    }
    if status == StatusCode::PARTIAL_CONTENT {
        header_set(&mut answer, CONTENT_RANGE, format!("bytes {from}-{}/{size}", from + len - 1));
    }
    Ok(answer)
}

pub(super) fn content_reader(core: &Core, spaces: &[SpaceId], root: &Root) -> Result<ContentReader, Problem> {
    core.store.content_open(spaces, root, &core.ledger()).map_err(|error| store_problem(ACT, error))
}

/// The bytes `at..end` of the raw image, or of the qcow2 that is laid out like this.
async fn body_from(
    reader: ContentReader,
    layout: Option<Arc<Qcow2Layout>>,
    at: u64,
    end: u64,
    coding: Coding,
) -> Result<Body, Problem> {
    match layout {
        None => body_made(ContentPieces { reader, at, end }, coding).await,
        Some(layout) => body_made(Qcow2Pieces { reader, layout, at, end }, coding).await,
    }
}

/// The first piece is read before the status goes out, so that damage there is an honest error document.
async fn body_made(mut pieces: impl Pieces, coding: Coding) -> Result<Body, Problem> {
    let (first, pieces) = blocking(ACT, move || Ok((pieces.next()?, pieces))).await?;
    let pieces = Primed { first, rest: pieces };
    Ok(match coding {
        Coding::Identity => body_of(pieces, ACT),
        Coding::Gzip | Coding::Zstd => body_of(Encoded::new(pieces, coding)?, ACT),
    })
}

fn common_headers(answer: &mut Response<Body>, tag: &str, content: &VersionContent) {
    header_set(answer, ETAG, tag);
    header_set(answer, VARY, "accept-encoding");
    header_set(answer, CACHE_CONTROL, "private, no-cache");
    header_set(answer, HeaderName::from_static("slipway-root"), content.version.root.to_string());
}

/// The bytes `at..end` of a content.
struct ContentPieces {
    reader: ContentReader,
    at: u64,
    end: u64,
}

impl Pieces for ContentPieces {
    fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let failed = |error| store_problem(ACT, error);
        if self.at >= self.end {
            return Ok(None);
        }
        let Some(stretch) = self.reader.extents_from(self.at).map_err(failed)? else { return Ok(None) };
        let len = stretch.len.min(self.end - self.at).min(PIECE);
        let piece = match stretch.hole {
            true => Bytes::from_static(&ZEROS[..len as usize]),
            false => {
                let mut piece = vec![0; len as usize];
                self.reader.read_at(self.at, &mut piece).map_err(failed)?;
                Bytes::from(piece)
            }
        };
        self.at += len;
        Ok(Some(piece))
    }
}

/// A source whose first piece was taken already.
struct Primed<P> {
    first: Option<Bytes>,
    rest: P,
}

impl<P: Pieces> Pieces for Primed<P> {
    fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.rest.next(),
        }
    }
}

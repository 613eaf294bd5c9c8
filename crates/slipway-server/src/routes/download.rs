//! The raw bytes of a version: every chunk verified before a byte of it goes out, holes generated and never read.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, HeaderName, RANGE, VARY,
};
use axum::http::request::Parts;
use axum::http::{Method, Response, StatusCode};
use bytes::Bytes;
use slipway_api::Problem;
use slipway_store::ContentReader;

use crate::http::answer::{self, Answered, header_set};
use crate::http::ask::{Ask, header_text};
use crate::http::encode::{Coding, Encoded};
use crate::http::failure::blocking;
use crate::http::range::{Wanted, range_read};
use crate::http::repr::{REPR_DIGEST, repr_sha256};
use crate::http::site::Site;
use crate::http::stream::{Pieces, body_of};
use crate::http::tag;
use crate::rules;
use crate::rules::store_problem::store_problem;
use crate::rules::version::VersionContent;

/// Bytes given to a client at one time.
const PIECE: u64 = 512 << 10;
static ZEROS: [u8; PIECE as usize] = [0; PIECE as usize];
const ACT: &str = "reading a version";

pub(crate) async fn version_content(ask: Ask) -> Answered {
    let content = rules::version::version_content(ask.core(), &ask.who, &ask.image()?, &ask.pick()?).await?;
    let file = format!("attachment; filename=\"{}-{}.img\"", ask.param("slug"), content.version.number);
    let how = Given { coding: Coding::wanted(ask.headers()), media: "application/octet-stream", disposition: file };
    content_answer(&ask.site, &ask.head, &content, how).await
}

/// In which form bytes are given.
pub(super) struct Given {
    pub(super) coding: Coding,
    pub(super) media: &'static str,
    pub(super) disposition: String,
}

/// The bytes of a content that the caller was found to be allowed to read: whole, a range of the raw ones, or coded.
pub(super) async fn content_answer(site: &Site, head: &Parts, content: &VersionContent, how: Given) -> Answered {
    let Given { coding, media, disposition } = how;
    let headers = &head.headers;
    let (root, size) = (content.version.root, content.version.size);
    let tag = match coding.name() {
        None => format!("\"{root}\""),
        Some(name) => format!("\"{root}-{name}\""),
    };
    if tag::none_match(headers, &tag) {
        let mut answer = answer::response(StatusCode::NOT_MODIFIED, Body::empty());
        common_headers(&mut answer, &tag, content);
        return Ok(answer);
    }
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
            let reader = blocking(ACT, move || {
                core.store.content_open(&spaces, &root, &core.ledger()).map_err(|error| store_problem(ACT, error))
            })
            .await?;
            let mut pieces = ContentPieces { reader, at: from, end: from + len };
            // The first piece is read before the status goes out, so that damage there is an honest error document.
            let (first, pieces) = blocking(ACT, move || Ok((pieces.next()?, pieces))).await?;
            let pieces = Primed { first, rest: pieces };
            match coding {
                Coding::Identity => body_of(pieces, ACT),
                Coding::Gzip | Coding::Zstd => body_of(Encoded::new(pieces, coding)?, ACT),
            }
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
            if let Some(digest) = content.version.sha256.as_deref().and_then(repr_sha256) {
                header_set(&mut answer, HeaderName::from_static(REPR_DIGEST), digest);
            }
        }
    }
    if status == StatusCode::PARTIAL_CONTENT {
        header_set(&mut answer, CONTENT_RANGE, format!("bytes {from}-{}/{size}", from + len - 1));
    }
    Ok(answer)
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

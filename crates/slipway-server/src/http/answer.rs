//! Answers: JSON with its tag, nothing, bytes, and problems.

use std::io;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use slipway_api::{Code, Problem};

use super::json::json_write;
use super::tag;

/// What a handler gives.
pub(crate) type Answered = Result<Response<Body>, Problem>;

/// A response with this status and body and no headers yet.
pub(crate) fn response(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

/// Sets a header. What we write ourselves is visible ASCII; anything else would be a fault of ours and is left out.
pub(crate) fn header_set(response: &mut Response<Body>, name: HeaderName, value: impl AsRef<str>) {
    if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
        response.headers_mut().insert(name, value);
    }
}

/// Server-sent events, which no cache keeps and no proxy holds back.
pub(crate) fn events(events: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let mut answer = response(StatusCode::OK, Body::from_stream(events.map(Ok::<_, io::Error>)));
    header_set(&mut answer, CONTENT_TYPE, "text/event-stream");
    header_set(&mut answer, CACHE_CONTROL, "no-store");
    header_set(&mut answer, HeaderName::from_static("x-accel-buffering"), "no");
    answer
}

/// A JSON document.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Answered {
    let mut answer = response(status, Body::from(json_write(value)?));
    header_set(&mut answer, CONTENT_TYPE, "application/json");
    Ok(answer)
}

/// A JSON resource with the tag of its revision.
pub(crate) fn json_tagged<T: Serialize>(status: StatusCode, value: &T, revision: u64) -> Answered {
    let body = json_write(value)?;
    let tag = tag::revision_tag(revision, &body);
    let mut answer = response(status, Body::from(body));
    header_set(&mut answer, CONTENT_TYPE, "application/json");
    header_set(&mut answer, ETAG, tag);
    header_set(&mut answer, CACHE_CONTROL, "private, no-cache");
    Ok(answer)
}

/// A JSON resource for GET, with the revision of its row if it has one.
pub(crate) fn json_get<T: Serialize>(headers: &HeaderMap, value: &T, revision: Option<u64>) -> Answered {
    let body = json_write(value)?;
    let tag = match revision {
        Some(revision) => tag::revision_tag(revision, &body),
        None => bytes_tag(&body),
    };
    let mut answer = match tag::none_match(headers, &tag) {
        true => response(StatusCode::NOT_MODIFIED, Body::empty()),
        false => {
            let mut answer = response(StatusCode::OK, Body::from(body));
            header_set(&mut answer, CONTENT_TYPE, "application/json");
            answer
        }
    };
    header_set(&mut answer, ETAG, tag);
    header_set(&mut answer, CACHE_CONTROL, "private, no-cache");
    Ok(answer)
}

fn bytes_tag(body: &[u8]) -> String {
    format!("\"{}\"", &blake3::hash(body).to_hex()[..32])
}

/// The tag of a resource that is tagged by its own text.
pub(crate) fn text_tag<T: Serialize>(value: &T) -> Result<String, Problem> {
    Ok(bytes_tag(&json_write(value)?))
}

/// 204.
pub(crate) fn nothing() -> Answered {
    Ok(response(StatusCode::NO_CONTENT, Body::empty()))
}

/// Bytes of this media type.
pub(crate) fn bytes(media: &str, bytes: impl Into<Bytes>) -> Response<Body> {
    let mut answer = response(StatusCode::OK, Body::from(bytes.into()));
    header_set(&mut answer, CONTENT_TYPE, media);
    answer
}

/// Immutable bytes under a strong tag: 304 when the client has them.
pub(crate) fn bytes_tagged(headers: &HeaderMap, media: &str, tag: &str, body: impl Into<Bytes>) -> Response<Body> {
    let mut answer = match tag::none_match(headers, tag) {
        true => response(StatusCode::NOT_MODIFIED, Body::empty()),
        false => bytes(media, body),
    };
    header_set(&mut answer, ETAG, tag);
    header_set(&mut answer, CACHE_CONTROL, "private, no-cache");
    answer
}

/// `application/problem+json`.
pub(crate) fn problem(mut problem: Problem, request_id: &str) -> Response<Body> {
    problem.request_id = Some(request_id.to_owned());
    // No error without a next step, whoever made it.
    let code = problem.code;
    problem.hint.get_or_insert_with(|| code.hint().to_owned());
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // A problem is text and numbers, which JSON always can hold.
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut answer = response(status, Body::from(body));
    header_set(&mut answer, CONTENT_TYPE, "application/problem+json");
    problem_headers(&mut answer, &problem);
    answer
}

/// What a problem says in headers, whatever its body looks like.
pub(crate) fn problem_headers(answer: &mut Response<Body>, problem: &Problem) {
    match problem.code {
        Code::Unauthenticated => header_set(answer, WWW_AUTHENTICATE, "Bearer realm=\"slipway\""),
        Code::SlowDown | Code::Unavailable => {
            header_set(answer, RETRY_AFTER, problem.retry_after.unwrap_or(5).to_string());
        }
        Code::OffsetMismatch => {
            if let Some(offset) = problem.offset {
                header_set(answer, HeaderName::from_static("upload-offset"), offset.to_string());
            }
        }
        _ => {}
    }
}

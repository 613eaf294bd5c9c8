//! Errors and redirects as BAAS has them: plain text with a final newline, and 301 from a path with a trailing slash.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, LOCATION};
use axum::http::{Response, StatusCode, Uri};
use slipway_api::{Code, Problem};

use super::path_is;
use crate::http::answer::{self, header_set, problem_headers};
use crate::http::json::printable;

/// What the dialect answers texts with.
pub(super) const PLAIN: &str = "text/plain; charset=utf-8";

/// A problem as text: what went wrong, and on a second line what to do about it, if there is something.
pub(crate) fn problem_plain(problem: &Problem) -> Response<Body> {
    let text = match &problem.hint {
        Some(hint) => format!("{}\n{hint}\n", problem.title),
        None => format!("{}\n", problem.title),
    };
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = answer::response(status, Body::from(text));
    header_set(&mut answer, CONTENT_TYPE, PLAIN);
    problem_headers(&mut answer, problem);
    answer
}

/// A redirect to the path without its trailing slashes, if that is the dialect's and leads somewhere.
pub(crate) fn slash_redirect(uri: &Uri, leads: impl Fn(&str) -> bool) -> Option<Response<Body>> {
    let path = uri.path().trim_end_matches('/');
    if path.len() == uri.path().len() || !path_is(path) || !leads(path) {
        return None;
    }
    let to = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut answer = answer::response(StatusCode::MOVED_PERMANENTLY, Body::empty());
    header_set(&mut answer, LOCATION, to);
    Some(answer)
}

/// 400 with exactly this text.
pub(super) fn bad(text: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, text)
}

/// 501: what is missing here, and what to use instead.
pub(super) fn not_yet(title: &str, hint: &str) -> Problem {
    Problem::new(Code::NotImplemented, title).hint(hint)
}

/// A value that is none of those that are known.
pub(super) fn unknown(key: &str, given: &str, known: &str) -> Problem {
    bad(format!("{key} '{}' is none of {known}", printable(given)))
}

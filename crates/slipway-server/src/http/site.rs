//! The server as its requests see it, and the way from a request to its answer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, EXPECT, HeaderName, X_CONTENT_TYPE_OPTIONS};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Request, Response};
use futures_util::FutureExt as _;
use hyper::body::{Body as _, Incoming};
use slipway_api::{Code, Problem};
use slipway_chunk::{Manifest, Root};
use slipway_store::SpaceId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::Answer;
use super::answer::{self, header_set};
use super::ask::{Ask, Params};
use super::client::client_check;
use super::failure::blocking;
use super::inbound::Inbound;
use super::line::{Line, Logged};
use super::path::path_match;
use super::watch::Pulse;
use crate::capability::CapabilityKey;
use crate::core::{Caller, Core};
use crate::metrics::Metrics;
use crate::routes::baas;
use crate::routes::table::{Access, Route, routes};
use crate::rules::room::room_check;
use crate::rules::store_problem::store_problem;
use crate::rules::token::token_authenticate;

/// Manifests kept for the segment and layout routes, which need one for each of their many calls.
const MANIFESTS_MAX: usize = 16;
/// A manifest with more segments than this (256 GiB) is not kept.
const MANIFEST_SEGMENTS_MAX: usize = 1024;

/// Everything a request may need.
pub(crate) struct Site {
    pub(crate) core: Arc<Core>,
    pub(crate) capabilities: CapabilityKey,
    pub(crate) metrics: Metrics,
    pub(crate) body_idle: Duration,
    /// Work that a client's hanging up does not end.
    pub(crate) works: TaskTracker,
    pub(crate) stop: CancellationToken,
    pub(crate) manifests: Mutex<VecDeque<(Root, Arc<Manifest>)>>,
}

/// What a path and method lead to.
enum Found {
    Route(&'static Route, Params),
    Nothing,
    OtherMethods(String),
}

fn route_find(method: &Method, path: &str) -> Found {
    let mut allowed: Vec<&str> = Vec::new();
    let mut head: Option<(&'static Route, Params)> = None;
    for route in routes() {
        let Some(params) = path_match(route.path, path) else { continue };
        if route.method == *method {
            return Found::Route(route, params);
        }
        // HEAD is GET without the body, unless the table has a row of its own for it.
        if *method == Method::HEAD && route.method == Method::GET {
            head = Some((route, params));
        }
        allowed.push(route.method.as_str());
    }
    if let Some((route, params)) = head {
        return Found::Route(route, params);
    }
    match allowed.is_empty() {
        true => Found::Nothing,
        false => Found::OtherMethods(allowed.join(", ")),
    }
}

impl Answer for Site {
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
        pulse: Arc<Pulse>,
    ) -> Response<Body> {
        let running = pulse.request();
        self.metrics.began();
        let (head, body) = request.into_parts();
        let request_id = request_id(&head.headers);
        let received = Arc::new(AtomicU64::new(0));
        let inbound =
            Inbound::new(Body::new(body), self.body_idle, received.clone()).expected(head.headers.contains_key(EXPECT));
        let found = route_find(&head.method, head.uri.path());
        let mut line = Line {
            site: self.clone(),
            operation: match &found {
                Found::Route(route, _) => route.id,
                Found::Nothing | Found::OtherMethods(_) => "none",
            },
            method: head.method.clone(),
            path: head.uri.path().chars().take(300).collect(),
            status: 0,
            began: Instant::now(),
            received,
            sent: 0,
            user: String::new(),
            request_id,
            problem: None,
            cut: false,
            running,
        };
        let answered = self.run(found, head, inbound, peer, &mut line).await;
        let mut response = match answered {
            Ok(response) => response,
            Err((problem, allow)) => {
                line.problem = Some(problem.title.clone());
                let mut response = match baas::path_is(&line.path) {
                    true => baas::problem_plain(&problem),
                    false => answer::problem(problem, &line.request_id),
                };
                if let Some(allow) = allow {
                    header_set(&mut response, ALLOW, allow);
                }
                response
            }
        };
        header_set(&mut response, HeaderName::from_static("x-request-id"), &line.request_id);
        header_set(&mut response, X_CONTENT_TYPE_OPTIONS, "nosniff");
        if !response.headers().contains_key(CACHE_CONTROL) {
            header_set(&mut response, CACHE_CONTROL, "no-store");
        }
        if line.method == Method::HEAD {
            response = headers_only(response);
        }
        line.status = response.status().as_u16();
        let len = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        response.map(|body| Body::new(Logged::new(body, len, line)))
    }
}

/// The answer to HEAD: what GET would say, without the bytes. HTTP/1 leaves them out by itself; in HTTP/2 they would break the stream.
fn headers_only(mut response: Response<Body>) -> Response<Body> {
    let len = response.body().size_hint().exact().filter(|len| *len > 0);
    if let Some(len) = len.filter(|_| !response.headers().contains_key(CONTENT_LENGTH)) {
        header_set(&mut response, CONTENT_LENGTH, len.to_string());
    }
    response.map(|_| Body::empty())
}

impl Site {
    /// The second part of an error is the `Allow` header.
    async fn run(
        self: Arc<Self>,
        found: Found,
        head: Parts,
        body: Inbound,
        peer: SocketAddr,
        line: &mut Line,
    ) -> Result<Response<Body>, (Problem, Option<String>)> {
        let plain = |problem: Problem| (problem, None);
        let (route, params) = match found {
            Found::Route(route, params) => (route, params),
            Found::Nothing
                if let Some(answer) = baas::slash_redirect(&head.uri, |path| {
                    !matches!(route_find(&head.method, path), Found::Nothing)
                }) =>
            {
                return Ok(answer);
            }
            Found::Nothing => return Err(plain(Problem::new(Code::NotFound, "there is nothing at this path"))),
            Found::OtherMethods(allow) => {
                let title = format!("this path does not take {}; it takes {allow}", head.method);
                return Err((Problem::new(Code::MethodNotAllowed, title), Some(allow)));
            }
        };
        client_check(&head.headers).map_err(plain)?;
        let who = self.caller(route, &head.headers, peer).await.map_err(plain)?.in_request(&line.request_id, None);
        line.user = who.actor().to_owned();
        let changes = !matches!(head.method, Method::GET | Method::HEAD);
        if changes {
            self.writable().map_err(plain)?;
        }
        let ask = Ask { site: self.clone(), who, head, params, body, peer };
        let work = AssertUnwindSafe((route.run)(ask)).catch_unwind();
        // What changes something is finished even when the client hangs up; what only reads is dropped with it.
        let answered = match changes {
            true => self.works.spawn(work).await.unwrap_or_else(|error| Err(Box::new(error.to_string()))),
            false => work.await,
        };
        match answered {
            Ok(answered) => answered.map_err(plain),
            Err(panic) => {
                self.metrics.panicked();
                let text = panic.downcast_ref::<&str>().copied();
                let error = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no words");
                tracing::error!(id = %line.request_id, operation = route.id, error, "a handler panicked");
                Err(plain(Problem::new(Code::Internal, "the server came upon a fault of its own")))
            }
        }
    }

    /// Who asks. Rows that are open to all do not look at tokens, so that a stale one does not shut anybody out of them.
    async fn caller(&self, route: &Route, headers: &HeaderMap, peer: SocketAddr) -> Result<Caller, Problem> {
        let least = match route.access {
            Access::Open | Access::Capability => return Ok(Caller::nobody()),
            Access::Loopback if is_local(headers, peer) => return Ok(Caller::server()),
            Access::Loopback => slipway_api::Role::User,
            Access::Role(role) => role,
        };
        let Some(secret) = token_read(headers)? else { return Err(crate::policy::unauthenticated()) };
        let who = token_authenticate(&self.core, secret).await?;
        match who.user.as_ref().is_some_and(|user| user.role >= least) {
            true => Ok(who),
            false => {
                let role =
                    serde_json::to_value(least).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default();
                Err(Problem::new(Code::Forbidden, format!("this needs the role {role}")))
            }
        }
    }

    /// Refuses changes once an fsync has failed: what is on the disk is not known any more.
    pub(crate) fn writable(&self) -> Result<(), Problem> {
        match self.core.store.is_poisoned() {
            false => Ok(()),
            true => Err(Problem::new(
                Code::Unavailable,
                "a flush to disk went wrong, so this server takes no more changes and is stopping",
            )
            .hint("try again when the server has been started again")),
        }
    }

    /// Refuses more bytes while less than the reserve is free, so that the database and deleting go on working.
    pub(crate) fn space_check(&self) -> Result<(), Problem> {
        room_check(&self.core)
    }

    /// The manifest of a content that the caller was already found to be allowed to read.
    pub(crate) async fn manifest(self: &Arc<Self>, spaces: &[SpaceId], root: Root) -> Result<Arc<Manifest>, Problem> {
        {
            let mut kept = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = kept.iter().position(|(known, _)| *known == root)
                && let Some(hit) = kept.remove(place)
            {
                let manifest = hit.1.clone();
                kept.push_front(hit);
                return Ok(manifest);
            }
        }
        let act = "reading the manifest";
        let (core, spaces) = (self.core.clone(), spaces.to_vec());
        let manifest = blocking(act, move || {
            core.store
                .manifest_read(&spaces, &root, &core.ledger())
                .map(Arc::new)
                .map_err(|error| store_problem(act, error))
        })
        .await?;
        if manifest.segments.len() <= MANIFEST_SEGMENTS_MAX {
            let mut kept = self.manifests.lock().unwrap_or_else(PoisonError::into_inner);
            kept.push_front((root, manifest.clone()));
            kept.truncate(MANIFESTS_MAX);
        }
        Ok(manifest)
    }
}

/// Whether a program on this machine asks for itself. A proxy on this machine asks for others, and says so.
fn is_local(headers: &HeaderMap, peer: SocketAddr) -> bool {
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip", "via"].iter().any(|name| headers.contains_key(*name));
    peer.ip().to_canonical().is_loopback() && !forwarded
}

/// The token of `Authorization: Bearer` or `X-Auth-Token`.
fn token_read(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let bad = |name: &str, why: &str| Problem::new(Code::Unauthenticated, format!("the header {name} {why}"));
    if let Some(value) = headers.get("authorization") {
        let text = value.to_str().map_err(|_| bad("Authorization", "is not plain text"))?;
        let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
        if !scheme.eq_ignore_ascii_case("bearer") || rest.trim().is_empty() {
            return Err(bad("Authorization", "is not of the form 'Bearer TOKEN'"));
        }
        return Ok(Some(rest.trim()));
    }
    match headers.get("x-auth-token") {
        None => Ok(None),
        Some(value) => {
            value.to_str().map(|text| Some(text.trim())).map_err(|_| bad("X-Auth-Token", "is not plain text"))
        }
    }
}

/// The client's own request id if it is harmless in a log, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get("x-request-id").and_then(|value| value.to_str().ok()).filter(|text| {
        (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
    });
    given.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{Found, routes};
    use super::{HeaderMap, Method, request_id, route_find, token_read};

    #[test]
    fn tokens_are_read_from_either_header() {
        for (name, value, expected) in [
            ("authorization", "Bearer abc", Ok(Some("abc"))),
            ("authorization", "bearer  abc", Ok(Some("abc"))),
            ("x-auth-token", "abc", Ok(Some("abc"))),
            ("authorization", "Basic abc", Err(401)),
            ("authorization", "Bearer ", Err(401)),
            ("authorization", "abc", Err(401)),
            ("accept", "abc", Ok(None)),
        ] {
            let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
            assert_eq!(token_read(&headers).map_err(|p| p.status), expected, "{name}: {value}");
        }
    }

    #[test]
    fn request_ids_are_kept_only_if_harmless() {
        let id = |value: &str| {
            request_id(&HeaderMap::from_iter([("x-request-id".parse().unwrap(), value.parse().unwrap())]))
        };
        assert_eq!(id("abc-1.2_3"), "abc-1.2_3");
        for bad in ["", "a b", "a\"b", &"x".repeat(65)] {
            assert_ne!(id(bad), bad);
        }
    }

    #[test]
    fn every_row_is_found_by_its_own_path() {
        for route in routes() {
            let path = route.path.replace("...", "").replace(['{', '}'], "");
            match route_find(&route.method, &path) {
                Found::Route(found, _) => assert_eq!(found.id, route.id, "{path} is hidden by another row"),
                Found::Nothing | Found::OtherMethods(_) => panic!("{} {path} is not found", route.method),
            }
        }
        assert!(matches!(route_find(&Method::GET, "/nowhere"), Found::Nothing));
        assert!(
            matches!(route_find(&Method::TRACE, "/api/v1/images"), Found::OtherMethods(allow) if allow == "GET, POST")
        );
    }
}

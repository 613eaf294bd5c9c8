//! From a request to its answer: one way for all routes.

use super::ask::{Ask, Query, permit};
use super::peer::{Line, Peer};
use super::routes::{Needs, Route, allow_of, route_find};
use super::site::Site;
use axum::body::Body;
use axum::http::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderValue, Request, Response, StatusCode};
use futures_util::FutureExt as _;
use hyper::body::Incoming;
use serde::Serialize;
use slipway_node::Refusal;
use slipway_node::access::Act;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

/// What a handler comes to.
pub(crate) type Answered = Result<Response<Body>, Refusal>;

/// Answers one request.
pub(crate) async fn request_answer(site: Arc<Site>, peer: Arc<Peer>, request: Request<Incoming>) -> Response<Body> {
    let begun = Instant::now();
    let route = route_find(request.method(), request.uri().path());
    let label = route.map_or("none", |route| route.name);
    let method = request.method().clone();
    let worked = AssertUnwindSafe(route_run(site.clone(), &peer, request, route)).catch_unwind().await;
    let answered = worked.unwrap_or_else(|_| {
        tracing::error!(route = label, "a request made the service panic");
        Err(Refusal::new(500, "internal server error").hint("the service's log says more; please report it"))
    });
    let mut answer = answered.unwrap_or_else(|refusal| refusal_answer(&refusal));
    for (name, value) in [(CACHE_CONTROL, "no-store"), (X_CONTENT_TYPE_OPTIONS, "nosniff")] {
        answer.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    let status = answer.status().as_u16();
    let took = begun.elapsed();
    site.metrics.request_ended(label, status, took);
    tracing::debug!(%peer, %method, route = label, status, ?took, "answered");
    answer
}

async fn route_run(
    site: Arc<Site>,
    peer: &Peer,
    mut request: Request<Incoming>,
    route: Option<&'static Route>,
) -> Answered {
    let path = request.uri().path();
    let Some(route) = route else {
        let allow = allow_of(path);
        let shown: String = path.chars().take(200).collect();
        if allow.is_empty() {
            return Err(
                Refusal::new(404, format!("path {shown} was not found")).hint("GET /swagger.json lists all paths")
            );
        }
        let allow = allow.join(",");
        let message = format!("method {} is not allowed, but [{allow}] are", request.method());
        let mut answer = refusal_answer(&Refusal::new(405, message));
        if let Ok(value) = HeaderValue::from_str(&allow.replace(',', ", ")) {
            answer.headers_mut().insert(ALLOW, value);
        }
        return Ok(answer);
    };
    let token = token_of(&request)?;
    let caller = match route.needs {
        Needs::Nothing => None,
        Needs::Caller => {
            let caller = site.caller(peer, token.as_deref())?;
            // Everybody who is known may look; what changes something asks again, with what it is about.
            permit(&site, &caller, Act::Look)?;
            Some(caller)
        }
    };
    let upgrade = request.extensions_mut().remove::<hyper::upgrade::OnUpgrade>();
    let line = request.extensions_mut().remove::<Line>();
    let (parts, body) = request.into_parts();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    match (&route.handle, caller) {
        (super::routes::Handle::Open(handle), _) => handle(site).await,
        (super::routes::Handle::Known(handle), Some(caller)) => {
            handle(Ask { site, caller, query, headers: parts.headers, body, upgrade, line }).await
        }
        // Deny by default, whatever the table says.
        (super::routes::Handle::Known(_), None) => Err(Refusal::new(403, "nobody may do this")),
    }
}

fn token_of(request: &Request<Incoming>) -> Result<Option<String>, Refusal> {
    let Some(value) = request.headers().get(AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(Some(token.trim().to_owned()))
        }
        _ => Err(Refusal::new(401, "the Authorization header is not 'Bearer TOKEN'")),
    }
}

/// Runs what may block, to its end even if nobody waits for the answer any more.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => {
            tracing::error!(%error, "a request's work ended badly");
            Err(Refusal::new(500, "internal server error").hint("the service's log says more; please report it"))
        }
    }
}

/// An answer in JSON.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Answered {
    let text = serde_json::to_vec(value).map_err(|why| {
        tracing::error!(%why, "writing an answer");
        Refusal::new(500, "internal server error")
    })?;
    Ok(typed(status, "application/json", text))
}

/// An answer of a type.
pub(crate) fn typed(status: StatusCode, kind: &'static str, bytes: impl Into<Body>) -> Response<Body> {
    let mut answer = Response::new(bytes.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

fn refusal_answer(refusal: &Refusal) -> Response<Body> {
    let status = StatusCode::from_u16(refusal.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let text = serde_json::to_vec(&refusal.problem).unwrap_or_default();
    let mut answer = typed(status, "application/json", text);
    if status == StatusCode::UNAUTHORIZED {
        answer.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"slipway node\""));
    }
    answer
}

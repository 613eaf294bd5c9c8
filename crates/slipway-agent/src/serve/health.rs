//! Whether the service lives, whether it takes requests, which one it is.

use super::answer::{Answered, json, typed};
use super::site::Site;
use axum::http::StatusCode;
use serde_json::json;
use slipway_node::Refusal;
use std::sync::Arc;

pub(crate) async fn livez(_: Arc<Site>) -> Answered {
    Ok(typed(StatusCode::OK, "text/plain; charset=utf-8", "ok\n"))
}

/// Ready as long as it does not stop: it answers only when the kernel and the journal have been brought together.
pub(crate) async fn readyz(site: Arc<Site>) -> Answered {
    if site.stop.is_cancelled() {
        return Err(Refusal::new(503, "the service is stopping").hint("ask again when it was started again"));
    }
    Ok(typed(StatusCode::OK, "text/plain; charset=utf-8", "ok\n"))
}

pub(crate) async fn version(_: Arc<Site>) -> Answered {
    json(StatusCode::OK, &json!({ "name": "slipway-agent", "version": env!("CARGO_PKG_VERSION"), "imageapi": "0.2.0" }))
}

//! The API's description, for programs and for people.

use super::answer::{Answered, typed};
use super::site::Site;
use axum::http::StatusCode;
use std::sync::Arc;

/// The OpenAPI 2.0 document.
pub(crate) const SWAGGER: &str = include_str!("swagger.json");

pub(crate) async fn swagger(_: Arc<Site>) -> Answered {
    Ok(typed(StatusCode::OK, "application/json", SWAGGER))
}

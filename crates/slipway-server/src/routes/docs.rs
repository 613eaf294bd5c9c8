//! The API's description and its page, served from the program itself: nothing is fetched from elsewhere.

use std::sync::{Arc, LazyLock};

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, LOCATION};
use slipway_api::{Code, Problem};
use utoipa_swagger_ui::Config;

use crate::http::answer::{self, Answered, header_set};
use crate::http::ask::Ask;
use crate::openapi::openapi_text;

/// The page may run its own scripts and styles (which it writes into itself) and call this server only.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'";

pub(crate) async fn openapi(ask: Ask) -> Answered {
    static TEXT: LazyLock<String> = LazyLock::new(openapi_text);
    let tag = format!("\"{}\"", slipway_api::VERSION);
    Ok(answer::bytes_tagged(ask.headers(), "application/json", &tag, TEXT.as_str()))
}

/// The page's files are named relative to a folder, so its address must end like one.
pub(crate) async fn docs_redirect(_: Ask) -> Answered {
    let mut answer = answer::response(StatusCode::PERMANENT_REDIRECT, Body::empty());
    header_set(&mut answer, LOCATION, "/docs/");
    Ok(answer)
}

pub(crate) async fn docs_file(ask: Ask) -> Answered {
    static CONFIG: LazyLock<Arc<Config<'static>>> =
        LazyLock::new(|| Arc::new(Config::from("/openapi.json").validator_url("none")));
    let file = ask.param("file");
    let served = utoipa_swagger_ui::serve(file, CONFIG.clone())
        .map_err(|error| Problem::new(Code::Internal, format!("serving the page of the API: {error}")))?;
    let Some(served) = served else { return Err(Problem::new(Code::NotFound, "the page of the API has no such file")) };
    let mut answer = answer::bytes(&served.content_type, served.bytes.into_owned());
    header_set(&mut answer, CONTENT_SECURITY_POLICY, POLICY);
    header_set(&mut answer, CACHE_CONTROL, "public, max-age=3600");
    Ok(answer)
}

//! One request as its handler sees it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::request::Parts;
use axum::http::{HeaderMap, Method};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use slipway_api::{Code, ImageRef, Problem, VersionPick};
use uuid::Uuid;

use super::inbound::Inbound;
use super::json::{JSON_MAX, json_read, printable, query_read};
use super::site::Site;
use super::tag;
use crate::core::{Caller, Core, Idempotency};

/// A request: who asks, for what, with which body.
pub(crate) struct Ask {
    pub(crate) site: Arc<Site>,
    pub(crate) who: Caller,
    pub(crate) head: Parts,
    pub(crate) params: Params,
    pub(crate) body: Inbound,
    pub(crate) peer: SocketAddr,
}

/// The variable parts of a path, decoded.
pub(crate) type Params = Vec<(&'static str, String)>;

/// A header as text; one that is no text is refused rather than ignored.
pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Problem> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let bad = |_| Problem::new(Code::InvalidRequest, format!("the header {name} is not plain text")).field(name);
    value.to_str().map(Some).map_err(bad)
}

impl Ask {
    /// What rules are given.
    pub(crate) fn core(&self) -> &Core {
        &self.site.core
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    pub(crate) fn is_head(&self) -> bool {
        self.head.method == Method::HEAD
    }

    /// A header as text; one that is no text is refused rather than ignored.
    pub(crate) fn header(&self, name: &str) -> Result<Option<&str>, Problem> {
        header_text(&self.head.headers, name)
    }

    /// A part of the path. The table names only parts that its pattern has, which a test holds.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value.as_str())
    }

    /// `{owner}/{slug}` of the path.
    pub(crate) fn image(&self) -> Result<ImageRef, Problem> {
        let text = format!("{}/{}", self.param("owner"), self.param("slug"));
        text.parse::<ImageRef>().map_err(|error| Problem::new(Code::InvalidName, error.to_string()))
    }

    /// `{version}` of the path: a number, `latest` or a channel.
    pub(crate) fn pick(&self) -> Result<VersionPick, Problem> {
        let text = self.param("version");
        text.parse().map_err(|error| {
            Problem::new(Code::InvalidName, format!("version '{}': {error}", printable(text)))
                .hint("a version is a number, latest, or a channel's name")
        })
    }

    /// `{id}` of the path. What is no id cannot be the id of anything.
    pub(crate) fn id(&self, what: &str) -> Result<Uuid, Problem> {
        let text = self.param("id");
        Uuid::try_parse(text)
            .map_err(|_| Problem::new(Code::NotFound, format!("{what} {} is not there", printable(text))))
    }

    /// `{index}` of the path.
    pub(crate) fn index(&self) -> Result<usize, Problem> {
        let text = self.param("index");
        let bad = || Problem::new(Code::InvalidRequest, format!("'{}' is no segment number", printable(text)));
        match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse().map_err(|_| bad()),
            false => Err(bad()),
        }
    }

    /// The query, strictly.
    pub(crate) fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        query_read(self.head.uri.query().unwrap_or_default())
    }

    /// The revision that `If-Match` wants.
    pub(crate) fn if_match(&self) -> Result<Option<u64>, Problem> {
        tag::if_match(&self.head.headers)
    }

    /// The JSON body, strictly. With an `Idempotency-Key` the caller carries it and the body's hash from here on.
    pub(crate) async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        self.content_type_check("application/json")?;
        let body = self.body.collect(JSON_MAX).await?;
        let value = json_read(&body)?;
        self.idempotency_take(&body)?;
        Ok(value)
    }

    /// The JSON body, or the default when there is none.
    pub(crate) async fn json_or_default<T: DeserializeOwned + Default>(&mut self) -> Result<T, Problem> {
        if self.body.announced() == Some(0) {
            self.idempotency_take(&[])?;
            return Ok(T::default());
        }
        self.json().await
    }

    /// The bytes of a body, at most `max` of them.
    pub(crate) async fn bytes(&mut self, max: u64) -> Result<Bytes, Problem> {
        self.body.collect(max).await
    }

    fn content_type_check(&self, wanted: &str) -> Result<(), Problem> {
        let given = self.header("content-type")?.unwrap_or_default();
        let plain = given.split(';').next().unwrap_or_default().trim();
        match plain.eq_ignore_ascii_case(wanted) {
            true => Ok(()),
            false => Err(Problem::new(
                Code::UnsupportedMedia,
                format!("the body's Content-Type is '{}'; {wanted} is expected", printable(given)),
            )
            .field("content-type")),
        }
    }

    fn idempotency_take(&mut self, body: &[u8]) -> Result<(), Problem> {
        let Some(key) = self.header("idempotency-key")?.map(str::to_owned) else { return Ok(()) };
        if key.is_empty() || key.len() > 255 {
            let title = "the Idempotency-Key must have 1 to 255 characters";
            return Err(Problem::new(Code::InvalidRequest, title).field("idempotency-key"));
        }
        let mut hash = blake3::Hasher::new();
        for part in [self.head.method.as_str().as_bytes(), self.head.uri.path().as_bytes(), body] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        self.who.idempotency = Some(Idempotency { key, request_hash: hash.finalize().to_hex().to_string() });
        Ok(())
    }
}

use super::request::part_read;
use super::{ApiError, Client};
use crate::{
    Code, DiffQuery, FindingReport, ImageRef, Page, PageQuery, Problem, Task, Version, VersionChange, VersionDiff,
    VersionPick, VersionRef,
};
use bytes::Bytes;
use reqwest::header::CONTENT_RANGE;
use reqwest::{Method, Response, StatusCode};
use slipway_chunk::{LAYOUT_LEN_MAX, MANIFEST_LEN_MAX, SEGMENT_ENCODED_MAX};
use std::time::Duration;

/// The raw bytes of a version as they come; the server has verified them.
pub struct ContentStream {
    response: Response,
    act: String,
    idle: Duration,
    left: Option<u64>,
}

impl ContentStream {
    /// Bytes still to come, if the server said how many.
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// The next bytes; `None` at the end. A body that ends early is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let part = part_read(&self.act, &mut self.response, self.idle).await?;
        let came = part.as_ref().map_or(0, |part| part.len() as u64);
        match (&mut self.left, &part) {
            (Some(left), Some(_)) if came > *left => {
                Err(ApiError::protocol(&self.act, "more bytes came than announced"))
            }
            (Some(left), None) if *left > 0 => {
                let reason = format!("the connection ended {left} bytes too early");
                Err(ApiError::Transport { act: self.act.clone(), reason })
            }
            (Some(left), _) => {
                *left -= came;
                Ok(part)
            }
            (None, _) => Ok(part),
        }
    }
}

impl Client {
    /// The versions of an image, newest first.
    pub async fn version_list(&self, image: &ImageRef, page: &PageQuery) -> Result<Page<Version>, ApiError> {
        self.fetch_json(self.image_ask(Method::GET, "listing versions of", image, &["versions"]).page(page)).await
    }

    /// One version.
    pub async fn version_get(&self, image: &ImageRef, pick: &VersionPick) -> Result<Version, ApiError> {
        self.fetch_json(self.version_ask(Method::GET, "reading", image, pick, &[])).await
    }

    /// The version that a reference means; its root, if the reference names one, is compared.
    pub async fn version_resolve(&self, reference: &VersionRef) -> Result<Version, ApiError> {
        let version = self.version_get(&reference.image, &reference.pick).await?;
        match reference.root {
            Some(root) if root != version.root => {
                let title = format!("{}:{} has the root {}, not {root}", reference.image, version.number, version.root);
                Err(Problem::new(Code::DigestMismatch, title)
                    .hint("leave the root out, or name another version")
                    .into())
            }
            _ => Ok(version),
        }
    }

    /// Changes a version's message or protection.
    pub async fn version_change(
        &self,
        image: &ImageRef,
        pick: &VersionPick,
        change: &VersionChange,
        if_match: Option<u64>,
    ) -> Result<Version, ApiError> {
        let ask = self.version_ask(Method::PATCH, "changing", image, pick, &[]).json(change).if_match(if_match);
        self.fetch_json(ask).await
    }

    /// Puts a version in the trash.
    pub async fn version_trash(&self, image: &ImageRef, pick: &VersionPick) -> Result<(), ApiError> {
        self.fetch_nothing(self.version_ask(Method::DELETE, "deleting", image, pick, &[])).await
    }

    /// Ends a version at once; nothing brings it back.
    pub async fn version_end(&self, image: &ImageRef, pick: &VersionPick) -> Result<(), ApiError> {
        self.fetch_nothing(self.version_ask(Method::DELETE, "ending", image, pick, &[]).query("now", true)).await
    }

    /// Takes a version out of the trash.
    pub async fn version_restore(&self, image: &ImageRef, number: u64) -> Result<Version, ApiError> {
        let pick = VersionPick::Number(number);
        self.fetch_json(self.version_ask(Method::POST, "restoring", image, &pick, &["restore"]).keyed()).await
    }

    /// The raw bytes of a version, or those of `range` (first byte and length).
    pub async fn version_content(
        &self,
        image: &ImageRef,
        pick: &VersionPick,
        range: Option<(u64, u64)>,
    ) -> Result<ContentStream, ApiError> {
        let mut ask = self.version_ask(Method::GET, "downloading", image, pick, &["content"]);
        ask = ask.header("accept-encoding", "identity");
        if let Some((at, len)) = range {
            ask = ask.header("range", byte_range(at, len));
        }
        let act = ask.act.clone();
        let response = self.open(ask).await?;
        let left = response.content_length();
        if let Some((at, len)) = range {
            range_check(&act, &response, at, len)?;
        }
        Ok(ContentStream { response, act, idle: self.inner.idle, left })
    }

    /// A version's manifest, as encoded.
    pub async fn version_manifest(&self, image: &ImageRef, pick: &VersionPick) -> Result<Bytes, ApiError> {
        let ask = self.version_ask(Method::GET, "reading the manifest of", image, pick, &["manifest"]);
        Ok(self.fetch(ask, MANIFEST_LEN_MAX).await?.2)
    }

    /// Segment `index` of a version, as encoded.
    pub async fn version_segment(&self, image: &ImageRef, pick: &VersionPick, index: usize) -> Result<Bytes, ApiError> {
        let index = index.to_string();
        let ask = self.version_ask(Method::GET, "reading a segment of", image, pick, &["segments", &index]);
        Ok(self.fetch(ask, SEGMENT_ENCODED_MAX).await?.2)
    }

    /// Where the chunks of segment `index` lie now, as encoded.
    pub async fn version_layout(&self, image: &ImageRef, pick: &VersionPick, index: usize) -> Result<Bytes, ApiError> {
        let index = index.to_string();
        let ask = self.version_ask(Method::GET, "reading a layout of", image, pick, &["layouts", &index]);
        Ok(self.fetch(ask, LAYOUT_LEN_MAX).await?.2)
    }

    /// Tells the server that a chunk was not what its id says; the task checks the pack.
    pub async fn version_finding(
        &self,
        image: &ImageRef,
        pick: &VersionPick,
        report: &FindingReport,
    ) -> Result<Task, ApiError> {
        let ask = self.version_ask(Method::POST, "reporting a bad chunk of", image, pick, &["findings"]);
        self.fetch_json(ask.json(report).keyed()).await
    }

    /// Asks the server to read every byte of a version from where it is stored.
    pub async fn version_verify(&self, image: &ImageRef, pick: &VersionPick) -> Result<Task, ApiError> {
        self.fetch_json(self.version_ask(Method::POST, "verifying", image, pick, &["verify"]).keyed()).await
    }

    /// Asks the server to compute BLAKE3 and SHA-256 of a version, whatever its size.
    pub async fn version_digest(&self, image: &ImageRef, pick: &VersionPick) -> Result<Task, ApiError> {
        self.fetch_json(self.version_ask(Method::POST, "computing digests of", image, pick, &["digest"]).keyed()).await
    }

    /// What differs between this version and the one that the query names.
    pub async fn version_diff(
        &self,
        image: &ImageRef,
        pick: &VersionPick,
        query: &DiffQuery,
    ) -> Result<VersionDiff, ApiError> {
        let ask = self.version_ask(Method::GET, "comparing", image, pick, &["diff"]).query("from", &query.from);
        self.fetch_json(ask.query("at", query.at).query_some("limit", query.limit)).await
    }

    fn version_ask(
        &self,
        method: Method,
        act: &str,
        image: &ImageRef,
        pick: &VersionPick,
        rest: &[&str],
    ) -> super::request::Ask {
        let text = pick.to_string();
        let mut path = vec!["images", &image.owner, image.slug.as_str(), "versions", &text];
        path.extend(rest);
        self.ask(method, format!("{act} {image}:{pick}"), &path)
    }
}

pub(super) fn byte_range(at: u64, len: u64) -> String {
    format!("bytes={at}-{}", at + len.saturating_sub(1))
}

/// A server or cache that ignores `Range` would make us write bytes of another place.
pub(super) fn range_check(act: &str, response: &Response, at: u64, len: u64) -> Result<(), ApiError> {
    let want = format!("bytes {at}-{}/", at + len.saturating_sub(1));
    let given = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    if response.status() != StatusCode::PARTIAL_CONTENT || !given.is_some_and(|given| given.starts_with(&want)) {
        let given = given.unwrap_or("none");
        let reason = format!("bytes {at} to {} were asked for, but the answer's range is {given}", at + len);
        return Err(ApiError::protocol(act, reason));
    }
    Ok(())
}

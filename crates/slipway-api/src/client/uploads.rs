use super::request::{JSON_MAX, json_read, part_read};
use super::{ApiError, Client};
use crate::wire::{MEDIA, bits_decode, ids_encode};
use crate::{Committed, FramesReceived, ImageRef, Task, Upload, UploadNew};
use bytes::Bytes;
use reqwest::{Method, StatusCode};
use slipway_chunk::{ChunkId, Digest, Root, SegmentId};
use std::time::Duration;
use uuid::Uuid;

/// The longest wait for the server to take in a body or to commit.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of a commit.
#[derive(Clone, Debug, PartialEq)]
#[allow(clippy::large_enum_variant)]
pub enum CommitAnswer {
    /// It is done.
    Committed(Committed),
    /// It runs; commit again to ask.
    Running(Task),
}

/// What to say with a one-shot upload.
#[derive(Clone, Debug, Default)]
pub struct ContentPut {
    /// What to say of the version.
    pub message: String,
    /// Make a version even if nothing differs from the newest one.
    pub new: bool,
    /// The version it was made from.
    pub parent: Option<u64>,
    /// 512 or 4096.
    pub sector_size: Option<u32>,
    /// `auto`, `raw`, `gzip`, `xz` or `zstd`.
    pub format: Option<String>,
    /// The root that the raw image must have.
    pub root: Option<Root>,
    /// The BLAKE3 that the raw image must have.
    pub digest: Option<Digest>,
    /// The value of `Repr-Digest` for the bytes as sent.
    pub repr_digest: Option<String>,
}

impl Client {
    /// Begins an upload.
    pub async fn upload_create(&self, new: &UploadNew) -> Result<Upload, ApiError> {
        let act = format!("beginning an upload to {}", new.image);
        self.fetch_json(self.ask(Method::POST, act, &["uploads"]).json(new).keyed()).await
    }

    /// Where an upload stands.
    pub async fn upload_get(&self, id: Uuid) -> Result<Upload, ApiError> {
        self.fetch_json(self.upload_ask(Method::GET, "reading", id, &[])).await
    }

    /// Appends bytes at `offset`; gives the offset that is durable now. On `offset_mismatch` the problem says where it stands.
    pub async fn upload_append(&self, id: Uuid, offset: u64, bytes: Bytes) -> Result<u64, ApiError> {
        let ask = self.upload_ask(Method::PATCH, "appending to", id, &[]).patient(PATIENCE);
        let act = ask.act.clone();
        let ask = ask.header("upload-offset", offset).bytes("application/octet-stream", bytes);
        let (_, headers, _) = self.fetch(ask, JSON_MAX).await?;
        let offset = headers.get("upload-offset").and_then(|value| value.to_str().ok()?.parse().ok());
        offset.ok_or_else(|| ApiError::protocol(&act, "the answer has no Upload-Offset"))
    }

    /// Gives an upload up.
    pub async fn upload_delete(&self, id: Uuid) -> Result<(), ApiError> {
        self.fetch_nothing(self.upload_ask(Method::DELETE, "giving up", id, &[])).await
    }

    /// For each chunk whether the server lacks it; at most [`crate::wire::MISSING_MAX`].
    pub async fn upload_chunks_missing(&self, id: Uuid, ids: &[ChunkId]) -> Result<Vec<bool>, ApiError> {
        self.missing(id, "chunks", ids_encode(ids.iter().map(ChunkId::as_bytes)), ids.len()).await
    }

    /// For each segment whether the server lacks it; at most [`crate::wire::MISSING_MAX`].
    pub async fn upload_segments_missing(&self, id: Uuid, ids: &[SegmentId]) -> Result<Vec<bool>, ApiError> {
        self.missing(id, "segments", ids_encode(ids.iter().map(SegmentId::as_bytes)), ids.len()).await
    }

    async fn missing(&self, id: Uuid, kind: &str, body: Vec<u8>, count: usize) -> Result<Vec<bool>, ApiError> {
        let ask = self.upload_ask(Method::POST, "asking what is missing for", id, &["missing"]);
        let act = ask.act.clone();
        let (_, _, bits) = self.fetch(ask.query("kind", kind).bytes(MEDIA, body).repeatable(), JSON_MAX).await?;
        bits_decode(&bits, count).ok_or_else(|| ApiError::protocol(&act, "the answer has not one bit for each id"))
    }

    /// Sends whole frames, one after the other; durable when it returns.
    pub async fn upload_frames(&self, id: Uuid, body: Bytes) -> Result<FramesReceived, ApiError> {
        let ask = self.upload_ask(Method::PUT, "sending frames for", id, &["frames"]);
        self.fetch_json(ask.bytes(MEDIA, body).patient(PATIENCE)).await
    }

    /// Sends segments, packed by [`crate::wire::segment_append`].
    pub async fn upload_segments(&self, id: Uuid, body: Bytes) -> Result<(), ApiError> {
        let ask = self.upload_ask(Method::PUT, "sending segments for", id, &["segments"]);
        self.fetch_nothing(ask.bytes(MEDIA, body).patient(PATIENCE)).await
    }

    /// Makes the version; the body is the manifest of a `chunks` upload, else empty. Safe to repeat for ever.
    pub async fn upload_commit(&self, id: Uuid, manifest: Bytes) -> Result<CommitAnswer, ApiError> {
        let ask = self.upload_ask(Method::POST, "committing", id, &["commit"]);
        let act = ask.act.clone();
        let ask = ask.bytes(MEDIA, manifest).patient(PATIENCE).repeatable();
        let (status, _, body) = self.fetch(ask, JSON_MAX).await?;
        match status {
            StatusCode::ACCEPTED => json_read(&act, &body).map(CommitAnswer::Running),
            _ => json_read(&act, &body).map(CommitAnswer::Committed),
        }
    }

    /// Sends a whole image in one call, raw or compressed. A source of bytes cannot be read twice, so this is not repeated.
    pub async fn content_put<S>(&self, image: &ImageRef, put: &ContentPut, body: S) -> Result<Committed, ApiError>
    where
        S: futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let ask = self.image_ask(Method::PUT, "sending", image, &["content"]);
        let mut ask = ask
            .query_some("parent", put.parent)
            .query_some("sector_size", put.sector_size)
            .query_some("format", put.format.as_ref())
            .query_some("root", put.root)
            .query_some("digest", put.digest);
        if !put.message.is_empty() {
            ask = ask.query("message", &put.message);
        }
        if put.new {
            ask = ask.query("new", true);
        }
        if let Some(digest) = &put.repr_digest {
            ask = ask.header("repr-digest", digest);
        }
        let act = ask.act.clone();
        let mut response = self.open_streaming(ask, body).await?;
        let mut answer = Vec::new();
        while let Some(part) = part_read(&act, &mut response, self.inner.idle).await? {
            answer.extend_from_slice(&part);
            if answer.len() > JSON_MAX {
                return Err(ApiError::protocol(&act, "the answer is too long"));
            }
        }
        json_read(&act, &answer)
    }

    fn upload_ask(&self, method: Method, act: &str, id: Uuid, rest: &[&str]) -> super::request::Ask {
        let text = id.to_string();
        let mut path = vec!["uploads", &text];
        path.extend(rest);
        self.ask(method, format!("{act} upload {id}"), &path)
    }
}

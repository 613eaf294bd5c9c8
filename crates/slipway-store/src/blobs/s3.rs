//! Blobs in an S3 bucket: one PUT for what fits a part, multipart for the rest.
//!
//! S3 knows no list of unfinished multiparts in `object_store`'s API, so a small object
//! `multipart/KEY` holds the id of a running one; `delete(KEY)` aborts it. Only a crash between
//! the two first requests leaves an upload without a note, and that one holds no bytes.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::{BlobAt, BlobError};
use crate::faults::crash_point;
use crate::io::{Answer, Io};

/// Bytes of a part; all but the last have this length. S3 asks for at least 5 MiB and allows
/// 10,000 parts.
const PART_LEN: usize = 8 << 20;

/// How often a request that found no answer is made again, within some two seconds. Clients try again too, and tasks are begun
/// again; with the library's ten, somebody whose bucket is away waits for minutes to be told so.
const RETRIES: usize = 5;

/// Where the bucket is and who we are there.
#[derive(Clone)]
pub struct S3Config {
    pub bucket: String,
    /// Folder in the bucket; empty for none.
    pub prefix: String,
    pub region: String,
    /// None means Amazon's own.
    pub endpoint: Option<String>,
    /// Allows `http://` endpoints.
    pub allow_http: bool,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`; what Ceph, MinIO and Garage want.
    pub path_style: bool,
    /// None: from the environment or the machine's role.
    pub access_key_id: Option<String>,
    pub secret_access_key: Option<String>,
}

impl std::fmt::Debug for S3Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Config")
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(super) struct S3Blobs {
    store: Arc<AmazonS3>,
    runtime: Handle,
    prefix: String,
}

impl S3Blobs {
    pub(super) fn open(config: S3Config, runtime: Handle) -> Result<S3Blobs, BlobError> {
        // The first to come installs it; a program that has chosen another keeps its own.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let prefix = config.prefix.trim_matches('/').to_owned();
        if !prefix.is_empty() {
            super::key_check(&prefix)?;
        }
        let keys_given = config.access_key_id.is_some();
        let mut builder = if keys_given { AmazonS3Builder::new() } else { AmazonS3Builder::from_env() };
        builder = builder
            .with_bucket_name(config.bucket)
            .with_region(config.region)
            .with_allow_http(config.allow_http)
            .with_virtual_hosted_style_request(!config.path_style)
            .with_retry(RetryConfig { max_retries: RETRIES, ..RetryConfig::default() })
            // One DELETE per key: the bulk request is not offered by every S3.
            .with_disable_bulk_delete(true);
        if let Some(endpoint) = config.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        if let Some(id) = config.access_key_id {
            builder = builder.with_access_key_id(id);
        }
        if let Some(secret) = config.secret_access_key {
            builder = builder.with_secret_access_key(secret);
        }
        let store = builder.build().map_err(|error| BlobError::Config(error.to_string()))?;
        Ok(S3Blobs { store: Arc::new(store), runtime, prefix })
    }

    fn path(&self, key: &str) -> Path {
        if self.prefix.is_empty() { Path::from(key) } else { Path::from(format!("{}/{key}", self.prefix)) }
    }

    fn note_path(&self, key: &str) -> Path {
        self.path(&format!("multipart/{key}"))
    }

    /// One request: counted, perhaps failed by plan, waited for.
    fn ask<T>(&self, io: &Io, request: impl Future<Output = object_store::Result<T>>) -> io::Result<T> {
        let answer = io.remote()?;
        let result = self.runtime.block_on(request).map_err(error_from)?;
        match answer {
            Answer::Given => Ok(result),
            Answer::Lost => Err(io::Error::other("planned fault: answer lost")),
        }
    }

    pub(super) fn read(&self, io: &Io, key: &str, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
        let len = range.end - range.start;
        let bytes =
            self.ask(io, self.store.get_range(&self.path(key), range)).map_err(BlobError::io("reading", key))?;
        if bytes.len() as u64 == len {
            Ok(bytes.to_vec())
        } else {
            Err(BlobError::io("reading", key)(io::ErrorKind::UnexpectedEof.into()))
        }
    }

    pub(super) fn reader(&self, io: &Io, key: &str, range: Range<u64>) -> Result<Box<dyn Read + Send>, BlobError> {
        let left = range.end - range.start;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let result =
            self.ask(io, self.store.get_opts(&self.path(key), options)).map_err(BlobError::io("reading", key))?;
        Ok(Box::new(S3Reader {
            runtime: self.runtime.clone(),
            stream: result.into_stream(),
            ready: Bytes::new(),
            left,
        }))
    }

    pub(super) fn len(&self, io: &Io, key: &str) -> Result<u64, BlobError> {
        self.ask(io, self.store.head(&self.path(key))).map(|meta| meta.size).map_err(BlobError::io("measuring", key))
    }

    pub(super) fn delete(&self, io: &Io, key: &str) -> Result<(), BlobError> {
        self.multipart_abort_noted(io, key)
            .and_then(|()| missing_is_fine(self.ask(io, self.store.delete(&self.path(key)))))
            .map_err(BlobError::io("deleting", key))
    }

    fn multipart_abort_noted(&self, io: &Io, key: &str) -> io::Result<()> {
        let note = self.note_path(key);
        let fetch = async {
            match self.store.get(&note).await {
                Ok(found) => Ok(Some(found.bytes().await?)),
                Err(object_store::Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        };
        let Some(id) = self.ask(io, fetch)? else {
            return Ok(());
        };
        let id = String::from_utf8(id.to_vec()).map_err(io::Error::other)?;
        // A blob under the key means that the upload was completed and only its note stayed.
        match self.ask(io, self.store.head(&self.path(key))) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                missing_is_fine(self.ask(io, self.store.abort_multipart(&self.path(key), &id)))?;
            }
            Err(error) => return Err(error),
        }
        missing_is_fine(self.ask(io, self.store.delete(&note)))
    }

    /// S3 has no rename: copy, then delete.
    pub(super) fn rename(&self, io: &Io, from: &str, to: &str) -> Result<(), BlobError> {
        self.ask(io, self.store.copy(&self.path(from), &self.path(to)))
            .and_then(|()| missing_is_fine(self.ask(io, self.store.delete(&self.path(from)))))
            .map_err(BlobError::io("moving", from))
    }

    pub(super) fn list(&self, io: &Io, prefix: &str, each: &mut dyn FnMut(BlobAt)) -> Result<(), BlobError> {
        let path = self.path(prefix);
        let cut = if self.prefix.is_empty() { 0 } else { self.prefix.len() + 1 };
        let walk = async {
            let mut found = self.store.list(Some(&path));
            while let Some(meta) = found.next().await {
                let meta = meta?;
                if let Some(key) = meta.location.as_ref().get(cut..) {
                    each(BlobAt { key: key.to_owned(), len: meta.size });
                }
            }
            Ok(())
        };
        self.ask(io, walk).map_err(BlobError::io("listing", prefix))
    }
}

fn missing_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn error_from(error: object_store::Error) -> io::Error {
    match error {
        object_store::Error::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            io::Error::new(io::ErrorKind::PermissionDenied, error)
        }
        // What is left after its own retries is a bucket that does not answer, or not as it should.
        other => io::Error::new(io::ErrorKind::NotConnected, other),
    }
}

pub(super) struct S3Writer {
    blobs: Arc<S3Blobs>,
    io: Arc<Io>,
    key: String,
    buf: Vec<u8>,
    multipart: Option<Multipart>,
    kept: bool,
}

struct Multipart {
    id: String,
    parts: Vec<PartId>,
    sent: usize,
    /// The part on its way; one at a time bounds memory to two parts.
    flying: Option<JoinHandle<object_store::Result<PartId>>>,
}

impl std::fmt::Debug for S3Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Writer").field("key", &self.key).finish_non_exhaustive()
    }
}

impl S3Writer {
    pub(super) fn create(blobs: Arc<S3Blobs>, io: Arc<Io>, key: &str) -> S3Writer {
        S3Writer { blobs, io, key: key.to_owned(), buf: Vec::new(), multipart: None, kept: false }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buf.len() == PART_LEN {
            self.part_send()?;
        }
        let n = bytes.len().min(PART_LEN - self.buf.len());
        self.buf.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn multipart_begin(&mut self) -> io::Result<()> {
        let blobs = &self.blobs;
        let path = blobs.path(&self.key);
        let id = blobs.ask(&self.io, blobs.store.create_multipart(&path))?;
        let note = PutPayload::from(id.clone());
        self.multipart = Some(Multipart { id, parts: Vec::new(), sent: 0, flying: None });
        let note_path = blobs.note_path(&self.key);
        blobs.ask(&self.io, blobs.store.put(&note_path, note))?;
        Ok(())
    }

    fn part_send(&mut self) -> io::Result<()> {
        if self.multipart.is_none() {
            self.multipart_begin()?;
        }
        self.part_wait()?;
        let answer = self.io.remote()?;
        let payload = PutPayload::from(std::mem::take(&mut self.buf));
        let path = self.blobs.path(&self.key);
        let store = Arc::clone(&self.blobs.store);
        let Some(multipart) = &mut self.multipart else {
            return Err(io::Error::other("multipart was not begun"));
        };
        let (id, number) = (multipart.id.clone(), multipart.sent);
        multipart.sent += 1;
        multipart.flying =
            Some(self.blobs.runtime.spawn(async move { store.put_part(&path, &id, number, payload).await }));
        match answer {
            Answer::Given => Ok(()),
            Answer::Lost => Err(io::Error::other("planned fault: answer lost")),
        }
    }

    fn part_wait(&mut self) -> io::Result<()> {
        let Some(multipart) = &mut self.multipart else {
            return Ok(());
        };
        if let Some(flying) = multipart.flying.take() {
            let part = self.blobs.runtime.block_on(flying).map_err(io::Error::other)?.map_err(error_from)?;
            multipart.parts.push(part);
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<(), BlobError> {
        crash_point("blob_written");
        self.send_rest().map_err(BlobError::io("writing", &self.key))?;
        crash_point("blob_synced");
        Ok(())
    }

    fn send_rest(&mut self) -> io::Result<()> {
        let path = self.blobs.path(&self.key);
        if self.multipart.is_none() {
            let payload = PutPayload::from(std::mem::take(&mut self.buf));
            self.blobs.ask(&self.io, self.blobs.store.put(&path, payload))?;
            self.kept = true;
            return Ok(());
        }
        if !self.buf.is_empty() {
            self.part_send()?;
        }
        self.part_wait()?;
        let Some(multipart) = &mut self.multipart else {
            return Err(io::Error::other("multipart was not begun"));
        };
        let parts = std::mem::take(&mut multipart.parts);
        let complete = self.blobs.store.complete_multipart(&path, &multipart.id, parts);
        self.blobs.ask(&self.io, complete)?;
        self.kept = true;
        // A note that stays is removed with the blob.
        let note = self.blobs.note_path(&self.key);
        let _ = self.blobs.ask(&self.io, self.blobs.store.delete(&note));
        Ok(())
    }
}

impl Drop for S3Writer {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let _ = self.part_wait();
        if let Some(multipart) = &self.multipart {
            let blobs = &self.blobs;
            let path = blobs.path(&self.key);
            let aborted = blobs.ask(&self.io, blobs.store.abort_multipart(&path, &multipart.id));
            // The note outlives a failed abort, so that prune can try again.
            if missing_is_fine(aborted).is_ok() {
                let note = blobs.note_path(&self.key);
                let _ = blobs.ask(&self.io, blobs.store.delete(&note));
            }
        }
    }
}

struct S3Reader {
    runtime: Handle,
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    ready: Bytes,
    left: u64,
}

impl Read for S3Reader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buf.is_empty() {
            return Ok(0);
        }
        while self.ready.is_empty() {
            match self.runtime.block_on(self.stream.next()) {
                Some(next) => self.ready = next.map_err(error_from)?,
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let n = buf.len().min(self.ready.len()).min(usize::try_from(self.left).unwrap_or(usize::MAX));
        buf[..n].copy_from_slice(&self.ready.split_to(n));
        self.left -= n as u64;
        Ok(n)
    }
}

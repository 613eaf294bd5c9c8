//! Blobs: named runs of bytes, written once, durable when `finish` returns. Two backends, one
//! conformance suite (`tests/conformance.rs`).

mod local;
mod s3;

use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::faults::Faults;
use crate::io::Io;

use local::{LocalBlobs, LocalReader, LocalWriter};
pub use s3::S3Config;
use s3::{S3Blobs, S3Writer};

/// Why a blob could not be written, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    #[error("{act} {key}: {source}")]
    Io {
        act: &'static str,
        key: String,
        #[source]
        source: io::Error,
    },
    #[error("blob {0} does not exist")]
    Missing(String),
    #[error("blob key {0:?} is not made of parts of a-z, A-Z, 0-9, '.', '_' and '-'")]
    BadKey(String),
    #[error("the blobs take no more writes after a flush to disk went wrong")]
    Poisoned,
    #[error("S3 configuration: {0}")]
    Config(String),
}

impl BlobError {
    /// For `map_err`: names the act and the blob.
    fn io(act: &'static str, key: &str) -> impl FnOnce(io::Error) -> BlobError {
        move |source| match source.kind() {
            io::ErrorKind::NotFound => BlobError::Missing(key.to_owned()),
            _ => BlobError::Io { act, key: key.to_owned(), source },
        }
    }
}

/// One blob of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobAt {
    pub key: String,
    pub len: u64,
}

/// Where the blobs are. Cheap to clone; all clones share one fault plan and one poison.
///
/// All calls block; with S3 they must not be made from an async task, but from
/// `spawn_blocking` or a thread of one's own.
#[derive(Debug, Clone)]
pub struct Blobs {
    backend: Backend,
    io: Arc<Io>,
}

#[derive(Debug, Clone)]
enum Backend {
    Local(Arc<LocalBlobs>),
    S3(Arc<S3Blobs>),
}

impl Blobs {
    /// Blobs in files below `folder`, which is created if its parent exists.
    pub fn local(folder: &Path, faults: Faults) -> Result<Blobs, BlobError> {
        let io = Arc::new(Io::new(faults));
        let backend = Backend::Local(Arc::new(LocalBlobs::open(folder, &io)?));
        Ok(Blobs { backend, io })
    }

    /// Blobs in a bucket. `runtime` must outlive them.
    pub fn s3(config: S3Config, runtime: tokio::runtime::Handle, faults: Faults) -> Result<Blobs, BlobError> {
        let io = Arc::new(Io::new(faults));
        let backend = Backend::S3(Arc::new(S3Blobs::open(config, runtime)?));
        Ok(Blobs { backend, io })
    }

    /// Whether every fetch is a request over a network, so that small reads are worth caching.
    pub fn is_remote(&self) -> bool {
        match &self.backend {
            Backend::Local(_) => false,
            Backend::S3(_) => true,
        }
    }

    /// True for ever after an fsync has failed.
    pub fn is_poisoned(&self) -> bool {
        self.io.is_poisoned()
    }

    /// See [`crate::Store::poison`].
    pub(crate) fn poison(&self) {
        self.io.poison();
    }

    /// Makes a file beside the blobs and its name in `folder` durable, with their poison and their planned faults.
    pub(crate) fn file_flush(&self, file: &std::fs::File, folder: &Path) -> io::Result<()> {
        self.io.fsync(file)?;
        self.io.fsync_folder(folder)
    }

    /// Begins a blob. It exists under its key only after `finish`.
    pub fn create(&self, key: &str) -> Result<BlobWriter, BlobError> {
        key_check(key)?;
        if self.io.is_poisoned() {
            return Err(BlobError::Poisoned);
        }
        let io = Arc::clone(&self.io);
        Ok(BlobWriter {
            backend: match &self.backend {
                Backend::Local(local) => WriterBackend::Local(LocalWriter::create(Arc::clone(local), io, key)?),
                Backend::S3(s3) => WriterBackend::S3(S3Writer::create(Arc::clone(s3), io, key)),
            },
        })
    }

    /// Writes a whole blob, durable when it returns.
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<(), BlobError> {
        let mut writer = self.create(key)?;
        writer.write_all(bytes).map_err(BlobError::io("writing", key))?;
        writer.finish()
    }

    /// Exactly these bytes; a blob that ends before `range.end` is an error.
    pub fn read(&self, key: &str, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
        key_check(key)?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        match &self.backend {
            Backend::Local(local) => local.read(&self.io, key, range),
            Backend::S3(s3) => s3.read(&self.io, key, range),
        }
    }

    /// A stream of exactly these bytes; ending early is an `UnexpectedEof`.
    pub fn reader(&self, key: &str, range: Range<u64>) -> Result<BlobReader, BlobError> {
        key_check(key)?;
        if range.is_empty() {
            return Ok(BlobReader(Source::Nothing));
        }
        let source = match &self.backend {
            Backend::Local(local) => Source::Local(local.reader(&self.io, key, range)?),
            Backend::S3(s3) => Source::S3(s3.reader(&self.io, key, range)?),
        };
        Ok(BlobReader(source))
    }

    /// The same where that takes no waiting, so that an async task may ask; none where it may, and where anything is wrong.
    pub fn reader_now(&self, key: &str, range: Range<u64>) -> Option<BlobReader> {
        key_check(key).ok()?;
        match &self.backend {
            _ if range.is_empty() => None,
            Backend::Local(local) => Some(BlobReader(Source::Local(local.reader_now(&self.io, key, range)?))),
            Backend::S3(_) => None,
        }
    }

    /// Length in bytes.
    pub fn len(&self, key: &str) -> Result<u64, BlobError> {
        key_check(key)?;
        match &self.backend {
            Backend::Local(local) => local.len(&self.io, key),
            Backend::S3(s3) => s3.len(&self.io, key),
        }
    }

    /// Removes a blob, and what a broken-off `create` of this key left behind. A missing one is
    /// no error.
    pub fn delete(&self, key: &str) -> Result<(), BlobError> {
        key_check(key)?;
        match &self.backend {
            Backend::Local(local) => local.delete(&self.io, key),
            Backend::S3(s3) => s3.delete(&self.io, key),
        }
    }

    /// Calls `each` for every finished blob whose key begins with the folders of `prefix`, in any
    /// order; quarantined ones are left out unless asked for by the prefix `quarantine`.
    pub fn list(&self, prefix: &str, each: &mut dyn FnMut(BlobAt)) -> Result<(), BlobError> {
        key_check(prefix)?;
        match &self.backend {
            Backend::Local(local) => local.list(&self.io, prefix, each),
            Backend::S3(s3) => s3.list(&self.io, prefix, each),
        }
    }

    /// Moves a damaged blob to `quarantine/KEY`, where nothing reads it.
    pub fn quarantine(&self, key: &str) -> Result<(), BlobError> {
        key_check(key)?;
        let to = format!("quarantine/{key}");
        match &self.backend {
            Backend::Local(local) => local.rename(&self.io, key, &to),
            Backend::S3(s3) => s3.rename(&self.io, key, &to),
        }
    }
}

/// A range of a blob, read in order.
pub struct BlobReader(Source);

enum Source {
    Nothing,
    Local(LocalReader),
    S3(Box<dyn Read + Send>),
}

impl BlobReader {
    /// As `read`, but gives none where the bytes have to be waited for: then it read nothing, and `read` on a thread will.
    pub fn read_now(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        match &mut self.0 {
            Source::Nothing => Ok(Some(0)),
            Source::Local(reader) => reader.read_now(buf),
            Source::S3(_) => Ok(None),
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Source::Nothing => Ok(0),
            Source::Local(reader) => reader.read(buf),
            Source::S3(reader) => reader.read(buf),
        }
    }
}

/// A blob being written. Dropping it before `finish` removes what was written.
#[derive(Debug)]
pub struct BlobWriter {
    backend: WriterBackend,
}

#[derive(Debug)]
enum WriterBackend {
    Local(LocalWriter),
    S3(S3Writer),
}

impl BlobWriter {
    /// Makes the blob durable and visible under its key.
    pub fn finish(self) -> Result<(), BlobError> {
        match self.backend {
            WriterBackend::Local(writer) => writer.finish(),
            WriterBackend::S3(writer) => writer.finish(),
        }
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.backend {
            WriterBackend::Local(writer) => writer.write(bytes),
            WriterBackend::S3(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// Keys come from rows, and rows from ids whose alphabets are narrow; this is the second lock on
// the door to the file system. A part never begins with a dot, which temporary files do.
fn key_check(key: &str) -> Result<(), BlobError> {
    let part_good = |part: &str| {
        !part.is_empty()
            && part.len() <= 255
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if key.len() <= 512 && key.split('/').all(part_good) { Ok(()) } else { Err(BlobError::BadKey(key.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::key_check;

    #[test]
    fn keys_stay_inside() {
        fn check(key: &str, good: bool) {
            assert_eq!(key_check(key).is_ok(), good, "{key:?}");
        }
        check("packs/u-1/0123", true);
        check("segments/u-1/ab.cd", true);
        check("", false);
        check("/etc/passwd", false);
        check("packs//x", false);
        check("packs/../x", false);
        check("packs/.x.part", false);
        check("packs/x/", false);
        check("packs/a b", false);
        check("packs/a\0", false);
        check(&"a".repeat(256), false);
    }
}

//! What can go wrong in the store.

use std::io;

use slipway_chunk::{ChunkId, FormatError, SegmentId};

use crate::blobs::BlobError;
use crate::ledger::{BlobKind, LedgerError};

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    Blob(BlobError),
    /// An earlier fsync failed: what the kernel holds is not what the disk holds, so nothing more
    /// is written until the process has been started again.
    #[error("the store takes no more writes after a flush to disk went wrong; start it again")]
    Poisoned,
    #[error(transparent)]
    Ledger(LedgerError),
    #[error("reading the image: {0}")]
    Source(#[source] io::Error),
    #[error("reading the frames: {0}")]
    Frames(#[source] io::Error),
    #[error("{what}: {source}")]
    Format {
        what: String,
        #[source]
        source: FormatError,
    },
    #[error("{count} chunks are not in the store, the first is {first}")]
    ChunksMissing { count: u64, first: ChunkId },
    #[error("{count} segments are not in the store, the first is {first}")]
    SegmentsMissing { count: u64, first: SegmentId },
    /// Prune took something this upload relied on; sending it again helps.
    #[error("prune took chunks that this upload relied on; send them again")]
    ChunksGone,
    #[error("{kind} {name} is not in the store")]
    NotFound { kind: BlobKind, name: String },
    #[error("{kind} {name} is damaged: {detail}")]
    Damaged { kind: BlobKind, name: String, detail: String },
    #[error("chunk {id} has no readable copy: {detail}")]
    ChunkUnreadable { id: ChunkId, detail: String },
    #[error("{what} takes {len} bytes, the limit is {max}")]
    TooLarge { what: &'static str, len: u64, max: u64 },
    #[error("reading {len} bytes at {offset} of an image of {size}")]
    PastEnd { offset: u64, len: u64, size: u64 },
    #[error("another prune or repair is running in this process")]
    Busy,
    #[error("it was asked to stop")]
    Stopped,
    /// Not one of many blobs is where it should be.
    #[error("none of the blobs is there: is the folder or bucket that holds them the right one, and mounted?")]
    Away,
    #[error("another prune or repair ran since this plan was made; make a new one")]
    PlanStale,
}

impl StoreError {
    /// Whether the disk or the bucket is full (ENOSPC or EDQUOT).
    pub fn is_no_space(&self) -> bool {
        let source = match self {
            StoreError::Blob(BlobError::Io { source, .. }) => source,
            StoreError::Source(source) | StoreError::Frames(source) => source,
            _ => return false,
        };
        matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }

    /// Whether this was the flush that poisoned the store.
    pub fn is_flush_failed(&self) -> bool {
        matches!(self, StoreError::Blob(BlobError::Io { act, .. }) if act.starts_with("flushing"))
    }

    /// Whether the bucket does not answer; the same call may succeed when it is back.
    pub fn is_away(&self) -> bool {
        match self {
            StoreError::Blob(BlobError::Io { source, .. }) => source.kind() == io::ErrorKind::NotConnected,
            _ => false,
        }
    }

    /// Whether the same call may succeed later without any repair.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, StoreError::Blob(BlobError::Io { .. }) | StoreError::Ledger(_) | StoreError::Poisoned)
    }
}

impl From<BlobError> for StoreError {
    fn from(error: BlobError) -> StoreError {
        match error {
            BlobError::Poisoned => StoreError::Poisoned,
            other => StoreError::Blob(other),
        }
    }
}

impl From<LedgerError> for StoreError {
    fn from(error: LedgerError) -> StoreError {
        match error {
            LedgerError::Gone(_) => StoreError::ChunksGone,
            other => StoreError::Ledger(other),
        }
    }
}

use slipway_api::ApiError;
use slipway_chunk::{ChunkId, Digest, FormatError, PackId};
use slipway_disk::{DiskError, TargetError};
use std::io;
use std::sync::Arc;

/// Why a transfer came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The server said no, or cannot be reached.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The target was refused.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The target failed.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A file or stream failed.
    #[error("{act} {name}")]
    Io {
        /// "reading", "writing", "renaming" …
        act: &'static str,
        /// Of what.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A document of the server is not what it should be.
    #[error("{what}")]
    Format {
        /// The document: "segment 3 of me/os:1".
        what: String,
        /// What is wrong with it.
        #[source]
        source: FormatError,
    },
    /// A document of the server is well-formed, but not the one that the version names.
    #[error("{what}: {reason}")]
    Document {
        /// The document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The server gave other bytes than a chunk's id says, twice. The server has been told.
    #[error("chunk {chunk} of {content} is damaged in pack {pack} of the server")]
    BadChunk {
        /// The chunk.
        chunk: ChunkId,
        /// The version, as `owner/name:N`.
        content: String,
        /// Where it came from.
        pack: PackId,
    },
    /// The source gave other bytes when it was read again, or another number of them.
    #[error("{name} changed while it was read")]
    Changed {
        /// The source.
        name: String,
    },
    /// The server lost chunks between sending and committing, and the source can be read only once.
    #[error("the server lost {lost} before the commit, and {name} cannot be read a second time; run it again")]
    NotRepeatable {
        /// What the server said.
        lost: String,
        /// The source.
        name: String,
    },
    /// The whole image has not the digest that was asked for.
    #[error("{name} has the digest {got}, not {want}")]
    DigestDiffers {
        /// The source.
        name: String,
        /// As asked for.
        want: Digest,
        /// As computed.
        got: Digest,
    },
    /// What was read back is not the image.
    #[error("{name} at byte {at} reads back other bytes than were written")]
    ReadBack {
        /// The target.
        name: String,
        /// Where the differing part begins.
        at: u64,
    },
    /// What several readers waited for failed for all of them.
    #[error(transparent)]
    Shared(Arc<TransferError>),
    /// The caller asked to stop.
    #[error("interrupted")]
    Cancelled,
    /// A thread of this program ended in a panic.
    #[error("a fault in this program stopped the transfer")]
    Panicked,
}

impl TransferError {
    /// The exit code of the command line for this failure, as listed in `docs/exit-codes.md`.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Api(why) => why.exit_code(),
            Self::Target(TargetError::Missing(_)) => 3,
            // A compressed source that is cut off or damaged.
            Self::Io { source, .. } if is_damaged(source) => 7,
            Self::Target(TargetError::Io { source, .. }) | Self::Io { source, .. } => io_exit(source),
            Self::Target(TargetError::Disk(why)) | Self::Disk(why) => disk_exit(why),
            Self::Target(_) => 10,
            Self::Format { .. } | Self::Document { .. } | Self::BadChunk { .. } => 7,
            Self::DigestDiffers { .. } | Self::ReadBack { .. } => 7,
            Self::Shared(why) => why.exit_code(),
            Self::Changed { .. } | Self::Panicked => 1,
            Self::NotRepeatable { .. } => 5,
            Self::Cancelled => 130,
        }
    }

    pub(crate) fn io(act: &'static str, name: impl Into<String>, source: io::Error) -> Self {
        Self::Io { act, name: name.into(), source }
    }
}

fn is_damaged(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn io_exit(why: &io::Error) -> u8 {
    match why.kind() {
        io::ErrorKind::NotFound => 3,
        io::ErrorKind::PermissionDenied => 4,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => 6,
        _ => 1,
    }
}

fn disk_exit(why: &DiskError) -> u8 {
    match why {
        DiskError::Io { source, .. } | DiskError::Flush { source, .. } => io_exit(source),
        DiskError::ReadBack { .. } => 7,
        DiskError::Poisoned(_) | DiskError::OutOfRange { .. } | DiskError::Gpt { .. } => 1,
    }
}

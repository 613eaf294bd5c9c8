use crate::ids::ChunkId;

/// Why bytes are not what the format says. `what` names the encoding ("segment", "frame header").
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("{what}: ends too early")]
    Truncated { what: &'static str },
    #[error("{what}: {extra} bytes too many")]
    Trailing { what: &'static str, extra: usize },
    #[error("{what}: wrong magic bytes")]
    BadMagic { what: &'static str },
    #[error("{what}: version {version} is not known to this program")]
    UnknownVersion { what: &'static str, version: u8 },
    /// A value that this program does not know is never guessed at.
    #[error("{what} {value} is not known to this program")]
    Unknown { what: &'static str, value: u64 },
    #[error("{what} is {value}, the limit is {max}")]
    TooLarge { what: &'static str, value: u64, max: u64 },
    #[error("{what}: {rule}")]
    NotCanonical { what: &'static str, rule: &'static str },
    #[error("chunk {id}: its bytes have another digest")]
    Mismatch { id: ChunkId },
    #[error("{what}: its bytes have another digest than was recorded")]
    DigestMismatch { what: &'static str },
    #[error("image of size 0")]
    Empty,
    #[error("payload of frame does not decompress to its {raw_len} bytes")]
    BadPayload { raw_len: u32 },
}

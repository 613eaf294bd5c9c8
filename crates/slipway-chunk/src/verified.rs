use crate::error::FormatError;
use crate::ids::ChunkId;

/// The receipt that these bytes have this id. Only this module makes one, so what demands it cannot be given unchecked bytes.
#[derive(Clone, Copy, Debug)]
pub struct Verified<'a> {
    id: ChunkId,
    bytes: &'a [u8],
}

impl<'a> Verified<'a> {
    pub fn id(&self) -> &ChunkId {
        &self.id
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// Hashes `bytes` and compares.
///
/// # Errors
/// [`FormatError::Mismatch`] when the bytes have another id.
pub fn verify<'a>(bytes: &'a [u8], id: &ChunkId) -> Result<Verified<'a>, FormatError> {
    if ChunkId::of(bytes) == *id { Ok(Verified { id: *id, bytes }) } else { Err(FormatError::Mismatch { id: *id }) }
}

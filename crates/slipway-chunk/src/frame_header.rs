use crate::FRAME_RAW_MAX;
use crate::cursor::Cursor;
use crate::error::FormatError;
use crate::ids::ChunkId;

/// How the payload of a frame is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// The raw bytes.
    Plain = 0,
    /// One Zstandard frame (RFC 8878) with its content size and without a dictionary.
    Zstd = 1,
}

/// Length in bytes of the fixed part.
pub const FRAME_HEADER_MIN: usize = 20;
/// The most chunks of one frame.
pub const FRAME_CHUNKS_MAX: usize = 256;
/// The most chunks that a frame's base lists.
pub const FRAME_BASE_MAX: usize = 64;
/// The longest frame, header included, in bytes.
pub const FRAME_LEN_MAX: usize =
    FRAME_HEADER_MIN + FRAME_BASE_MAX * ChunkId::LEN + FRAME_CHUNKS_MAX * 4 + FRAME_RAW_MAX + KEY_OVERHEAD;

/// What encryption may add to a payload.
const KEY_OVERHEAD: usize = 64;
const MAGIC: &[u8; 4] = b"SLFR";
const VERSION: u8 = 1;
const WHAT: &str = "frame header";

/// What stands before a frame's payload. `base` is empty or names, in order, the chunks whose bytes the payload was compressed against;
/// `key_id` is 0 for a payload that is not encrypted. Lengths in bytes; `lens` are the raw lengths of its chunks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub codec: Codec,
    pub key_id: u16,
    pub base: Vec<ChunkId>,
    pub raw_len: u32,
    pub payload_len: u32,
    pub lens: Vec<u32>,
}

impl FrameHeader {
    /// Length of this header's encoding.
    pub fn header_len(&self) -> usize {
        FRAME_HEADER_MIN + self.base.len() * ChunkId::LEN + self.lens.len() * 4
    }

    /// Length of the whole frame.
    pub fn frame_len(&self) -> usize {
        self.header_len() + self.payload_len as usize
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.frame_len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, self.codec as u8]);
        bytes.extend_from_slice(&self.key_id.to_le_bytes());
        bytes.extend_from_slice(&(self.base.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&(self.lens.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&self.raw_len.to_le_bytes());
        bytes.extend_from_slice(&self.payload_len.to_le_bytes());
        for id in &self.base {
            bytes.extend_from_slice(id.as_bytes());
        }
        for len in &self.lens {
            bytes.extend_from_slice(&len.to_le_bytes());
        }
        bytes
    }

    /// Reads the header at the front of `bytes`, which may go on behind it, and says how long it is. `None`: more bytes are needed.
    ///
    /// # Errors
    /// What is not a frame header, as soon as it shows.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, FormatError> {
        let Some(fixed) = bytes.get(..FRAME_HEADER_MIN) else {
            let known = bytes.len().min(MAGIC.len());
            return if bytes[..known] == MAGIC[..known] { Ok(None) } else { Err(FormatError::BadMagic { what: WHAT }) };
        };
        let mut cursor = Cursor::open(WHAT, MAGIC, VERSION, fixed)?;
        let codec = match cursor.u8()? {
            0 => Codec::Plain,
            1 => Codec::Zstd,
            other => {
                return Err(FormatError::Unknown { what: "codec of frame", value: other.into() });
            }
        };
        let key_id = cursor.u16()?;
        let base_count = usize::from(cursor.u16()?);
        let chunk_count = usize::from(cursor.u16()?);
        let raw_len = cursor.u32()?;
        let payload_len = cursor.u32()?;
        at_most("chunks in base of frame", base_count, FRAME_BASE_MAX)?;
        at_most("chunks of frame", chunk_count, FRAME_CHUNKS_MAX)?;
        at_most("raw length of frame", raw_len as usize, FRAME_RAW_MAX)?;
        let payload_max = FRAME_RAW_MAX + KEY_OVERHEAD;
        at_most("payload length of frame", payload_len as usize, payload_max)?;

        let header_len = FRAME_HEADER_MIN + base_count * ChunkId::LEN + chunk_count * 4;
        let Some(lists) = bytes.get(FRAME_HEADER_MIN..header_len) else {
            return Ok(None);
        };
        let mut cursor = Cursor::bare(WHAT, lists);
        let base: Result<_, _> = (0..base_count).map(|_| cursor.take().map(ChunkId::from_bytes)).collect();
        let lens: Result<_, _> = (0..chunk_count).map(|_| cursor.u32()).collect();
        let header = Self { codec, key_id, base: base?, raw_len, payload_len, lens: lens? };
        header.check()?;
        Ok(Some((header, header_len)))
    }

    fn check(&self) -> Result<(), FormatError> {
        let not = |rule| FormatError::NotCanonical { what: WHAT, rule };
        if self.lens.is_empty() {
            return Err(not("it has no chunks"));
        }
        if self.lens.contains(&0) {
            return Err(not("a chunk is empty"));
        }
        let sum: u64 = self.lens.iter().map(|&len| u64::from(len)).sum();
        if sum != u64::from(self.raw_len) {
            return Err(not("the chunks' lengths do not add up to the raw length"));
        }
        if self.key_id != 0 {
            // What an encrypted payload may be long is up to its key's scheme.
            return Ok(());
        }
        match self.codec {
            Codec::Plain if self.payload_len != self.raw_len => {
                Err(not("a plain payload is not as long as its raw bytes"))
            }
            Codec::Zstd if self.payload_len >= self.raw_len => {
                Err(not("a compressed payload is not shorter than its raw bytes"))
            }
            Codec::Plain | Codec::Zstd => Ok(()),
        }
    }
}

fn at_most(what: &'static str, value: usize, max: usize) -> Result<(), FormatError> {
    if value <= max {
        return Ok(());
    }
    Err(FormatError::TooLarge { what, value: value as u64, max: max as u64 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            codec: Codec::Zstd,
            key_id: 0,
            base: Vec::new(),
            raw_len: 8292,
            payload_len: 500,
            lens: vec![4096, 4096, 100],
        }
    }

    #[test]
    fn canonical_rules() {
        fn check(change: fn(&mut FrameHeader), good: bool) {
            let mut header = header();
            change(&mut header);
            let bytes = header.encode();
            assert_eq!(bytes.len(), header.header_len());
            match FrameHeader::decode(&bytes) {
                Ok(found) => assert_eq!((found, good), (Some((header, bytes.len())), true)),
                Err(error) => assert!(!good, "{header:?}: {error}"),
            }
        }
        check(|_| (), true);
        check(|h| h.payload_len = 8291, true);
        check(|h| h.payload_len = 8292, false);
        check(|h| h.payload_len = u32::MAX, false);
        check(|h| (h.codec, h.payload_len) = (Codec::Plain, 8292), true);
        check(|h| h.codec = Codec::Plain, false);
        check(|h| h.base = vec![ChunkId::of(b"base"); FRAME_BASE_MAX], true);
        check(|h| h.base = vec![ChunkId::of(b"base"); FRAME_BASE_MAX + 1], false);
        check(|h| (h.key_id, h.payload_len) = (9, 8300), true);
        check(|h| h.raw_len = 8293, false);
        check(|h| h.lens = vec![8292], true);
        check(|h| h.lens = vec![], false);
        check(|h| (h.lens, h.raw_len) = (vec![], 0), false);
        check(|h| h.lens = vec![8292, 0], false);
        check(|h| h.lens = vec![u32::MAX, 8293], false);
        check(|h| (h.lens, h.raw_len) = (vec![1024; 256], 1 << 18), true);
        check(|h| (h.lens, h.raw_len) = (vec![1; 257], 257), false);
        check(|h| (h.lens, h.raw_len) = (vec![1024; 257], 257 << 10), false);
    }

    #[test]
    fn unknown_values_are_named() {
        fn check(at: usize, value: u8, want: &str) {
            let mut bytes = header().encode();
            bytes[at] = value;
            let error = FrameHeader::decode(&bytes).unwrap_err().to_string();
            assert_eq!(error, want);
        }
        check(0, b'X', "frame header: wrong magic bytes");
        check(4, 2, "frame header: version 2 is not known to this program");
        check(5, 2, "codec of frame 2 is not known to this program");
    }

    #[test]
    fn every_prefix_asks_for_more() {
        let bytes = header().encode();
        for len in 0..bytes.len() {
            assert_eq!(FrameHeader::decode(&bytes[..len]), Ok(None), "{len}");
        }
        assert!(FrameHeader::decode(b"SLX").is_err());
    }
}

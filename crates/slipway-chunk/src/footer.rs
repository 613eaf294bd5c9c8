use crate::FRAME_RAW_MAX;
use crate::cursor::Cursor;
use crate::error::FormatError;
use crate::frame_header::{FRAME_CHUNKS_MAX, FRAME_HEADER_MIN, FRAME_LEN_MAX};
use crate::ids::{ChunkId, Digest};
use crate::pack::PACK_HEADER_LEN;

const MAGIC: &[u8; 4] = b"SLPF";
const VERSION: u8 = 1;
const WHAT: &str = "pack footer";
const HEADER_LEN: usize = 12;
const FRAME_ENTRY_LEN: usize = 20;
const CHUNK_ENTRY_LEN: usize = ChunkId::LEN + 4;
/// So many entries fill [`FOOTER_LEN_MAX`] with a chunk each.
const FRAMES_MAX: usize = FOOTER_LEN_MAX as usize / (FRAME_ENTRY_LEN + CHUNK_ENTRY_LEN);

/// The longest footer, in bytes. A pack of 64 MiB in chunks of 4 KiB needs 0.6 MiB.
pub const FOOTER_LEN_MAX: u64 = 64 << 20;

/// A frame of a pack: where it begins in the pack, how long it is there and raw, and its chunks with their raw lengths; all in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    pub offset: u64,
    pub len: u32,
    pub raw_len: u32,
    pub chunks: Vec<(ChunkId, u32)>,
}

/// The list of a pack's frames, in order and without gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Footer {
    pub frames: Vec<FrameEntry>,
}

impl Footer {
    /// Length of the encoding in bytes.
    pub fn encoded_len(&self) -> u64 {
        let entries = self.frames.iter().map(FrameEntry::encoded_len).sum::<usize>();
        (HEADER_LEN + entries) as u64
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.encoded_len() as usize);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
        bytes.extend_from_slice(&(self.frames.len() as u32).to_le_bytes());
        for frame in &self.frames {
            bytes.extend_from_slice(&frame.offset.to_le_bytes());
            bytes.extend_from_slice(&frame.len.to_le_bytes());
            bytes.extend_from_slice(&frame.raw_len.to_le_bytes());
            bytes.extend_from_slice(&(frame.chunks.len() as u32).to_le_bytes());
            for (id, len) in &frame.chunks {
                bytes.extend_from_slice(id.as_bytes());
                bytes.extend_from_slice(&len.to_le_bytes());
            }
        }
        bytes
    }

    /// # Errors
    /// Whatever is not the canonical encoding of a footer.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::open(WHAT, MAGIC, VERSION, bytes)?;
        cursor.reserved::<3>()?;
        let each = FRAME_ENTRY_LEN + CHUNK_ENTRY_LEN;
        let count = cursor.count("frames of pack", FRAMES_MAX, each)?;
        let mut frames = Vec::with_capacity(count);
        let mut next = PACK_HEADER_LEN;
        for _ in 0..count {
            let frame = FrameEntry::read(&mut cursor)?;
            frame.check(next)?;
            next += u64::from(frame.len);
            frames.push(frame);
        }
        cursor.end()?;
        Ok(Self { frames })
    }

    /// Where the last frame ends, and so the footer begins.
    pub fn frames_end(&self) -> u64 {
        match self.frames.last() {
            Some(frame) => frame.offset + u64::from(frame.len),
            None => PACK_HEADER_LEN,
        }
    }
}

impl FrameEntry {
    pub(crate) fn encoded_len(&self) -> usize {
        FRAME_ENTRY_LEN + self.chunks.len() * CHUNK_ENTRY_LEN
    }

    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let offset = cursor.u64()?;
        let len = cursor.u32()?;
        let raw_len = cursor.u32()?;
        let count = cursor.count("chunks of frame", FRAME_CHUNKS_MAX, CHUNK_ENTRY_LEN)?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            chunks.push((ChunkId::from_bytes(cursor.take()?), cursor.u32()?));
        }
        Ok(Self { offset, len, raw_len, chunks })
    }

    fn check(&self, begin: u64) -> Result<(), FormatError> {
        let not = |rule| FormatError::NotCanonical { what: WHAT, rule };
        if self.offset != begin {
            return Err(not("a frame does not begin where the one before it ends"));
        }
        frame_lens_check(WHAT, self.len, self.raw_len)?;
        if self.chunks.is_empty() || self.chunks.iter().any(|&(_, len)| len == 0) {
            return Err(not("a frame or chunk is empty"));
        }
        let sum: u64 = self.chunks.iter().map(|&(_, len)| u64::from(len)).sum();
        if sum != u64::from(self.raw_len) {
            return Err(not("the chunks' lengths do not add up to the raw length"));
        }
        Ok(())
    }
}

/// What holds for the lengths of every frame, wherever they are written.
pub(crate) fn frame_lens_check(what: &'static str, len: u32, raw_len: u32) -> Result<(), FormatError> {
    if len as usize > FRAME_LEN_MAX || raw_len as usize > FRAME_RAW_MAX {
        return Err(FormatError::TooLarge {
            what: "length of frame",
            value: len.max(raw_len).into(),
            max: FRAME_RAW_MAX as u64,
        });
    }
    if (len as usize) <= FRAME_HEADER_MIN || raw_len == 0 {
        let rule = "a frame is shorter than its header";
        return Err(FormatError::NotCanonical { what, rule });
    }
    Ok(())
}

/// Length in bytes of what ends a pack.
pub const PACK_TRAILER_LEN: usize = 88;

const TRAILER_MAGIC: &[u8; 4] = b"SLPT";
const TRAILER_WHAT: &str = "pack trailer";

/// The end of a pack, which says where its footer is. Places in bytes from the pack's begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackTrailer {
    pub footer_offset: u64,
    pub footer_len: u64,
    /// Of the footer alone, so that it can be verified without the frames.
    pub footer_digest: Digest,
    /// Of everything before the trailer.
    pub digest: Digest,
}

impl PackTrailer {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PACK_TRAILER_LEN);
        bytes.extend_from_slice(TRAILER_MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
        bytes.extend_from_slice(&self.footer_offset.to_le_bytes());
        bytes.extend_from_slice(&self.footer_len.to_le_bytes());
        bytes.extend_from_slice(self.footer_digest.as_bytes());
        bytes.extend_from_slice(self.digest.as_bytes());
        bytes
    }

    /// Decodes the last [`PACK_TRAILER_LEN`] bytes of a pack.
    ///
    /// # Errors
    /// What is not a trailer, or names a footer that cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::open(TRAILER_WHAT, TRAILER_MAGIC, VERSION, bytes)?;
        cursor.reserved::<3>()?;
        let trailer = Self {
            footer_offset: cursor.u64()?,
            footer_len: cursor.u64()?,
            footer_digest: Digest::from_bytes(cursor.take()?),
            digest: Digest::from_bytes(cursor.take()?),
        };
        cursor.end()?;
        let too_large = |what, value, max| FormatError::TooLarge { what, value, max };
        if trailer.footer_len > FOOTER_LEN_MAX {
            let len = trailer.footer_len;
            return Err(too_large("length of pack footer", len, FOOTER_LEN_MAX));
        }
        if trailer.footer_offset > OFFSET_MAX {
            let offset = trailer.footer_offset;
            return Err(too_large("offset of pack footer", offset, OFFSET_MAX));
        }
        if trailer.footer_offset < PACK_HEADER_LEN || trailer.footer_len < HEADER_LEN as u64 {
            return Err(FormatError::NotCanonical {
                what: TRAILER_WHAT,
                rule: "the footer lies in front of the frames or is too short",
            });
        }
        Ok(trailer)
    }

    /// Length of the whole pack that this trailer ends.
    pub fn pack_len(&self) -> u64 {
        self.footer_offset + self.footer_len + PACK_TRAILER_LEN as u64
    }

    /// Checks the footer's bytes against this trailer, and decodes them.
    ///
    /// # Errors
    /// [`FormatError::DigestMismatch`] for other bytes than were written; what is not a footer or not this pack's.
    pub fn footer_decode(&self, bytes: &[u8]) -> Result<Footer, FormatError> {
        if bytes.len() as u64 != self.footer_len || Digest::of(bytes) != self.footer_digest {
            return Err(FormatError::DigestMismatch { what: WHAT });
        }
        let footer = Footer::decode(bytes)?;
        if footer.frames_end() != self.footer_offset {
            let rule = "it does not begin where the last frame ends";
            return Err(FormatError::NotCanonical { what: WHAT, rule });
        }
        Ok(footer)
    }
}

/// More than the frames that a footer can list.
const OFFSET_MAX: u64 = 1 << 40;

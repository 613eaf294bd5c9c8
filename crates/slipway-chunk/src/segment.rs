use crate::cursor::Cursor;
use crate::error::FormatError;
use crate::ids::{ChunkId, SegmentId};
use crate::{BLOCK, FRAME_RAW_MAX, SEGMENT_LEN};

/// A part of a segment; lengths in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    Hole { len: u32 },
    Chunk { id: ChunkId, len: u32 },
}

impl Extent {
    pub fn len(&self) -> u32 {
        match *self {
            Self::Hole { len } | Self::Chunk { len, .. } => len,
        }
    }

    /// Never, in a segment.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The most extents of one segment.
pub const SEGMENT_EXTENTS_MAX: usize = (SEGMENT_LEN / BLOCK as u64) as usize;
/// The longest encoding of a segment, in bytes.
pub const SEGMENT_ENCODED_MAX: usize = HEADER_LEN + SEGMENT_EXTENTS_MAX * (4 + ChunkId::LEN);

const MAGIC: &[u8; 4] = b"SLSG";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 12;
const HOLE_BIT: u32 = 1 << 31;
const WHAT: &str = "segment";
const TWO_HOLES: &str = "two holes follow each other";

fn not(rule: &'static str) -> FormatError {
    FormatError::NotCanonical { what: WHAT, rule }
}

/// The extents of one 256 MiB region of an image, in order and without gap. Its existence proves that they are canonical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    extents: Vec<Extent>,
    len: u64,
    id: SegmentId,
}

impl Segment {
    /// # Errors
    /// [`FormatError::NotCanonical`] or [`FormatError::TooLarge`] when the extents are not the one form that a region has.
    pub fn new(extents: Vec<Extent>) -> Result<Self, FormatError> {
        let len = extents_check(&extents)?;
        let id = SegmentId::of(&extents_encode(&extents));
        Ok(Self { extents, len, id })
    }

    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// What it covers, in bytes: [`SEGMENT_LEN`], or less for the last one of an image.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a segment has at least one extent.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// 4096 × the blocks of its chunks.
    pub fn data_bytes(&self) -> u64 {
        let blocks = |len: u32| u64::from(len).div_ceil(BLOCK as u64);
        self.chunks().map(|(_, _, len)| blocks(len) * BLOCK as u64).sum()
    }

    /// Offset in the segment, id and length of each chunk, in order; a chunk that occurs twice is given twice.
    pub fn chunks(&self) -> impl Iterator<Item = (u64, ChunkId, u32)> {
        let mut next = 0;
        self.extents.iter().filter_map(move |extent| {
            let at = next;
            next += u64::from(extent.len());
            match *extent {
                Extent::Chunk { id, len } => Some((at, id, len)),
                Extent::Hole { .. } => None,
            }
        })
    }

    pub fn encode(&self) -> Vec<u8> {
        extents_encode(&self.extents)
    }

    /// # Errors
    /// Whatever is not the canonical encoding of a segment.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::open(WHAT, MAGIC, VERSION, bytes)?;
        cursor.reserved::<3>()?;
        let count = cursor.count("extents of segment", SEGMENT_EXTENTS_MAX, 4)?;
        let (words, _) = cursor.slice(4 * count)?.as_chunks::<4>();
        let words = words.iter().map(|word| u32::from_le_bytes(*word));
        // Both before the extents are reserved: an extent in memory is ten times as long as a word.
        let chunks = words.clone().filter(|word| word & HOLE_BIT == 0).count();
        cursor.expect(chunks * ChunkId::LEN)?;
        if count > 2 * chunks + 1 {
            return Err(not(TWO_HOLES));
        }
        let mut extents = Vec::with_capacity(count);
        for word in words {
            extents.push(if word & HOLE_BIT == 0 {
                let id = ChunkId::from_bytes(cursor.take()?);
                Extent::Chunk { id, len: word }
            } else {
                let len = word & !HOLE_BIT;
                Extent::Hole { len }
            });
        }
        cursor.end()?;
        let len = extents_check(&extents)?;
        let id = SegmentId::of(bytes);
        Ok(Self { extents, len, id })
    }
}

fn extents_encode(extents: &[Extent]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_LEN + extents.len() * (4 + ChunkId::LEN));
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
    bytes.extend_from_slice(&(extents.len() as u32).to_le_bytes());
    for extent in extents {
        let word = match *extent {
            Extent::Hole { len } => len | HOLE_BIT,
            Extent::Chunk { len, .. } => len,
        };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for extent in extents {
        if let Extent::Chunk { id, .. } = extent {
            bytes.extend_from_slice(id.as_bytes());
        }
    }
    bytes
}

/// Gives back the length that they cover.
fn extents_check(extents: &[Extent]) -> Result<u64, FormatError> {
    let mut at = 0;
    let mut after_hole = false;
    for extent in extents {
        let is_hole = matches!(extent, Extent::Hole { .. });
        if extent.is_empty() {
            return Err(not("an extent is empty"));
        }
        if is_hole && after_hole {
            return Err(not(TWO_HOLES));
        }
        if !is_hole && extent.len() as usize > FRAME_RAW_MAX {
            return Err(FormatError::TooLarge {
                what: "chunk of segment",
                value: extent.len().into(),
                max: FRAME_RAW_MAX as u64,
            });
        }
        if at % BLOCK as u64 != 0 {
            return Err(not("an extent begins inside a block"));
        }
        at += u64::from(extent.len());
        after_hole = is_hole;
    }
    if at > SEGMENT_LEN {
        return Err(FormatError::TooLarge { what: "length of segment", value: at, max: SEGMENT_LEN });
    }
    if at == 0 {
        return Err(not("it has no extents"));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hole(len: u64) -> Extent {
        Extent::Hole { len: len as u32 }
    }

    fn chunk(len: u64) -> Extent {
        let id = ChunkId::of(&len.to_le_bytes());
        Extent::Chunk { id, len: len as u32 }
    }

    #[test]
    fn canonical_rules() {
        fn check(extents: &[Extent], good: bool) {
            let made = Segment::new(extents.to_vec());
            assert_eq!(made.is_ok(), good, "{extents:?}");
            // The decoder holds the same rules as the maker.
            let decoded = Segment::decode(&extents_encode(extents));
            assert_eq!(decoded.ok(), made.ok(), "{extents:?}");
        }
        check(&[hole(SEGMENT_LEN)], true);
        check(&[hole(1)], true);
        check(&[chunk(1)], true);
        check(&[chunk(4096), hole(4096), chunk(8192), chunk(100)], true);
        check(&[chunk(FRAME_RAW_MAX as u64)], true);
        check(&[], false);
        check(&[hole(0)], false);
        check(&[chunk(0)], false);
        check(&[chunk(4096), chunk(0)], false);
        check(&[hole(4096), hole(4096)], false);
        check(&[chunk(4095), hole(4096)], false);
        check(&[hole(4097), chunk(4096)], false);
        check(&[hole(SEGMENT_LEN + 4096)], false);
        check(&[hole(SEGMENT_LEN), chunk(1)], false);
        check(&[chunk(FRAME_RAW_MAX as u64 + 4096)], false);
    }

    #[test]
    fn numbers() {
        let segment = Segment::new(vec![chunk(8192), hole(4096), chunk(100)]).unwrap();
        assert_eq!(segment.len(), 12388);
        assert_eq!(segment.data_bytes(), 12288);
        let places: Vec<_> = segment.chunks().map(|(at, _, len)| (at, len)).collect();
        assert_eq!(places, [(0, 8192), (12288, 100)]);
        assert_eq!(segment.id(), SegmentId::of(&segment.encode()));
    }
}

use crate::cursor::Cursor;
use crate::cut::ChunkerParams;
use crate::error::FormatError;
use crate::ids::{Root, SegmentId};
use crate::{IMAGE_SIZE_MAX, SEGMENT_LEN};

const MAGIC: &[u8; 4] = b"SLMF";
const VERSION: u8 = 1;
const HEADER_LEN: usize = 40;
const WHAT: &str = "manifest";
const SEGMENTS_MAX: usize = (IMAGE_SIZE_MAX / SEGMENT_LEN) as usize;

/// The longest encoding of a manifest, in bytes.
pub const MANIFEST_LEN_MAX: usize = HEADER_LEN + SEGMENTS_MAX * SegmentId::LEN;

/// What an image is made of: its size in bytes, its sector size (512 or 4096), how it was cut, and its segments in order.
/// Never who or when: equal roots mean equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    pub size: u64,
    pub sector_size: u32,
    pub params: ChunkerParams,
    pub segments: Vec<SegmentId>,
}

impl Manifest {
    /// Checks sizes, parameters and the number of segments, as [`decode`](Self::decode) does.
    pub fn check(&self) -> Result<(), FormatError> {
        if self.size == 0 {
            return Err(FormatError::Empty);
        }
        if self.size > IMAGE_SIZE_MAX {
            return Err(FormatError::TooLarge { what: "size of image", value: self.size, max: IMAGE_SIZE_MAX });
        }
        if !matches!(self.sector_size, 512 | 4096) {
            return Err(FormatError::Unknown { what: "sector size", value: self.sector_size.into() });
        }
        self.params.check()?;
        if self.segments.len() as u64 != self.size.div_ceil(SEGMENT_LEN) {
            let rule = "the number of segments does not fit the size";
            return Err(FormatError::NotCanonical { what: WHAT, rule });
        }
        Ok(())
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.segments.len() * SegmentId::LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
        bytes.extend_from_slice(&self.size.to_le_bytes());
        bytes.extend_from_slice(&self.sector_size.to_le_bytes());
        bytes.extend_from_slice(&self.params.min_blocks.to_le_bytes());
        bytes.extend_from_slice(&self.params.max_blocks.to_le_bytes());
        bytes.extend_from_slice(&[self.params.mask_bits, 0, 0, 0]);
        bytes.extend_from_slice(&self.params.seed.to_le_bytes());
        bytes.extend_from_slice(&(self.segments.len() as u32).to_le_bytes());
        for id in &self.segments {
            bytes.extend_from_slice(id.as_bytes());
        }
        bytes
    }

    /// # Errors
    /// Whatever is not the canonical encoding of a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::open(WHAT, MAGIC, VERSION, bytes)?;
        cursor.reserved::<3>()?;
        let size = cursor.u64()?;
        let sector_size = cursor.u32()?;
        let min_blocks = cursor.u16()?;
        let max_blocks = cursor.u16()?;
        let mask_bits = cursor.u8()?;
        cursor.reserved::<3>()?;
        let params = ChunkerParams { min_blocks, mask_bits, max_blocks, seed: cursor.u64()? };
        let count = cursor.count("segments of manifest", SEGMENTS_MAX, SegmentId::LEN)?;
        let mut segments = Vec::with_capacity(count);
        for _ in 0..count {
            segments.push(SegmentId::from_bytes(cursor.take()?));
        }
        cursor.end()?;
        let manifest = Self { size, sector_size, params, segments };
        manifest.check()?;
        Ok(manifest)
    }

    /// The BLAKE3 of the encoding.
    pub fn root(&self) -> Root {
        Root::of(&self.encode())
    }

    /// What segment `index` must cover, in bytes: [`SEGMENT_LEN`], less for the last one, 0 beyond it.
    pub fn segment_len(&self, index: usize) -> u64 {
        let begin = (index as u64).saturating_mul(SEGMENT_LEN);
        self.size.saturating_sub(begin).min(SEGMENT_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(size: u64, sector_size: u32, segments: usize) -> Manifest {
        Manifest {
            size,
            sector_size,
            params: ChunkerParams::default(),
            segments: vec![SegmentId::of(b"segment"); segments],
        }
    }

    #[test]
    fn canonical_rules() {
        fn check(size: u64, sector_size: u32, segments: usize, good: bool) {
            let manifest = manifest(size, sector_size, segments);
            assert_eq!(manifest.check().is_ok(), good, "{size} {sector_size} {segments}");
            let decoded = Manifest::decode(&manifest.encode());
            assert_eq!(decoded.is_ok(), good, "{size} {sector_size} {segments}");
        }
        check(1, 512, 1, true);
        check(SEGMENT_LEN, 4096, 1, true);
        check(SEGMENT_LEN + 1, 512, 2, true);
        check(IMAGE_SIZE_MAX, 512, SEGMENTS_MAX, true);
        check(0, 512, 0, false);
        check(1, 512, 0, false);
        check(1, 512, 2, false);
        check(SEGMENT_LEN + 1, 512, 1, false);
        check(1, 0, 1, false);
        check(1, 520, 1, false);
        check(IMAGE_SIZE_MAX + 1, 512, SEGMENTS_MAX + 1, false);
        assert_eq!(manifest(IMAGE_SIZE_MAX, 512, SEGMENTS_MAX).encode().len(), MANIFEST_LEN_MAX);
    }

    #[test]
    fn parameters_are_checked() {
        let mut bad = manifest(1, 512, 1);
        bad.params.max_blocks = 65;
        assert!(Manifest::decode(&bad.encode()).is_err());
    }

    #[test]
    fn lengths_of_segments() {
        let manifest = manifest(2 * SEGMENT_LEN + 5, 512, 3);
        let lens = [0, 1, 2, 3, usize::MAX].map(|index| manifest.segment_len(index));
        assert_eq!(lens, [SEGMENT_LEN, SEGMENT_LEN, 5, 0, 0]);
    }
}

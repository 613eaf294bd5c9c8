use crate::cut::ChunkerParams;
use crate::error::FormatError;
use crate::ids::{ChunkId, SegmentId};
use crate::manifest::Manifest;
use crate::segment::{Extent, Segment};
use crate::{BLOCK, IMAGE_SIZE_MAX, SEGMENT_LEN};

/// Makes the canonical segments and manifest of an image from its holes and chunks, given in order: merges holes, and cuts at segment borders.
///
/// What cannot be part of an image (a chunk across a border, something behind a partial block, more than
/// [`IMAGE_SIZE_MAX`]) is remembered and reported by [`finish`](Self::finish).
#[derive(Debug)]
pub struct ImageBuilder {
    params: ChunkerParams,
    sector_size: u32,
    extents: Vec<Extent>,
    /// Bytes that `extents` cover.
    filled: u64,
    size: u64,
    segments: Vec<SegmentId>,
    fault: Option<FormatError>,
}

impl ImageBuilder {
    pub fn new(params: ChunkerParams, sector_size: u32) -> Self {
        Self { params, sector_size, extents: Vec::new(), filled: 0, size: 0, segments: Vec::new(), fault: None }
    }

    /// Bytes given so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Adds `len` bytes of hole; gives back the segments that this filled, in order.
    pub fn hole(&mut self, len: u64) -> Vec<Segment> {
        let mut done = Vec::new();
        let mut left = if self.admit(len) { len } else { 0 };
        while left > 0 {
            // At most 256 MiB, which fits.
            let part = left.min(SEGMENT_LEN - self.filled) as u32;
            match self.extents.last_mut() {
                Some(Extent::Hole { len }) => *len += part,
                Some(Extent::Chunk { .. }) | None => self.extents.push(Extent::Hole { len: part }),
            }
            left -= u64::from(part);
            done.extend(self.advance(part));
        }
        done
    }

    /// Adds a chunk; gives back the segment that this filled.
    pub fn chunk(&mut self, id: ChunkId, len: u32) -> Option<Segment> {
        if u64::from(len) > SEGMENT_LEN - self.filled {
            self.refuse("a chunk crosses the border of a segment");
            return None;
        }
        if !self.admit(len.into()) {
            return None;
        }
        self.extents.push(Extent::Chunk { id, len });
        self.advance(len)
    }

    /// The last segment, unless it was full and given back before, and the manifest.
    ///
    /// # Errors
    /// [`FormatError::Empty`] for size 0; what the manifest refuses; the first thing that was given and cannot be.
    pub fn finish(mut self) -> Result<(Option<Segment>, Manifest), FormatError> {
        let last = if self.extents.is_empty() { None } else { self.close() };
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        let manifest =
            Manifest { size: self.size, sector_size: self.sector_size, params: self.params, segments: self.segments };
        manifest.check()?;
        Ok((last, manifest))
    }

    fn refuse(&mut self, rule: &'static str) {
        let what = "image";
        self.fault.get_or_insert(FormatError::NotCanonical { what, rule });
    }

    fn admit(&mut self, len: u64) -> bool {
        if len == 0 {
            return false;
        }
        if !self.size.is_multiple_of(BLOCK as u64) {
            self.refuse("something follows a partial block");
        }
        let size = self.size.saturating_add(len);
        if size > IMAGE_SIZE_MAX {
            self.fault.get_or_insert(FormatError::TooLarge { what: "size of image", value: size, max: IMAGE_SIZE_MAX });
        }
        self.fault.is_none()
    }

    fn advance(&mut self, len: u32) -> Option<Segment> {
        self.filled += u64::from(len);
        self.size += u64::from(len);
        if self.filled == SEGMENT_LEN { self.close() } else { None }
    }

    fn close(&mut self) -> Option<Segment> {
        self.filled = 0;
        match Segment::new(std::mem::take(&mut self.extents)) {
            Ok(segment) => {
                self.segments.push(segment.id());
                Some(segment)
            }
            Err(error) => {
                self.fault.get_or_insert(error);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn builder() -> ImageBuilder {
        ImageBuilder::new(ChunkerParams::default(), 512)
    }

    const ID: ChunkId = ChunkId::from_bytes([7; 32]);

    #[test]
    fn holes_merge_and_split() {
        let mut builder = builder();
        assert!(builder.hole(4096).is_empty());
        assert!(builder.hole(8192).is_empty());
        assert!(builder.chunk(ID, 4096).is_none());
        let done = builder.hole(3 * SEGMENT_LEN);
        assert_eq!(done.len(), 3);
        let first = [
            Extent::Hole { len: 12288 },
            Extent::Chunk { id: ID, len: 4096 },
            Extent::Hole { len: (256 << 20) - 16384 },
        ];
        assert_eq!(done[0].extents(), first);
        assert_eq!(done[1], done[2]);
        let (last, manifest) = builder.finish().unwrap();
        assert_eq!(last.unwrap().len(), 16384);
        assert_eq!(manifest.size, 3 * SEGMENT_LEN + 16384);
        assert_eq!(manifest.segments.len(), 4);
    }

    #[test]
    fn a_full_last_segment_is_given_once() {
        let mut builder = builder();
        assert_eq!(builder.hole(SEGMENT_LEN).len(), 1);
        let (last, manifest) = builder.finish().unwrap();
        assert_eq!(last, None);
        assert_eq!(manifest.segments.len(), 1);
    }

    #[test]
    fn faults_surface_at_the_end() {
        fn check(act: fn(&mut ImageBuilder), want: &str) {
            let mut builder = builder();
            act(&mut builder);
            let error = builder.finish().unwrap_err().to_string();
            assert_eq!(error, want);
        }
        check(|_| (), "image of size 0");
        check(
            |b| {
                b.hole(5);
                b.hole(4096);
            },
            "image: something follows a partial block",
        );
        check(
            |b| {
                b.chunk(ID, 5);
                b.chunk(ID, 4096);
            },
            "image: something follows a partial block",
        );
        check(
            |b| {
                b.hole(SEGMENT_LEN - 4096);
                b.chunk(ID, 8192);
            },
            "image: a chunk crosses the border of a segment",
        );
        check(
            |b| {
                b.chunk(ID, 1 << 20);
            },
            "chunk of segment is 1048576, the limit is 262144",
        );
        check(
            |b| {
                b.hole(u64::MAX);
            },
            "size of image is 18446744073709551615, the limit is 70368744177664",
        );
        check(
            |b| {
                *b = ImageBuilder::new(ChunkerParams::default(), 520);
                b.hole(1);
            },
            "sector size 520 is not known to this program",
        );
    }

    #[test]
    fn an_empty_tera_byte_is_small() {
        let mut builder = builder();
        builder.hole(1 << 40);
        let (_, manifest) = builder.finish().unwrap();
        assert_eq!(manifest.segments.len(), 4096);
        assert!(manifest.segments.iter().all(|id| *id == manifest.segments[0]));
    }
}

use crate::FRAME_RAW_MAX;
use crate::cursor::Cursor;
use crate::error::FormatError;
use crate::footer::frame_lens_check;
use crate::ids::{ChunkId, PackId};
use crate::pack::PACK_HEADER_LEN;
use crate::segment::SEGMENT_EXTENTS_MAX;

const MAGIC: &[u8; 4] = b"SLLY";
const VERSION: u8 = 1;
const WHAT: &str = "layout";
const HEADER_LEN: usize = 20;
const PACK_LEN_MIN: usize = PackId::LEN + 2;
const FRAME_AT_LEN: usize = 20;
const CHUNK_AT_LEN: usize = ChunkId::LEN + 12;

/// The longest address of a pack, in bytes.
pub const ADDRESS_LEN_MAX: usize = 4096;
/// No more records of any kind than a segment has extents.
const RECORDS_MAX: usize = SEGMENT_EXTENTS_MAX;
/// A sensible bound for who fetches a layout: all records, and 2,048 packs with the longest address.
pub const LAYOUT_LEN_MAX: usize =
    HEADER_LEN + RECORDS_MAX * (PACK_LEN_MIN + FRAME_AT_LEN + CHUNK_AT_LEN) + 2048 * ADDRESS_LEN_MAX;

/// Where the chunks of a segment lie now; asked per segment, and wrong as soon as prune moves something. Numbers refer to places in the lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub packs: Vec<PackAt>,
    pub frames: Vec<FrameAt>,
    pub chunks: Vec<ChunkAt>,
}

/// `address` is a URL path or an absolute URL, with its capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackAt {
    pub id: PackId,
    pub address: String,
}

/// A frame is `len` bytes at `offset` of pack number `pack`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameAt {
    pub pack: u32,
    pub offset: u64,
    pub len: u32,
    pub raw_len: u32,
}

/// A chunk is `len` bytes at `at` of the raw bytes of frame number `frame`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkAt {
    pub id: ChunkId,
    pub len: u32,
    pub frame: u32,
    pub at: u32,
}

impl Layout {
    /// Checks indexes, lengths and addresses, as [`decode`](Self::decode) does.
    pub fn check(&self) -> Result<(), FormatError> {
        for count in [self.packs.len(), self.frames.len(), self.chunks.len()] {
            if count > RECORDS_MAX {
                return Err(FormatError::TooLarge {
                    what: "records of layout",
                    value: count as u64,
                    max: RECORDS_MAX as u64,
                });
            }
        }
        self.packs.iter().try_for_each(PackAt::check)?;
        for frame in &self.frames {
            frame.check(self.packs.len())?;
        }
        self.chunks.iter().try_for_each(|chunk| chunk.check(&self.frames))
    }

    /// What [`check`](Self::check) refuses is encoded all the same, and refused by who decodes it.
    pub fn encode(&self) -> Vec<u8> {
        let packs_len: usize = self.packs.iter().map(|pack| PACK_LEN_MIN + pack.address.len()).sum();
        let mut bytes = Vec::with_capacity(
            HEADER_LEN + packs_len + self.frames.len() * FRAME_AT_LEN + self.chunks.len() * CHUNK_AT_LEN,
        );
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, 0, 0, 0]);
        for count in [self.packs.len(), self.frames.len(), self.chunks.len()] {
            bytes.extend_from_slice(&(count as u32).to_le_bytes());
        }
        for pack in &self.packs {
            bytes.extend_from_slice(pack.id.as_bytes());
            let len = u16::try_from(pack.address.len()).unwrap_or(u16::MAX);
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(pack.address.as_bytes());
        }
        for frame in &self.frames {
            bytes.extend_from_slice(&frame.pack.to_le_bytes());
            bytes.extend_from_slice(&frame.offset.to_le_bytes());
            bytes.extend_from_slice(&frame.len.to_le_bytes());
            bytes.extend_from_slice(&frame.raw_len.to_le_bytes());
        }
        for chunk in &self.chunks {
            bytes.extend_from_slice(chunk.id.as_bytes());
            bytes.extend_from_slice(&chunk.len.to_le_bytes());
            bytes.extend_from_slice(&chunk.frame.to_le_bytes());
            bytes.extend_from_slice(&chunk.at.to_le_bytes());
        }
        bytes
    }

    /// # Errors
    /// Whatever is not a layout, or points outside itself.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let mut cursor = Cursor::open(WHAT, MAGIC, VERSION, bytes)?;
        cursor.reserved::<3>()?;
        let packs = cursor.count("packs of layout", RECORDS_MAX, 0)?;
        let frames = cursor.count("frames of layout", RECORDS_MAX, 0)?;
        let chunks = cursor.count("chunks of layout", RECORDS_MAX, 0)?;
        cursor.expect(packs * PACK_LEN_MIN + frames * FRAME_AT_LEN + chunks * CHUNK_AT_LEN)?;

        let mut layout = Self {
            packs: Vec::with_capacity(packs),
            frames: Vec::with_capacity(frames),
            chunks: Vec::with_capacity(chunks),
        };
        for _ in 0..packs {
            layout.packs.push(PackAt::read(&mut cursor)?);
        }
        for _ in 0..frames {
            layout.frames.push(FrameAt {
                pack: cursor.u32()?,
                offset: cursor.u64()?,
                len: cursor.u32()?,
                raw_len: cursor.u32()?,
            });
        }
        for _ in 0..chunks {
            layout.chunks.push(ChunkAt {
                id: ChunkId::from_bytes(cursor.take()?),
                len: cursor.u32()?,
                frame: cursor.u32()?,
                at: cursor.u32()?,
            });
        }
        cursor.end()?;
        layout.check()?;
        Ok(layout)
    }
}

fn not(rule: &'static str) -> FormatError {
    FormatError::NotCanonical { what: WHAT, rule }
}

impl PackAt {
    fn read(cursor: &mut Cursor<'_>) -> Result<Self, FormatError> {
        let id = PackId::from_bytes(cursor.take()?);
        let len = usize::from(cursor.u16()?);
        let address =
            str::from_utf8(cursor.slice(len)?).map_err(|_| not("an address is not printable ASCII"))?.to_owned();
        Ok(Self { id, address })
    }

    /// An address goes into a request line, so nothing in it may end that line.
    fn check(&self) -> Result<(), FormatError> {
        if !(1..=ADDRESS_LEN_MAX).contains(&self.address.len()) {
            return Err(FormatError::TooLarge {
                what: "length of address in layout",
                value: self.address.len() as u64,
                max: ADDRESS_LEN_MAX as u64,
            });
        }
        if !self.address.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(not("an address is not printable ASCII"));
        }
        Ok(())
    }
}

impl FrameAt {
    fn check(&self, packs: usize) -> Result<(), FormatError> {
        if self.pack as usize >= packs {
            return Err(not("a frame names a pack that is not listed"));
        }
        frame_lens_check(WHAT, self.len, self.raw_len)?;
        if self.offset < PACK_HEADER_LEN || self.offset > u64::MAX - u64::from(self.len) {
            return Err(not("a frame lies outside every pack"));
        }
        Ok(())
    }
}

impl ChunkAt {
    fn check(&self, frames: &[FrameAt]) -> Result<(), FormatError> {
        let Some(frame) = frames.get(self.frame as usize) else {
            return Err(not("a chunk names a frame that is not listed"));
        };
        if self.len == 0 || self.len as usize > FRAME_RAW_MAX {
            return Err(not("a chunk has an impossible length"));
        }
        if u64::from(self.at) + u64::from(self.len) > u64::from(frame.raw_len) {
            return Err(not("a chunk lies outside its frame"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let pack = |n, address: &str| PackAt { id: PackId::from_bytes([n; 16]), address: address.to_owned() };
        let frame = |pack, offset| FrameAt { pack, offset, len: 1000, raw_len: 8192 };
        let chunk = |frame, at| ChunkAt { id: ChunkId::of(b"x"), len: 4096, frame, at };
        Layout {
            packs: vec![pack(1, "/b/1?c=abc"), pack(2, "https://s3.example/b/2")],
            frames: vec![frame(0, 8), frame(1, 1008)],
            chunks: vec![chunk(0, 0), chunk(0, 4096), chunk(1, 1)],
        }
    }

    #[test]
    fn rules() {
        fn check(change: fn(&mut Layout), good: bool) {
            let mut layout = layout();
            change(&mut layout);
            assert_eq!(layout.check().is_ok(), good, "{layout:?}");
            let decoded = Layout::decode(&layout.encode());
            assert_eq!(decoded.is_ok(), good, "{layout:?}");
            assert!(decoded.is_err() || decoded.unwrap() == layout);
        }
        check(|_| (), true);
        check(|l| *l = Layout::default(), true);
        check(|l| l.packs[0].address = String::new(), false);
        check(|l| l.packs[0].address = "/b 1".to_owned(), false);
        check(|l| l.packs[0].address = "/b\r\n".to_owned(), false);
        check(|l| l.packs[0].address = "/é".to_owned(), false);
        check(|l| l.packs[0].address = "a".repeat(4096), true);
        check(|l| l.packs[0].address = "a".repeat(4097), false);
        check(|l| l.packs[0].address = "a".repeat(70_000), false);
        check(|l| l.frames[0].pack = 2, false);
        check(|l| l.frames[0].offset = 7, false);
        check(|l| l.frames[0].offset = u64::MAX, false);
        check(|l| l.frames[0].len = 20, false);
        check(|l| l.frames[0].len = u32::MAX, false);
        check(|l| l.frames[0].raw_len = 8191, false);
        check(|l| l.frames[0].raw_len = FRAME_RAW_MAX as u32 + 1, false);
        check(|l| l.chunks[0].frame = 2, false);
        check(|l| l.chunks[0].len = 0, false);
        check(|l| l.chunks[1].at = 4097, false);
        check(|l| l.chunks[1].at = u32::MAX, false);
    }
}

//! Any bytes of a content, verified.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use slipway_chunk::{DecodedFrame, Extent, Fill, Manifest, Root, SEGMENT_LEN, Segment, SegmentId, SparseRead};

use crate::error::StoreError;
use crate::id::SpaceId;
use crate::ledger::{BlobKind, BlobRow, Ledger};
use crate::prepare::segment_rows;
use crate::store::{FrameCache, Store};

/// A run of a content that is all hole or all data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    pub hole: bool,
    pub len: u64,
}

/// Reads a content anywhere. It holds one segment and one frame, beside the store's caches, and
/// every chunk was verified before a byte of it is given out. It implements `Read` and
/// `SparseRead` from its position on.
#[derive(Debug)]
pub struct ContentReader {
    store: Arc<Store>,
    spaces: Vec<SpaceId>,
    manifest: Manifest,
    rows: BTreeMap<SegmentId, BlobRow>,
    open: Option<OpenSegment>,
    frame: Option<OpenChunk>,
    /// Where the chunk that was read last ends, and the holes behind it.
    last_end: u64,
    position: u64,
    /// Frames that this reader read itself, for one that must not believe what others read before, or that reads nothing twice.
    fresh: Option<FrameCache>,
}

/// What a look at every byte comes to, piece by piece in image order.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A run of zeros.
    Hole(u64),
    /// The bytes of one chunk, verified.
    Data(&'a [u8]),
    /// So many bytes cannot be read, and why.
    Bad(u64, String),
}

/// Bytes of frames that a fresh reader keeps: the chunks of one frame lie near each other in an image.
const FRESH_BYTES: usize = 8 << 20;

/// The segment that was read last, with the offset in it of each extent.
#[derive(Debug)]
struct OpenSegment {
    number: usize,
    segment: Arc<Segment>,
    starts: Vec<u32>,
}

/// The chunk that was read last.
#[derive(Debug)]
struct OpenChunk {
    /// Offset in the image.
    start: u64,
    frame: Arc<DecodedFrame>,
    at: u32,
}

impl Store {
    /// Opens a content whose blobs lie in these spaces. The rows of its segments are read now, so
    /// that the reader needs no ledger; what it reads stays for the grace even if it is deleted.
    pub fn content_open(
        self: &Arc<Store>,
        spaces: &[SpaceId],
        root: &Root,
        ledger: &dyn Ledger,
    ) -> Result<ContentReader, StoreError> {
        self.index_sync(ledger)?;
        let manifest = self.manifest_read(spaces, root, ledger)?;
        let rows = segment_rows(spaces, &manifest, ledger)?;
        for id in &manifest.segments {
            if !rows.contains_key(id) {
                return Err(StoreError::NotFound { kind: BlobKind::Segment, name: id.to_string() });
            }
        }
        Ok(ContentReader::new(Arc::clone(self), spaces, manifest, rows))
    }

    /// The same for who reads all of it once, in order: with frames of its own, so that those that other readers come back to stay in the
    /// store's cache, and what it read goes when it ends.
    pub fn content_open_once(
        self: &Arc<Store>,
        spaces: &[SpaceId],
        root: &Root,
        ledger: &dyn Ledger,
    ) -> Result<ContentReader, StoreError> {
        let mut reader = self.content_open(spaces, root, ledger)?;
        reader.fresh = Some(FrameCache::new(FRESH_BYTES));
        Ok(reader)
    }

    /// Reads every chunk of a content from the blobs themselves, past all caches, and hands it on in image order; what cannot be read is
    /// told with its length, and the rest goes on behind it. False if `each` said stop, by answering false.
    ///
    /// # Errors
    /// When the manifest cannot be read, or rows or the bucket do not answer.
    pub fn content_verify(
        self: &Arc<Store>,
        spaces: &[SpaceId],
        root: &Root,
        ledger: &dyn Ledger,
        each: &mut dyn FnMut(Piece<'_>) -> bool,
    ) -> Result<bool, StoreError> {
        self.index_sync(ledger)?;
        let manifest = self.manifest_read(spaces, root, ledger)?;
        let rows = segment_rows(spaces, &manifest, ledger)?;
        let mut reader = ContentReader::new(Arc::clone(self), spaces, manifest, rows);
        reader.fresh = Some(FrameCache::new(FRESH_BYTES));
        reader.pieces(each)
    }
}

impl ContentReader {
    fn new(store: Arc<Store>, spaces: &[SpaceId], manifest: Manifest, rows: BTreeMap<SegmentId, BlobRow>) -> Self {
        let spaces = spaces.to_vec();
        Self { store, spaces, manifest, rows, open: None, frame: None, last_end: 0, position: 0, fresh: None }
    }

    /// Bytes of the image.
    pub fn size(&self) -> u64 {
        self.manifest.size
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Where `Read` goes on.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Lets `Read` go on elsewhere; beyond the end it reads nothing.
    pub fn seek_to(&mut self, offset: u64) {
        self.position = offset;
    }

    /// Fills the buffer from `offset` on.
    ///
    /// # Errors
    /// `PastEnd`, or what is wrong with the first chunk that has no good copy; the buffer's
    /// content is then unspecified.
    pub fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), StoreError> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.size()) {
            return Err(StoreError::PastEnd { offset, len: buf.len() as u64, size: self.size() });
        }
        let mut done = 0;
        while done < buf.len() {
            done += self.extent_read(offset + done as u64, &mut buf[done..])?;
        }
        Ok(())
    }

    /// The hole or data that `offset` lies in, from there on, as far as it is known from one
    /// segment or holes that follow; none at the end.
    pub fn extents_from(&mut self, offset: u64) -> Result<Option<Stretch>, StoreError> {
        if offset >= self.size() {
            return Ok(None);
        }
        let (extent, mut len) = self.extent_at(offset)?;
        let hole = matches!(extent, Extent::Hole { .. });
        loop {
            let next = offset + len;
            // Data is joined within its segment only: a caller wants to begin, not to know all.
            if next >= self.size() || (!hole && next.is_multiple_of(SEGMENT_LEN)) {
                break;
            }
            let (extent, more) = self.extent_at(next)?;
            if matches!(extent, Extent::Hole { .. }) != hole {
                break;
            }
            len += more;
        }
        Ok(Some(Stretch { hole, len }))
    }

    fn segment_open(&mut self, number: usize) -> Result<&OpenSegment, StoreError> {
        let known = self.open.as_ref().is_some_and(|open| open.number == number);
        if !known {
            let id = self.manifest.segments[number];
            let row = self.rows.get(&id);
            let row = row.ok_or_else(|| StoreError::NotFound { kind: BlobKind::Segment, name: id.to_string() })?;
            let segment = match self.fresh {
                None => self.store.segment_of_row(row)?,
                Some(_) => self.store.segment_fresh(row)?,
            };
            if segment.len() != self.manifest.segment_len(number) {
                return Err(StoreError::Damaged {
                    kind: BlobKind::Manifest,
                    name: self.manifest.root().to_string(),
                    detail: format!("segment {id} has another length than its place"),
                });
            }
            let mut at = 0;
            let starts = segment
                .extents()
                .iter()
                .map(|extent| {
                    let start = at;
                    at += extent.len();
                    start
                })
                .collect();
            self.open = Some(OpenSegment { number, segment, starts });
        }
        self.open.as_ref().ok_or_else(|| StoreError::NotFound { kind: BlobKind::Segment, name: number.to_string() })
    }

    /// The extent at an offset, and how much of it lies from there on.
    fn extent_at(&mut self, offset: u64) -> Result<(Extent, u64), StoreError> {
        let number = (offset / SEGMENT_LEN) as usize;
        let within = (offset % SEGMENT_LEN) as u32;
        let open = self.segment_open(number)?;
        let place = open.starts.partition_point(|&start| start <= within) - 1;
        let extent = open.segment.extents()[place];
        let left = open.starts[place] + extent.len() - within;
        Ok((extent, u64::from(left)))
    }

    fn extent_read(&mut self, offset: u64, buf: &mut [u8]) -> Result<usize, StoreError> {
        let (extent, left) = self.extent_at(offset)?;
        let n = buf.len().min(left as usize);
        match extent {
            Extent::Hole { .. } => {
                buf[..n].fill(0);
                if self.last_end == offset {
                    self.last_end = offset + left;
                }
            }
            Extent::Chunk { id, len } => {
                let start = offset + left - u64::from(len);
                let known = self.frame.as_ref().is_some_and(|open| open.start == start);
                if !known {
                    // The chunk before this one was the last: somebody reads in order.
                    let ahead = self.last_end == start;
                    let cache = self.fresh.as_ref().unwrap_or(&self.store.frames);
                    let (frame, at) = self.store.chunk_frame(&self.spaces, &id, len, ahead, cache)?;
                    self.frame = Some(OpenChunk { start, frame, at });
                    self.last_end = start + u64::from(len);
                }
                if let Some(open) = &self.frame {
                    let from = open.at as usize + (offset - start) as usize;
                    buf[..n].copy_from_slice(&open.frame.raw()[from..from + n]);
                }
            }
        }
        Ok(n)
    }
}

impl ContentReader {
    fn pieces(&mut self, each: &mut dyn FnMut(Piece<'_>) -> bool) -> Result<bool, StoreError> {
        let mut buf = Vec::new();
        for number in 0..self.manifest.segments.len() {
            let start = number as u64 * SEGMENT_LEN;
            let extents = match self.segment_open(number) {
                Ok(open) => open.segment.extents().to_vec(),
                Err(error) => {
                    let len = self.manifest.segment_len(number);
                    if !each(Piece::Bad(len, bad_or_away(error)?)) {
                        return Ok(false);
                    }
                    continue;
                }
            };
            let mut at = start;
            for extent in extents {
                let len = u64::from(extent.len());
                let go_on = match extent {
                    Extent::Hole { .. } => each(Piece::Hole(len)),
                    Extent::Chunk { .. } => {
                        buf.resize(len as usize, 0);
                        match self.extent_read(at, &mut buf) {
                            Ok(_) => each(Piece::Data(&buf)),
                            Err(error) => each(Piece::Bad(len, bad_or_away(error)?)),
                        }
                    }
                };
                if !go_on {
                    return Ok(false);
                }
                at += len;
            }
        }
        Ok(true)
    }
}

/// What is wrong with what was read, in words; that rows or the bucket do not answer says nothing of it.
fn bad_or_away(error: StoreError) -> Result<String, StoreError> {
    match error {
        StoreError::Ledger(error) => Err(error.into()),
        error if error.is_away() => Err(error),
        error => Ok(error.to_string()),
    }
}

impl Read for ContentReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.size().saturating_sub(self.position);
        let len = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if len == 0 {
            return Ok(0);
        }
        self.read_at(self.position, &mut buf[..len]).map_err(io::Error::other)?;
        self.position += len as u64;
        Ok(len)
    }
}

impl SparseRead for ContentReader {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        let Some(stretch) = self.extents_from(self.position).map_err(io::Error::other)? else {
            return Ok(Fill::End);
        };
        if stretch.hole {
            self.position += stretch.len;
            return Ok(Fill::Hole(stretch.len));
        }
        let len = usize::try_from(stretch.len).unwrap_or(usize::MAX);
        let len = buf.len().min(len);
        self.read(&mut buf[..len]).map(Fill::Data)
    }
}

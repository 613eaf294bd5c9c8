//! What lies where on a target: chunks that may be found at another place than the image wants them.

use slipway_chunk::{BLOCK, ChunkId, ChunkerParams, Piece, SEGMENT_LEN, piece_next};

/// Chunks of a target by the first 8 bytes of their id; whoever uses a find re-reads and verifies it.
pub(crate) struct TargetIndex {
    entries: Vec<Entry>,
    cap: usize,
}

/// 16 bytes: the id's beginning, and block number, length in blocks and whether the place stays as it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    prefix: u64,
    /// `blocks << 48 | passing << 47 | block number`: sorts by length, then lasting places first.
    place: u64,
}

const PASSING: u64 = 1 << 47;

fn prefix(id: &ChunkId) -> u64 {
    id.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

impl TargetIndex {
    pub(crate) fn new(cap: usize) -> Self {
        Self { entries: Vec::new(), cap }
    }

    /// Chunks that stay where they are get half of the room: what will be overwritten is what is worth finding.
    pub(crate) fn lasting_add(&mut self, id: &ChunkId, at: u64, len: usize) {
        if self.entries.len() < self.cap / 2 {
            self.push(id, at, len, 0);
        }
    }

    /// A chunk in a region that will be written.
    pub(crate) fn passing_add(&mut self, id: &ChunkId, at: u64, len: usize) {
        if self.has_room() {
            self.push(id, at, len, PASSING);
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.entries.len() < self.cap
    }

    fn push(&mut self, id: &ChunkId, at: u64, len: usize, passing: u64) {
        let block = BLOCK as u64;
        // Only whole blocks at their borders: what else there is, is the image's last block.
        if len > 0 && len.is_multiple_of(BLOCK) && at.is_multiple_of(block) {
            let place = (len / BLOCK) as u64;
            self.entries.push(Entry { prefix: prefix(id), place: (place << 48) | passing | (at / block) });
        }
    }

    /// Makes it ready for [`find`](Self::find); of equal chunks one is kept, a lasting one if there is one.
    pub(crate) fn settle(&mut self) {
        self.entries.sort_unstable();
        self.entries.dedup_by_key(|entry| (entry.prefix, entry.place >> 48));
    }

    /// Where the target may hold this chunk.
    pub(crate) fn find(&self, id: &ChunkId, len: u32) -> Option<u64> {
        if !(len as usize).is_multiple_of(BLOCK) {
            return None;
        }
        let key = (prefix(id), u64::from(len) / BLOCK as u64);
        let found = self.entries.binary_search_by_key(&key, |entry| (entry.prefix, entry.place >> 48)).ok()?;
        Some((self.entries[found].place & (PASSING - 1)) * BLOCK as u64)
    }
}

/// Cuts the differing regions of a target as an image is cut, whatever the parts in which they come.
pub(crate) struct Cutter {
    params: ChunkerParams,
    buf: Vec<u8>,
    at: u64,
}

impl Cutter {
    pub(crate) fn new(params: ChunkerParams) -> Self {
        Self { params, buf: Vec::new(), at: 0 }
    }

    /// Takes the next bytes of a region; a place that does not follow begins another region.
    pub(crate) fn feed(&mut self, at: u64, bytes: &[u8], found: &mut impl FnMut(u64, &[u8])) {
        if at != self.at + self.buf.len() as u64 {
            self.end(found);
            self.at = at;
        }
        self.buf.extend_from_slice(bytes);
        self.cut(false, found);
    }

    /// The region ends here.
    pub(crate) fn end(&mut self, found: &mut impl FnMut(u64, &[u8])) {
        self.cut(true, found);
        self.at += self.buf.len() as u64;
        self.buf.clear();
    }

    fn cut(&mut self, eof: bool, found: &mut impl FnMut(u64, &[u8])) {
        let mut from = 0;
        loop {
            let at = self.at + from as u64;
            let room = SEGMENT_LEN - at % SEGMENT_LEN;
            match piece_next(&self.params, &self.buf[from..], room, eof) {
                None => break,
                Some(Piece::Hole(len)) => from += len,
                Some(Piece::Data(len)) => {
                    found(at, &self.buf[from..from + len]);
                    from += len;
                }
            }
        }
        self.buf.drain(..from);
        self.at += from as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::{Cutter, TargetIndex};
    use slipway_chunk::{BLOCK, ChunkId, ChunkerParams, Run, Scan, Stream};

    #[test]
    fn lasting_places_win_and_bounds_hold() {
        let ids: Vec<_> = (0..10_u8).map(|n| ChunkId::of(&[n])).collect();
        let mut index = TargetIndex::new(6);
        index.passing_add(&ids[0], 0, BLOCK);
        index.lasting_add(&ids[0], 40960, BLOCK);
        index.passing_add(&ids[0], 8192, 2 * BLOCK);
        for id in &ids[1..5] {
            index.lasting_add(id, 4096, BLOCK);
        }
        index.passing_add(&ids[5], 1 << 45, 64 * BLOCK);
        index.passing_add(&ids[6], 4096, 100);
        index.passing_add(&ids[7], 4096, BLOCK);
        index.passing_add(&ids[8], 8192, BLOCK);
        index.passing_add(&ids[9], 8192, BLOCK);
        index.settle();
        assert_eq!(index.find(&ids[0], 4096), Some(40960));
        assert_eq!(index.find(&ids[0], 8192), Some(8192));
        assert_eq!(index.find(&ids[0], 12288), None);
        assert_eq!(index.find(&ids[1], 4096), None, "lasting ones have half of the room");
        assert_eq!(index.find(&ids[5], 64 * 4096), Some(1 << 45));
        assert_eq!(index.find(&ids[6], 100), None);
        assert_eq!(index.find(&ids[8], 4096), Some(8192));
        assert_eq!(index.find(&ids[9], 4096), None, "the index is full");
    }

    #[test]
    fn a_region_is_cut_like_an_image() {
        let mut image = vec![0_u8; 3 << 20];
        for (n, block) in image.chunks_mut(BLOCK).enumerate().filter(|(n, _)| n % 50 > 3) {
            block.iter_mut().enumerate().for_each(|(i, byte)| *byte = (n * 31 + i / 7) as u8);
        }
        let params = ChunkerParams::default();
        let mut want = Vec::new();
        let mut scan = Scan::new(Stream(&image[..]), params);
        while let Some(run) = scan.next().unwrap() {
            if let Run::Data { at, bytes } = run {
                want.push((at, ChunkId::of(bytes)));
            }
        }
        for part in [4096, 28672, 1 << 20] {
            let mut got = Vec::new();
            let mut cutter = Cutter::new(params);
            let mut found = |at, bytes: &[u8]| got.push((at, ChunkId::of(bytes)));
            for (n, bytes) in image.chunks(part).enumerate() {
                cutter.feed((n * part) as u64, bytes, &mut found);
            }
            cutter.end(&mut found);
            assert_eq!(got, want, "parts of {part}");
        }
        // A gap ends a region: nothing is cut across it.
        let mut got = Vec::new();
        let mut cutter = Cutter::new(params);
        let mut found = |at: u64, bytes: &[u8]| got.push((at, bytes.len()));
        cutter.feed(0, &[1; BLOCK], &mut found);
        cutter.feed(10 * BLOCK as u64, &[1; BLOCK], &mut found);
        cutter.end(&mut found);
        assert_eq!(got, [(0, BLOCK), (10 * BLOCK as u64, BLOCK)]);
    }
}

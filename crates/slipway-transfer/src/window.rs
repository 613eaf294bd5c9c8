//! Reading a source in windows: bounded memory, hashed by several threads.

use slipway_chunk::{ChunkId, Run, Scan, SparseRead};
use std::io;

/// Data in one window: 16 MiB, and one chunk more at most.
pub(crate) const WINDOW_LEN: usize = 16 << 20;
/// Holes and chunks in one window at most, so that one question about its chunks is enough.
const PIECES_MAX: usize = slipway_api::wire::MISSING_MAX;

/// A part of the image in the order of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Hole(u64),
    /// A chunk that lies at `from` of the window's data.
    Chunk {
        id: ChunkId,
        from: usize,
        len: usize,
    },
}

impl Piece {
    pub(crate) fn id(&self) -> Option<ChunkId> {
        match self {
            Self::Hole(_) => None,
            Self::Chunk { id, .. } => Some(*id),
        }
    }
}

/// A stretch of the image.
#[derive(Default)]
pub(crate) struct Window {
    data: Vec<u8>,
    pieces: Vec<Piece>,
}

impl Window {
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    pub(crate) fn bytes(&self, from: usize, len: usize) -> &[u8] {
        &self.data[from..from + len]
    }

    /// Raw bytes that it covers, holes included.
    pub(crate) fn len(&self) -> u64 {
        self.pieces
            .iter()
            .map(|piece| match piece {
                Piece::Hole(len) => *len,
                Piece::Chunk { len, .. } => *len as u64,
            })
            .sum()
    }

    /// Reads the next stretch, in place of the one before; `false` at the end of the image.
    pub(crate) fn fill<S: SparseRead>(&mut self, scan: &mut Scan<S>, workers: usize) -> io::Result<bool> {
        self.data.clear();
        self.pieces.clear();
        while self.data.len() < WINDOW_LEN && self.pieces.len() < PIECES_MAX {
            match scan.next()? {
                None => break,
                Some(Run::Hole { len, .. }) => self.pieces.push(Piece::Hole(len)),
                Some(Run::Data { bytes, .. }) => {
                    let from = self.data.len();
                    self.data.extend_from_slice(bytes);
                    self.pieces.push(Piece::Chunk { id: ChunkId::from_bytes([0; 32]), from, len: bytes.len() });
                }
            }
        }
        hash(&self.data, &mut self.pieces, workers);
        Ok(!self.pieces.is_empty())
    }
}

fn hash(data: &[u8], pieces: &mut [Piece], workers: usize) {
    let each = pieces.len().div_ceil(workers.max(1)).max(64);
    std::thread::scope(|scope| {
        let mut parts = pieces.chunks_mut(each);
        let own = parts.next();
        for part in parts {
            scope.spawn(move || hash_some(data, part));
        }
        own.into_iter().for_each(|part| hash_some(data, part));
    });
}

fn hash_some(data: &[u8], pieces: &mut [Piece]) {
    for piece in pieces {
        if let Piece::Chunk { id, from, len } = piece {
            *id = ChunkId::of(&data[*from..*from + *len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece, Window};
    use slipway_chunk::{ChunkId, ChunkerParams, Scan, Stream};

    #[test]
    fn windows_cover_the_source_whatever_the_workers() {
        let mut image = vec![0_u8; 40 << 20];
        for (block, bytes) in image.chunks_mut(4096).enumerate().filter(|(block, _)| block % 7 != 0) {
            bytes.fill(block as u8 | 1);
        }
        let mut all = Vec::new();
        for workers in [0, 1, 3] {
            let mut scan = Scan::new(Stream(&image[..]), ChunkerParams::default());
            let (mut window, mut at, mut seen) = (Window::default(), 0, Vec::new());
            while window.fill(&mut scan, workers).unwrap() {
                for piece in window.pieces() {
                    if let Piece::Chunk { id, from, len } = *piece {
                        assert_eq!(window.bytes(from, len), &image[at..at + len]);
                        assert_eq!(id, ChunkId::of(window.bytes(from, len)));
                        seen.push((at, id));
                        at += len;
                    } else if let Piece::Hole(len) = *piece {
                        assert!(image[at..at + len as usize].iter().all(|b| *b == 0));
                        at += len as usize;
                    }
                }
            }
            assert_eq!(at, image.len());
            all.push(seen);
        }
        assert!(all[0] == all[1] && all[1] == all[2] && !all[0].is_empty());
    }
}

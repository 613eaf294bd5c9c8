use std::io::{self, Read};

use crate::cut::{ChunkerParams, Piece, piece_next};
use crate::{BLOCK, IMAGE_SIZE_MAX, SEGMENT_LEN};

/// What a source gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fill {
    /// So many bytes, at least 1, at the front of the buffer.
    Data(usize),
    /// So many zero bytes, at least 1, that were not read.
    Hole(u64),
    /// The image ends.
    End,
}

/// A source of image bytes that may know its holes.
pub trait SparseRead {
    /// Fills the front of `buf` (never empty), or names a hole. A hole begins at a multiple of [`BLOCK`], and its length is a
    /// multiple of it unless the image ends there.
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill>;
}

impl<S: SparseRead + ?Sized> SparseRead for &mut S {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        (**self).fill(buf)
    }
}

impl<S: SparseRead + ?Sized> SparseRead for Box<S> {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        (**self).fill(buf)
    }
}

/// Any reader as a source that knows no holes; zero blocks are found by looking at them.
#[derive(Debug)]
pub struct Stream<R: Read>(pub R);

impl<R: Read> SparseRead for Stream<R> {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        loop {
            match self.0.read(buf) {
                Ok(0) => return Ok(Fill::End),
                Ok(len) => return Ok(Fill::Data(len)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// A part of an image: a hole (neighbours may follow each other), or one whole chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run<'a> {
    Hole { at: u64, len: u64 },
    Data { at: u64, bytes: &'a [u8] },
}

/// What is known to follow the buffered bytes.
#[derive(Clone, Copy)]
enum Ahead {
    Unknown,
    Hole(u64),
    End,
}

const BUFFER: usize = 1 << 20;

/// Walks an image from front to back and cuts it; the runs cover it without gap. A run never crosses a segment's border.
/// Memory is one buffer of 1 MiB. The runs of data depend on the image and the parameters only, not on how the source hands out its bytes.
pub struct Scan<S: SparseRead> {
    source: S,
    params: ChunkerParams,
    buf: Box<[u8]>,
    start: usize,
    end: usize,
    ahead: Ahead,
    position: u64,
}

impl<S: SparseRead> Scan<S> {
    pub fn new(source: S, params: ChunkerParams) -> Self {
        Self {
            source,
            params,
            buf: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            ahead: Ahead::Unknown,
            position: 0,
        }
    }

    /// Bytes handed out so far: the offset of the next run, and at the end the image's size.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Gives the source back, for what it knows after the end.
    pub fn into_source(self) -> S {
        self.source
    }

    /// The next run, or `None` at the end of the image.
    ///
    /// # Errors
    /// What the source says; `InvalidData` when it breaks the rules of [`SparseRead`]; `FileTooLarge`
    /// beyond [`IMAGE_SIZE_MAX`].
    // Not an `Iterator`: a run borrows the buffer.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> io::Result<Option<Run<'_>>> {
        let at = self.position;
        let room = SEGMENT_LEN - at % SEGMENT_LEN;
        loop {
            let border = !matches!(self.ahead, Ahead::Unknown);
            let span = &self.buf[self.start..self.end];
            if let Some(piece) = piece_next(&self.params, span, room, border) {
                return self.piece_give(at, piece).map(Some);
            }
            match self.ahead {
                Ahead::Unknown => self.refill()?,
                Ahead::Hole(len) => {
                    let part = len.min(room);
                    self.ahead = match len - part {
                        0 => Ahead::Unknown,
                        rest => Ahead::Hole(rest),
                    };
                    self.advance(part)?;
                    return Ok(Some(Run::Hole { at, len: part }));
                }
                Ahead::End => return Ok(None),
            }
        }
    }

    fn piece_give(&mut self, at: u64, piece: Piece) -> io::Result<Run<'_>> {
        let (Piece::Hole(len) | Piece::Data(len)) = piece;
        self.advance(len as u64)?;
        let from = self.start;
        self.start += len;
        Ok(match piece {
            Piece::Hole(_) => Run::Hole { at, len: len as u64 },
            Piece::Data(_) => Run::Data { at, bytes: &self.buf[from..self.start] },
        })
    }

    fn advance(&mut self, len: u64) -> io::Result<()> {
        self.position += len;
        if self.position > IMAGE_SIZE_MAX {
            let reason = format!("image is larger than {IMAGE_SIZE_MAX} bytes");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
        }
        Ok(())
    }

    /// Fills the buffer up, or until a border: cutting again after every small read would hash blocks twice.
    fn refill(&mut self) -> io::Result<()> {
        self.buf.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        while self.end < self.buf.len() {
            let space = &mut self.buf[self.end..];
            let max = space.len();
            match self.source.fill(space)? {
                Fill::Data(_) if self.end == 0 && !aligned(self.position) => {
                    return Err(broken("data behind a hole that ends inside a block"));
                }
                Fill::Data(len) if (1..=max).contains(&len) => self.end += len,
                Fill::Data(_) => return Err(broken("an impossible length")),
                Fill::Hole(len) => {
                    self.hole_check(len)?;
                    self.ahead = Ahead::Hole(len);
                    return Ok(());
                }
                Fill::End => {
                    self.ahead = Ahead::End;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn hole_check(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Err(broken("an empty hole"));
        }
        let at = self.position + (self.end - self.start) as u64;
        if !aligned(at) {
            return Err(broken("a hole that begins inside a block"));
        }
        Ok(())
    }
}

fn aligned(at: u64) -> bool {
    at.is_multiple_of(BLOCK as u64)
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("source gave {what}"))
}

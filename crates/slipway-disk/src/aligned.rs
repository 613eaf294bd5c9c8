//! A buffer whose memory is aligned for `O_DIRECT`, without unsafe code: some bytes more are allocated and
//! the first aligned one is found. It is never moved once it has been handed out.

use std::ops::{Deref, DerefMut};

/// What every disk accepts: the largest logical sector in use, and the page size.
pub(crate) const ALIGN: usize = 4096;
/// A buffer that has to grow becomes a multiple of this.
const GROWS_BY: usize = 256 << 10;

pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Aligned {
        let memory = vec![0; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        // `align_offset` may give up with usize::MAX only in constant evaluation.
        debug_assert!(start < ALIGN);
        Aligned { memory, start, len }
    }

    /// One that has no memory yet.
    pub(crate) const fn empty() -> Aligned {
        Aligned { memory: Vec::new(), start: 0, len: 0 }
    }

    /// Makes it at least `len` bytes long; the content is lost when it grows.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.len < len {
            // The old memory goes before the new one comes.
            *self = Aligned::empty();
            *self = Aligned::new(len.next_multiple_of(GROWS_BY));
        }
    }
}

/// Bytes that were read, in memory that is used again: reading into the same one does not allocate, and nothing is copied.
pub struct ReadBuffer {
    pub(crate) memory: Aligned,
    pub(crate) from: usize,
    pub(crate) len: usize,
}

impl ReadBuffer {
    /// An empty one, without memory.
    pub const fn new() -> ReadBuffer {
        ReadBuffer { memory: Aligned::empty(), from: 0, len: 0 }
    }

    /// What was read last.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.len]
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.len]
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }
}

impl Default for ReadBuffer {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

//! A buffer whose memory is aligned for `O_DIRECT`, without unsafe code: some bytes more are allocated and
//! the first aligned one is found. It is never moved once it has been handed out.

use crate::memory::huge_pages_ask;
use std::ops::{Deref, DerefMut};

/// What every disk accepts: the largest logical sector in use, and the page size.
pub(crate) const ALIGN: usize = 4096;
/// A buffer that has to grow becomes a multiple of this.
const GROWS_BY: usize = 128 << 10;
/// Longer than half of it, it becomes a multiple of this, and lies in huge pages where the kernel has some: a direct transfer pins every
/// page of its memory, which is most of what the processor does for it.
const HUGE: usize = 2 << 20;

pub(crate) struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    pub(crate) fn new(len: usize) -> Aligned {
        let align = if len < HUGE { ALIGN } else { HUGE };
        let mut memory = vec![0; len + align];
        let start = memory.as_ptr().align_offset(align);
        // `align_offset` may give up with usize::MAX only in constant evaluation.
        debug_assert!(start < align);
        if align == HUGE {
            huge_pages_ask(&mut memory[start..start + len]);
        }
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
            let unit = if len > HUGE / 2 { HUGE } else { GROWS_BY };
            *self = Aligned::new(len.next_multiple_of(unit));
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

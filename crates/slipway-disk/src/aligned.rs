//! A buffer whose memory is aligned for `O_DIRECT`, without unsafe code: some bytes more are allocated and
//! the first aligned one is found. It is never moved once it has been handed out.

use std::ops::{Deref, DerefMut};

/// What every disk accepts: the largest logical sector in use, and the page size.
pub(crate) const ALIGN: usize = 4096;

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

    /// Makes it at least `len` bytes long; the content is lost when it grows.
    pub(crate) fn reserve(&mut self, len: usize) {
        if self.len < len {
            *self = Aligned::new(len.next_power_of_two());
        }
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

//! Memory that is used again: requests and frames come by the thousand, and memory that is asked for and given back for each of them on
//! several threads stays with the allocator.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers that wait to be used again; cheap to clone. There are never more than were lent at one time.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// One that was used before, or a new one; what it holds means nothing.
    pub(crate) fn lend(&self) -> Lent {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Lent { bytes, home: self.clone() }
    }

    /// Frees those that wait.
    pub(crate) fn clear(&self) {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes one back.
    pub(crate) fn keep(&self, bytes: Vec<u8>) {
        if bytes.capacity() > 0 {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(bytes);
        }
    }
}

/// A buffer that goes back by itself.
pub(crate) struct Lent {
    bytes: Vec<u8>,
    home: Buffers,
}

impl Lent {
    /// Its memory; whoever takes it gives it back with [`Buffers::keep`].
    pub(crate) fn take(mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home.keep(std::mem::take(&mut self.bytes));
    }
}

impl Deref for Lent {
    type Target = Vec<u8>;
    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Buffers;

    #[test]
    fn what_comes_back_is_lent_again() {
        let buffers = Buffers::default();
        let (mut one, two) = (buffers.lend(), buffers.lend());
        one.extend_from_slice(b"some bytes");
        let place = one.as_ptr();
        drop(one);
        // Nothing was ever put into it, so there is nothing to keep.
        drop(two);
        let again = buffers.lend();
        assert_eq!(again.as_ptr(), place);
        let taken = again.take();
        assert_eq!(buffers.lend().capacity(), 0, "it was taken, and nobody gave it back yet");
        buffers.keep(taken);
        assert_eq!(buffers.lend().as_ptr(), place);
        buffers.clear();
        assert_eq!(buffers.lend().capacity(), 0);
    }
}

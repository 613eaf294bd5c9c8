//! Memory that is used again: requests and frames come by the thousand, and memory that is asked for and given back for each of them on
//! several threads stays with the allocator.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Buffers that wait to be used again; cheap to clone. There are never more than were lent at one time.
#[derive(Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    /// One that was used before, or a new one; what it holds means nothing.
    pub(crate) fn lend(&self) -> Lent {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Lent { bytes, home: self.clone(), room: None }
    }

    /// One for which there is `room`, which it takes until it goes back.
    pub(crate) async fn lend_in(&self, room: &Arc<Semaphore>) -> Lent {
        // It fails only when somebody closes it, and nobody does.
        let room = room.clone().acquire_owned().await.ok();
        let mut lent = self.lend();
        lent.room = room;
        lent
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
    room: Option<OwnedSemaphorePermit>,
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

impl AsMut<Vec<u8>> for Lent {
    fn as_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Buffers;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn room_comes_back_with_the_buffer() {
        let (buffers, room) = (Buffers::default(), Arc::new(Semaphore::new(2)));
        let one = buffers.lend_in(&room).await;
        let two = buffers.lend_in(&room).await;
        assert_eq!(room.available_permits(), 0);
        drop(one);
        assert_eq!(room.available_permits(), 1);
        drop(two.take());
        assert_eq!(room.available_permits(), 2);
    }

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

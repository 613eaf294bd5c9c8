//! Buffers that go from answer to answer: a fresh one for each piece costs the kernel more than the copy into it.

use bytes::Bytes;
use slipway_store::BlobReader;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};

/// Bytes in one. Smaller ones cost more calls, and each call to send its own packets and wake-ups; larger ones leave a core's own cache
/// between the copy in and the copy out.
const LEN: usize = 256 << 10;
/// Buffers kept for later: 16 MiB. A client has at most two, one on its way and the next; what more clients need goes back to the system.
const KEPT: usize = 64;

static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer on its way to a client; it comes back when the last who looks at it lets go.
struct Lent {
    bytes: Vec<u8>,
    len: usize,
}

impl Lent {
    /// The one that came back last: it is the warmest.
    fn take() -> Self {
        let free = FREE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self { bytes: free.unwrap_or_else(|| vec![0; LEN]), len: 0 }
    }

    fn room(&mut self, most: u64) -> &mut [u8] {
        let end = usize::try_from(most).unwrap_or(LEN).min(LEN);
        &mut self.bytes[self.len..end]
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

/// Reads until a buffer is full, `most` bytes are there, or the reader ends.
pub(crate) fn piece_read(reader: &mut dyn Read, most: u64) -> io::Result<Bytes> {
    let mut lent = Lent::take();
    while !lent.room(most).is_empty() {
        match reader.read(lent.room(most)) {
            Ok(0) => break,
            Ok(read) => lent.len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Bytes::from_owner(lent))
}

/// Reads what is in memory already, `most` bytes at most; none if that is nothing. What is wrong, `piece_read` says after it.
pub(crate) fn piece_ready(reader: &mut BlobReader, most: u64) -> Option<Bytes> {
    let mut lent = Lent::take();
    lent.len = reader.read_now(lent.room(most)).ok()??;
    (lent.len > 0).then(|| Bytes::from_owner(lent))
}

#[cfg(test)]
mod tests {
    use super::{FREE, KEPT, LEN, piece_read};

    #[test]
    fn a_buffer_in_use_is_nobody_elses() {
        let long: Vec<u8> = (0..LEN * 3 / 2).map(|n| (n % 251) as u8).collect();
        let mut reader = long.as_slice();
        let first = piece_read(&mut reader, u64::MAX).unwrap();
        let second = piece_read(&mut reader, u64::MAX).unwrap();
        assert!(first == long[..LEN] && second == long[LEN..]);
        let part = second.slice(10..20);
        drop((first, second));
        let other = piece_read(&mut [7_u8; 100].as_slice(), 40).unwrap();
        assert_eq!(other, [7; 40][..]);
        assert_eq!(part, long[LEN + 10..LEN + 20]);
        assert!(piece_read(&mut [].as_slice(), 5).unwrap().is_empty());
        let many: Vec<_> = (0..KEPT * 2).map(|_| piece_read(&mut [1].as_slice(), 1).unwrap()).collect();
        drop(many);
        assert!(FREE.lock().unwrap().len() <= KEPT);
    }
}

use crate::ids::Digest;

/// Long enough for the widest vector code of BLAKE3, short enough to stay in the second-level cache.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The BLAKE3 of a whole raw image, fed in order.
///
/// Zeros cost no reading, but they do cost hashing (some GB/s on one core): BLAKE3 mixes the index of each 1 KiB chunk
/// into its chaining value, so equal subtrees at different offsets have different values and none can be cached.
/// Who walks an image that is mostly holes must decide whether the digest is worth that, and may leave it for later.
#[derive(Clone, Debug, Default)]
pub struct RawDigest {
    hasher: blake3::Hasher,
}

impl RawDigest {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn data(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// As `data` with so many zero bytes.
    pub fn zeros(&mut self, len: u64) {
        let mut left = len;
        // BLAKE3 works widest on whole, aligned pieces; the first part restores the alignment.
        let ragged = self.hasher.count() % ZEROS.len() as u64;
        let mut part = (ZEROS.len() as u64 - ragged).min(left);
        while left > 0 {
            self.hasher.update(&ZEROS[..part as usize]);
            left -= part;
            part = left.min(ZEROS.len() as u64);
        }
    }

    /// Bytes fed so far.
    pub fn len(&self) -> u64 {
        self.hasher.count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn finish(self) -> Digest {
        Digest::from_bytes(*self.hasher.finalize().as_bytes())
    }
}

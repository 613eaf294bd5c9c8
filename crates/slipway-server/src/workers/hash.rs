//! BLAKE3 and SHA-256 of a long run of bytes, whose state can be written down on the way: hashing a terabyte takes longer than a server
//! may stay up.
//!
//! BLAKE3 is a tree: the bytes are cut into regions of a power of two, each region's chaining value is kept, and they are merged at the end
//! as the specification says (left subtrees are the largest power of two that leaves something to the right).

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use serde::{Deserialize, Serialize};
use sha2::digest::common::hazmat::SerializableState;
use sha2::{Digest as _, Sha256};
use slipway_chunk::Digest;

/// The state can be written down where this many bytes are done, and their multiples.
pub(crate) const REGION: u64 = 256 << 20;

/// Zeros are hashed in parts of this length.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Hashes that grow.
pub(crate) struct ImageHash {
    region: u64,
    size: u64,
    at: u64,
    sha256: Sha256,
    /// Chaining values of whole regions.
    done: Vec<ChainingValue>,
    now: Hasher,
}

/// What is written down.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct HashState {
    size: u64,
    region: u64,
    sha256: String,
    done: Vec<String>,
}

impl ImageHash {
    /// For an image of so many bytes.
    pub(crate) fn new(size: u64) -> Self {
        Self::with_region(size, REGION)
    }

    fn with_region(size: u64, region: u64) -> Self {
        Self { region, size, at: 0, sha256: Sha256::new(), done: Vec::new(), now: Hasher::new() }
    }

    /// Goes on where the state was written down; none if it is of another image or not ours.
    pub(crate) fn restore(size: u64, state: &HashState) -> Option<Self> {
        let fits = state.size == size && state.region == REGION && state.done.len() as u64 * REGION < size;
        let mut hash = Self::new(size);
        hash.at = state.done.len() as u64 * REGION;
        hash.done = state.done.iter().map(|text| unhex(text)?.try_into().ok()).collect::<Option<_>>()?;
        hash.sha256 = Sha256::deserialize(unhex(&state.sha256)?.as_slice().try_into().ok()?).ok()?;
        hash.now.set_input_offset(hash.at);
        fits.then_some(hash)
    }

    /// Bytes hashed so far.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The state, where it can be written down: behind a whole region that is not the last.
    pub(crate) fn state(&self) -> Option<HashState> {
        let whole = self.at == self.done.len() as u64 * self.region && self.at > 0 && self.at < self.size;
        whole.then(|| HashState {
            size: self.size,
            region: self.region,
            sha256: hex(&self.sha256.serialize()),
            done: self.done.iter().map(|value| hex(value)).collect(),
        })
    }

    /// The next bytes; no more than the image has.
    pub(crate) fn data(&mut self, mut bytes: &[u8]) {
        self.sha256.update(bytes);
        while !bytes.is_empty() {
            let left = self.region - self.at % self.region;
            let (part, rest) = bytes.split_at(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            self.now.update(part);
            self.at += part.len() as u64;
            // The last region stays open: alone it is the root, which is hashed otherwise.
            if self.at.is_multiple_of(self.region) && self.at < self.size {
                self.done.push(self.now.finalize_non_root());
                self.now = Hasher::new();
                self.now.set_input_offset(self.at);
            }
            bytes = rest;
        }
    }

    /// Zeros up to the next place where the state can be written down, at most so many; says how many.
    pub(crate) fn zeros(&mut self, most: u64) -> u64 {
        let len = most.min(self.region - self.at % self.region);
        let mut left = len;
        while left > 0 {
            let part = left.min(ZEROS.len() as u64);
            self.data(&ZEROS[..part as usize]);
            left -= part;
        }
        len
    }

    /// BLAKE3, and the hex of SHA-256.
    pub(crate) fn finish(mut self) -> (Digest, String) {
        let sha256 = hex(&self.sha256.finalize());
        if self.done.is_empty() {
            return (Digest::from_bytes(*self.now.finalize().as_bytes()), sha256);
        }
        self.done.push(self.now.finalize_non_root());
        let (left, right) = halves(&self.done);
        let root = merge_subtrees_root(&merged(left), &merged(right), Mode::Hash);
        (Digest::from_bytes(*root.as_bytes()), sha256)
    }
}

/// The subtrees below the node over these regions, of which there are two at least.
fn halves(regions: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    regions.split_at(regions.len().next_power_of_two() / 2)
}

fn merged(regions: &[ChainingValue]) -> ChainingValue {
    match regions {
        [one] => *one,
        more => {
            let (left, right) = halves(more);
            merge_subtrees_non_root(&merged(left), &merged(right), Mode::Hash)
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let pairs = digits.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::{HashState, ImageHash, REGION, hex};
    use sha2::{Digest as _, Sha256};

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let next = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..len).map(next).collect()
    }

    #[test]
    fn the_hashes_are_those_of_the_plain_way_whatever_the_parts() {
        let all = noise(70_000);
        for region in [1024, 4096, 65_536] {
            for len in [1, 1023, 1024, 1025, 4096, 4097, 8192, 12_288, 12_289, 16_384, 20_480, 65_536, 65_537, 70_000] {
                for step in [1000, 4096, 70_000] {
                    let bytes = &all[..len];
                    let mut hash = ImageHash::with_region(len as u64, region);
                    bytes.chunks(step).for_each(|part| hash.data(part));
                    let (digest, sha256) = hash.finish();
                    assert_eq!(digest.to_string(), blake3::hash(bytes).to_string(), "{len} in regions of {region}");
                    assert_eq!(sha256, hex(&Sha256::digest(bytes)), "{len}");
                }
            }
        }
    }

    #[test]
    fn zeros_are_bytes_like_others() {
        let mut hash = ImageHash::with_region(300_000, 65_536);
        hash.data(b"abc");
        let mut left = 299_997;
        while left > 0 {
            left -= hash.zeros(left);
            assert_eq!(hash.state().is_some(), left > 0, "each region can be written down but the last");
        }
        let mut plain = vec![0; 300_000];
        plain[..3].copy_from_slice(b"abc");
        assert_eq!(hash.finish().0.to_string(), blake3::hash(&plain).to_string());
    }

    #[test]
    fn a_state_that_was_written_down_goes_on() {
        let size = 2 * REGION + 12_345;
        let mut hash = ImageHash::new(size);
        hash.data(b"beginning");
        hash.zeros(REGION);
        assert_eq!(hash.at(), REGION);
        let text = serde_json::to_string(&hash.state().unwrap()).unwrap();
        let state: HashState = serde_json::from_str(&text).unwrap();
        assert!(ImageHash::restore(size + 1, &state).is_none(), "of another image");
        let mut again = ImageHash::restore(size, &state).unwrap();
        for hash in [&mut hash, &mut again] {
            assert_eq!(hash.zeros(REGION), REGION);
            hash.data(&noise(12_345));
        }
        assert_eq!(again.finish(), hash.finish());
        let short = HashState { sha256: "00".into(), ..state };
        assert!(ImageHash::restore(size, &short).is_none());
    }
}

//! Which frames a content refers to, and how many bytes they are.

use std::collections::BTreeMap;

use crate::id::BlobId;
use crate::index::Place;

/// A set of small numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    /// True if the number was not in the set before.
    pub(crate) fn insert(&mut self, n: u32) -> bool {
        let (word, bit) = (n as usize / 64, 1u64 << (n % 64));
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        let fresh = self.0[word] & bit == 0;
        self.0[word] |= bit;
        fresh
    }

    pub(crate) fn contains(&self, n: u32) -> bool {
        self.0.get(n as usize / 64).is_some_and(|word| word & (1 << (n % 64)) != 0)
    }
}

/// Frames by pack: `stored` counts each distinct frame once and whole, `new` those of them that
/// lie in packs which this upload wrote.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    packs: BTreeMap<BlobId, Bits>,
    pub stored: u64,
    pub new: u64,
}

impl Usage {
    pub(crate) fn mark(&mut self, place: &Place, upload: &str) {
        let frames = self.packs.entry(place.pack.id).or_default();
        if frames.insert(place.frame) {
            let len = u64::from(place.frame_len);
            self.stored += len;
            if place.pack.upload.as_deref() == Some(upload) {
                self.new += len;
            }
        }
    }

    /// Marks a frame of a pack that this upload is writing.
    pub(crate) fn mark_new(&mut self, pack: BlobId, frame: u32, len: u32) {
        if self.packs.entry(pack).or_default().insert(frame) {
            self.stored += u64::from(len);
            self.new += u64::from(len);
        }
    }

    pub(crate) fn packs(&self) -> impl Iterator<Item = BlobId> {
        self.packs.keys().copied()
    }
}

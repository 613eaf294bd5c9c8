//! Images for tests: real enough to have holes, repeated chunks and parts that move.

/// Numbers by chance, the same for the same seed (splitmix64).
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Bytes that compress somewhat.
    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for part in bytes.chunks_mut(16) {
            let word = self.next().to_le_bytes();
            part.iter_mut().zip(word.iter().cycle()).for_each(|(byte, new)| *byte = *new | 1);
        }
    }
}

/// An image of `blocks` blocks (and `tail` bytes) with holes.
pub(crate) fn image(seed: u64, blocks: usize, tail: usize) -> Vec<u8> {
    let mut chance = Chance(seed);
    let mut bytes = vec![0; blocks * 4096 + tail];
    let mut at = 0;
    while at < bytes.len() {
        let len = (1 + chance.below(120) as usize) * 4096;
        let end = bytes.len().min(at + len);
        if chance.below(4) > 0 {
            chance.fill(&mut bytes[at..end]);
        }
        at = end;
    }
    // The first and the last bytes are data, so that a target without them is seen to lack something.
    chance.fill(&mut bytes[..4096.min(blocks * 4096 + tail)]);
    let last = bytes.len().saturating_sub(100);
    chance.fill(&mut bytes[last..]);
    bytes
}

/// The image after some work: parts changed, moved, copied, swapped and cleared.
pub(crate) fn changed(seed: u64, old: &[u8]) -> Vec<u8> {
    let mut chance = Chance(seed);
    let mut new = old.to_vec();
    let blocks = new.len() / 4096;
    for _ in 0..1 + chance.below(12) {
        let len = (1 + chance.below(blocks as u64 / 4)) as usize;
        let (from, to) = (chance.below((blocks - len) as u64) as usize, chance.below((blocks - len) as u64) as usize);
        let (from, to, len) = (from * 4096, to * 4096, len * 4096);
        match chance.below(5) {
            0 => {
                let small = len.min(4096 * (1 + chance.below(8) as usize));
                chance.fill(&mut new[to..to + small]);
            }
            1 => new[to..to + len].fill(0),
            2 => new.copy_within(from..from + len, to),
            3 => {
                let (a, b) = (old[from..from + len].to_vec(), old[to..to + len].to_vec());
                new[from..from + len].copy_from_slice(&b);
                new[to..to + len].copy_from_slice(&a);
            }
            _ => {
                let by = (1 + chance.below(40) as usize) * 4096;
                let end = new.len() / 4096 * 4096;
                if by < end {
                    new.copy_within(0..end - by, by);
                }
            }
        }
    }
    new
}

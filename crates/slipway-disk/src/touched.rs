//! Which 64 KiB granules were written. Kept in pages of 256 MiB that exist only where something was, so that
//! a sparse 64 TiB image costs nothing.

use std::collections::BTreeMap;

const GRANULE: u64 = 64 << 10;
const PAGE_WORDS: usize = 64;
const PAGE_BITS: u64 = PAGE_WORDS as u64 * 64;

#[derive(Default)]
pub(crate) struct Touched {
    pages: BTreeMap<u64, [u64; PAGE_WORDS]>,
}

fn granules(at: u64, len: u64) -> std::ops::Range<u64> {
    at / GRANULE..at.saturating_add(len).div_ceil(GRANULE)
}

fn place(granule: u64) -> (u64, usize, u64) {
    let bit = granule % PAGE_BITS;
    (granule / PAGE_BITS, (bit / 64) as usize, 1 << (bit % 64))
}

impl Touched {
    pub(crate) fn mark(&mut self, at: u64, len: u64) {
        if len == 0 {
            return;
        }
        for granule in granules(at, len) {
            let (page, word, bit) = place(granule);
            self.pages.entry(page).or_insert([0; PAGE_WORDS])[word] |= bit;
        }
    }

    pub(crate) fn any(&self, at: u64, len: u64) -> bool {
        self.first(at, len).is_some()
    }

    /// Where the first touched granule of the range begins (it may begin before `at`).
    pub(crate) fn first(&self, at: u64, len: u64) -> Option<u64> {
        if len == 0 || self.pages.is_empty() {
            return None;
        }
        let range = granules(at, len);
        let pages = range.start / PAGE_BITS..=(range.end - 1) / PAGE_BITS;
        self.pages.range(pages).find_map(|(page, words)| {
            let first = range.start.max(page * PAGE_BITS);
            let last = range.end.min((page + 1) * PAGE_BITS);
            let is_set = |granule: &u64| {
                let (_, word, bit) = place(*granule);
                words[word] & bit != 0
            };
            (first..last).find(is_set).map(|granule| granule * GRANULE)
        })
    }

    /// The touched ranges in order, neighbours merged, whole granules.
    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        let mut found: Vec<(u64, u64)> = Vec::new();
        for (page, words) in &self.pages {
            let bits = (0..PAGE_BITS).filter(|bit| words[(bit / 64) as usize] & 1 << (bit % 64) != 0);
            for at in bits.map(|bit| (page * PAGE_BITS + bit) * GRANULE) {
                match found.last_mut() {
                    Some((start, len)) if *start + *len == at => *len += GRANULE,
                    _ => found.push((at, GRANULE)),
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::{ProptestConfig, proptest};

    use super::*;

    #[test]
    fn rows() {
        let mut touched = Touched::default();
        assert!(!touched.any(0, u64::MAX));
        touched.mark(0, 0);
        assert_eq!(touched.ranges(), []);
        touched.mark(GRANULE - 1, 2);
        touched.mark((256 << 20) - 1, 1);
        touched.mark(256 << 20, 1);
        touched.mark(1 << 45, GRANULE);
        assert_eq!(touched.ranges(), [(0, 2 * GRANULE), ((256 << 20) - GRANULE, 2 * GRANULE), (1 << 45, GRANULE)]);
        assert!(touched.any(GRANULE, 1) && !touched.any(2 * GRANULE, 1) && !touched.any(5, 0));
        assert!(touched.any(2 * GRANULE, 1 << 46));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn like_a_set(marks in proptest::collection::vec((0_u64..1 << 30, 1_u64..1 << 20), 0..20), ask in (0_u64..1 << 30, 1_u64..1 << 25)) {
            let mut touched = Touched::default();
            let mut set = BTreeSet::new();
            for (at, len) in marks {
                touched.mark(at, len);
                set.extend(at / GRANULE..=(at + len - 1) / GRANULE);
            }
            let asked = ask.0 / GRANULE..=(ask.0 + ask.1 - 1) / GRANULE;
            assert_eq!(touched.any(ask.0, ask.1), set.range(asked).next().is_some());
            let listed: BTreeSet<u64> = touched.ranges().into_iter().flat_map(|(at, len)| at / GRANULE..(at + len) / GRANULE).collect();
            assert_eq!(listed, set);
        }
    }
}

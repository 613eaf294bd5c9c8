//! The table behind the chunk index: open addressing, 16 bytes a place.

/// One chunk of one pack. The key mixes the chunk's id with its space and a secret of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    key: u64,
    slot: u32,
    ordinal: u32,
}

const EMPTY: Entry = Entry { key: 0, slot: u32::MAX, ordinal: 0 };

/// Keys to (slot, ordinal); a key may have many. It grows by doubling when 7/8 full, so a chunk
/// takes 18 to 37 bytes, and 55 while the table is being doubled.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: Vec<Entry>,
    used: usize,
}

/// 2^64 / golden ratio: Knuth's multiplicative hashing (The Art of Computer Programming 3, 6.4).
const PHI: u64 = 0x9e37_79b9_7f4a_7c15;

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    fn place_of(&self, key: u64) -> usize {
        // The length is a power of two; the high bits of the product are the mixed ones.
        let shift = 64 - self.places.len().trailing_zeros();
        (key.wrapping_mul(PHI) >> shift) as usize
    }

    pub(crate) fn insert(&mut self, key: u64, slot: u32, ordinal: u32) {
        debug_assert!(slot != u32::MAX);
        if (self.used + 1) * 8 > self.places.len() * 7 {
            self.grow_to((self.places.len() * 2).max(16), |_| true);
        }
        self.put(Entry { key, slot, ordinal });
    }

    fn put(&mut self, entry: Entry) {
        let mask = self.places.len() - 1;
        let mut at = self.place_of(entry.key);
        while self.places[at] != EMPTY {
            at = (at + 1) & mask;
        }
        self.places[at] = entry;
        self.used += 1;
    }

    fn grow_to(&mut self, len: usize, keep: impl Fn(u32) -> bool) {
        let old = std::mem::replace(&mut self.places, vec![EMPTY; len]);
        self.used = 0;
        for entry in old {
            if entry != EMPTY && keep(entry.slot) {
                self.put(entry);
            }
        }
    }

    /// Drops the entries whose slot is not to be kept.
    pub(crate) fn retain(&mut self, keep: impl Fn(u32) -> bool) {
        let kept = self.places.iter().filter(|entry| **entry != EMPTY && keep(entry.slot)).count();
        let len = (kept * 8 / 7 + 1).next_power_of_two().max(16);
        self.grow_to(len, keep);
    }

    /// Every (slot, ordinal) of a key.
    pub(crate) fn find(&self, key: u64) -> impl Iterator<Item = (u32, u32)> {
        let mask = self.places.len().wrapping_sub(1);
        let mut at = if self.places.is_empty() { 0 } else { self.place_of(key) };
        std::iter::from_fn(move || {
            loop {
                let entry = *self.places.get(at)?;
                if entry == EMPTY {
                    return None;
                }
                at = (at + 1) & mask;
                if entry.key == key {
                    return Some((entry.slot, entry.ordinal));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn everything_inserted_is_found_and_nothing_else() {
        let mut table = Table::default();
        assert_eq!(table.find(7).count(), 0);
        for n in 0..10_000u64 {
            table.insert(n << 40, (n % 7) as u32, n as u32);
        }
        table.insert(5 << 40, 9, 1);
        assert_eq!(table.len(), 10_001);
        for n in 0..10_000u64 {
            let found: Vec<_> = table.find(n << 40).collect();
            assert!(found.contains(&((n % 7) as u32, n as u32)), "{n}");
            assert_eq!(found.len(), if n == 5 { 2 } else { 1 });
        }
        assert_eq!(table.find(10_000 << 40).count(), 0);
        table.retain(|slot| slot == 3);
        assert_eq!(table.len(), (0..10_000).filter(|n| n % 7 == 3).count());
        assert_eq!(table.find(3 << 40).count(), 1);
        assert_eq!(table.find(4 << 40).count(), 0);
        table.retain(|_| false);
        assert_eq!(table.find(3 << 40).count(), 0);
    }
}

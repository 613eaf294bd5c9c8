use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

/// A map that forgets what was used longest ago when its weight exceeds a bound.
pub(super) struct Lru<K, V> {
    rows: HashMap<K, Row<V>>,
    /// By the time of last use.
    order: BTreeMap<u64, K>,
    tick: u64,
    weight: u64,
    max: u64,
}

struct Row<V> {
    value: V,
    weight: u64,
    tick: u64,
}

impl<K: Eq + Hash + Copy, V> Lru<K, V> {
    pub(super) fn new(max: u64) -> Self {
        Self { rows: HashMap::new(), order: BTreeMap::new(), tick: 0, weight: 0, max }
    }

    pub(super) fn weight(&self) -> u64 {
        self.weight
    }

    /// Finds a row and makes it the one used last.
    pub(super) fn get(&mut self, key: &K) -> Option<&V> {
        let row = self.rows.get_mut(key)?;
        self.order.remove(&row.tick);
        self.tick += 1;
        row.tick = self.tick;
        self.order.insert(self.tick, *key);
        Some(&row.value)
    }

    pub(super) fn has(&self, key: &K) -> bool {
        self.rows.contains_key(key)
    }

    /// Puts a row in, in place of the one with this key, and gives back what had to go for it: possibly the row itself.
    pub(super) fn insert(&mut self, key: K, value: V, weight: u64) -> Vec<(K, V)> {
        self.remove(&key);
        self.tick += 1;
        self.rows.insert(key, Row { value, weight, tick: self.tick });
        self.order.insert(self.tick, key);
        self.weight += weight;
        let mut gone = Vec::new();
        while self.weight > self.max {
            let Some((_, oldest)) = self.order.first_key_value() else { break };
            let oldest = *oldest;
            gone.extend(self.remove(&oldest).map(|value| (oldest, value)));
        }
        gone
    }

    pub(super) fn remove(&mut self, key: &K) -> Option<V> {
        let row = self.rows.remove(key)?;
        self.order.remove(&row.tick);
        self.weight -= row.weight;
        Some(row.value)
    }
}

#[cfg(test)]
mod tests {
    use super::Lru;

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let mut lru = Lru::new(10);
        assert!(lru.insert(1, 'a', 4).is_empty());
        assert!(lru.insert(2, 'b', 4).is_empty());
        assert_eq!(lru.get(&1), Some(&'a'));
        assert_eq!(lru.insert(3, 'c', 4), [(2, 'b')]);
        assert!(lru.has(&1) && !lru.has(&2) && lru.has(&3));
        assert_eq!(lru.weight(), 8);
        // Weighed anew, and too heavy for the others.
        assert_eq!(lru.insert(1, 'A', 8), [(3, 'c')]);
        assert_eq!(lru.insert(9, 'z', 11), [(1, 'A'), (9, 'z')]);
        assert_eq!((lru.weight(), lru.get(&9)), (0, None));
    }
}

//! A cache bounded by bytes that forgets what was used longest ago.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Least charge of an entry: its share of the maps.
const ENTRY_MIN: usize = 256;

#[derive(Debug)]
pub(crate) struct Cache<K, V> {
    inner: Mutex<Inner<K, V>>,
    max: usize,
}

#[derive(Debug)]
struct Inner<K, V> {
    entries: HashMap<K, Entry<V>>,
    /// Tick of last use → key, oldest first.
    order: BTreeMap<u64, K>,
    tick: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    tick: u64,
    bytes: usize,
}

impl<K: Hash + Eq + Clone, V: Clone> Cache<K, V> {
    /// Holds entries of at most `max` bytes together.
    pub(crate) fn new(max: usize) -> Cache<K, V> {
        Cache { inner: Mutex::new(Inner { entries: HashMap::new(), order: BTreeMap::new(), tick: 0, bytes: 0 }), max }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner<K, V>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        inner.tick += 1;
        let entry = inner.entries.get_mut(key)?;
        if let Some(key) = inner.order.remove(&entry.tick) {
            inner.order.insert(inner.tick, key);
        }
        entry.tick = inner.tick;
        Some(entry.value.clone())
    }

    /// Keeps a value that takes `bytes`; one larger than the whole cache is not kept.
    pub(crate) fn put(&self, key: K, value: V, bytes: usize) {
        let bytes = bytes.max(ENTRY_MIN);
        if bytes > self.max {
            return;
        }
        let mut inner = self.lock();
        inner.remove(&key);
        inner.tick += 1;
        let tick = inner.tick;
        inner.order.insert(tick, key.clone());
        inner.entries.insert(key, Entry { value, tick, bytes });
        inner.bytes += bytes;
        while inner.bytes > self.max {
            let Some((_, oldest)) = inner.order.pop_first() else {
                break;
            };
            inner.remove(&oldest);
        }
    }

    pub(crate) fn remove(&self, key: &K) {
        self.lock().remove(key);
    }

    pub(crate) fn clear(&self) {
        let mut inner = self.lock();
        inner.entries.clear();
        inner.order.clear();
        inner.bytes = 0;
    }
}

impl<K: Hash + Eq, V> Inner<K, V> {
    fn remove(&mut self, key: &K) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.tick);
            self.bytes -= entry.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Cache;

    #[test]
    fn the_bound_holds_and_the_oldest_goes_first() {
        let cache: Cache<u32, u32> = Cache::new(1024);
        for n in 0..4 {
            cache.put(n, n, 256);
        }
        assert_eq!(cache.get(&0), Some(0));
        cache.put(4, 4, 256);
        assert_eq!(cache.get(&1), None);
        assert_eq!(cache.get(&0), Some(0));
        cache.put(5, 5, 2000);
        assert_eq!(cache.get(&5), None);
        cache.put(0, 9, 256);
        assert_eq!(cache.get(&0), Some(9));
        cache.remove(&0);
        assert_eq!(cache.get(&0), None);
        assert_eq!(cache.lock().bytes, 768);
    }
}

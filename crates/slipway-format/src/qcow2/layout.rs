//! A qcow2 whose every byte follows from the disk's extents alone: plain clusters behind all tables, in the order of the disk.
//!
//! Header, refcount table, refcount blocks, first level, second levels, data. Such a file has a known length and can be sent in
//! any ranges without being written anywhere.

use super::build::{
    COPIED, HEADER_LEN, Plan, cluster_bits, disk_size, l1_entries, l2_entries, refcount_room, refcounts_each,
};

/// Marks which clusters have data.
pub struct Qcow2Marks {
    size: u64,
    bits: u32,
    marks: Vec<u64>,
}

impl Qcow2Marks {
    /// A disk of so many bytes without data.
    pub fn new(size: u64) -> Self {
        let bits = cluster_bits(size);
        let words = disk_size(size).div_ceil(1 << bits).div_ceil(64);
        // 2 MiB for a terabyte, and 4 MiB for the largest image there is.
        Self { size, bits, marks: vec![0; usize::try_from(words).unwrap_or(0)] }
    }

    /// There is data in `from..from + len`.
    pub fn data(&mut self, from: u64, len: u64) {
        if len == 0 {
            return;
        }
        for cluster in from >> self.bits..=(from + len - 1) >> self.bits {
            if let Some(word) = usize::try_from(cluster / 64).ok().and_then(|at| self.marks.get_mut(at)) {
                *word |= 1 << (cluster % 64);
            }
        }
    }

    /// Places all tables and clusters.
    pub fn layout(self) -> Qcow2Layout {
        let (size, bits) = (disk_size(self.size), self.bits);
        let words = usize::try_from(l2_entries(bits) / 64).unwrap_or(1);
        let mut before = vec![0];
        let mut seconds = Vec::new();
        for table in self.marks.chunks(words) {
            let data: u64 = table.iter().map(|word| u64::from(word.count_ones())).sum();
            seconds.push(data > 0);
            before.push(before.last().copied().unwrap_or(0) + data);
        }
        let data = before.last().copied().unwrap_or(0);
        let l1_clusters = (l1_entries(size, bits) * 8).div_ceil(1 << bits);
        let l2_clusters = seconds.iter().filter(|there| **there).count() as u64;
        let (tables, blocks) = refcount_room(1 + l1_clusters + l2_clusters + data, bits);
        let plan =
            Plan { bits, size, l1_at: 1 + tables + blocks, refcount_at: 1, refcount_clusters: tables, zstd: false };
        let l2_at = plan.l1_at + l1_clusters;
        Qcow2Layout {
            plan,
            raw: self.size,
            marks: self.marks,
            before,
            seconds,
            blocks,
            l2_at,
            data_at: l2_at + l2_clusters,
        }
    }
}

/// Where everything is. Memory: a bit for each cluster and some bytes for each table of second level.
pub struct Qcow2Layout {
    plan: Plan,
    /// Bytes of the raw image, which may end inside a sector.
    raw: u64,
    marks: Vec<u64>,
    /// Data clusters before each table of second level, and in all.
    before: Vec<u64>,
    /// Which tables of second level there are.
    seconds: Vec<bool>,
    blocks: u64,
    /// Cluster of the first table of second level.
    l2_at: u64,
    /// Cluster of the first data.
    data_at: u64,
}

/// What a place of the file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Qcow2Part {
    /// Header and tables: these bytes.
    Tables(Vec<u8>),
    /// Bytes of the raw image.
    Raw {
        /// From here.
        from: u64,
        /// So many.
        len: u64,
        /// Then so many zeros, which fill the last cluster.
        zeros: u64,
    },
}

impl Qcow2Layout {
    /// Bytes of the file.
    #[allow(clippy::len_without_is_empty, reason = "it has a header at least")]
    pub fn len(&self) -> u64 {
        self.clusters() << self.plan.bits
    }

    fn clusters(&self) -> u64 {
        self.data_at + self.before.last().copied().unwrap_or(0)
    }

    fn cluster(&self) -> u64 {
        1 << self.plan.bits
    }

    /// What is at byte `at`, which is before the end, at most `max` bytes of it.
    pub fn part_at(&self, at: u64, max: u64) -> Qcow2Part {
        let (index, within) = (at >> self.plan.bits, at % self.cluster());
        if index < self.data_at {
            let mut bytes = self.tables_cluster(index);
            let within = usize::try_from(within).unwrap_or(bytes.len());
            bytes.drain(..within.min(bytes.len()));
            bytes.truncate(usize::try_from(max).unwrap_or(usize::MAX));
            return Qcow2Part::Tables(bytes);
        }
        let first = self.data_cluster(index - self.data_at);
        let (from, mut end) = ((first << self.plan.bits) + within, (first + 1) << self.plan.bits);
        while end - from < max && self.is_data(end >> self.plan.bits) {
            end += self.cluster();
        }
        let whole = (end - from).min(max);
        let len = whole.min(self.raw.saturating_sub(from));
        Qcow2Part::Raw { from: from.min(self.raw), len, zeros: whole - len }
    }

    fn is_data(&self, cluster: u64) -> bool {
        let word = usize::try_from(cluster / 64).ok().and_then(|at| self.marks.get(at));
        word.is_some_and(|word| word & 1 << (cluster % 64) != 0)
    }

    /// Words of marks that one table of second level stands for.
    fn words(&self) -> usize {
        usize::try_from(l2_entries(self.plan.bits) / 64).unwrap_or(1)
    }

    /// The disk's cluster that is the `n`th with data.
    fn data_cluster(&self, n: u64) -> u64 {
        let table = self.before.partition_point(|before| *before <= n).saturating_sub(1);
        let mut left = n - self.before[table];
        let first = table * self.words();
        for (at, word) in self.marks.iter().enumerate().skip(first) {
            let here = u64::from(word.count_ones());
            if left < here {
                let mut word = *word;
                for _ in 0..left {
                    word &= word - 1;
                }
                return at as u64 * 64 + u64::from(word.trailing_zeros());
            }
            left -= here;
        }
        0
    }

    fn tables_cluster(&self, index: u64) -> Vec<u8> {
        let plan = &self.plan;
        let mut bytes = vec![0; 1 << plan.bits];
        let numbers = |bytes: &mut [u8], values: &mut dyn Iterator<Item = u64>| {
            for (place, value) in bytes.chunks_exact_mut(8).zip(values) {
                place.copy_from_slice(&value.to_be_bytes());
            }
        };
        let each = l2_entries(plan.bits);
        let blocks_at = plan.refcount_at + plan.refcount_clusters;
        if index == 0 {
            bytes[..HEADER_LEN].copy_from_slice(&plan.header());
        } else if index < blocks_at {
            let first = (index - plan.refcount_at) * each;
            numbers(&mut bytes, &mut (first..self.blocks).map(|block| (blocks_at + block) << plan.bits));
        } else if index < plan.l1_at {
            let first = (index - blocks_at) * refcounts_each(plan.bits);
            let used = self.clusters().saturating_sub(first);
            for place in bytes.chunks_exact_mut(2).take(usize::try_from(used).unwrap_or(usize::MAX)) {
                place.copy_from_slice(&1_u16.to_be_bytes());
            }
        } else if index < self.l2_at {
            let first = usize::try_from((index - plan.l1_at) * each).unwrap_or(usize::MAX);
            let mut next = self.l2_at + self.seconds.iter().take(first).filter(|there| **there).count() as u64;
            let mut entries = self.seconds.iter().skip(first).map(|there| {
                let at = next;
                next += u64::from(*there);
                if *there { at << plan.bits | COPIED } else { 0 }
            });
            numbers(&mut bytes, &mut entries);
        } else {
            let nth = usize::try_from(index - self.l2_at).unwrap_or(usize::MAX);
            let there = self.seconds.iter().enumerate().filter(|(_, there)| **there).nth(nth);
            let table = there.map_or(0, |(table, _)| table);
            let mut next = self.data_at + self.before[table];
            let first = table as u64 * each;
            let mut entries = (first..first + each).map(|cluster| {
                let at = next;
                let there = self.is_data(cluster);
                next += u64::from(there);
                if there { at << plan.bits | COPIED } else { 0 }
            });
            numbers(&mut bytes, &mut entries);
        }
        bytes
    }
}

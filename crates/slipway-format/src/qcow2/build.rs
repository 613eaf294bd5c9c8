//! What both kinds of written qcow2 have in common: version 3, refcounts of 16 bits, no backing file, no snapshots.

/// Clusters are as small as this, and larger only where there would be too many of them.
const BITS_MIN: u32 = 16;
const BITS_MAX: u32 = 21;
/// So many clusters are a disk of 1 TiB in the smallest ones.
const CLUSTERS_WANTED: u64 = 1 << 24;
pub(super) const HEADER_LEN: usize = 112;
pub(super) const COPIED: u64 = 1 << 63;

/// The cluster size for a disk, as a power of two.
pub(super) fn cluster_bits(size: u64) -> u32 {
    (BITS_MIN..BITS_MAX).find(|bits| size.div_ceil(1 << bits) <= CLUSTERS_WANTED).unwrap_or(BITS_MAX)
}

/// The size that a qcow2 can say: whole sectors, as qemu-img rounds too.
pub(super) fn disk_size(size: u64) -> u64 {
    size.next_multiple_of(512)
}

/// Where the tables are, in clusters, and what the disk is.
pub(super) struct Plan {
    pub(super) bits: u32,
    pub(super) size: u64,
    pub(super) l1_at: u64,
    pub(super) refcount_at: u64,
    pub(super) refcount_clusters: u64,
    pub(super) zstd: bool,
}

impl Plan {
    pub(super) fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header[..4].copy_from_slice(b"QFI\xfb");
        let mut u32_put = |at: usize, value: u64| header[at..at + 4].copy_from_slice(&(value as u32).to_be_bytes());
        u32_put(4, 3);
        u32_put(20, u64::from(self.bits));
        u32_put(36, l1_entries(self.size, self.bits));
        u32_put(56, self.refcount_clusters);
        u32_put(96, 4);
        u32_put(100, HEADER_LEN as u64);
        let mut u64_put = |at: usize, value: u64| header[at..at + 8].copy_from_slice(&value.to_be_bytes());
        u64_put(24, self.size);
        u64_put(40, self.l1_at << self.bits);
        u64_put(48, self.refcount_at << self.bits);
        if self.zstd {
            // Incompatible feature 3: the compression type says something.
            u64_put(72, 1 << 3);
            header[104] = 1;
        }
        header
    }
}

/// Entries of a table of second level.
pub(super) fn l2_entries(bits: u32) -> u64 {
    1 << (bits - 3)
}

pub(super) fn l1_entries(size: u64, bits: u32) -> u64 {
    size.div_ceil(1 << bits).div_ceil(l2_entries(bits))
}

/// Refcounts in one block of them.
pub(super) fn refcounts_each(bits: u32) -> u64 {
    1 << (bits - 1)
}

/// Clusters of refcount table and refcount blocks that a file of `others` other clusters needs for all of its clusters.
pub(super) fn refcount_room(others: u64, bits: u32) -> (u64, u64) {
    let (mut tables, mut blocks) = (0, 0);
    loop {
        let wanted = (others + tables + blocks).div_ceil(refcounts_each(bits));
        let wanted_tables = wanted.div_ceil(l2_entries(bits));
        if (wanted_tables, wanted) == (tables, blocks) {
            return (tables, blocks);
        }
        (tables, blocks) = (wanted_tables, wanted);
    }
}

//! The two levels of tables that say where each cluster of the disk is.

use super::header::{Header, damaged, io};
use crate::{DiskError, ReadAt};

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const PACKED: u64 = 1 << 62;
const ZERO: u64 = 1;
/// Tables of second level that are kept, in bytes.
const CACHE_LEN: u64 = 8 << 20;
/// Host clusters for which it is found out whether two guest clusters share one: 16 MiB of bits.
const SHARED_MAX: u64 = 1 << 27;
const PARTS: u64 = 32;

/// Where a stretch of the disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere: it reads as zeros.
    Zero,
    /// At this place of the file.
    Data(u64),
    /// It is a part of the cluster that is packed here.
    Packed {
        /// Place in the file.
        at: u64,
        /// Bytes that may belong to it; sectors are counted, so others may follow.
        len: u32,
    },
}

/// What an entry of second level says.
enum Entry {
    Place(Place),
    /// Of an extended entry: the cluster's place, and a bit for each part that is there or is zero.
    Parts {
        host: u64,
        there: u32,
    },
}

/// A table of second level: which, and its numbers.
type Table = (usize, Box<[u64]>);

pub(super) struct Tables {
    pub(super) file: Box<dyn ReadAt>,
    pub(super) header: Header,
    /// The host cluster of each table of second level; 0 is none, because there the header is.
    l1: Vec<u32>,
    cache: Vec<Option<Table>>,
}

impl Tables {
    /// Reads the first level and looks at every entry of the second.
    pub(super) fn open(file: Box<dyn ReadAt>, header: Header) -> Result<Tables, DiskError> {
        let l1 = l1_read(&*file, &header)?;
        let slots = usize::try_from((CACHE_LEN >> header.cluster_bits).clamp(2, 4096)).unwrap_or(2);
        let mut tables = Tables { file, header, l1, cache: Vec::new() };
        tables.cache.resize_with(slots, || None);
        tables.check()?;
        Ok(tables)
    }

    /// No table lies in another, no cluster in a table, no two plain clusters in one place.
    fn check(&self) -> Result<(), DiskError> {
        let header = &self.header;
        let mut seconds: Vec<u32> = self.l1.iter().copied().filter(|cluster| *cluster != 0).collect();
        seconds.sort_unstable();
        if let Some(twice) = seconds.windows(2).find(|pair| pair[0] == pair[1]) {
            return damaged(format!("two parts of its disk have one table, in cluster {}", twice[0]));
        }
        let clusters_of = |at: u64, len: u64| at >> header.cluster_bits..(at + len).div_ceil(header.cluster());
        let firsts = [clusters_of(header.l1_at, header.l1_len), clusters_of(header.refcount_at, header.refcount_len)];
        let in_first = |cluster: u64| cluster == 0 || firsts.iter().any(|range| range.contains(&cluster));
        if let Some(bad) = seconds.iter().find(|cluster| in_first(u64::from(**cluster))) {
            return damaged(format!("its tables overlap in cluster {bad}"));
        }
        let in_table = |cluster: u64| {
            in_first(cluster) || u32::try_from(cluster).is_ok_and(|cluster| seconds.binary_search(&cluster).is_ok())
        };
        let clusters = header.file_len.div_ceil(header.cluster());
        let words = if clusters <= SHARED_MAX { usize::try_from(clusters.div_ceil(64)).unwrap_or(0) } else { 0 };
        let mut taken = vec![0_u64; words];
        for (index, _) in self.l1.iter().enumerate().filter(|(_, cluster)| **cluster != 0) {
            let table = self.l2_read(index)?;
            let first = index as u64 * header.l2_entries();
            let last = (first + header.l2_entries()).min(header.size.div_ceil(header.cluster()));
            for guest in first..last {
                let (from, to) = match self.entry(&table, guest)? {
                    Entry::Place(Place::Zero) => continue,
                    Entry::Place(Place::Packed { at, len }) => {
                        let last = (at + u64::from(len) - 1) >> header.cluster_bits;
                        (at >> header.cluster_bits..=last, false)
                    }
                    Entry::Place(Place::Data(host)) | Entry::Parts { host, .. } => {
                        (host >> header.cluster_bits..=host >> header.cluster_bits, true)
                    }
                };
                for cluster in from {
                    if in_table(cluster) {
                        return damaged(format!("cluster {guest} of its disk lies in a table, in cluster {cluster}"));
                    }
                    let word = usize::try_from(cluster / 64).unwrap_or(usize::MAX);
                    if let (true, Some(bits)) = (to, taken.get_mut(word)) {
                        let bit = 1 << (cluster % 64);
                        if *bits & bit != 0 {
                            return damaged(format!("two clusters of its disk lie in one place, in cluster {cluster}"));
                        }
                        *bits |= bit;
                    }
                }
            }
        }
        Ok(())
    }

    fn l2_read(&self, index: usize) -> Result<Box<[u64]>, DiskError> {
        let at = u64::from(self.l1[index]) << self.header.cluster_bits;
        let mut bytes = vec![0; 1 << self.header.cluster_bits];
        self.file.read_exact_at(&mut bytes, at).map_err(io)?;
        Ok(numbers(&bytes).collect())
    }

    /// What the entry of this guest cluster says; everything in it is checked.
    fn entry(&self, table: &[u64], guest: u64) -> Result<Entry, DiskError> {
        let header = &self.header;
        let index = usize::try_from((guest % header.l2_entries()) * (header.entry_len() / 8)).unwrap_or(usize::MAX);
        let (entry, parts) = (table[index], if header.extended { table[index + 1] } else { 0 });
        if entry & PACKED != 0 {
            if parts != 0 {
                return damaged(format!("cluster {guest} of its disk is packed and in parts"));
            }
            return self.packed(entry, guest).map(Entry::Place);
        }
        let zero = entry & ZERO != 0;
        if entry & !(OFFSET | COPIED | ZERO) != 0 || (zero && (header.extended || header.version < 3)) {
            return damaged(format!("the entry of cluster {guest} has unknown bits ({entry:#x})"));
        }
        let host = entry & OFFSET;
        if !host.is_multiple_of(header.cluster()) {
            return damaged(format!("cluster {guest} of its disk begins inside a cluster, at {host}"));
        }
        let needed = (header.size - (guest << header.cluster_bits)).min(header.cluster());
        if header.extended {
            let (there, zeros) = (parts as u32, (parts >> 32) as u32);
            if there & zeros != 0 || (there != 0 && host == 0) {
                return damaged(format!("the entry of cluster {guest} contradicts itself ({parts:#x})"));
            }
            if there == 0 {
                return Ok(Entry::Place(Place::Zero));
            }
            let last = u64::from(32 - there.leading_zeros()) * (header.cluster() / PARTS);
            self.end_check(guest, host, last.min(needed))?;
            return Ok(Entry::Parts { host, there });
        }
        if zero || host == 0 {
            return Ok(Entry::Place(Place::Zero));
        }
        self.end_check(guest, host, needed)?;
        Ok(Entry::Place(Place::Data(host)))
    }

    fn end_check(&self, guest: u64, host: u64, needed: u64) -> Result<(), DiskError> {
        match host + needed <= self.header.file_len {
            true => Ok(()),
            false => damaged(format!("cluster {guest} of its disk lies past the end of the file, at {host}")),
        }
    }

    fn packed(&self, entry: u64, guest: u64) -> Result<Place, DiskError> {
        let bits = 62 - (self.header.cluster_bits - 8);
        let (at, sectors) = (entry & ((1 << bits) - 1), (entry & (PACKED - 1)) >> bits);
        let end = at - at % 512 + (sectors + 1) * 512;
        let file_len = self.header.file_len;
        if entry & COPIED != 0 || at >= file_len || end > file_len.next_multiple_of(512) {
            return damaged(format!("the packed cluster {guest} of its disk lies past the end of the file, at {at}"));
        }
        // At most twice a cluster, by the width of the field.
        let len = u32::try_from(end.min(file_len) - at).unwrap_or(u32::MAX);
        Ok(Place::Packed { at, len })
    }

    /// Where the disk's bytes from `offset` on are, and for how many of them that holds. Data that follows each other in the
    /// file is one stretch, at least as long as the disk goes on so for `max` bytes; a hole is as long as it is.
    pub(super) fn stretch(&mut self, offset: u64, max: u64) -> Result<(Place, u64), DiskError> {
        let (place, mut len) = self.part(offset)?;
        loop {
            let at = offset + len;
            match place {
                _ if at >= self.header.size => break,
                Place::Packed { .. } => break,
                Place::Data(_) if len >= max => break,
                Place::Zero | Place::Data(_) => {}
            }
            let (next, more) = self.part(at)?;
            match (place, next) {
                (Place::Zero, Place::Zero) => len += more,
                (Place::Data(host), Place::Data(after)) if host + len == after => len += more,
                _ => break,
            }
        }
        Ok((place, len.min(self.header.size - offset)))
    }

    /// The same within one cluster, or one table that is not there.
    fn part(&mut self, offset: u64) -> Result<(Place, u64), DiskError> {
        let header = &self.header;
        let (guest, within) = (offset >> header.cluster_bits, offset % header.cluster());
        let (left, index) = (header.cluster() - within, guest / header.l2_entries());
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        if self.l1[index] == 0 {
            let covered = header.l2_entries() << header.cluster_bits;
            return Ok((Place::Zero, covered - offset % covered));
        }
        let slot = index % self.cache.len();
        let table = match self.cache[slot].take() {
            Some((found, table)) if found == index => table,
            _ => self.l2_read(index)?,
        };
        let entry = self.entry(&table, guest);
        self.cache[slot] = Some((index, table));
        Ok(match entry? {
            Entry::Place(Place::Data(host)) => (Place::Data(host + within), left),
            Entry::Place(place) => (place, left),
            Entry::Parts { host, there } => {
                let part = self.header.cluster() / PARTS;
                let at = within / part;
                let bits = there >> at;
                let same = if bits & 1 == 1 { bits.trailing_ones() } else { bits.trailing_zeros() };
                let len = (at + u64::from(same)).min(PARTS) * part - within;
                (if bits & 1 == 1 { Place::Data(host + within) } else { Place::Zero }, len)
            }
        })
    }
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.chunks_exact(8).map(|b| u64::from_be_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
}

fn l1_read(file: &dyn ReadAt, header: &Header) -> Result<Vec<u32>, DiskError> {
    let mut l1 = Vec::with_capacity(header.l1_used);
    let mut bytes = vec![0; (header.l1_used * 8).min(1 << 20)];
    while l1.len() < header.l1_used {
        let len = bytes.len().min((header.l1_used - l1.len()) * 8);
        file.read_exact_at(&mut bytes[..len], header.l1_at + l1.len() as u64 * 8).map_err(io)?;
        for entry in numbers(&bytes[..len]) {
            let index = l1.len();
            let at = entry & OFFSET;
            if entry & !(OFFSET | COPIED) != 0 {
                return damaged(format!("entry {index} of its first level has unknown bits ({entry:#x})"));
            }
            if !at.is_multiple_of(header.cluster()) {
                return damaged(format!("table {index} of its second level begins inside a cluster, at {at}"));
            }
            if at != 0 && at + header.cluster() > header.file_len {
                return damaged(format!("table {index} of its second level reaches past the end of the file"));
            }
            l1.push(u32::try_from(at >> header.cluster_bits).unwrap_or(u32::MAX));
        }
    }
    Ok(l1)
}

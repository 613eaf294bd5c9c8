//! The parts of an image that may hold file systems: all of it, or its partitions.

use crate::gpt::{ENTRIES_MAX, parse_header, parse_table};
use crate::mbr::{TYPE_PROTECTIVE, mbr_parse};
use crate::{PROBE_LEN, PartitionTable, ReadAt, probe};
use std::io;
use uuid::Uuid;

/// A part of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The partition's number, from 1; none for an image without partitions.
    pub partition: Option<u32>,
    /// The partition's own id, if it has one.
    pub guid: Option<Uuid>,
    /// Its first byte in the image.
    pub start: u64,
    /// Its length in bytes.
    pub len: u64,
    /// The file system that its first bytes look like, as `blkid` calls it.
    pub file_system: Option<&'static str>,
}

/// Finds them. A table that makes no sense, or lies outside, counts as none: then the image is one part. Logical partitions within an
/// extended one are left out.
///
/// # Errors
/// When the image cannot be read.
pub fn volumes_find(source: &dyn ReadAt) -> io::Result<Vec<Volume>> {
    let first = head_read(source, 0, source.len())?;
    let found = match probe(&first).table {
        PartitionTable::None => None,
        PartitionTable::Gpt { sector_size } => gpt_parts(source, u64::from(sector_size))?,
        PartitionTable::Mbr => mbr_parse(&first).map(|entries| {
            let used = entries.iter().zip(1..).filter(|(entry, _)| !is_extended(entry.kind));
            used.map(|(entry, number)| (number, None, u64::from(entry.first) * 512, u64::from(entry.sectors) * 512))
                .collect()
        }),
    };
    let parts: Vec<Part> = found.unwrap_or_else(|| vec![(0, None, 0, source.len())]);
    let mut volumes = Vec::new();
    for (number, guid, start, len) in parts {
        // A partition that reaches past the image is read as far as there is something.
        let len = len.min(source.len().saturating_sub(start));
        let first = head_read(source, start, len)?;
        let file_system = probe(&first).file_system;
        volumes.push(Volume { partition: (number > 0).then_some(number), guid, start, len, file_system });
    }
    Ok(volumes)
}

/// Number (0 for none), id, first byte, length.
type Part = (u32, Option<Uuid>, u64, u64);

fn is_extended(kind: u8) -> bool {
    matches!(kind, 0x05 | 0x0f | 0x85 | TYPE_PROTECTIVE)
}

fn head_read(source: &dyn ReadAt, start: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut first = vec![0; len.min(PROBE_LEN as u64) as usize];
    source.read_exact_at(&mut first, start)?;
    Ok(first)
}

fn gpt_parts(source: &dyn ReadAt, sector: u64) -> io::Result<Option<Vec<Part>>> {
    let mut raw = vec![0; sector as usize];
    source.read_exact_at(&mut raw, sector)?;
    let Ok(header) = parse_header(&raw) else { return Ok(None) };
    let (at, len) = (header.entries_lba.saturating_mul(sector), header.entries_bytes());
    if len > ENTRIES_MAX || at.checked_add(len).is_none_or(|end| end > source.len()) {
        return Ok(None);
    }
    let mut entries = vec![0; len as usize];
    source.read_exact_at(&mut entries, at)?;
    let Ok(table) = parse_table(&header, &entries, source.len() / sector) else { return Ok(None) };
    let part = |p: &crate::gpt::Partition| {
        (p.number, Some(p.guid), p.first_lba * sector, (p.last_lba + 1 - p.first_lba) * sector)
    };
    Ok(Some(table.partitions.iter().map(part).collect()))
}

/// Which part of the second image is which of the first: by id, else by number.
pub fn volumes_pair<'a>(one: &'a [Volume], two: &'a [Volume]) -> Vec<(Option<&'a Volume>, Option<&'a Volume>)> {
    let mut left: Vec<&Volume> = one.iter().collect();
    let mut pairs = Vec::new();
    for b in two {
        let by_id = left.iter().position(|a| a.guid.is_some() && a.guid == b.guid);
        let found = by_id.or_else(|| left.iter().position(|a| a.partition == b.partition));
        pairs.push((found.map(|place| left.remove(place)), Some(b)));
    }
    pairs.extend(left.into_iter().map(|a| (Some(a), None)));
    pairs
}

#[cfg(test)]
mod tests {
    use super::{Volume, volumes_find, volumes_pair};
    use crate::mbr::protective_mbr;
    use uuid::Uuid;

    #[test]
    fn partitions_of_a_master_boot_record_are_found() {
        let mut disk = vec![0u8; 4 << 20];
        let mut entry = |slot: usize, kind: u8, first: u32, sectors: u32| {
            let at = 446 + slot * 16;
            disk[at + 4] = kind;
            disk[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
            disk[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        };
        entry(0, 0x83, 2048, 2048);
        entry(1, 0x05, 4096, 1024);
        // Past the end of the image.
        entry(2, 0x83, 6144, 1 << 20);
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let found = volumes_find(&disk).unwrap();
        let parts: Vec<_> = found.iter().map(|one| (one.partition, one.start, one.len)).collect();
        assert_eq!(parts, [(Some(1), 1 << 20, 1 << 20), (Some(3), 3 << 20, 1 << 20)]);
    }

    #[test]
    fn an_image_without_a_table_is_one_part() {
        for disk in [vec![0u8; 1 << 20], vec![0; 10], {
            let mut disk = vec![0u8; 1 << 20];
            disk[..512].copy_from_slice(&protective_mbr(2048));
            disk
        }] {
            let found = volumes_find(&disk).unwrap();
            assert!(found.iter().all(|one| one.partition.is_none() && one.len == disk.len() as u64), "{found:?}");
        }
    }

    #[test]
    fn parts_are_paired_by_id_and_else_by_number() {
        let volume = |number, guid: Option<u128>| Volume {
            partition: Some(number),
            guid: guid.map(Uuid::from_u128),
            start: 0,
            len: 1,
            file_system: None,
        };
        let one = [volume(1, Some(7)), volume(2, Some(8)), volume(3, None)];
        let two = [volume(1, Some(8)), volume(3, None), volume(4, Some(9))];
        let pairs: Vec<_> = volumes_pair(&one, &two)
            .into_iter()
            .map(|(a, b)| (a.and_then(|a| a.partition), b.and_then(|b| b.partition)))
            .collect();
        assert_eq!(pairs, [(Some(2), Some(1)), (Some(3), Some(3)), (None, Some(4)), (Some(1), None)]);
    }
}

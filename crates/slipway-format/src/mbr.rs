//! The master boot record: read with its four primary entries, and the protective one that guards a GPT.

/// Bytes of the record, whatever the sector size.
pub const MBR_LEN: usize = 512;
const ENTRIES_AT: usize = 446;
const ENTRY_LEN: usize = 16;
const SIGNATURE: [u8; 2] = [0x55, 0xaa];
/// The type of the one entry that covers a GPT disk.
pub const TYPE_PROTECTIVE: u8 = 0xee;

/// One primary entry. Positions are in sectors of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MbrEntry {
    /// The partition type byte; 0 is an empty entry and never appears here.
    pub kind: u8,
    /// Whether the boot flag (0x80) is set.
    pub active: bool,
    /// First sector.
    pub first: u32,
    /// Number of sectors.
    pub sectors: u32,
}

/// The used primary entries of a record, or `None` when `first` holds no partition table. A boot
/// sector of a file system carries the same signature, so the entries must make sense: boot flag 0 or
/// 0x80, a start and a length in every used one, and no two that overlap.
pub fn mbr_parse(first: &[u8]) -> Option<Vec<MbrEntry>> {
    let record = first.get(..MBR_LEN)?;
    if record[MBR_LEN - 2..] != SIGNATURE {
        return None;
    }
    let mut entries: Vec<MbrEntry> = Vec::new();
    for raw in record[ENTRIES_AT..MBR_LEN - 2].chunks_exact(ENTRY_LEN) {
        if !matches!(raw[0], 0 | 0x80) {
            return None;
        }
        if raw[4] == 0 {
            continue;
        }
        let number = |at: usize| u32::from_le_bytes([raw[at], raw[at + 1], raw[at + 2], raw[at + 3]]);
        let entry = MbrEntry { kind: raw[4], active: raw[0] == 0x80, first: number(8), sectors: number(12) };
        if entry.first == 0 || entry.sectors == 0 {
            return None;
        }
        // A protective entry may overlap the mirrored ones of a hybrid record.
        let clashes = |other: &MbrEntry| {
            other.kind != TYPE_PROTECTIVE
                && entry.kind != TYPE_PROTECTIVE
                && u64::from(entry.first) < u64::from(other.first) + u64::from(other.sectors)
                && u64::from(other.first) < u64::from(entry.first) + u64::from(entry.sectors)
        };
        if entries.iter().any(clashes) {
            return None;
        }
        entries.push(entry);
    }
    if entries.is_empty() { None } else { Some(entries) }
}

/// The protective record of a GPT disk of `sectors` sectors (UEFI 2.10, 5.2.3): one entry of type 0xEE
/// from sector 1 to the end, or as far as 32 bits reach.
pub fn protective_mbr(sectors: u64) -> [u8; MBR_LEN] {
    let mut record = [0; MBR_LEN];
    protective_entry_write(&mut record, sectors);
    record[MBR_LEN - 2..].copy_from_slice(&SIGNATURE);
    record
}

/// Makes an existing protective entry reach the end of a disk of `sectors` sectors. Boot code and other
/// entries stay. Returns whether `record` had a lone protective entry; otherwise it is unchanged.
pub fn protective_mbr_resize(record: &mut [u8], sectors: u64) -> bool {
    match mbr_parse(record).as_deref() {
        Some([entry]) if entry.kind == TYPE_PROTECTIVE => {}
        _ => return false,
    }
    let Some(at) = (0..4).map(|n| ENTRIES_AT + n * ENTRY_LEN).find(|at| record[at + 4] == TYPE_PROTECTIVE) else {
        return false;
    };
    let length = length_of(sectors).to_le_bytes();
    record[at + 12..at + 16].copy_from_slice(&length);
    true
}

fn length_of(sectors: u64) -> u32 {
    u32::try_from(sectors.saturating_sub(1)).unwrap_or(u32::MAX)
}

fn protective_entry_write(record: &mut [u8], sectors: u64) {
    let entry = &mut record[ENTRIES_AT..ENTRIES_AT + ENTRY_LEN];
    // Cylinder, head and sector of sector 1, then the largest that can be said.
    entry[1..4].copy_from_slice(&[0x00, 0x02, 0x00]);
    entry[4] = TYPE_PROTECTIVE;
    entry[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
    entry[8..12].copy_from_slice(&1_u32.to_le_bytes());
    entry[12..16].copy_from_slice(&length_of(sectors).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(entries: &[(u8, u8, u32, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; MBR_LEN];
        for (n, &(flag, kind, first, sectors)) in entries.iter().enumerate() {
            let at = ENTRIES_AT + n * ENTRY_LEN;
            bytes[at] = flag;
            bytes[at + 4] = kind;
            bytes[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
            bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
        }
        bytes[510..].copy_from_slice(&SIGNATURE);
        bytes
    }

    #[test]
    fn tables_and_what_is_none() {
        fn check(entries: &[(u8, u8, u32, u32)], expected: Option<usize>) {
            assert_eq!(mbr_parse(&record(entries)).map(|found| found.len()), expected, "{entries:x?}");
        }
        check(&[], None);
        check(&[(0, 0x83, 2048, 100)], Some(1));
        check(&[(0x80, 0x83, 2048, 100), (0, 0x82, 4096, 100)], Some(2));
        check(&[(0x12, 0x83, 2048, 100)], None);
        check(&[(0, 0x83, 0, 100)], None);
        check(&[(0, 0x83, 2048, 0)], None);
        check(&[(0, 0x83, 2048, 100), (0, 0x82, 2100, 100)], None);
        check(&[(0, 0x83, u32::MAX, u32::MAX)], Some(1));
        check(&[(0, 0xee, 1, u32::MAX), (0, 0x82, 2100, 100)], Some(2));
        assert_eq!(mbr_parse(&record(&[(0, 0x83, 1, 1)])[..511]), None);
    }

    #[test]
    fn protective_record() {
        fn check(sectors: u64, length: u32) {
            let bytes = protective_mbr(sectors);
            let expected = MbrEntry { kind: TYPE_PROTECTIVE, active: false, first: 1, sectors: length };
            assert_eq!(mbr_parse(&bytes), Some(vec![expected]));
        }
        check(2048, 2047);
        check(1 << 32, u32::MAX);
        check(1 << 40, u32::MAX);
        let mut bytes = protective_mbr(2048);
        bytes[7] = 0x90;
        assert!(protective_mbr_resize(&mut bytes, 4096));
        assert_eq!(bytes[7], 0x90, "boot code stays");
        assert_eq!(mbr_parse(&bytes).unwrap()[0].sectors, 4095);
        let mut plain = record(&[(0, 0x83, 2048, 100)]);
        let before = plain.clone();
        assert!(!protective_mbr_resize(&mut plain, 4096));
        assert_eq!(plain, before);
    }
}

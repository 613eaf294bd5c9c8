//! The same table for a disk of another size: the backup moves to the new end.

use super::{GptError, Header, parse_header, parse_table};

/// What has to be written so that the table fits the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resized {
    /// The new primary header, one sector, for [`Header::my_lba`] of the old one.
    pub primary: Vec<u8>,
    /// The copy of the entries, padded to whole sectors.
    pub entries: Vec<u8>,
    /// The sector where that copy goes.
    pub entries_lba: u64,
    /// The backup header, one sector, for the last sector of the disk.
    pub backup: Vec<u8>,
    /// The last sector of the disk.
    pub backup_lba: u64,
}

/// Plans the move of the backup table to the end of a disk of `sectors` sectors. `primary` is the sector
/// with the primary header (its length is the sector size), `entries` begins with the entry array.
///
/// # Errors
/// When the table is damaged, or a partition does not end before the new backup table.
pub fn backup_write(primary: &[u8], entries: &[u8], sectors: u64) -> Result<Resized, GptError> {
    let old = parse_header(primary)?;
    let sector_size = primary.len() as u64;
    let entries_sectors = old.entries_bytes().div_ceil(sector_size);
    let too_small = GptError::Field { field: "sectors of the disk", value: sectors };
    let backup_lba = sectors.checked_sub(1).ok_or(too_small.clone())?;
    let entries_lba = backup_lba.checked_sub(entries_sectors).ok_or(too_small.clone())?;
    let last_usable_lba = entries_lba.checked_sub(1).ok_or(too_small)?;
    let header = Header { alternate_lba: backup_lba, last_usable_lba, ..old };
    if header.first_usable_lba > last_usable_lba {
        return Err(GptError::Field { field: "first_usable_lba", value: header.first_usable_lba });
    }
    // Reading the entries under the new limits proves that no partition reaches into the new backup.
    parse_table(&header, entries, sectors)?;
    let backup = Header { my_lba: backup_lba, alternate_lba: header.my_lba, entries_lba, ..header.clone() };
    let sector_size = sector_size as u32;
    let mut copy = entries[..header.entries_bytes() as usize].to_vec();
    copy.resize((entries_sectors * u64::from(sector_size)) as usize, 0);
    Ok(Resized {
        primary: header.encode(sector_size),
        entries: copy,
        entries_lba,
        backup: backup.encode(sector_size),
        backup_lba,
    })
}

#[cfg(test)]
mod tests {
    use super::super::header::header_sample;
    use super::super::table::entries_sample;
    use super::super::{backup_header_matches, parse_header};
    use super::*;

    #[test]
    fn grows_and_shrinks() {
        fn check(sectors: u64, sector_size: u32, ok: bool) {
            let entries = entries_sample(&[(1, 40, 1000, "root")]);
            let mut header = header_sample(2048);
            header.entries_crc = crc32fast::hash(&entries);
            match backup_write(&header.encode(sector_size), &entries, sectors) {
                Ok(new) => {
                    assert!(ok, "{sectors}");
                    assert!(backup_header_matches(&new.backup, sectors - 1));
                    let primary = parse_header(&new.primary).unwrap();
                    let backup = parse_header(&new.backup).unwrap();
                    assert_eq!((primary.alternate_lba, backup.alternate_lba), (sectors - 1, 1));
                    assert_eq!(new.entries.len() % sector_size as usize, 0);
                    assert_eq!(backup.entries_lba, primary.last_usable_lba + 1);
                    assert_eq!(new.entries_lba, backup.entries_lba);
                    assert_eq!(parse_table(&backup, &new.entries, sectors).unwrap().partitions.len(), 1);
                }
                Err(_) => assert!(!ok, "{sectors}"),
            }
        }
        check(4096, 512, true);
        check(1 << 40, 512, true);
        check(4096, 4096, true);
        check(1034, 512, true);
        check(1033, 512, false);
        check(1006, 4096, true);
        check(1005, 4096, false);
        for sectors in [0, 1, 2, 33, 34] {
            check(sectors, 512, false);
        }
    }
}

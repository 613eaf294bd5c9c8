//! The array of partition entries.

use uuid::Uuid;

use super::{GptError, Header};

/// One used entry. Positions are sectors of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its place in the array, from 1: the kernel's partition number.
    pub number: u32,
    /// What it is for; the Discoverable Partitions types give root, ESP and home.
    pub kind: Uuid,
    /// Its own id.
    pub guid: Uuid,
    /// First sector.
    pub first_lba: u64,
    /// Last sector, inclusive.
    pub last_lba: u64,
    /// Attribute bits.
    pub attributes: u64,
    /// Its label; bytes that are not UTF-16 become U+FFFD. May hold control characters: escape before showing.
    pub name: String,
}

/// A checked table: the entries match the header's checksum, lie in the usable range and do not overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The header that describes it.
    pub header: Header,
    /// Its used entries, by number.
    pub partitions: Vec<Partition>,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

fn uuid_at(bytes: &[u8], at: usize) -> Uuid {
    let mut value = [0; 16];
    value.copy_from_slice(&bytes[at..at + 16]);
    Uuid::from_bytes_le(value)
}

/// Reads the entries of `header`. `entries` begins with the array and may go on after it; `sectors` is
/// the size of the disk, beyond which no partition may reach.
///
/// # Errors
/// Says what is wrong first; a table with one bad entry is refused as a whole.
pub fn parse_table(header: &Header, entries: &[u8], sectors: u64) -> Result<Table, GptError> {
    let needed = header.entries_bytes();
    let array = usize::try_from(needed).ok().and_then(|len| entries.get(..len)).ok_or(GptError::Short {
        what: "GPT entry array",
        got: entries.len() as u64,
        needed,
    })?;
    if crc32fast::hash(array) != header.entries_crc {
        return Err(GptError::Checksum("entries"));
    }
    if header.last_usable_lba >= sectors {
        return Err(GptError::Field { field: "last_usable_lba", value: header.last_usable_lba });
    }
    let mut partitions = Vec::new();
    for (number, raw) in (1..).zip(array.chunks_exact(header.entry_len as usize)) {
        let kind = uuid_at(raw, 0);
        if kind.is_nil() {
            continue;
        }
        let (first_lba, last_lba) = (u64_at(raw, 32), u64_at(raw, 40));
        if first_lba < header.first_usable_lba || first_lba > last_lba {
            return Err(GptError::Field { field: "starting_lba", value: first_lba });
        }
        if last_lba > header.last_usable_lba {
            return Err(GptError::Beyond { number, last: last_lba, limit: header.last_usable_lba });
        }
        let units = raw[56..128].chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let name = char::decode_utf16(units.take_while(|unit| *unit != 0))
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        partitions.push(Partition {
            number,
            kind,
            guid: uuid_at(raw, 16),
            first_lba,
            last_lba,
            attributes: u64_at(raw, 48),
            name,
        });
    }
    overlap_refuse(&partitions)?;
    Ok(Table { header: header.clone(), partitions })
}

fn overlap_refuse(partitions: &[Partition]) -> Result<(), GptError> {
    let mut by_place: Vec<&Partition> = partitions.iter().collect();
    by_place.sort_by_key(|partition| partition.first_lba);
    for pair in by_place.windows(2) {
        if pair[1].first_lba <= pair[0].last_lba {
            return Err(GptError::Overlap(pair[0].number, pair[1].number));
        }
    }
    Ok(())
}

/// An entry array of 128 × 128 bytes with these `(number, first, last, name)` entries.
#[cfg(test)]
pub(super) fn entries_sample(used: &[(usize, u64, u64, &str)]) -> Vec<u8> {
    let mut array = vec![0; 128 * 128];
    for &(number, first, last, name) in used {
        let entry = &mut array[(number - 1) * 128..number * 128];
        entry[..16].copy_from_slice(&Uuid::from_u128(7).to_bytes_le());
        entry[16..32].copy_from_slice(&Uuid::from_u128(number as u128).to_bytes_le());
        entry[32..40].copy_from_slice(&first.to_le_bytes());
        entry[40..48].copy_from_slice(&last.to_le_bytes());
        for (n, unit) in name.encode_utf16().take(36).enumerate() {
            entry[56 + 2 * n..58 + 2 * n].copy_from_slice(&unit.to_le_bytes());
        }
    }
    array
}

#[cfg(test)]
mod tests {
    use super::super::header::header_sample;
    use super::*;

    fn parsed(used: &[(usize, u64, u64, &str)], sectors: u64) -> Result<Table, GptError> {
        let entries = entries_sample(used);
        let mut header = header_sample(2048);
        header.entries_crc = crc32fast::hash(&entries);
        parse_table(&header, &entries, sectors)
    }

    #[test]
    fn good_tables() {
        let table = parsed(&[(1, 34, 99, "ESP"), (128, 100, 2014, "größe \u{202e}")], 2048).unwrap();
        let names: Vec<(u32, &str)> = table.partitions.iter().map(|p| (p.number, p.name.as_str())).collect();
        assert_eq!(names, [(1, "ESP"), (128, "größe \u{202e}")]);
        assert_eq!(parsed(&[], 2048).unwrap().partitions, []);
        let full = "x".repeat(36);
        assert_eq!(parsed(&[(3, 34, 34, &full)], 2048).unwrap().partitions[0].name, full);
    }

    #[test]
    fn bad_tables() {
        fn check(used: &[(usize, u64, u64, &str)], sectors: u64, expected: GptError) {
            assert_eq!(parsed(used, sectors), Err(expected));
        }
        check(&[(1, 33, 99, "")], 2048, GptError::Field { field: "starting_lba", value: 33 });
        check(&[(1, 99, 98, "")], 2048, GptError::Field { field: "starting_lba", value: 99 });
        check(&[(1, 34, u64::MAX, "")], 2048, GptError::Beyond { number: 1, last: u64::MAX, limit: 2014 });
        check(&[(1, 34, 99, ""), (2, 99, 120, "")], 2048, GptError::Overlap(1, 2));
        check(&[(1, 90, 99, ""), (2, 34, 90, "")], 2048, GptError::Overlap(2, 1));
        check(&[], 2014, GptError::Field { field: "last_usable_lba", value: 2014 });
    }

    #[test]
    fn damaged_or_short_entries() {
        let mut entries = entries_sample(&[(1, 34, 99, "ESP")]);
        let mut header = header_sample(2048);
        header.entries_crc = crc32fast::hash(&entries);
        entries[56] ^= 1;
        assert_eq!(parse_table(&header, &entries, 2048), Err(GptError::Checksum("entries")));
        assert!(matches!(parse_table(&header, &entries[..100], 2048), Err(GptError::Short { .. })));
    }
}

//! One header sector, primary or backup: both have the same form.

use uuid::Uuid;

use super::{ENTRIES_MAX, GptError, SIGNATURE};

const REVISION_1: u32 = 0x0001_0000;
/// Bytes of a header of revision 1.0; the rest of its sector is reserved.
pub(super) const HEADER_LEN: usize = 92;
const CRC_AT: usize = 16;
const ENTRY_LEN_MIN: u32 = 128;
const ENTRY_LEN_MAX: u32 = 4096;

/// A checked header. All positions are sectors of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The sector it lies in.
    pub my_lba: u64,
    /// The sector of the other header.
    pub alternate_lba: u64,
    /// The first sector a partition may use.
    pub first_usable_lba: u64,
    /// The last sector a partition may use.
    pub last_usable_lba: u64,
    /// The disk's own id.
    pub disk_guid: Uuid,
    /// Where the partition entries begin.
    pub entries_lba: u64,
    /// Entries in the array, used or not.
    pub entry_count: u32,
    /// Bytes of one entry: 128 × 2ⁿ.
    pub entry_len: u32,
    /// CRC-32 of the whole array.
    pub entries_crc: u32,
}

impl Header {
    /// Bytes of the whole entry array; at most [`ENTRIES_MAX`].
    pub fn entries_bytes(&self) -> u64 {
        u64::from(self.entry_count) * u64::from(self.entry_len)
    }

    /// The header as one sector of `sector_size` bytes, checksum included.
    pub fn encode(&self, sector_size: u32) -> Vec<u8> {
        let mut sector = vec![0; (sector_size as usize).max(HEADER_LEN)];
        sector[..8].copy_from_slice(&SIGNATURE);
        sector[8..12].copy_from_slice(&REVISION_1.to_le_bytes());
        sector[12..16].copy_from_slice(&(HEADER_LEN as u32).to_le_bytes());
        let fields = [self.my_lba, self.alternate_lba, self.first_usable_lba, self.last_usable_lba];
        for (n, field) in fields.into_iter().enumerate() {
            sector[24 + 8 * n..32 + 8 * n].copy_from_slice(&field.to_le_bytes());
        }
        sector[56..72].copy_from_slice(&self.disk_guid.to_bytes_le());
        sector[72..80].copy_from_slice(&self.entries_lba.to_le_bytes());
        sector[80..84].copy_from_slice(&self.entry_count.to_le_bytes());
        sector[84..88].copy_from_slice(&self.entry_len.to_le_bytes());
        sector[88..92].copy_from_slice(&self.entries_crc.to_le_bytes());
        let crc = crc32fast::hash(&sector[..HEADER_LEN]);
        sector[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        sector
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Reads the header in `sector`, which holds the whole sector (its length is the sector size, 512 or
/// more). The checksum, and every field that would mislead a reader, is checked; where the header lies
/// and whether its entries exist is the caller's knowledge.
///
/// # Errors
/// [`GptError::Absent`] without the signature, else what is wrong first.
pub fn parse_header(sector: &[u8]) -> Result<Header, GptError> {
    if sector.get(..8) != Some(&SIGNATURE) {
        return Err(GptError::Absent);
    }
    if sector.len() < 512 {
        return Err(GptError::Short { what: "GPT header", got: sector.len() as u64, needed: 512 });
    }
    let field = |field, value| GptError::Field { field, value };
    let revision = u32_at(sector, 8);
    // Later minor revisions may only add fields at the end.
    if revision >> 16 != 1 {
        return Err(field("revision", revision.into()));
    }
    let len = u32_at(sector, 12);
    let covered = match usize::try_from(len) {
        Ok(covered) if (HEADER_LEN..=sector.len()).contains(&covered) => covered,
        _ => return Err(field("header_size", len.into())),
    };
    let mut crc = crc32fast::Hasher::new();
    crc.update(&sector[..CRC_AT]);
    crc.update(&[0; 4]);
    crc.update(&sector[CRC_AT + 4..covered]);
    if crc.finalize() != u32_at(sector, CRC_AT) {
        return Err(GptError::Checksum("header"));
    }
    let header = Header {
        my_lba: u64_at(sector, 24),
        alternate_lba: u64_at(sector, 32),
        first_usable_lba: u64_at(sector, 40),
        last_usable_lba: u64_at(sector, 48),
        disk_guid: Uuid::from_bytes_le(sector[56..72].try_into().expect("16 bytes were cut out")),
        entries_lba: u64_at(sector, 72),
        entry_count: u32_at(sector, 80),
        entry_len: u32_at(sector, 84),
        entries_crc: u32_at(sector, 88),
    };
    if header.my_lba == 0 {
        return Err(field("my_lba", 0));
    }
    if header.alternate_lba == 0 || header.alternate_lba == header.my_lba {
        return Err(field("alternate_lba", header.alternate_lba));
    }
    let len = header.entry_len;
    if !(ENTRY_LEN_MIN..=ENTRY_LEN_MAX).contains(&len) || !len.is_power_of_two() {
        return Err(field("size_of_partition_entry", len.into()));
    }
    if header.entry_count == 0 || header.entries_bytes() > ENTRIES_MAX {
        return Err(field("number_of_partition_entries", header.entry_count.into()));
    }
    if header.entries_lba < 2 {
        return Err(field("partition_entry_lba", header.entries_lba));
    }
    if header.first_usable_lba > header.last_usable_lba {
        return Err(field("first_usable_lba", header.first_usable_lba));
    }
    Ok(header)
}

/// Whether `sector`, read from `lba`, holds a valid backup header: firmware that finds the primary one
/// broken would use it. Its own position must be the one it was read from, and its entries must lie before it.
pub fn backup_header_matches(sector: &[u8], lba: u64) -> bool {
    parse_header(sector)
        .is_ok_and(|header| header.my_lba == lba && header.entries_lba < lba && header.alternate_lba < lba)
}

#[cfg(test)]
pub(super) fn header_sample(sectors: u64) -> Header {
    Header {
        my_lba: 1,
        alternate_lba: sectors - 1,
        first_usable_lba: 34,
        last_usable_lba: sectors - 34,
        disk_guid: Uuid::from_u128(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        entries_lba: 2,
        entry_count: 128,
        entry_len: 128,
        entries_crc: 0xab54_d286,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, proptest};

    use super::*;

    /// Patches a good header, repairs the checksum, and tells what the parser says.
    fn patched(at: usize, bytes: &[u8]) -> Result<Header, GptError> {
        let mut sector = header_sample(2048).encode(512);
        sector[at..at + bytes.len()].copy_from_slice(bytes);
        sector[CRC_AT..CRC_AT + 4].fill(0);
        let covered = (u32_at(&sector, 12) as usize).min(512);
        let crc = crc32fast::hash(&sector[..covered]);
        sector[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        parse_header(&sector)
    }

    #[test]
    fn round_trip() {
        for sector_size in [512, 4096] {
            let header = header_sample(1 << 20);
            assert_eq!(parse_header(&header.encode(sector_size)), Ok(header));
        }
    }

    #[test]
    fn hostile_fields_with_a_good_checksum() {
        fn check(at: usize, bytes: &[u8], name: &str) {
            match patched(at, bytes) {
                Err(GptError::Field { field, .. }) => assert_eq!(field, name),
                other => panic!("{name}: {other:?}"),
            }
        }
        check(8, &[0, 0, 2, 0], "revision");
        check(12, &[91, 0, 0, 0], "header_size");
        check(12, &[1, 2, 0, 0], "header_size");
        check(12, &[0xff; 4], "header_size");
        check(24, &[0; 8], "my_lba");
        check(32, &[0; 8], "alternate_lba");
        check(32, &[1, 0, 0, 0, 0, 0, 0, 0], "alternate_lba");
        check(40, &[0xff; 8], "first_usable_lba");
        check(72, &[0; 8], "partition_entry_lba");
        check(80, &[0; 4], "number_of_partition_entries");
        check(80, &[0xff; 4], "number_of_partition_entries");
        check(80, &[1, 0x20, 0, 0], "number_of_partition_entries");
        check(84, &[0; 4], "size_of_partition_entry");
        check(84, &[0xff; 4], "size_of_partition_entry");
        check(84, &[0x80, 1, 0, 0], "size_of_partition_entry");
        check(84, &[64, 0, 0, 0], "size_of_partition_entry");
        assert!(patched(12, &[0, 2, 0, 0]).is_ok(), "a header may fill its sector");
        assert!(patched(8, &[1, 0, 1, 0]).is_ok(), "a later minor revision");
    }

    #[test]
    fn damage_is_seen() {
        let good = header_sample(2048).encode(512);
        assert_eq!(parse_header(&[]), Err(GptError::Absent));
        assert_eq!(parse_header(&[0; 512]), Err(GptError::Absent));
        assert!(matches!(parse_header(&good[..100]), Err(GptError::Short { .. })));
        for bit in 8 * 8..HEADER_LEN * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(parse_header(&bad).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn backup_is_recognised_where_it_belongs() {
        let mut header = header_sample(2048);
        header.my_lba = 2047;
        header.alternate_lba = 1;
        header.entries_lba = 2015;
        let sector = header.encode(512);
        assert!(backup_header_matches(&sector, 2047));
        assert!(!backup_header_matches(&sector, 2046));
        assert!(!backup_header_matches(&[0; 512], 2047));
        header.entries_lba = 2047;
        assert!(!backup_header_matches(&header.encode(512), 2047));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]
        #[test]
        fn any_bytes_are_answered(mut bytes in proptest::collection::vec(any::<u8>(), 512..600), sign in any::<bool>()) {
            if sign {
                bytes[..8].copy_from_slice(&SIGNATURE);
                bytes[8..16].copy_from_slice(&[0, 0, 1, 0, 92, 0, 0, 0]);
                bytes[CRC_AT..CRC_AT + 4].fill(0);
                let crc = crc32fast::hash(&bytes[..HEADER_LEN]);
                bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
            }
            if let Ok(header) = parse_header(&bytes) {
                assert!(header.entries_bytes() <= ENTRIES_MAX);
            }
        }
    }
}

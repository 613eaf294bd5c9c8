//! The region table, and what the metadata region says of the disk.

use super::{MIB, checksum};
use crate::DiskError;
use crate::container::{Container, le16, le32, le64};
use uuid::{Uuid, uuid};

const REGION_TABLES_AT: [u64; 2] = [192 << 10, 256 << 10];
const TABLE_LEN: usize = 64 << 10;
const ENTRY_LEN: usize = 32;
/// Both kinds of table.
const ENTRIES_MAX: usize = 2047;
const METADATA_ENTRY_REQUIRED: u32 = 4;

const BLOCK_TABLE: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
const DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
const DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");

/// Where the two regions lie: first byte, length.
pub(super) struct Regions {
    pub(super) table: (u64, u64),
    pub(super) metadata: (u64, u64),
}

/// What the disk is.
pub(super) struct Metadata {
    pub(super) size: u64,
    pub(super) block_len: u64,
    pub(super) sector_size: u32,
}

impl Metadata {
    /// How many blocks share one sector bitmap.
    pub(super) fn ratio(&self) -> u64 {
        (u64::from(self.sector_size) << 23) / self.block_len
    }
}

fn guid_at(bytes: &[u8], at: usize) -> Uuid {
    let mut guid = [0; 16];
    guid.copy_from_slice(&bytes[at..at + 16]);
    Uuid::from_bytes_le(guid)
}

/// Reads the region table: the first whose checksum fits.
pub(super) fn regions_read(container: &Container) -> Result<Regions, DiskError> {
    let mut valid = Vec::new();
    for at in REGION_TABLES_AT {
        let bytes = container.part("a region table", at, TABLE_LEN)?;
        if bytes.starts_with(b"regi") && le32(&bytes, 4) == checksum(&bytes, 4) {
            valid.push(bytes);
        }
    }
    match &valid[..] {
        [] => Err(container.damaged("neither of its two region tables has a checksum that fits")),
        [first, second] if first != second => Err(container.damaged("its two region tables differ")),
        [first, ..] => regions_parse(container, first),
    }
}

fn regions_parse(container: &Container, bytes: &[u8]) -> Result<Regions, DiskError> {
    let count = le32(bytes, 8) as usize;
    if count > ENTRIES_MAX {
        return Err(container.damaged(format!("its region table has {count} entries, more than {ENTRIES_MAX}")));
    }
    let (mut table, mut metadata, mut all) = (None, None, Vec::new());
    for n in 0..count {
        let entry = &bytes[16 + n * ENTRY_LEN..16 + (n + 1) * ENTRY_LEN];
        let (guid, at, len) = (guid_at(entry, 0), le64(entry, 16), u64::from(le32(entry, 24)));
        let slot = match guid {
            BLOCK_TABLE => &mut table,
            METADATA => &mut metadata,
            _ if le32(entry, 28) & 1 == 1 => {
                return Err(container.refused(format!("it requires the unknown region {guid}")));
            }
            _ => continue,
        };
        if at < MIB || len == 0 || !at.is_multiple_of(MIB) || !len.is_multiple_of(MIB) {
            return Err(container.damaged(format!("region {guid} is said to be {len} bytes at byte {at}")));
        }
        container.range_check(&format!("region {guid}"), at, len)?;
        if all.iter().any(|(from, kept)| at < from + kept && *from < at + len) {
            return Err(container.damaged(format!("region {guid} lies over another one")));
        }
        all.push((at, len));
        if slot.replace((at, len)).is_some() {
            return Err(container.damaged(format!("region {guid} is listed twice")));
        }
    }
    match (table, metadata) {
        (Some(table), Some(metadata)) => Ok(Regions { table, metadata }),
        (None, _) => Err(container.damaged("its region table has no block allocation table")),
        (_, None) => Err(container.damaged("its region table has no metadata")),
    }
}

/// The items whose values are used or checked.
#[derive(Default)]
struct Items {
    parameters: Option<(u32, u32)>,
    size: Option<u64>,
    logical: Option<u32>,
    physical: Option<u32>,
    id: bool,
}

/// Reads the metadata region: size, block length and sector size of the disk.
pub(super) fn metadata_read(container: &Container, region: (u64, u64)) -> Result<Metadata, DiskError> {
    let items = items_read(container, region)?;
    let missing = |what: &str| container.damaged(format!("its metadata does not say its {what}"));
    let (block_len, flags) = items.parameters.ok_or_else(|| missing("block length"))?;
    let size = items.size.ok_or_else(|| missing("size"))?;
    let sector_size = items.logical.ok_or_else(|| missing("logical sector size"))?;
    let physical = items.physical.ok_or_else(|| missing("physical sector size"))?;
    if !items.id {
        return Err(missing("identity"));
    }
    if flags & 2 != 0 {
        return Err(container.refused(
            "it is a differencing disk: the rest is in a parent, whose file is not opened; merge it first (Hyper-V's 'Merge-VHD')",
        ));
    }
    if flags & !1 != 0 {
        return Err(container.refused(format!("its file parameters have unknown flags ({flags:#x})")));
    }
    if !block_len.is_power_of_two() || !(1 << 20..=256 << 20).contains(&block_len) {
        return Err(container.damaged(format!("its blocks are said to have {block_len} bytes")));
    }
    for (what, size) in [("logical", sector_size), ("physical", physical)] {
        if !matches!(size, 512 | 4096) {
            return Err(container.damaged(format!("its {what} sectors are said to have {size} bytes")));
        }
    }
    if !size.is_multiple_of(u64::from(sector_size)) {
        return Err(container.damaged(format!("its disk is said to have {size} bytes, which is no number of sectors")));
    }
    Ok(Metadata { size, block_len: block_len.into(), sector_size })
}

fn items_read(container: &Container, region: (u64, u64)) -> Result<Items, DiskError> {
    let (region_at, region_len) = region;
    let table = container.part("the metadata table", region_at, TABLE_LEN)?;
    if !table.starts_with(b"metadata") {
        return Err(container.damaged(format!("there is no metadata table at byte {region_at}")));
    }
    let count = usize::from(le16(&table, 10));
    if count > ENTRIES_MAX {
        return Err(container.damaged(format!("its metadata table has {count} entries, more than {ENTRIES_MAX}")));
    }
    let mut items = Items::default();
    for n in 0..count {
        let entry = &table[(n + 1) * ENTRY_LEN..(n + 2) * ENTRY_LEN];
        let (guid, at, len, flags) = (guid_at(entry, 0), le32(entry, 16), le32(entry, 20), le32(entry, 24));
        let wanted = match guid {
            FILE_PARAMETERS | DISK_SIZE => 8,
            LOGICAL_SECTOR | PHYSICAL_SECTOR => 4,
            DISK_ID => 16,
            PARENT_LOCATOR => {
                return Err(container.refused(
                    "it names a parent's file, which is not opened; merge it into the parent first (Hyper-V's 'Merge-VHD')",
                ));
            }
            _ if flags & METADATA_ENTRY_REQUIRED != 0 => {
                return Err(container.refused(format!("it requires the unknown metadata item {guid}")));
            }
            _ => continue,
        };
        let (at, end) = (u64::from(at), u64::from(at) + u64::from(len));
        if len != wanted || at < TABLE_LEN as u64 || end > region_len {
            return Err(container.damaged(format!("metadata item {guid} is said to be {len} bytes at byte {at}")));
        }
        let bytes = container.part("a metadata item", region_at + at, wanted as usize)?;
        let twice = match guid {
            FILE_PARAMETERS => items.parameters.replace((le32(&bytes, 0), le32(&bytes, 4))).is_some(),
            DISK_SIZE => items.size.replace(le64(&bytes, 0)).is_some(),
            LOGICAL_SECTOR => items.logical.replace(le32(&bytes, 0)).is_some(),
            PHYSICAL_SECTOR => items.physical.replace(le32(&bytes, 0)).is_some(),
            _ => std::mem::replace(&mut items.id, true),
        };
        if twice {
            return Err(container.damaged(format!("metadata item {guid} is listed twice")));
        }
    }
    Ok(items)
}

//! VirtualBox's VDI, version 1.1: static and dynamic (`VDICore.h` of VirtualBox; `block/vdi.c` of QEMU).

use crate::blocks::{Blocks, Map, Place};
use crate::container::{Claims, Container, Pages, le32, le64};
use crate::{Disk, DiskError, Limits, ReadAt};

const FORMAT: &str = "VDI";
const HEADER_LEN: usize = 0x200;
const SIGNATURE: u32 = 0xbeda_107f;
const VERSION: u32 = 0x0001_0001;
/// The pre-header with text and signature, and the fields up to the parent's UUID.
const HEADER_MIN: u32 = 0x180;
/// What VirtualBox always makes, and the only size that QEMU reads.
const BLOCK_LEN: u64 = 1 << 20;
const SECTOR: u32 = 512;
const NEVER_WRITTEN: u32 = 0xffff_ffff;
const ZEROED: u32 = 0xffff_fffe;

struct Header {
    map_at: u64,
    data_at: u64,
    size: u64,
    blocks: u64,
}

/// Opens a VDI.
pub(crate) fn vdi_open(bytes: Box<dyn ReadAt>, limits: &Limits) -> Result<Box<dyn Disk>, DiskError> {
    let container = Container::new(FORMAT, bytes);
    let header = header_read(&container, limits)?;
    let mut map = BlockMap { pages: Pages::default(), map_at: header.map_at, data_at: header.data_at };
    map_check(&container, &mut map, &header)?;
    Ok(Box::new(Blocks { container, map, size: header.size, sector_size: SECTOR }))
}

fn header_read(container: &Container, limits: &Limits) -> Result<Header, DiskError> {
    let bytes = container.part("the header", 0, HEADER_LEN)?;
    if le32(&bytes, 0x40) != SIGNATURE {
        return Err(container.damaged("it has no VDI signature at byte 64"));
    }
    let version = le32(&bytes, 0x44);
    if version != VERSION {
        let (major, minor) = (version >> 16, version & 0xffff);
        return Err(container.refused(format!("its version is {major}.{minor}; only 1.1 is read")));
    }
    let header_len = le32(&bytes, 0x48);
    if header_len < HEADER_MIN {
        return Err(container.damaged(format!("its header says it has {header_len} bytes, less than {HEADER_MIN}")));
    }
    image_type_check(container, le32(&bytes, 0x4c))?;
    for (at, what) in [(0x1a8, "links to another image"), (0x1b8, "has a parent image")] {
        if bytes[at..at + 16].iter().any(|byte| *byte != 0) {
            return Err(container.refused(format!(
                "it {what}, so it is only a part of a disk; make it whole with 'VBoxManage clonemedium' first"
            )));
        }
    }
    let (map_at, data_at) = (le32(&bytes, 0x154), le32(&bytes, 0x158));
    for (at, what) in [(map_at, "block map"), (data_at, "data")] {
        if at < header_len || !at.is_multiple_of(SECTOR) {
            return Err(container.damaged(format!("its {what} is said to begin at byte {at}")));
        }
    }
    let sector = le32(&bytes, 0x168);
    if sector != SECTOR {
        return Err(container.refused(format!("its sectors have {sector} bytes; only 512 are read")));
    }
    let block_len = u64::from(le32(&bytes, 0x178));
    if block_len != BLOCK_LEN {
        return Err(container.refused(format!("its blocks have {block_len} bytes; only 1048576 are read")));
    }
    let extra = le32(&bytes, 0x17c);
    if extra != 0 {
        return Err(container.refused(format!("its blocks have {extra} extra bytes, which no known program makes")));
    }
    let said = le64(&bytes, 0x170);
    // VBoxManage convertfromraw makes disks that end inside a sector; QEMU too rounds them up.
    let Some(size) = said.checked_next_multiple_of(u64::from(SECTOR)) else {
        return Err(container.damaged(format!("it says that its disk has {said} bytes")));
    };
    limits.size_check(FORMAT, size)?;
    let blocks = u64::from(le32(&bytes, 0x180));
    if blocks < size.div_ceil(BLOCK_LEN) {
        return Err(container.damaged(format!("its {blocks} blocks are too few for a disk of {size} bytes")));
    }
    container.range_check("the block map", map_at.into(), blocks * 4)?;
    Ok(Header { map_at: map_at.into(), data_at: data_at.into(), size, blocks })
}

fn image_type_check(container: &Container, image_type: u32) -> Result<(), DiskError> {
    match image_type {
        1 | 2 => Ok(()),
        3 | 4 => Err(container.refused(
            "it holds only the differences to a parent image; make it whole with 'VBoxManage clonemedium' first",
        )),
        other => Err(container.refused(format!("its image type is {other}; only dynamic (1) and static (2) are read"))),
    }
}

/// Every block lies in the file, behind the tables, and is used once.
fn map_check(container: &Container, map: &mut BlockMap, header: &Header) -> Result<(), DiskError> {
    let map_end = header.map_at + header.blocks * 4;
    if header.data_at < map_end {
        let data_at = header.data_at;
        return Err(container.damaged(format!("its data begins at byte {data_at}, inside the block map")));
    }
    let mut claims = Claims::new(container, BLOCK_LEN);
    for block in 0..header.size.div_ceil(BLOCK_LEN) {
        let Some(at) = map.block_at(container, block)? else { continue };
        let len = BLOCK_LEN.min(header.size - block * BLOCK_LEN);
        container.range_check(&format!("block {block}"), at, len)?;
        // Blocks lie at multiples of their length from the data's beginning on.
        if !claims.claim(at - header.data_at, len) {
            return Err(container.damaged(format!("block {block} lies at byte {at}, where another block lies")));
        }
    }
    Ok(())
}

struct BlockMap {
    pages: Pages,
    map_at: u64,
    data_at: u64,
}

impl BlockMap {
    fn block_at(&mut self, container: &Container, block: u64) -> Result<Option<u64>, DiskError> {
        Ok(match self.pages.le32(container, "the block map", self.map_at + block * 4)? {
            NEVER_WRITTEN | ZEROED => None,
            number => Some(self.data_at + u64::from(number) * BLOCK_LEN),
        })
    }
}

impl Map for BlockMap {
    fn place_at(&mut self, container: &Container, offset: u64) -> Result<(Place, u64), DiskError> {
        let within = offset % BLOCK_LEN;
        let place = match self.block_at(container, offset / BLOCK_LEN)? {
            Some(at) => Place::At(at + within),
            None => Place::Zeros,
        };
        Ok((place, BLOCK_LEN - within))
    }
}

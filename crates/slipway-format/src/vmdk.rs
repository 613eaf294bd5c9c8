//! VMware's VMDK where one file is the disk: monolithicSparse and streamOptimized (VMware Virtual Disk Format 5.0, "Hosted Sparse Extents"
//! and "Stream-Optimized Compressed Sparse Extents").
//!
//! A VMDK is at heart a text that names the files of a disk. Here nothing is opened by such a name: a text that needs another file is refused.

mod descriptor;
mod grains;
mod header;

use crate::blocks::Blocks;
use crate::container::Container;
use crate::{Disk, DiskError, Limits, ReadAt};
use descriptor::CreateType;

const FORMAT: &str = "VMDK";
const SECTOR: u64 = 512;

/// Opens a VMDK.
pub(crate) fn vmdk_open(bytes: Box<dyn ReadAt>, limits: &Limits) -> Result<Box<dyn Disk>, DiskError> {
    let container = Container::new(FORMAT, bytes);
    let magic = container.part("the magic", 0, 4)?;
    match &magic[..] {
        b"KDMV" => {}
        b"COWD" => {
            return Err(container.refused(
                "it is one extent of an ESX disk (COWD), which needs the file that describes it; export the disk with 'ovftool' or convert it on the host with 'vmkfstools -i'",
            ));
        }
        b"# Di" => return Err(descriptor::text_refuse(&container)?),
        _ => return Err(container.damaged("it has no VMDK signature at byte 0")),
    }
    let header = header::header_read(&container)?;
    let create_type = descriptor::descriptor_check(&container, &header)?;
    match (create_type, header.packed) {
        (CreateType::MonolithicSparse, false) | (CreateType::StreamOptimized, true) => {}
        (CreateType::MonolithicSparse, true) => {
            return Err(container.damaged("its text says monolithicSparse, but its grains are compressed"));
        }
        (CreateType::StreamOptimized, false) => {
            return Err(container.damaged("its text says streamOptimized, but its grains are not compressed"));
        }
    }
    limits.size_check(FORMAT, header.size)?;
    let map = grains::grains_open(&container, &header)?;
    Ok(Box::new(Blocks { container, map, size: header.size, sector_size: SECTOR as u32 }))
}

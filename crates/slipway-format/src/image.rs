//! Disk images in any format: told apart by their content, and opened by the reader of the format.

use slipway_chunk::Fill;
use std::io;

use crate::detect::Archive;
use crate::vdi::vdi_open;
use crate::vhd::vhd_open;
use crate::vhdx::vhdx_open;
use crate::vmdk::vmdk_open;
use crate::{Disk, DiskError, Qcow2, ReadAt};

/// The format of a disk image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// The bytes are the disk.
    Raw,
    /// QEMU's qcow2, versions 2 and 3.
    Qcow2,
    /// VMware's VMDK in one sparse or stream-optimized file.
    Vmdk,
    /// Connectix's and Microsoft's VHD, fixed or dynamic.
    Vhd,
    /// Microsoft's VHDX.
    Vhdx,
    /// VirtualBox's VDI.
    Vdi,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 6] = [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Vhd, Format::Vhdx, Format::Vdi];

    /// As it is written in options, on the wire and as a version's source format: `raw`, `qcow2`, `vmdk`, `vhd`, `vhdx`, `vdi`.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "vmdk",
            Format::Vhd => "vhd",
            Format::Vhdx => "vhdx",
            Format::Vdi => "vdi",
        }
    }

    /// As people write it: `raw`, `qcow2`, `VMDK`, `VHD`, `VHDX`, `VDI`.
    pub fn title(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Vmdk => "VMDK",
            Format::Vhd => "VHD",
            Format::Vhdx => "VHDX",
            Format::Vdi => "VDI",
        }
    }
}

/// What a container may ask for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest raw disk in bytes.
    pub size_max: u64,
}

impl Limits {
    /// Refuses a disk that is larger than allowed, or has nothing in it.
    ///
    /// # Errors
    /// [`DiskError::TooLarge`]; [`DiskError::Damaged`] for a disk of 0 bytes.
    pub fn size_check(&self, format: &'static str, size: u64) -> Result<(), DiskError> {
        match size {
            0 => Err(DiskError::Damaged { format, reason: "its disk has 0 bytes".into() }),
            size if size > self.size_max => Err(DiskError::TooLarge { format, size, cap: self.size_max }),
            _ => Ok(()),
        }
    }
}

/// Opens the disk in a container: reads and checks its header and tables, and nothing but `container`.
///
/// # Errors
/// Why the container is not read.
pub fn disk_open(format: Format, container: Box<dyn ReadAt>, limits: &Limits) -> Result<Box<dyn Disk>, DiskError> {
    match format {
        Format::Raw => Ok(Box::new(RawDisk::open(container, limits)?)),
        Format::Qcow2 => Ok(Box::new(Qcow2::open(container, limits)?)),
        Format::Vmdk => vmdk_open(container, limits),
        Format::Vhd => vhd_open(container, limits),
        Format::Vhdx => vhdx_open(container, limits),
        Format::Vdi => vdi_open(container, limits),
    }
}

/// Bytes that are the disk.
struct RawDisk {
    bytes: Box<dyn ReadAt>,
}

impl RawDisk {
    fn open(bytes: Box<dyn ReadAt>, limits: &Limits) -> Result<Self, DiskError> {
        limits.size_check(Format::Raw.title(), bytes.len())?;
        Ok(Self { bytes })
    }
}

impl Disk for RawDisk {
    fn size(&self) -> u64 {
        self.bytes.len()
    }

    fn fill_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<Fill> {
        let left = usize::try_from(self.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        self.bytes.read_exact_at(&mut buf[..len], offset)?;
        Ok(if len == 0 { Fill::End } else { Fill::Data(len) })
    }
}

impl Archive {
    /// As it is written in options and on the wire: `zip`, `tar`.
    pub fn name(self) -> &'static str {
        match self {
            Archive::Zip => "zip",
            Archive::Tar => "tar",
        }
    }
}

//! The header of a qcow2 file, versions 2 and 3 (QEMU, `docs/interop/qcow2.txt`).

use crate::{DiskError, Limits, ReadAt};

pub(super) const NAME: &str = "qcow2";
/// The largest table of first level that is taken: what QEMU takes.
const L1_LEN_MAX: u64 = 32 << 20;
const REFCOUNT_TABLE_LEN_MAX: u64 = 8 << 20;
const SNAPSHOTS_MAX: u32 = 65_536;
const CLUSTER_BITS: std::ops::RangeInclusive<u32> = 9..=21;
const V2_LEN: usize = 72;
const V3_LEN: usize = 104;
/// As much of the first cluster as is looked at. The extensions that matter are short and come early.
const HEAD_MAX: u64 = 64 << 10;
/// Host clusters are counted in 32 bits.
const CLUSTERS_MAX: u64 = 1 << 32;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;

const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
const EXTENSION_ENCRYPTION: u32 = 0x0537_be77;

/// How compressed clusters are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// Raw deflate.
    Zlib,
    /// A Zstandard frame.
    Zstd,
}

/// What reading needs of a header. All places are multiples of the cluster size and inside the file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) packing: Packing,
    pub(super) extended: bool,
    pub(super) l1_at: u64,
    /// Entries of the first level that the disk's size needs.
    pub(super) l1_used: usize,
    /// Bytes of the whole first level.
    pub(super) l1_len: u64,
    pub(super) refcount_at: u64,
    pub(super) refcount_len: u64,
    pub(super) file_len: u64,
}

pub(super) fn refused<T>(reason: impl Into<String>) -> Result<T, DiskError> {
    Err(DiskError::Refused { format: NAME, reason: reason.into() })
}

pub(super) fn damaged<T>(reason: impl Into<String>) -> Result<T, DiskError> {
    Err(DiskError::Damaged { format: NAME, reason: reason.into() })
}

pub(super) fn io(source: std::io::Error) -> DiskError {
    DiskError::Io { format: NAME, source }
}

/// Big-endian numbers of a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> u32 {
        self.0.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }
}

impl Header {
    /// Bytes of a cluster.
    pub(super) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Guest clusters that one table of second level describes.
    pub(super) fn l2_entries(&self) -> u64 {
        self.cluster() / self.entry_len()
    }

    /// Bytes of an entry of second level.
    pub(super) fn entry_len(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Reads and checks the header with its extensions.
    pub(super) fn read(file: &dyn ReadAt, limits: &Limits) -> Result<Header, DiskError> {
        let file_len = file.len();
        let mut head = vec![0; usize::try_from(file_len.min(HEAD_MAX)).unwrap_or(0)];
        file.read_exact_at(&mut head, 0).map_err(io)?;
        if !head.starts_with(b"QFI\xfb") {
            return Err(DiskError::Not { what: "qcow2 image" });
        }
        if head.len() < V2_LEN {
            return damaged("it is cut off inside its header");
        }
        let fields = Fields(&head);
        let version = fields.u32(4);
        match version {
            2 | 3 => {}
            1 => return refused("it is of version 1 (qcow); convert it with 'qemu-img convert -f qcow -O qcow2'"),
            other => return refused(format!("its version {other} is unknown; 2 and 3 are known")),
        }
        if version == 3 && head.len() < V3_LEN {
            return damaged("it is cut off inside its header");
        }
        names_check(&fields, version)?;
        let cluster_bits = fields.u32(20);
        if !CLUSTER_BITS.contains(&cluster_bits) {
            return damaged(format!("its clusters of 2^{cluster_bits} bytes are not between 512 bytes and 2 MiB"));
        }
        let cluster = 1 << cluster_bits;
        if file_len / cluster >= CLUSTERS_MAX {
            return refused("it has more than 2^32 clusters");
        }
        let header_len = if version == 2 { V2_LEN as u64 } else { u64::from(fields.u32(100)) };
        if header_len < if version == 2 { V2_LEN } else { V3_LEN } as u64 || header_len > cluster {
            return damaged(format!("its header of {header_len} bytes is impossible"));
        }
        let size = fields.u64(24);
        limits.size_check(NAME, size)?;
        if !size.is_multiple_of(512) {
            return damaged(format!("its disk of {size} bytes does not end with a sector"));
        }
        let (packing, extended) = match version {
            2 => (Packing::Zlib, false),
            _ => features_check(&fields, header_len)?,
        };
        if extended && cluster < 32 * 512 {
            return damaged("its clusters are too small to have 32 parts of a sector each");
        }
        let first_cluster = &head[..head.len().min(usize::try_from(cluster).unwrap_or(head.len()))];
        extensions_check(first_cluster, header_len)?;
        let mut header = Header {
            version,
            cluster_bits,
            size,
            packing,
            extended,
            l1_at: fields.u64(40),
            l1_used: 0,
            l1_len: u64::from(fields.u32(36)) * 8,
            refcount_at: fields.u64(48),
            refcount_len: u64::from(fields.u32(56)) << cluster_bits,
            file_len,
        };
        header.tables_check(&fields)?;
        Ok(header)
    }

    /// Checks where the tables are, and that the first level is large enough.
    fn tables_check(&mut self, fields: &Fields<'_>) -> Result<(), DiskError> {
        let used = self.size.div_ceil(self.cluster()).div_ceil(self.l2_entries());
        if used * 8 > L1_LEN_MAX || self.l1_len > L1_LEN_MAX {
            let len = self.l1_len.max(used * 8);
            return refused(format!("its table of first level has {len} bytes; at most {L1_LEN_MAX} are read"));
        }
        if self.l1_len < used * 8 {
            let entries = self.l1_len / 8;
            return damaged(format!("its table of first level has {entries} entries where its disk needs {used}"));
        }
        self.l1_used = usize::try_from(used).unwrap_or(usize::MAX);
        if self.refcount_len == 0 || self.refcount_len > REFCOUNT_TABLE_LEN_MAX {
            return damaged(format!("its refcount table of {} bytes is impossible", self.refcount_len));
        }
        self.range_check("its table of first level", self.l1_at, self.l1_len)?;
        self.range_check("its refcount table", self.refcount_at, self.refcount_len)?;
        let apart = |a: u64, a_len: u64, b: u64, b_len: u64| a + a_len <= b || b + b_len <= a;
        if !apart(self.l1_at, self.l1_len, self.refcount_at, self.refcount_len) {
            return damaged("its table of first level and its refcount table overlap");
        }
        if self.version == 3 && fields.u32(96) > 6 {
            return damaged(format!("its refcounts of 2^{} bits are impossible", fields.u32(96)));
        }
        let (snapshots, snapshots_at) = (fields.u32(60), fields.u64(64));
        if snapshots > SNAPSHOTS_MAX {
            return damaged(format!("it claims {snapshots} internal snapshots"));
        }
        if snapshots > 0 && (snapshots_at >= self.file_len || !snapshots_at.is_multiple_of(self.cluster())) {
            return damaged("its list of internal snapshots lies past its end or inside a cluster");
        }
        Ok(())
    }

    /// A table must begin with a cluster behind the header and end inside the file.
    fn range_check(&self, what: &str, at: u64, len: u64) -> Result<(), DiskError> {
        if !at.is_multiple_of(self.cluster()) {
            return damaged(format!("{what} begins inside a cluster, at {at}"));
        }
        if at == 0 && len > 0 {
            return damaged(format!("{what} lies on the header"));
        }
        match at.checked_add(len) {
            Some(end) if end <= self.file_len => Ok(()),
            _ => damaged(format!("{what} at {at} reaches past the end of the file")),
        }
    }
}

/// Refuses what makes another file, or a secret, part of the image.
fn names_check(fields: &Fields<'_>, version: u32) -> Result<(), DiskError> {
    if fields.u64(8) != 0 {
        return refused(
            "it needs a backing file, and no other file is ever opened; make it whole with \
             'qemu-img convert -O qcow2' where both are",
        );
    }
    match fields.u32(32) {
        0 => {}
        _ => return refused("it is encrypted; decrypt it with 'qemu-img convert' where the key is"),
    }
    if version == 3 && fields.u64(72) & INCOMPATIBLE_DATA_FILE != 0 {
        return refused(
            "its bytes are in an external data file, and no other file is ever opened; make it whole with \
             'qemu-img convert -O qcow2' where both are",
        );
    }
    Ok(())
}

fn features_check(fields: &Fields<'_>, header_len: u64) -> Result<(Packing, bool), DiskError> {
    let incompatible = fields.u64(72);
    let known = INCOMPATIBLE_DIRTY | INCOMPATIBLE_CORRUPT | INCOMPATIBLE_COMPRESSION | INCOMPATIBLE_EXTENDED_L2;
    if incompatible & !known != 0 {
        let bit = (incompatible & !known).trailing_zeros();
        return refused(format!("it needs feature {bit}, which is unknown here; convert it with 'qemu-img convert'"));
    }
    // A dirty image has only stale refcounts, which reading does not use.
    if incompatible & INCOMPATIBLE_CORRUPT != 0 {
        return refused("it is marked as corrupt; repair it with 'qemu-img check -r all'");
    }
    let kind = if header_len > V3_LEN as u64 { fields.0.get(V3_LEN).copied().unwrap_or(0) } else { 0 };
    let packing = match kind {
        0 => Packing::Zlib,
        1 => Packing::Zstd,
        other => return refused(format!("its compression {other} is unknown; zlib and zstd are known")),
    };
    if (incompatible & INCOMPATIBLE_COMPRESSION != 0) != (kind != 0) {
        return damaged("its header contradicts itself about the compression");
    }
    Ok((packing, incompatible & INCOMPATIBLE_EXTENDED_L2 != 0))
}

/// Walks the extensions: their ends must be in the first cluster, and none may name a file or a key.
fn extensions_check(cluster: &[u8], header_len: u64) -> Result<(), DiskError> {
    let fields = Fields(cluster);
    let mut at = usize::try_from(header_len).unwrap_or(usize::MAX);
    while at.saturating_add(8) <= cluster.len() {
        let (kind, len) = (fields.u32(at), u64::from(fields.u32(at + 4)));
        match kind {
            0 => return Ok(()),
            EXTENSION_DATA_FILE => return refused("it names an external data file, and no other file is ever opened"),
            EXTENSION_ENCRYPTION => {
                return refused("it is encrypted; decrypt it with 'qemu-img convert' where the key is");
            }
            _ => {}
        }
        let end = (at as u64 + 8).saturating_add(len.next_multiple_of(8));
        if end > cluster.len() as u64 {
            return damaged(format!("its header extension {kind:#010x} reaches past the first cluster"));
        }
        at = usize::try_from(end).unwrap_or(usize::MAX);
    }
    Ok(())
}

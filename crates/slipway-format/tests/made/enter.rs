//! One entry for each kind of bytes that a stranger may send. The sweep of the normal tests and the fuzzer (`fuzz/`) run the same ones.
//!
//! An input is raw bytes, or patches to a good container: containers have checksums, and megabytes that nobody looks at, so that
//! random bytes would seldom come far. Whatever the input is, the entry must come to an end without a panic.

// A seal is given what another one may need to be a `Vec`.
#![allow(clippy::ptr_arg)]

use super::{qcow2, tar, vdi, vhd, vhdx, vmdk, zip};
use slipway_chunk::{BLOCK, Fill};
use slipway_format::gpt::{backup_header_matches, backup_write, parse_header, parse_table};
use slipway_format::mbr::mbr_parse;
use slipway_format::{
    Archive, Disk, Format, Inner, Limits, ReadAt, Wrap, disk_find, disk_open, format_detect, head_detect, probe, unwrap,
};
use std::io::{self, Cursor, Read};
use std::sync::{Arc, LazyLock};

/// Largest disk that is opened, and how much of one is read.
const LIMITS: Limits = Limits { size_max: 1 << 40 };
const READ_MAX: u64 = 8 << 20;
const CALLS_MAX: usize = 400;

pub(crate) type Entry = fn(&[u8]);

/// All of them, by name.
pub(crate) const ENTRIES: &[(&str, Entry)] = &[
    ("qcow2", |input| disk_enter(Format::Qcow2, &QCOW2, input)),
    ("vmdk", |input| disk_enter(Format::Vmdk, &VMDK, input)),
    ("vmdk_stream", |input| disk_enter(Format::Vmdk, &VMDK_STREAM, input)),
    ("vhd", |input| disk_enter(Format::Vhd, &VHD, input)),
    ("vhdx", |input| disk_enter(Format::Vhdx, &VHDX, input)),
    ("vdi", |input| disk_enter(Format::Vdi, &VDI, input)),
    ("zip", |input| archive_enter(Archive::Zip, &ZIP, input)),
    ("tar", |input| archive_enter(Archive::Tar, &TAR, input)),
    ("streams", streams_enter),
    ("partitions", partitions_enter),
    ("detection", detection_enter),
];

/// A good container, the parts of it that are looked at, and what makes its checksums fit again.
pub(crate) struct Base {
    pub(crate) bytes: Vec<u8>,
    /// First byte and length.
    hot: Vec<(usize, usize)>,
    seal: fn(&mut Vec<u8>),
}

/// How an input begins.
pub(crate) const RAW: u8 = 0;
pub(crate) const PATCHES: u8 = 1;
pub(crate) const SEALED: u8 = 2;

fn disk(len: usize) -> Vec<u8> {
    let mut raw: Vec<u8> = (0..len).map(|n| (n / 700 % 251) as u8).collect();
    raw[len / 3..len / 2].fill(0);
    raw
}

static QCOW2: LazyLock<Base> = LazyLock::new(|| {
    let bytes = qcow2::Made::new().0;
    let hot = vec![(0, 128), (qcow2::L1, 64), (qcow2::L2, 128), (qcow2::PACKED, 64), (qcow2::REFCOUNTS, 16)];
    Base { bytes, hot, seal: |_| {} }
});
static VMDK: LazyLock<Base> = LazyLock::new(|| {
    let raw = disk(5 << 16);
    let at = vmdk::places(raw.len());
    let hot = vec![(0, 96), (vmdk::TEXT_AT, 300), (at.directory, 8), (at.table, 32), (at.redundant_directory, 8)];
    Base { bytes: vmdk::sparse(&raw), hot, seal: vmdk_seal }
});
static VMDK_STREAM: LazyLock<Base> = LazyLock::new(|| {
    let bytes = vmdk::stream(&disk(5 << 16));
    let tables = bytes.len() - 4096 - 6 * 512;
    let hot = vec![(0, 96), (vmdk::TEXT_AT, 300), (vmdk::STREAM_GRAINS, 600), (tables, bytes.len() - tables)];
    Base { bytes, hot, seal: |_| {} }
});
static VHD: LazyLock<Base> = LazyLock::new(|| {
    let bytes = vhd::dynamic(&disk(3 * vhd::BLOCK), 0);
    let hot = vec![(0, 96), (vhd::HEADER_AT, 80), (vhd::TABLE_AT, 16), (2048, 160), (bytes.len() - 512, 96)];
    Base { bytes, hot, seal: vhd_seal }
});
static VHDX: LazyLock<Base> = LazyLock::new(|| {
    let mut bytes = vhdx::dynamic(&disk(3 << 20), 1 << 20, 512);
    let len = bytes.len() as u64;
    let table = bytes[vhdx::TABLE..vhdx::TABLE + 4096].to_vec();
    let writes = [vhdx::Write::Bytes(vhdx::TABLE as u64, table), vhdx::Write::Zeros(vhdx::TABLE as u64 + 4096, 8192)];
    vhdx::log_write(&mut bytes, 0, &[vhdx::log_entry(5, 0, len, &writes)]);
    let (headers, regions) = (vhdx::HEADERS.map(|at| (at, 80)), vhdx::REGIONS.map(|at| (at, 80)));
    let rest = [(vhdx::LOG, 128), (vhdx::LOG + 4096, 32), (vhdx::METADATA, 192), (vhdx::ITEMS, 320), (vhdx::TABLE, 32)];
    Base { bytes, hot: [&headers[..], &regions, &rest].concat(), seal: vhdx_seal }
});
static VDI: LazyLock<Base> = LazyLock::new(|| {
    let bytes = vdi::dynamic(&disk(3 << 20));
    Base { bytes, hot: vec![(0x40, 16), (0x154, 120), (vdi::MAP, 16)], seal: |_| {} }
});
static ZIP: LazyLock<Base> = LazyLock::new(|| {
    let large = zip::File { large: true, ..zip::deflated("disk.img", &disk(9000)) };
    let bytes = zip::archive(&[zip::stored("README", b"read me"), large, zip::deflated("b/sum", b"sum sum sum")], true);
    let hot = vec![(0, bytes.len())];
    Base { bytes, hot, seal: |_| {} }
});
static TAR: LazyLock<Base> = LazyLock::new(|| {
    let raw = disk(3000);
    let name = [("path", &b"disk.vmdk"[..])];
    let ovf = tar::file("box.ovf", tar::ovf("disk.vmdk", raw.len()).as_bytes());
    let bytes = tar::archive(&[ovf, tar::pax(b'x', &name), tar::file("a", &raw), tar::file("b", b"")]);
    let hot = vec![(0, bytes.len())];
    Base { bytes, hot, seal: tar_seal }
});

/// The second directory and table say again what the first ones say.
fn vmdk_seal(bytes: &mut Vec<u8>) {
    let at = vmdk::places(5 << 16);
    if bytes.len() > at.grains {
        bytes.copy_within(at.table..at.table + 2048, at.redundant_table);
    }
}

fn vhd_seal(bytes: &mut Vec<u8>) {
    if bytes.len() < 4096 {
        return;
    }
    // What the front says, the end says too.
    let end = bytes.len() - 512;
    bytes.copy_within(..512, end);
    vhd::sum(bytes, 0, 512, 64);
    vhd::sum(bytes, end, 512, 64);
    vhd::sum(bytes, vhd::HEADER_AT, 1024, 36);
}

fn vhdx_seal(bytes: &mut Vec<u8>) {
    if bytes.len() < vhdx::DATA {
        return;
    }
    bytes.copy_within(vhdx::REGIONS[0]..vhdx::REGIONS[0] + 4096, vhdx::REGIONS[1]);
    vhdx::seal(bytes);
    let said = u32::from_le_bytes([8, 9, 10, 11].map(|n| bytes[vhdx::LOG + n])) as usize;
    vhdx::sum(bytes, vhdx::LOG, said.clamp(64, vhdx::MIB));
}

fn tar_seal(bytes: &mut Vec<u8>) {
    for at in (0..bytes.len() / 512).map(|n| n * 512).filter(|at| *at + 512 <= bytes.len()).collect::<Vec<_>>() {
        if bytes[at + 257..at + 262] == *b"ustar" {
            tar::sum(&mut bytes[at..at + 512]);
        }
    }
}

/// What an input stands for. A patch is a place in the hot parts (2 bytes), a length (1 byte), and so many bytes; the length 255 cuts
/// the container instead.
pub(crate) fn input_expand(base: &Base, input: &[u8]) -> Vec<u8> {
    let Some((kind, mut rest)) = input.split_first() else { return Vec::new() };
    if kind % 3 == RAW {
        return rest.to_vec();
    }
    let mut bytes = base.bytes.clone();
    let hot: usize = base.hot.iter().map(|(_, len)| len).sum();
    while let [low, high, len, after @ ..] = rest {
        let place = usize::from(u16::from_le_bytes([*low, *high]));
        if *len == 255 {
            bytes.truncate(base.bytes.len() * place / 65_536);
            rest = after;
            continue;
        }
        let (patch, after) = after.split_at(after.len().min(usize::from(*len)));
        for (n, byte) in patch.iter().enumerate() {
            let mut within = (place + n) % hot;
            let part = base.hot.iter().find(|(_, len)| {
                let here = within < *len;
                within -= if here { 0 } else { *len };
                here
            });
            if let Some(place) = part.and_then(|(at, _)| bytes.get_mut(at + within)) {
                *place = *byte;
            }
        }
        rest = after;
    }
    if kind % 3 == SEALED {
        (base.seal)(&mut bytes);
    }
    bytes
}

/// A container that is opened twice and not copied: some have megabytes.
#[derive(Clone)]
struct Shared(Arc<Vec<u8>>);

impl ReadAt for Shared {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok();
        let part = from.and_then(|from| self.0.get(from..from.checked_add(buf.len())?));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

fn disk_enter(format: Format, base: &Base, input: &[u8]) {
    let bytes = Shared(Arc::new(input_expand(base, input)));
    let open = || disk_open(format, Box::new(bytes.clone()), &LIMITS);
    let Ok(mut disk) = open() else { return };
    assert!(disk.size() > 0 && disk.size() <= LIMITS.size_max);
    assert!(matches!(disk.sector_size(), 512 | 4096));
    let (first, first_ok) = disk_read(&mut *disk, 1 << 20);
    // Read again in other pieces, it is the same disk.
    let Ok(mut again) = open() else { panic!("it was opened once and not twice") };
    let (second, second_ok) = disk_read(&mut *again, 70_001);
    let both = first.len().min(second.len());
    assert!(first[..both] == second[..both], "two readings differ");
    assert!(!first_ok || !second_ok || first.len() == second.len(), "two readings end at different places");
    // At its very end, and in the middle of things.
    let size = disk.size();
    for offset in [size - 1, size / 2, size / 3 + 1] {
        let mut buf = [0; 600];
        if let Ok(fill) = disk.fill_at(offset, &mut buf) {
            fill_check(fill, offset, size, buf.len());
        }
    }
}

fn fill_check(fill: Fill, offset: u64, size: u64, room: usize) {
    match fill {
        Fill::Data(len) => assert!(len > 0 && len <= room && len as u64 <= size - offset, "{len} bytes at {offset}"),
        Fill::Hole(len) => {
            let whole = len.is_multiple_of(BLOCK as u64) || len == size - offset;
            assert!(
                len > 0 && len <= size - offset && offset.is_multiple_of(BLOCK as u64) && whole,
                "a hole of {len} at {offset}"
            );
        }
        Fill::End => panic!("the end at {offset} of {size}"),
    }
}

/// Reads the beginning; says also whether nothing went wrong. Long holes are cut short.
fn disk_read(disk: &mut dyn Disk, room: usize) -> (Vec<u8>, bool) {
    let (size, mut buf, mut bytes) = (disk.size(), vec![0; room], Vec::new());
    for _ in 0..CALLS_MAX {
        let at = bytes.len() as u64;
        if at >= size.min(READ_MAX) {
            break;
        }
        match disk.fill_at(at, &mut buf) {
            Ok(fill) => {
                fill_check(fill, at, size, room);
                match fill {
                    Fill::Data(len) => bytes.extend_from_slice(&buf[..len]),
                    Fill::Hole(len) => bytes.resize((at + len).min(READ_MAX) as usize, 0),
                    Fill::End => break,
                }
            }
            Err(_) => return (bytes, false),
        }
    }
    bytes.truncate(READ_MAX as usize);
    (bytes, true)
}

fn archive_enter(archive: Archive, base: &Base, input: &[u8]) {
    let Ok(found) = disk_find(archive, Box::new(input_expand(base, input))) else { return };
    assert!(!found.name.contains(char::is_control));
    match found.bytes {
        Inner::Placed(placed) => {
            assert_eq!(placed.len(), found.size);
            let mut bytes = vec![0; found.size as usize];
            placed.read_exact_at(&mut bytes, 0).expect("what is placed is there");
            assert!(placed.read_exact_at(&mut [0], found.size).is_err());
        }
        Inner::Packed(packed) => {
            let mut bytes = Vec::new();
            let read = packed.take(READ_MAX).read_to_end(&mut bytes);
            assert!(bytes.len() as u64 <= found.size);
            if read.is_ok() && found.size < READ_MAX {
                assert_eq!(bytes.len() as u64, found.size);
            }
        }
    }
}

fn streams_enter(input: &[u8]) {
    let Some((kind, rest)) = input.split_first() else { return };
    let wrap = [Wrap::Gzip, Wrap::Xz, Wrap::Zstd, Wrap::None][usize::from(kind % 4)];
    let mut bytes = Vec::new();
    let read = unwrap(wrap, Box::new(Cursor::new(rest.to_vec())), 4 << 20).read_to_end(&mut bytes);
    assert!(bytes.len() <= 4 << 20);
    if wrap == Wrap::None && rest.len() <= 4 << 20 {
        assert!(read.is_ok() && bytes == rest);
    }
}

fn partitions_enter(input: &[u8]) {
    let _ = probe(input);
    let _ = mbr_parse(input);
    for size in [512, 4096] {
        let Some(sector) = input.get(size..2 * size) else { continue };
        let _ = backup_header_matches(sector, 1);
        let Ok(header) = parse_header(sector) else { continue };
        let sectors = (input.len() / size) as u64;
        let from = usize::try_from(header.entries_lba).ok().and_then(|lba| lba.checked_mul(size));
        let len = header.entries_bytes() as usize;
        let entries = from.and_then(|from| input.get(from..from.checked_add(len)?)).unwrap_or_default();
        let _ = parse_table(&header, entries, sectors);
        let _ = backup_write(sector, entries, sectors);
    }
}

fn detection_enter(input: &[u8]) {
    let _ = head_detect(input);
    let _ = format_detect(&input.to_vec());
}

fn base(name: &str) -> Option<&'static Base> {
    match name {
        "qcow2" => Some(&QCOW2),
        "vmdk" => Some(&VMDK),
        "vmdk_stream" => Some(&VMDK_STREAM),
        "vhd" => Some(&VHD),
        "vhdx" => Some(&VHDX),
        "vdi" => Some(&VDI),
        "zip" => Some(&ZIP),
        "tar" => Some(&TAR),
        _ => None,
    }
}

/// What an input of this entry stands for.
pub(crate) fn seed_expand(name: &str, input: &[u8]) -> Vec<u8> {
    base(name).map_or_else(|| input.to_vec(), |base| input_expand(base, input))
}

/// Good inputs to begin with.
pub(crate) fn seeds(name: &str) -> Vec<Vec<u8>> {
    if let Some(base) = base(name) {
        let raw = [&[RAW], &base.bytes[..]].concat();
        let patched = [PATCHES, SEALED].map(|kind| vec![kind, 0, 0, 0]);
        return if raw.len() < 64 << 10 { [&[raw][..], &patched].concat() } else { patched.to_vec() };
    }
    match name {
        "streams" => {
            let text = disk(5000);
            let gzip = {
                let mut e = flate2::read::GzEncoder::new(&text[..], flate2::Compression::fast());
                all(&mut e)
            };
            let xz = all(&mut liblzma::read::XzEncoder::new(&text[..], 1));
            let zstd = zstd::encode_all(&text[..], 1).expect("zstd packs");
            [(0, gzip), (1, xz), (2, zstd), (3, text)].map(|(kind, bytes)| [&[kind], &bytes[..]].concat()).to_vec()
        }
        "partitions" => vec![gpt(512), gpt(4096)],
        _ => {
            let containers =
                [&QCOW2, &VMDK, &ZIP, &TAR].map(|base| base.bytes[..base.bytes.len().min(16 << 10)].to_vec());
            [&containers[..], &[gpt(512)]].concat()
        }
    }
}

fn all(source: &mut dyn Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).expect("it is packed from memory");
    bytes
}

/// A disk of 100 sectors with a partition table of four entries.
fn gpt(sector: usize) -> Vec<u8> {
    let mut bytes = vec![0; 100 * sector];
    bytes[..512].copy_from_slice(&slipway_format::mbr::protective_mbr(100));
    let mut entries = vec![0; 4 * 128];
    entries[..16].fill(7);
    entries[16..32].fill(9);
    entries[32..40].copy_from_slice(&40_u64.to_le_bytes());
    entries[40..48].copy_from_slice(&60_u64.to_le_bytes());
    let header = slipway_format::gpt::Header {
        my_lba: 1,
        alternate_lba: 99,
        first_usable_lba: 34,
        last_usable_lba: 90,
        disk_guid: uuid::Uuid::from_u128(1),
        entries_lba: 2,
        entry_count: 4,
        entry_len: 128,
        entries_crc: crc32fast::hash(&entries),
    };
    bytes[sector..2 * sector].copy_from_slice(&header.encode(sector as u32)[..sector]);
    bytes[2 * sector..2 * sector + entries.len()].copy_from_slice(&entries);
    bytes
}

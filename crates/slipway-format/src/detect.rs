//! What a file is, told by its content alone: never by a name, never by what somebody says of it.
//!
//! A file that two readers would take for two formats is refused, because what is checked here as the one might be opened
//! elsewhere as the other. A raw disk may carry what disks carry: an MBR, a GPT, a file system, an ISO 9660 volume.

use crate::gpt::parse_header;
use crate::mbr::mbr_parse;
use crate::{DiskError, Format, PROBE_LEN, ReadAt, Wrap, wrap_detect};

/// How many of the first bytes [`head_detect`] can use.
pub const DETECT_HEAD_LEN: usize = PROBE_LEN;
/// How many of the last bytes tell something.
pub const DETECT_TAIL_LEN: usize = 512;

/// A file that holds files, one of which is the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Archive {
    /// A zip archive.
    Zip,
    /// A tar archive; an OVA is one.
    Tar,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Detected {
    /// A disk image.
    Disk(Format),
    /// A disk image among other files.
    Archive(Archive),
    /// A compressed stream; what is in it is not yet known.
    Wrapped(Wrap),
}

impl Detected {
    /// As people write it.
    pub fn title(self) -> &'static str {
        match self {
            Detected::Disk(format) => format.title(),
            Detected::Archive(archive) => archive.name(),
            Detected::Wrapped(wrap) => wrap.name(),
        }
    }
}

/// Tells what a whole file is.
///
/// # Errors
/// [`DiskError::Refused`] for two formats at once, and for formats that are known and not read; [`DiskError::Io`].
pub fn format_detect(file: &dyn ReadAt) -> Result<Detected, DiskError> {
    let part = |at: u64, len: u64| {
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        file.read_exact_at(&mut bytes, at).map_err(|source| DiskError::Io { format: "disk", source })?;
        Ok(bytes)
    };
    let head = part(0, file.len().min(DETECT_HEAD_LEN as u64))?;
    let tail_len = file.len().min(DETECT_TAIL_LEN as u64);
    let tail = part(file.len() - tail_len, tail_len)?;
    seen_judge(&seen_at_front(&head)?, tail_detect(&tail, file.len()))
}

/// Tells what a stream is by its first [`DETECT_HEAD_LEN`] bytes (or all there are). Two formats have their mark at the end:
/// a raw stream must still be asked with [`tail_detect`] there.
///
/// # Errors
/// As [`format_detect`].
pub fn head_detect(head: &[u8]) -> Result<Detected, DiskError> {
    seen_judge(&seen_at_front(head)?, None)
}

/// What the last [`DETECT_TAIL_LEN`] bytes of a file of `len` bytes say that its beginning need not say: a fixed VHD has
/// nothing but a footer, and a zip may have anything before it.
pub fn tail_detect(tail: &[u8], len: u64) -> Option<Detected> {
    let tail = &tail[tail.len().saturating_sub(DETECT_TAIL_LEN)..];
    if vhd_footer(tail) {
        return Some(Detected::Disk(Format::Vhd));
    }
    zip_end(tail, len).then_some(Detected::Archive(Archive::Zip))
}

/// What is at the front of a file. Marks of a disk are apart: they are at home in a raw image, and nowhere else.
#[derive(Default)]
struct Front {
    found: Vec<Detected>,
    disk: Option<&'static str>,
}

/// Formats that are known by their first bytes and not read: magic at offset, name, what reads it.
const UNREAD: &[(usize, &[u8], &str, &str)] = &[
    (0, b"QED\0", "QED", "qemu-img convert -O raw"),
    (0, b"OOOM\0", "UML COW", "qemu-img convert -O raw"),
    (0, b"WithoutFreeSpace", "Parallels", "qemu-img convert -O raw"),
    (0, b"WithouFreSpacExt", "Parallels", "qemu-img convert -O raw"),
    (0, b"Bochs Virtual HD Image", "Bochs", "qemu-img convert -O raw"),
    (0, b"\x3a\xff\x26\xed", "Android sparse", "simg2img"),
    (0, b"BZh", "bzip2", "bzip2 -dc"),
    (0, b"LZIP", "lzip", "lzip -dc"),
    (0, b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z", "7z e -so"),
    (0, b"Rar!\x1a\x07", "rar", "unrar p -inul"),
    (0, b"MSWIM\0\0\0", "WIM", "wimlib-imagex apply"),
];

const FRONT: &[(usize, &[u8], Detected)] = &[
    (0, b"QFI\xfb", Detected::Disk(Format::Qcow2)),
    (0, b"KDMV", Detected::Disk(Format::Vmdk)),
    (0, b"COWD", Detected::Disk(Format::Vmdk)),
    (0, b"# Disk DescriptorFile", Detected::Disk(Format::Vmdk)),
    (0, b"conectix", Detected::Disk(Format::Vhd)),
    (0, b"vhdxfile", Detected::Disk(Format::Vhdx)),
    (0x40, b"\x7f\x10\xda\xbe", Detected::Disk(Format::Vdi)),
    (0, b"PK\x03\x04", Detected::Archive(Archive::Zip)),
    (0, b"PK\x05\x06", Detected::Archive(Archive::Zip)),
];

fn has(bytes: &[u8], at: usize, magic: &[u8]) -> bool {
    bytes.get(at..at + magic.len()) == Some(magic)
}

fn seen_at_front(head: &[u8]) -> Result<Front, DiskError> {
    let mut front = Front::default();
    for (at, magic, what) in FRONT {
        if has(head, *at, magic) {
            front.found.push(*what);
        }
    }
    if tar_header(head) {
        front.found.push(Detected::Archive(Archive::Tar));
    }
    match wrap_detect(head) {
        Wrap::None => {}
        wrap => front.found.push(Detected::Wrapped(wrap)),
    }
    front.disk = disk_mark(head);
    if front.found.is_empty()
        && let Some((_, _, format, tool)) = UNREAD.iter().find(|(at, magic, ..)| has(head, *at, magic))
    {
        let reason = format!("it is not read; unpack or convert it first with '{tool}'");
        return Err(DiskError::Refused { format, reason });
    }
    Ok(front)
}

fn seen_judge(front: &Front, tail: Option<Detected>) -> Result<Detected, DiskError> {
    let mut found = front.found.clone();
    if found.is_empty() && tail == Some(Detected::Archive(Archive::Zip)) {
        return Err(polyglot("zip", front.disk.unwrap_or("something else before it")));
    }
    // A dynamic VHD and a zip have their mark at both ends.
    found.extend(tail.filter(|tail| !front.found.contains(tail)));
    match found[..] {
        [] => Ok(Detected::Disk(Format::Raw)),
        [only] => match front.disk {
            // The first bytes of a fixed VHD are its disk's.
            Some(_) if only == Detected::Disk(Format::Vhd) && front.found.is_empty() => Ok(only),
            Some(mark) => Err(polyglot(only.title(), mark)),
            None => Ok(only),
        },
        [first, second, ..] => Err(polyglot(first.title(), second.title())),
    }
}

fn polyglot(format: &'static str, other: &str) -> DiskError {
    let reason = format!(
        "it is two formats at once, {format} and {other}, and what reads it next may take it for the other one; \
         say which it is, or make it afresh"
    );
    DiskError::Refused { format, reason }
}

/// What only a raw disk begins with.
fn disk_mark(head: &[u8]) -> Option<&'static str> {
    let gpt = |size: usize| head.get(size..2 * size).and_then(|sector| parse_header(sector).ok());
    if [512, 4096].iter().any(|size| gpt(*size).is_some_and(|header| header.my_lba == 1)) {
        return Some("a disk with a GPT partition table");
    }
    if mbr_parse(head).is_some() {
        return Some("a disk with an MBR partition table");
    }
    // ECMA-119, 8.1: the first volume descriptor is in sector 16 of 2048 bytes; versions of it are 1.
    (has(head, 0x8001, b"CD001\x01")).then_some("an ISO 9660 volume")
}

/// A header of the ustar or GNU kind whose checksum fits (POSIX.1-2017, pax, "ustar Interchange Format").
fn tar_header(head: &[u8]) -> bool {
    let Some(header) = head.get(..512) else { return false };
    if !has(header, 257, b"ustar") {
        return false;
    }
    let text = std::str::from_utf8(&header[148..156]).unwrap_or("");
    let said = u32::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok();
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    let field: u32 = header[148..156].iter().map(|byte| u32::from(*byte)).sum();
    said == Some(sum - field + 8 * u32::from(b' '))
}

/// Whether this sector is a VHD footer whose checksum fits (Virtual Hard Disk Image Format Specification 1.0, "Hard Disk Footer Format").
pub(crate) fn vhd_footer(sector: &[u8]) -> bool {
    if sector.len() != 512 || !has(sector, 0, b"conectix") {
        return false;
    }
    let sum: u32 =
        sector.iter().enumerate().map(|(at, byte)| if (64..68).contains(&at) { 0 } else { u32::from(*byte) }).sum();
    has(sector, 64, &(!sum).to_be_bytes())
}

/// Whether a zip archive ends here: its end record reaches the end of the file, and its list of files ends where the record begins
/// (PKWARE APPNOTE 4.3.16), counted from the beginning of the file.
fn zip_end(tail: &[u8], len: u64) -> bool {
    const RECORD: usize = 22;
    let Some(last) = tail.len().checked_sub(RECORD) else { return false };
    let begins = len - tail.len() as u64;
    (0..=last).any(|at| {
        let record = &tail[at..];
        let small = |at: usize| u64::from(u16::from_le_bytes([record[at], record[at + 1]]));
        let number = |at: usize| small(at) | small(at + 2) << 16;
        has(record, 0, b"PK\x05\x06")
            && RECORD as u64 + small(20) == record.len() as u64
            && (number(12) + number(16) == begins + at as u64 || number(16) == 0xffff_ffff)
    })
}

#[cfg(test)]
mod tests {
    use super::{Archive, Detected, format_detect, head_detect};
    use crate::gpt::Header;
    use crate::mbr::protective_mbr;
    use crate::{DiskError, Format, Wrap};

    const LEN: usize = 256 << 10;

    fn image(parts: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; LEN];
        for (at, part) in parts {
            bytes[*at..at + part.len()].copy_from_slice(part);
        }
        bytes
    }

    fn footer() -> Vec<u8> {
        let mut footer = vec![0; 512];
        footer[..8].copy_from_slice(b"conectix");
        footer[63] = 2;
        let sum: u32 = footer.iter().map(|byte| u32::from(*byte)).sum();
        footer[64..68].copy_from_slice(&(!sum).to_be_bytes());
        footer
    }

    fn gpt() -> Vec<u8> {
        let header = Header {
            my_lba: 1,
            alternate_lba: 511,
            first_usable_lba: 34,
            last_usable_lba: 400,
            disk_guid: uuid::Uuid::from_u128(1),
            entries_lba: 2,
            entry_count: 128,
            entry_len: 128,
            entries_crc: 0,
        };
        header.encode(512)
    }

    fn tar() -> Vec<u8> {
        let mut header = vec![0; 512];
        header[..4].copy_from_slice(b"disk");
        header[148..156].fill(b' ');
        header[257..263].copy_from_slice(b"ustar\0");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        header
    }

    /// The end record of a zip with an empty list of files, ending at the end of the image.
    fn zip_end() -> Vec<u8> {
        let mut record = vec![0; 22];
        record[..4].copy_from_slice(b"PK\x05\x06");
        record[16..20].copy_from_slice(&((LEN - 22) as u32).to_le_bytes());
        record
    }

    #[test]
    fn rows() {
        fn check(bytes: &[u8], wanted: Detected) {
            assert_eq!(format_detect(&bytes.to_vec()).unwrap(), wanted);
        }
        let raw = Detected::Disk(Format::Raw);
        check(&[], raw);
        check(b"QFI", raw);
        check(&image(&[]), raw);
        check(&image(&[(0, &protective_mbr(512)), (512, &gpt())]), raw);
        check(&image(&[(0x8001, b"CD001\x01")]), raw);
        check(&image(&[(0, &protective_mbr(512)), (512, &gpt()), (0x8001, b"CD001\x01")]), raw);
        check(&image(&[(0, b"QFI\xfb")]), Detected::Disk(Format::Qcow2));
        check(&image(&[(0, b"KDMV")]), Detected::Disk(Format::Vmdk));
        check(&image(&[(0, b"COWD")]), Detected::Disk(Format::Vmdk));
        check(b"# Disk DescriptorFile\nversion=1\n", Detected::Disk(Format::Vmdk));
        check(&image(&[(0, b"vhdxfile")]), Detected::Disk(Format::Vhdx));
        check(&image(&[(0x40, b"\x7f\x10\xda\xbe")]), Detected::Disk(Format::Vdi));
        check(&image(&[(0, b"conectix")]), Detected::Disk(Format::Vhd));
        check(&image(&[(0, &footer()), (LEN - 512, &footer())]), Detected::Disk(Format::Vhd));
        check(&image(&[(LEN - 512, &footer())]), Detected::Disk(Format::Vhd));
        check(&image(&[(0, &protective_mbr(512)), (LEN - 512, &footer())]), Detected::Disk(Format::Vhd));
        check(&footer(), Detected::Disk(Format::Vhd));
        check(&image(&[(0, b"PK\x03\x04"), (LEN - 22, &zip_end())]), Detected::Archive(Archive::Zip));
        check(&image(&[(0, &tar())]), Detected::Archive(Archive::Tar));
        check(&image(&[(0, b"\x1f\x8b\x08\0")]), Detected::Wrapped(Wrap::Gzip));
        check(&image(&[(0, b"\x28\xb5\x2f\xfd")]), Detected::Wrapped(Wrap::Zstd));
        // What only looks a little like something is bytes.
        let mut bad = footer();
        bad[100] = 1;
        check(&image(&[(LEN - 512, &bad)]), raw);
        let mut bad = tar();
        bad[0] = b'e';
        check(&image(&[(0, &bad)]), raw);
        check(&image(&[(LEN - 30, &zip_end())]), raw);
        assert_eq!(head_detect(&image(&[(LEN - 512, &footer())])).unwrap(), raw);
    }

    #[test]
    fn two_formats_at_once_are_refused() {
        fn check(parts: &[(usize, &[u8])], first: &str, second: &str) {
            match format_detect(&image(parts)) {
                Err(DiskError::Refused { format, reason }) => {
                    assert_eq!(format, first);
                    assert!(reason.contains("two formats at once") && reason.contains(second), "{reason}");
                }
                other => panic!("{first} and {second}: {other:?}"),
            }
        }
        let (mbr, gpt, footer, tar, zip) = (protective_mbr(512), gpt(), footer(), tar(), zip_end());
        let vdi: (usize, &[u8]) = (0x40, b"\x7f\x10\xda\xbe");
        let iso: (usize, &[u8]) = (0x8001, b"CD001\x01");
        let mut qcow_mbr = mbr;
        qcow_mbr[..4].copy_from_slice(b"QFI\xfb");
        check(&[(0, b"QFI\xfb"), (LEN - 512, &footer)], "qcow2", "VHD");
        check(&[(0, &qcow_mbr)], "qcow2", "MBR");
        check(&[(0, b"QFI\xfb"), (512, &gpt)], "qcow2", "GPT");
        check(&[(0, b"QFI\xfb"), iso], "qcow2", "ISO 9660");
        check(&[(0, b"QFI\xfb"), vdi], "qcow2", "VDI");
        check(&[(0, b"QFI\xfb"), (LEN - 22, &zip)], "qcow2", "zip");
        check(&[(0, b"KDMV"), vdi], "VMDK", "VDI");
        check(&[(0, b"KDMV"), iso], "VMDK", "ISO 9660");
        check(&[(0, b"vhdxfile"), (LEN - 512, &footer)], "VHDX", "VHD");
        check(&[(0, b"PK\x03\x04"), vdi], "VDI", "zip");
        check(&[(0, b"PK\x03\x04"), (LEN - 512, &footer)], "zip", "VHD");
        check(&[(0, &mbr), (LEN - 22, &zip)], "zip", "MBR");
        check(&[(LEN - 22, &zip)], "zip", "something else");
        check(&[iso, (LEN - 22, &zip)], "zip", "ISO 9660");
        check(&[(0, &mbr), vdi], "VDI", "MBR");
        check(&[(0, b"\x1f\x8b\x08\x04"), vdi], "VDI", "gzip");
        check(&[(0, b"\x1f\x8b\x08\x04"), (LEN - 512, &footer)], "gzip", "VHD");
        let mut tar_mbr = tar.clone();
        tar_mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        check(&[(0, &tar), (LEN - 512, &footer)], "tar", "VHD");
        check(&[(0, &tar), iso], "tar", "ISO 9660");
    }

    #[test]
    fn known_and_unread_is_refused() {
        for (magic, word) in [
            (&b"QED\0"[..], "QED"),
            (b"BZh9", "bzip2"),
            (b"7z\xbc\xaf\x27\x1c", "7z"),
            (b"\x3a\xff\x26\xed", "Android"),
        ] {
            let why = format_detect(&image(&[(0, magic)])).unwrap_err().to_string();
            assert!(why.contains(word) && why.contains("with '"), "{why}");
        }
    }
}

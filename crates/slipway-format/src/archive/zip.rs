//! zip and zip64 (PKWARE APPNOTE 6.3.10). The central directory and the local headers must tell the same story, and the parts of the
//! archive must lie side by side: what two readers would read differently is refused.

use super::{Found, Inner, Names, Window, bytes_walk, disk_choose};
use crate::container::{Container, le16, le32, le64};
use crate::names::name_show;
use crate::{DiskError, ReadAt};
use flate2::bufread::DeflateDecoder;
use std::io::{self, BufReader, Read};

const FORMAT: &str = "zip";
const END_LEN: usize = 22;
const END64_LEN: usize = 56;
const LOCATOR_LEN: usize = 20;
const ENTRY_LEN: usize = 46;
const LOCAL_LEN: usize = 30;
/// The list of so many files as are read, with the longest names that make sense.
const DIRECTORY_MAX: u64 = 4 << 20;
const STORED: u16 = 0;
const DEFLATED: u16 = 8;
/// Bits 0, 6 and 13: the file, or even its name, is encrypted.
const ENCRYPTED: u16 = 1 | 1 << 6 | 1 << 13;
const SIZES_BEHIND: u16 = 1 << 3;
/// No deflate stream unpacks to more than 1032 times its length.
const DEFLATE_MAX: u64 = 1032;
/// What grows more than this is taken for a bomb, unless it stays small.
const RATIO_MAX: u64 = 200;
const RATIO_FREE: u64 = 1 << 30;
const ALL_ONES: u64 = 0xffff_ffff;

#[derive(Debug)]
struct Entry {
    name: String,
    raw_name: Vec<u8>,
    flags: u16,
    method: u16,
    crc: u32,
    packed: u64,
    size: u64,
    local_at: u64,
    kind: u32,
}

/// Where the list of files is.
struct Directory {
    at: u64,
    len: u64,
    files: u64,
}

/// Finds the one disk in a zip archive.
pub(super) fn disk_find(bytes: Box<dyn ReadAt>) -> Result<Found, DiskError> {
    let container = Container::new(FORMAT, bytes);
    let directory = directory_find(&container)?;
    let entries = entries_read(&container, &directory)?;
    let spans = spans_check(&container, &entries, directory.at)?;
    let files: Vec<_> = entries.iter().zip(spans).filter(|(entry, _)| !entry.name.ends_with('/')).collect();
    let (entry, data_at) = disk_choose(&container, &files, |(entry, _)| entry.name.as_str())?;
    entry_check(&container, entry)?;
    let (name, size) = (name_show(&entry.name), entry.size);
    let data_at = *data_at;
    if entry.method == STORED {
        let mut crc = crc32fast::Hasher::new();
        bytes_walk(&container, "the stored disk", (data_at, entry.packed), |part| crc.update(part))?;
        if crc.finalize() != entry.crc {
            return Err(container.damaged(format!("the checksum of {name} does not fit")));
        }
        let window = Window { bytes: container.into_bytes(), from: data_at, len: size };
        return Ok(Found { name, size, bytes: Inner::Placed(Box::new(window)) });
    }
    let (packed, crc) = (entry.packed, entry.crc);
    let input = Sequential { bytes: container.into_bytes(), at: data_at, left: packed };
    let unpack = Unpack {
        decoder: DeflateDecoder::new(BufReader::with_capacity(128 << 10, input)),
        name: name.clone(),
        left: size,
        packed,
        wanted: crc,
        crc: crc32fast::Hasher::new(),
        failed: false,
    };
    Ok(Found { name, size, bytes: Inner::Packed(Box::new(unpack)) })
}

/// Finds the end record: the only one whose comment reaches exactly to the end of the file.
fn directory_find(container: &Container) -> Result<Directory, DiskError> {
    let tail_len = container.len().min((END_LEN + usize::from(u16::MAX)) as u64) as usize;
    let tail_at = container.len() - tail_len as u64;
    let tail = container.part("the end of the archive", tail_at, tail_len)?;
    let mut ends = (0..=tail.len().saturating_sub(END_LEN)).filter(|at| {
        let record = &tail[*at..];
        record.len() >= END_LEN
            && record.starts_with(b"PK\x05\x06")
            && END_LEN + usize::from(le16(record, 20)) == record.len()
    });
    let Some(end) = ends.next() else {
        return Err(
            container.damaged("it has no end record that reaches its end: it was cut off, or something was added")
        );
    };
    if ends.next().is_some() {
        return Err(container.refused("it has two end records, so two readers would see two archives in it"));
    }
    let (record, end_at) = (&tail[end..], tail_at + end as u64);
    if le16(record, 4) != 0 || le16(record, 6) != 0 {
        return Err(container.refused("it is one part of an archive in several files"));
    }
    let small = Directory { at: le32(record, 16).into(), len: le32(record, 12).into(), files: le16(record, 10).into() };
    let same_files = le16(record, 8) == le16(record, 10);
    let (directory, end_at) = match locator_read(container, end_at)? {
        None => (small, end_at),
        Some(end64_at) => (directory64_read(container, end64_at, end_at, &small)?, end64_at),
    };
    if !same_files {
        return Err(container.damaged("its end record has two different numbers of files"));
    }
    // Anything between would be another archive's, and anything before would move all positions.
    if directory.at.checked_add(directory.len) != Some(end_at) {
        return Err(container.damaged(format!(
            "its list of files is said to be {} bytes at byte {}, but must end at byte {end_at}",
            directory.len, directory.at
        )));
    }
    if directory.len > DIRECTORY_MAX {
        return Err(
            container.refused(format!("its list of files has {} bytes, more than {DIRECTORY_MAX}", directory.len))
        );
    }
    Ok(directory)
}

/// The place of the zip64 end record, if there is one.
fn locator_read(container: &Container, end_at: u64) -> Result<Option<u64>, DiskError> {
    let Some(at) = end_at.checked_sub(LOCATOR_LEN as u64) else { return Ok(None) };
    let locator = container.part("the zip64 locator", at, LOCATOR_LEN)?;
    if !locator.starts_with(b"PK\x06\x07") {
        return Ok(None);
    }
    if le32(&locator, 4) != 0 || le32(&locator, 16) > 1 {
        return Err(container.refused("it is one part of an archive in several files"));
    }
    let end64_at = le64(&locator, 8);
    if end64_at.checked_add(END64_LEN as u64).is_none_or(|end| end > at) {
        return Err(container.damaged(format!("its zip64 end record is said to be at byte {end64_at}")));
    }
    Ok(Some(end64_at))
}

fn directory64_read(container: &Container, at: u64, end_at: u64, small: &Directory) -> Result<Directory, DiskError> {
    let record = container.part("the zip64 end record", at, END64_LEN)?;
    let reaches = at.checked_add(12).and_then(|begin| begin.checked_add(le64(&record, 4)));
    if !record.starts_with(b"PK\x06\x06") || reaches != Some(end_at - LOCATOR_LEN as u64) {
        return Err(container.damaged(format!("there is no zip64 end record at byte {at}")));
    }
    if le32(&record, 16) != 0 || le32(&record, 20) != 0 {
        return Err(container.refused("it is one part of an archive in several files"));
    }
    let directory = Directory { at: le64(&record, 48), len: le64(&record, 40), files: le64(&record, 32) };
    let agrees = |small: u64, ones: u64, large: u64| small == ones || small == large;
    let all = agrees(small.at, ALL_ONES, directory.at)
        && agrees(small.len, ALL_ONES, directory.len)
        && agrees(small.files, 0xffff, directory.files)
        && le64(&record, 24) == directory.files;
    if !all {
        return Err(container.damaged("its end record and its zip64 end record differ"));
    }
    Ok(directory)
}

fn entries_read(container: &Container, directory: &Directory) -> Result<Vec<Entry>, DiskError> {
    let bytes = container.part("the list of files", directory.at, directory.len as usize)?;
    let (mut entries, mut names, mut rest) = (Vec::new(), Names::default(), &bytes[..]);
    while !rest.is_empty() {
        let cut = || container.damaged("its list of files is cut off or holds something else");
        if rest.len() < ENTRY_LEN || !rest.starts_with(b"PK\x01\x02") {
            return Err(cut());
        }
        let lens = [28, 30, 32].map(|at| usize::from(le16(rest, at)));
        let len = ENTRY_LEN + lens.iter().sum::<usize>();
        let entry = rest.get(..len).ok_or_else(cut)?;
        rest = &rest[len..];
        let raw_name = entry[ENTRY_LEN..ENTRY_LEN + lens[0]].to_vec();
        let name = names.take(container, &raw_name)?;
        let extra = &entry[ENTRY_LEN + lens[0]..ENTRY_LEN + lens[0] + lens[1]];
        entries.push(entry_parse(container, entry, extra, name, raw_name)?);
    }
    if entries.len() as u64 != directory.files {
        return Err(container.damaged(format!(
            "its end record says {} files, but its list has {}",
            directory.files,
            entries.len()
        )));
    }
    Ok(entries)
}

fn entry_parse(
    container: &Container,
    entry: &[u8],
    extra: &[u8],
    name: String,
    raw_name: Vec<u8>,
) -> Result<Entry, DiskError> {
    let (made_by, attributes) = (entry[5], le32(entry, 38));
    let mut parsed = Entry {
        flags: le16(entry, 8),
        method: le16(entry, 10),
        crc: le32(entry, 16),
        packed: le32(entry, 20).into(),
        size: le32(entry, 24).into(),
        local_at: le32(entry, 42).into(),
        // The mode of a file, where the archive was made on a Unix (3) or a Mac (19).
        kind: if matches!(made_by, 3 | 19) { attributes >> 16 & 0o170_000 } else { 0 },
        name,
        raw_name,
    };
    let shown = name_show(&parsed.name);
    let mut large = zip64_values(extra)
        .ok_or_else(|| container.damaged(format!("the extra fields of {shown} are cut off or given twice")))?;
    for (value, what) in
        [(&mut parsed.size, "size"), (&mut parsed.packed, "packed size"), (&mut parsed.local_at, "place")]
    {
        if *value == ALL_ONES {
            let (number, rest) = large
                .split_first_chunk::<8>()
                .ok_or_else(|| container.damaged(format!("the zip64 {what} of {shown} is missing")))?;
            *value = u64::from_le_bytes(*number);
            large = rest;
        }
    }
    if le16(entry, 34) != 0 {
        return Err(container.refused("it is one part of an archive in several files"));
    }
    if !matches!(parsed.kind, 0 | 0o100_000 | 0o040_000) {
        return Err(container.refused(format!("{shown} in it is a link or a device, not a file")));
    }
    Ok(parsed)
}

/// The zip64 numbers among the extra fields; empty without, `None` when the fields make no sense.
fn zip64_values(mut extra: &[u8]) -> Option<&[u8]> {
    let mut found = None;
    while extra.len() >= 4 {
        let len = usize::from(le16(extra, 2));
        let field = extra.get(4..4 + len)?;
        if le16(extra, 0) == 1 && found.replace(field).is_some() {
            return None;
        }
        extra = &extra[4 + len..];
    }
    // Some archivers pad to a border with less than a field.
    Some(found.unwrap_or_default())
}

/// Every file's local header says what the list says, and no two files share bytes. Gives where the data of each begins.
fn spans_check(container: &Container, entries: &[Entry], directory_at: u64) -> Result<Vec<u64>, DiskError> {
    let mut spans = Vec::with_capacity(entries.len());
    for entry in entries {
        let shown = name_show(&entry.name);
        let local = container.part(&format!("the header of {shown}"), entry.local_at, LOCAL_LEN)?;
        let (name_len, extra_len) = (usize::from(le16(&local, 26)), usize::from(le16(&local, 28)));
        let name_at = entry.local_at + LOCAL_LEN as u64;
        let sizes = (u64::from(le32(&local, 18)), u64::from(le32(&local, 22)));
        let sizes_agree = le16(&local, 6) & SIZES_BEHIND != 0
            || (sizes.0 == ALL_ONES || sizes.0 == entry.packed) && (sizes.1 == ALL_ONES || sizes.1 == entry.size);
        let agrees = local.starts_with(b"PK\x03\x04")
            && (le16(&local, 6) ^ entry.flags) & (ENCRYPTED | SIZES_BEHIND) == 0
            && le16(&local, 8) == entry.method
            && sizes_agree
            && container.part("a name", name_at, name_len)? == entry.raw_name;
        if !agrees {
            let at = entry.local_at;
            return Err(
                container.damaged(format!("the list of files and the header at byte {at} differ about {shown}"))
            );
        }
        let data_at = name_at + (name_len + extra_len) as u64;
        let end = data_at.checked_add(entry.packed).filter(|end| *end <= directory_at);
        let Some(end) = end else {
            return Err(container.damaged(format!("{shown} is said to reach past the list of files")));
        };
        spans.push((entry.local_at, end, data_at));
    }
    let mut ordered = spans.clone();
    ordered.sort_unstable();
    if ordered.windows(2).any(|pair| pair[1].0 < pair[0].1) {
        return Err(container.refused("two files in it overlap, so that it unpacks to more than it holds"));
    }
    Ok(spans.into_iter().map(|(_, _, data_at)| data_at).collect())
}

/// Whether the chosen file can be read.
fn entry_check(container: &Container, entry: &Entry) -> Result<(), DiskError> {
    let shown = name_show(&entry.name);
    if entry.flags & ENCRYPTED != 0 {
        return Err(container.refused(format!("{shown} in it is encrypted; unpack it with its password first")));
    }
    match entry.method {
        STORED if entry.packed == entry.size => Ok(()),
        STORED => Err(container.damaged(format!("{shown} is stored as it is, but has two sizes"))),
        DEFLATED if entry.size > entry.packed.saturating_mul(DEFLATE_MAX) => Err(container.damaged(format!(
            "{shown} is said to unpack from {} to {} bytes, which no deflate stream does",
            entry.packed, entry.size
        ))),
        DEFLATED if entry.size > RATIO_FREE && entry.size / RATIO_MAX > entry.packed => {
            Err(container.refused(format!(
                "{shown} unpacks to more than {RATIO_MAX} times its size ({} to {} bytes), like a bomb; unpack it first if it is none",
                entry.packed, entry.size
            )))
        }
        DEFLATED => Ok(()),
        method => Err(container.refused(format!(
            "{shown} is compressed by method {method}; only stored (0) and deflate (8) are read"
        ))),
    }
}

/// A run of the archive, read once.
struct Sequential {
    bytes: Box<dyn ReadAt>,
    at: u64,
    left: u64,
}

impl Read for Sequential {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.left.min(buf.len() as u64) as usize;
        self.bytes
            .read_exact_at(&mut buf[..len], self.at)
            .map_err(|source| io::Error::new(source.kind(), SourceError(source)))?;
        self.at += len as u64;
        self.left -= len as u64;
        Ok(len)
    }
}

/// Marks errors of the archive's file, so that they are not taken for errors of the stream in it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SourceError(io::Error);

/// Unpacks one file, and ends well only when length and checksum are those of the list.
struct Unpack {
    decoder: DeflateDecoder<BufReader<Sequential>>,
    name: String,
    left: u64,
    packed: u64,
    wanted: u32,
    crc: crc32fast::Hasher,
    failed: bool,
}

impl Unpack {
    fn refuse(&mut self, reason: String) -> io::Error {
        self.failed = true;
        DiskError::Damaged { format: FORMAT, reason }.into()
    }

    fn end_check(&mut self) -> io::Result<usize> {
        let name = &self.name;
        if self.left != 0 {
            let reason = format!("{name} ends {} bytes before the size that is said", self.left);
            return Err(self.refuse(reason));
        }
        if self.decoder.total_in() != self.packed {
            let reason = format!("{name} has bytes behind the end of its stream");
            return Err(self.refuse(reason));
        }
        if self.crc.clone().finalize() != self.wanted {
            let reason = format!("the checksum of {name} does not fit");
            return Err(self.refuse(reason));
        }
        Ok(0)
    }
}

impl Read for Unpack {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.failed {
            return Err(io::Error::other("the stream failed before"));
        }
        if buf.is_empty() {
            return Ok(0);
        }
        // One byte beyond the size is asked for, so that a stream that goes on is seen.
        let room = buf.len().min(usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX));
        let got = match self.decoder.read(&mut buf[..room]) {
            Ok(got) => got,
            Err(error) => {
                if let Some(SourceError(source)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
                    self.failed = true;
                    return Err(io::Error::new(source.kind(), format!("reading the zip archive: {source}")));
                }
                let reason = format!("{} cannot be unpacked: {error}", self.name);
                return Err(self.refuse(reason));
            }
        };
        if got == 0 {
            return self.end_check();
        }
        let Some(left) = self.left.checked_sub(got as u64) else {
            let reason = format!("{} unpacks to more than the size that is said", self.name);
            return Err(self.refuse(reason));
        };
        self.left = left;
        self.crc.update(&buf[..got]);
        Ok(got)
    }
}

//! tar (POSIX.1-2017 pax and ustar, GNU's long names), and OVA, which is a tar that begins with an OVF.

use super::{Found, Inner, Names, Window, bytes_walk, disk_choose, ovf};
use crate::container::Container;
use crate::names::name_show;
use crate::{DiskError, ReadAt};

const FORMAT: &str = "tar";
const BLOCK: u64 = 512;
/// Headers that only carry a name or attributes for the next file.
const SPECIAL_MAX: u64 = 64 << 10;
/// OVF and manifest are texts of some KiB.
const TEXT_MAX: u64 = 1 << 20;
/// Two blocks of zeros end an archive; what is written to tapes in records has more.
const PADDING_MAX: u64 = 1 << 20;
/// Headers of files, of folders, and extended ones.
const HEADERS_MAX: usize = 4 * super::FILES_MAX;

/// A regular file.
pub(super) struct File {
    pub(super) name: String,
    pub(super) at: u64,
    pub(super) size: u64,
}

/// What pax and GNU headers say of the file that follows.
#[derive(Default)]
struct Ahead {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

/// Finds the one disk in a tar archive, or the one that an OVA's OVF names.
pub(super) fn disk_find(bytes: Box<dyn ReadAt>) -> Result<Found, DiskError> {
    let container = Container::new(FORMAT, bytes);
    let files = files_list(&container)?;
    let is_ovf = |file: &&File| file.name.to_ascii_lowercase().ends_with(".ovf");
    let descriptors: Vec<_> = files.iter().filter(is_ovf).collect();
    let disk = match descriptors[..] {
        [] => disk_choose(&container, &files, |file| &file.name)?,
        [only] => ova_disk(&container, &files, only)?,
        _ => return Err(container.refused("it has more than one OVF, so it is not clear which describes the disk")),
    };
    let (name, from, len) = (name_show(&disk.name), disk.at, disk.size);
    let window = Window { bytes: container.into_bytes(), from, len };
    Ok(Found { name, size: len, bytes: Inner::Placed(Box::new(window)) })
}

fn ova_disk<'a>(container: &Container, files: &'a [File], descriptor: &File) -> Result<&'a File, DiskError> {
    let text = text_read(container, descriptor)?;
    let wanted = ovf::disk_named(&text).map_err(|fault| fault.into_error(container))?;
    let bare = |name: &str| name.strip_prefix("./").unwrap_or(name).to_owned();
    let shown = name_show(&wanted.href);
    let Some(disk) = files.iter().find(|file| bare(&file.name) == bare(&wanted.href)) else {
        return Err(container.refused(format!("its OVF says that the disk is the file {shown}, which is not in it")));
    };
    if let Some(size) = wanted.size.filter(|size| *size != disk.size) {
        let there = disk.size;
        return Err(container.damaged(format!("its OVF says that {shown} has {size} bytes, but it has {there}")));
    }
    let manifests: Vec<_> = files.iter().filter(|file| file.name.to_ascii_lowercase().ends_with(".mf")).collect();
    match manifests[..] {
        [] => {}
        [manifest] => {
            let text = text_read(container, manifest)?;
            let lines = ovf::manifest_parse(&text).map_err(|fault| fault.into_error(container))?;
            for file in [descriptor, disk] {
                let Some(line) = lines.iter().find(|line| bare(&line.name) == bare(&file.name)) else {
                    return Err(container.damaged(format!("its manifest does not list {}", name_show(&file.name))));
                };
                let mut sum = line.sum_begin();
                bytes_walk(container, "a file of the OVA", (file.at, file.size), |part| sum.update(part))?;
                if !sum.fits() {
                    return Err(container.damaged(format!(
                        "the {} digest of {} is not the one in its manifest",
                        line.method(),
                        name_show(&file.name)
                    )));
                }
            }
        }
        _ => return Err(container.refused("it has more than one manifest")),
    }
    Ok(disk)
}

fn text_read(container: &Container, file: &File) -> Result<String, DiskError> {
    let shown = name_show(&file.name);
    if file.size > TEXT_MAX {
        return Err(container.refused(format!("{shown} in it has {} bytes, more than {TEXT_MAX}", file.size)));
    }
    let bytes = container.part(&shown, file.at, file.size as usize)?;
    let text = String::from_utf8(bytes).map_err(|_| container.damaged(format!("{shown} in it is not UTF-8 text")))?;
    Ok(text.trim_start_matches('\u{feff}').to_owned())
}

/// All regular files, in order. What is neither file nor folder is refused.
fn files_list(container: &Container) -> Result<Vec<File>, DiskError> {
    let (mut files, mut names, mut ahead) = (Vec::new(), Names::default(), Ahead::default());
    let mut at = 0;
    for _ in 0..HEADERS_MAX {
        let header = container.part("a file's header (or the end mark)", at, BLOCK as usize);
        let header = header.map_err(|error| match error {
            DiskError::Damaged { .. } => {
                container.damaged(format!("it ends at byte {at} without an end mark: it was cut off"))
            }
            other => other,
        })?;
        if header.iter().all(|byte| *byte == 0) {
            end_check(container, at)?;
            return Ok(files);
        }
        checksum_check(container, &header, at)?;
        let kind = header[156];
        let said = number(&header[124..136])
            .ok_or_else(|| container.damaged(format!("the size in the header at byte {at} is no number")))?;
        let data_at = at + BLOCK;
        if matches!(kind, b'x' | b'g' | b'L' | b'K') {
            special_read(container, kind, (data_at, said), &mut ahead)?;
            at = data_at + said.next_multiple_of(BLOCK);
            continue;
        }
        let ahead = std::mem::take(&mut ahead);
        let raw_name = ahead.name.unwrap_or_else(|| header_name(&header));
        let name = names.take(container, &raw_name)?;
        let size = ahead.size.unwrap_or(said);
        let shown = name_show(&name);
        match kind {
            b'0' | b'\0' | b'7' => {
                container.range_check(&shown, data_at, size)?;
                files.push(File { name, at: data_at, size });
                at = data_at + size.next_multiple_of(BLOCK);
            }
            b'5' => at = data_at,
            b'1' | b'2' => return Err(container.refused(format!("{shown} in it is a link, not a file"))),
            b'3' | b'4' | b'6' => return Err(container.refused(format!("{shown} in it is a device, not a file"))),
            b'S' => return Err(container.refused(sparse(&shown))),
            other => {
                return Err(container.refused(format!("{shown} in it has the unknown type {:?}", char::from(other))));
            }
        }
    }
    Err(container.refused(format!("it has more than {HEADERS_MAX} headers")))
}

fn sparse(shown: &str) -> String {
    format!("{shown} in it is stored sparse, which only GNU tar reads; pack it without --sparse")
}

/// After the end mark there is padding and nothing else.
fn end_check(container: &Container, at: u64) -> Result<(), DiskError> {
    let left = container.len() - at;
    if left < 2 * BLOCK {
        return Err(container.damaged("only half of its end mark is there: it was cut off"));
    }
    let mut empty = left <= PADDING_MAX;
    if empty {
        bytes_walk(container, "the padding", (at, left), |part| empty &= part.iter().all(|byte| *byte == 0))?;
    }
    if empty { Ok(()) } else { Err(container.refused(format!("there are bytes behind its end mark at byte {at}"))) }
}

fn checksum_check(container: &Container, header: &[u8], at: u64) -> Result<(), DiskError> {
    let sum = header.iter().enumerate().map(
        |(at, byte)| {
            if (148..156).contains(&at) { u64::from(b' ') } else { u64::from(*byte) }
        },
    );
    if number(&header[148..156]) != Some(sum.sum()) {
        return Err(container.damaged(format!("the checksum of the file header at byte {at} does not fit")));
    }
    Ok(())
}

/// An octal number, or GNU's base 256; at most 2⁶³ − 1.
pub(crate) fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        let large = field[1..]
            .iter()
            .try_fold(0_u64, |number, byte| number.checked_mul(256).map(|number| number | u64::from(*byte)));
        return large.filter(|number| *number <= i64::MAX as u64);
    }
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

pub(crate) fn until_nul(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// The name in a header; ustar's prefix before it. GNU uses that field otherwise.
pub(crate) fn header_name(header: &[u8]) -> Vec<u8> {
    let (name, prefix) = (until_nul(&header[..100]), until_nul(&header[345..500]));
    if prefix.is_empty() || header[257..263] != *b"ustar\0" { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// Reads a header that only speaks of the next file.
fn special_read(container: &Container, kind: u8, (at, len): (u64, u64), ahead: &mut Ahead) -> Result<(), DiskError> {
    if len > SPECIAL_MAX {
        return Err(
            container.refused(format!("an extended header at byte {at} has {len} bytes, more than {SPECIAL_MAX}"))
        );
    }
    let bytes = container.part("an extended header", at, len as usize)?;
    match kind {
        b'L' => ahead.name = Some(until_nul(&bytes).to_vec()),
        // The target of a link, which will be refused.
        b'K' => {}
        _ => pax_read(container, &bytes, at, kind == b'g', ahead)?,
    }
    Ok(())
}

/// pax records: "length key=value\n", the length counting itself.
fn pax_read(container: &Container, mut rest: &[u8], at: u64, global: bool, ahead: &mut Ahead) -> Result<(), DiskError> {
    let broken = || container.damaged(format!("the extended header at byte {at} cannot be understood"));
    while !rest.is_empty() {
        let space = rest.iter().take(10).position(|byte| *byte == b' ').ok_or_else(broken)?;
        let len: usize =
            std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(broken)?;
        let record = rest.get(space + 1..len).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(broken)?;
        rest = &rest[len..];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.starts_with(b"GNU.sparse") {
            return Err(container.refused(sparse("a file")));
        }
        match key {
            b"path" | b"size" | b"linkpath" if global => {
                return Err(container.refused("an extended header gives one name or size to all files"));
            }
            b"path" => ahead.name = Some(value.to_vec()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u64>().ok());
                ahead.size = Some(size.filter(|size| *size <= i64::MAX as u64).ok_or_else(broken)?);
            }
            _ => {}
        }
    }
    Ok(())
}

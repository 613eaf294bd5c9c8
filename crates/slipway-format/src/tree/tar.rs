//! tar: headers of 512 bytes, and extended ones before them.

use super::{PATH_MAX, Source, TreeEntry, TreeError, TreeWhat};
use crate::archive::tar::{header_name, number, until_nul};
use std::io::Read;

const BLOCK: u64 = 512;
/// Extended headers carry names, times and attributes; the kernel has attributes of up to 64 KiB each.
const EXTENDED_MAX: u64 = 1 << 20;

/// What extended headers say of the entry that follows.
#[derive(Default)]
struct Ahead {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    modified: Option<i64>,
    attributes: Vec<(String, Vec<u8>)>,
}

#[derive(Default)]
pub(super) struct Tar {
    ended: bool,
}

/// Whether a block's checksum is right, which is that of a tar header.
pub(super) fn checksum_fits(block: &[u8]) -> bool {
    let sum = block.iter().enumerate().map(|(at, byte)| match at {
        148..156 => u64::from(b' '),
        _ => u64::from(*byte),
    });
    number(&block[148..156]) == Some(sum.sum())
}

impl Tar {
    pub(super) fn entry_next<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<TreeEntry>, TreeError> {
        let mut ahead = Ahead::default();
        while !self.ended {
            let mut header = [0; BLOCK as usize];
            if !source.fill(&mut header)? {
                return Err(source.cut_off());
            }
            if header.iter().all(|byte| *byte == 0) {
                self.ended = true;
                break;
            }
            let at = source.at - BLOCK;
            if !checksum_fits(&header) {
                return Err(source.unfit(format!("the checksum of the header at byte {at} does not fit")));
            }
            let size = number(&header[124..136]);
            let size = size.ok_or_else(|| source.unfit(format!("the size in the header at byte {at} is no number")))?;
            match header[156] {
                kind @ (b'x' | b'g' | b'L' | b'K') => extended_read(source, kind, size, &mut ahead)?,
                kind => return entry(source, &header, kind, size, ahead).map(Some),
            }
        }
        Ok(None)
    }
}

fn entry<R: Read>(
    source: &mut Source<R>,
    header: &[u8],
    kind: u8,
    size: u64,
    ahead: Ahead,
) -> Result<TreeEntry, TreeError> {
    let path = ahead.path.unwrap_or_else(|| header_name(header));
    let link = ahead.link.unwrap_or_else(|| until_nul(&header[157..257]).to_vec());
    let shown = path[..path.len().min(80)].escape_ascii().to_string();
    let what = match kind {
        // As the oldest tars have folders.
        b'0' | b'\0' if path.ends_with(b"/") => TreeWhat::Folder,
        b'0' | b'\0' | b'7' => TreeWhat::File,
        b'1' => TreeWhat::Link(link),
        b'2' => TreeWhat::Symlink(link),
        b'3' | b'4' => TreeWhat::Device,
        b'5' => TreeWhat::Folder,
        b'6' => TreeWhat::Pipe,
        b'S' => return Err(source.unfit(sparse(&shown))),
        other => {
            let other = char::from(other).escape_debug();
            return Err(source.unfit(format!("{shown} is of the unknown type '{other}'")));
        }
    };
    let size = match &what {
        TreeWhat::File | TreeWhat::Link(_) => ahead.size.unwrap_or(size),
        // Some write a size for folders; no bytes follow.
        TreeWhat::Folder | TreeWhat::Symlink(_) | TreeWhat::Pipe | TreeWhat::Device | TreeWhat::Socket => 0,
    };
    let id = |field: &[u8]| number(field).and_then(|id| u32::try_from(id).ok());
    let wrong = |what: &str| source.unfit(format!("the {what} of {shown} is no number"));
    let entry = TreeEntry {
        mode: number(&header[100..108]).ok_or_else(|| wrong("mode"))? as u32 & 0o7777,
        uid: ahead.uid.or_else(|| id(&header[108..116])).ok_or_else(|| wrong("owner"))?,
        gid: ahead.gid.or_else(|| id(&header[116..124])).ok_or_else(|| wrong("group"))?,
        // A time before 1970 is written in a way of its own, and of no use here.
        modified: ahead.modified.unwrap_or_else(|| number(&header[136..148]).unwrap_or(0) as i64),
        attributes: ahead.attributes,
        path,
        what,
        size,
    };
    source.left = size;
    source.padding = size.next_multiple_of(BLOCK) - size;
    Ok(entry)
}

fn sparse(shown: &str) -> String {
    format!("{shown} is stored sparse, which only GNU tar reads; pack it without --sparse")
}

fn extended_read<R: Read>(source: &mut Source<R>, kind: u8, len: u64, ahead: &mut Ahead) -> Result<(), TreeError> {
    let max = if matches!(kind, b'L' | b'K') { PATH_MAX + 1 } else { EXTENDED_MAX };
    if len > max {
        return Err(source.unfit(format!("an extended header at byte {} has {len} bytes, more than {max}", source.at)));
    }
    let at = source.at;
    let bytes = source.take(len)?;
    source.skip(len.next_multiple_of(BLOCK) - len)?;
    match kind {
        b'L' => ahead.path = Some(until_nul(&bytes).to_vec()),
        b'K' => ahead.link = Some(until_nul(&bytes).to_vec()),
        _ => {
            pax_read(&bytes, kind == b'g', ahead)
                .map_err(|why| source.unfit(format!("the extended header at byte {at} {why}")))?;
        }
    }
    Ok(())
}

/// pax records: "length key=value\n", the length counting itself.
fn pax_read(mut rest: &[u8], global: bool, ahead: &mut Ahead) -> Result<(), String> {
    let broken = || "cannot be understood".to_owned();
    while !rest.is_empty() {
        let space = rest.iter().take(10).position(|byte| *byte == b' ').ok_or_else(broken)?;
        let len: usize =
            std::str::from_utf8(&rest[..space]).ok().and_then(|text| text.parse().ok()).ok_or_else(broken)?;
        let record = rest.get(space + 1..len).and_then(|record| record.strip_suffix(b"\n")).ok_or_else(broken)?;
        rest = &rest[len..];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(broken)?;
        let (key, value) = (std::str::from_utf8(&record[..equals]).map_err(|_| broken())?, &record[equals + 1..]);
        if key.starts_with("GNU.sparse") {
            return Err(format!("says: {}", sparse("the next file")));
        }
        if global {
            match key {
                "path" | "size" | "linkpath" => return Err("gives one name or size to all files".into()),
                _ => continue,
            }
        }
        let text = || std::str::from_utf8(value).map_err(|_| broken());
        match key {
            "path" => ahead.path = Some(value.to_vec()),
            "linkpath" => ahead.link = Some(value.to_vec()),
            "size" => ahead.size = Some(text()?.parse().ok().filter(|size| *size <= 1 << 62).ok_or_else(broken)?),
            "uid" => ahead.uid = Some(text()?.parse().map_err(|_| broken())?),
            "gid" => ahead.gid = Some(text()?.parse().map_err(|_| broken())?),
            "mtime" => {
                let whole = text()?.split('.').next().unwrap_or_default();
                ahead.modified = Some(whole.parse().map_err(|_| broken())?);
            }
            _ => {
                let name = key.strip_prefix("SCHILY.xattr.").or_else(|| key.strip_prefix("LIBARCHIVE.xattr_plain."));
                ahead.attributes.extend(name.map(|name| (name.to_owned(), value.to_vec())));
            }
        }
    }
    Ok(())
}

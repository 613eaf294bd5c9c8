//! cpio in the SVR4 layout, which the kernel takes as an initramfs: several archives may follow each other, with zeros between them.

use super::{PATH_MAX, Source, TreeEntry, TreeError, TreeWhat};
use std::collections::BTreeMap;
use std::io::Read;

const HEADER: usize = 110;
const END: &[u8] = b"TRAILER!!!";
/// What the paths of files with several names may take in memory.
const LINKS_BYTES_MAX: usize = 64 << 20;

#[derive(Default)]
pub(super) struct Cpio {
    /// The first path of files that have more, by inode and device.
    links: BTreeMap<[u32; 3], Vec<u8>>,
    links_bytes: usize,
    /// What the content's bytes must sum up to, and whose they are.
    wanted: Option<(u32, String)>,
}

/// The numbers of a header, in its order.
struct Header {
    inode: u32,
    mode: u32,
    uid: u32,
    gid: u32,
    names: u32,
    modified: u32,
    size: u32,
    device: (u32, u32),
    name_len: u32,
    sum: Option<u32>,
}

impl Header {
    fn of(bytes: &[u8; HEADER]) -> Option<Self> {
        let summed = match &bytes[..6] {
            b"070701" => false,
            b"070702" => true,
            _ => return None,
        };
        let mut fields = [0; 13];
        for (field, text) in fields.iter_mut().zip(bytes[6..].chunks_exact(8)) {
            *field = u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()?;
        }
        let [inode, mode, uid, gid, names, modified, size, major, minor, _, _, name_len, sum] = fields;
        let sum = summed.then_some(sum);
        Some(Self { inode, mode, uid, gid, names, modified, size, device: (major, minor), name_len, sum })
    }
}

impl Cpio {
    pub(super) fn entry_next<R: Read>(&mut self, source: &mut Source<R>) -> Result<Option<TreeEntry>, TreeError> {
        if let Some((wanted, path)) = self.wanted.take()
            && wanted != source.sum
        {
            return Err(source.unfit(format!("the checksum of {path} does not fit")));
        }
        let mut first = true;
        loop {
            let Some(bytes) = header_read(source, first)? else { return Ok(None) };
            let at = source.at - HEADER as u64;
            let broken = || TreeError::Unfit { format: "cpio", reason: format!("the header at byte {at} is damaged") };
            let header = Header::of(&bytes).ok_or_else(broken)?;
            if header.name_len == 0 || u64::from(header.name_len) > PATH_MAX + 1 {
                return Err(broken());
            }
            let mut path = source.take(u64::from(header.name_len))?;
            if path.pop() != Some(0) {
                return Err(broken());
            }
            align(source)?;
            if path != END {
                return self.entry(source, &header, path).map(Some);
            }
            self.links.clear();
            self.links_bytes = 0;
            first = false;
        }
    }

    fn entry<R: Read>(
        &mut self,
        source: &mut Source<R>,
        header: &Header,
        path: Vec<u8>,
    ) -> Result<TreeEntry, TreeError> {
        let mut size = u64::from(header.size);
        let shown = path[..path.len().min(80)].escape_ascii().to_string();
        source.sum = 0;
        let what = match header.mode & 0o170_000 {
            0o100_000 => self.file(source, header, &path)?,
            0o040_000 => TreeWhat::Folder,
            0o120_000 => {
                if size > PATH_MAX {
                    return Err(source.unfit(format!("the link {shown} is longer than {PATH_MAX} bytes")));
                }
                let target = source.take(std::mem::take(&mut size))?;
                align(source)?;
                TreeWhat::Symlink(target)
            }
            0o010_000 => TreeWhat::Pipe,
            0o020_000 | 0o060_000 => TreeWhat::Device,
            0o140_000 => TreeWhat::Socket,
            other => return Err(source.unfit(format!("{shown} is of the unknown type {other:o}"))),
        };
        source.left = size;
        source.padding = (source.at + size).next_multiple_of(4) - source.at - size;
        if let (TreeWhat::File | TreeWhat::Link(_), Some(sum)) = (&what, header.sum) {
            self.wanted = Some((sum, shown));
        }
        Ok(TreeEntry {
            path,
            what,
            mode: header.mode & 0o7777,
            uid: header.uid,
            gid: header.gid,
            modified: i64::from(header.modified),
            attributes: Vec::new(),
            size,
        })
    }

    /// A file, or one more name of one: whichever of the names has the content.
    fn file<R: Read>(&mut self, source: &Source<R>, header: &Header, path: &[u8]) -> Result<TreeWhat, TreeError> {
        if header.names < 2 {
            return Ok(TreeWhat::File);
        }
        let key = [header.inode, header.device.0, header.device.1];
        if let Some(first) = self.links.get(&key) {
            return Ok(TreeWhat::Link(first.clone()));
        }
        self.links_bytes += path.len();
        if self.links_bytes > LINKS_BYTES_MAX {
            return Err(source.unfit("it has too many files with several names"));
        }
        self.links.insert(key, path.to_vec());
        Ok(TreeWhat::File)
    }
}

/// The next header. Behind an end mark there may be zeros, and then another archive or nothing.
fn header_read<R: Read>(source: &mut Source<R>, first: bool) -> Result<Option<[u8; HEADER]>, TreeError> {
    let mut bytes = [0; HEADER];
    let mut begin = [0; 4];
    loop {
        if !source.fill(&mut begin)? {
            return if first { Err(source.cut_off()) } else { Ok(None) };
        }
        if first || begin != [0; 4] {
            break;
        }
    }
    if !first && &begin != b"0707" {
        let at = source.at - 4;
        return Err(source.unfit(format!(
            "at byte {at}, behind its end mark, is something else; unpack and pack it as one archive"
        )));
    }
    bytes[..4].copy_from_slice(&begin);
    match source.fill(&mut bytes[4..])? {
        true => Ok(Some(bytes)),
        false => Err(source.cut_off()),
    }
}

fn align<R: Read>(source: &mut Source<R>) -> Result<(), TreeError> {
    source.skip(source.at.next_multiple_of(4) - source.at)
}

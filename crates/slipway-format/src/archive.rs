//! A disk among the files of an archive: which one it is, and where its bytes are. Names are compared and shown, never used as paths,
//! and nothing is unpacked to disk here.

mod ovf;
pub(crate) mod tar;
mod zip;

use crate::container::Container;
use crate::detect::Archive;
use crate::names::{name_fault, name_show};
use crate::{DiskError, ReadAt};
use std::collections::HashSet;
use std::io::{self, Read};

/// More files are refused: an archive that carries a disk has a few.
const FILES_MAX: usize = 4096;
/// So many names are listed in an error.
const LISTED_MAX: usize = 8;
/// What disk images are called. Only used to choose among several files; what is in one is told by its content.
const DISK_NAMES: &[&str] =
    &["img", "raw", "qcow2", "qcow", "vmdk", "vhd", "vpc", "vhdx", "vdi", "iso", "bin", "dd", "wic"];
/// What one of them may be compressed with besides.
const WRAP_NAMES: &[&str] = &["gz", "xz", "zst"];

/// The disk in an archive.
pub struct Found {
    /// Its name there, in quotes and made harmless for showing.
    pub name: String,
    /// Its bytes when unpacked.
    pub size: u64,
    /// Where they are.
    pub bytes: Inner,
}

/// The bytes of a file in an archive.
pub enum Inner {
    /// They lie in the archive as they are.
    Placed(Box<dyn ReadAt>),
    /// They are unpacked from front to back, exactly [`Found::size`] of them or an error that carries a [`DiskError`].
    Packed(Box<dyn Read + Send>),
}

/// Finds the one disk in an archive. Its checksum, or its digest in an OVA's manifest, is checked: here when the bytes lie as they
/// are, which reads them once, else while they are unpacked.
///
/// # Errors
/// Why there is no such file, more than one, or one that is not read; the names are listed.
pub fn disk_find(archive: Archive, container: Box<dyn ReadAt>) -> Result<Found, DiskError> {
    match archive {
        Archive::Zip => zip::disk_find(container),
        Archive::Tar => tar::disk_find(container),
    }
}

/// A run of an archive's bytes.
struct Window {
    bytes: Box<dyn ReadAt>,
    from: u64,
    len: u64,
}

impl ReadAt for Window {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.len => self.bytes.read_exact_at(buf, self.from + offset),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Hands the bytes `from..from + len` to `each`, in order and in parts.
fn bytes_walk(
    container: &Container,
    what: &str,
    (from, len): (u64, u64),
    mut each: impl FnMut(&[u8]),
) -> Result<(), DiskError> {
    container.range_check(what, from, len)?;
    let mut buf = vec![0; len.min(1 << 20) as usize];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(buf.len() as u64) as usize;
        container.read(what, from + done, &mut buf[..part])?;
        each(&buf[..part]);
        done += part as u64;
    }
    Ok(())
}

/// The names seen so far: harmless, and none twice.
#[derive(Default)]
struct Names {
    seen: HashSet<String>,
}

impl Names {
    /// Takes a name, or says why the archive is refused.
    fn take(&mut self, container: &Container, name: &[u8]) -> Result<String, DiskError> {
        let text = String::from_utf8_lossy(name).into_owned();
        if let Some(fault) = name_fault(name) {
            return Err(container.refused(format!("the name {} of a file in it {fault}", name_show(&text))));
        }
        // Where names are unpacked without regard to case, two that differ only in that are one.
        let key = text.trim_start_matches("./").trim_end_matches('/').to_lowercase();
        if !self.seen.insert(key) {
            return Err(container.refused(format!("it has two files of the name {}", name_show(&text))));
        }
        if self.seen.len() > FILES_MAX {
            return Err(container.refused(format!("it has more than {FILES_MAX} files")));
        }
        Ok(text)
    }
}

/// Whether a name looks like that of a disk image.
fn disk_name(name: &str) -> bool {
    let mut parts = name.rsplit(['/', '\\']).next().unwrap_or(name).rsplit('.').map(str::to_ascii_lowercase);
    let last = parts.next().unwrap_or_default();
    let last = if WRAP_NAMES.contains(&last.as_str()) { parts.next().unwrap_or_default() } else { last };
    // Without this a file that is only called 'img' would be one.
    parts.next().is_some() && DISK_NAMES.contains(&last.as_str())
}

/// What archivers add for themselves.
fn by_the_way(name: &str) -> bool {
    let own = name.rsplit('/').next().unwrap_or(name);
    name.starts_with("__MACOSX/") || own.starts_with("._") || own == ".DS_Store"
}

/// Chooses the disk among files: the only one there is, or the only one that is called like one.
fn disk_choose<'a, F>(container: &Container, files: &'a [F], name: impl Fn(&F) -> &str) -> Result<&'a F, DiskError> {
    let files: Vec<&F> = files.iter().filter(|file| !by_the_way(name(file))).collect();
    let disks: Vec<&F> = files.iter().copied().filter(|file| disk_name(name(file))).collect();
    match (&files[..], &disks[..]) {
        ([only], _) | (_, [only]) => Ok(only),
        ([], _) => Err(container.refused("there is no file in it")),
        (files, []) => Err(container.refused(format!(
            "none of the {} files in it is called like a disk image: {}; unpack it and give the disk itself",
            files.len(),
            names_list(files, name)
        ))),
        (_, disks) => Err(container.refused(format!(
            "there are {} disk images in it: {}; unpack it and give one of them",
            disks.len(),
            names_list(disks, name)
        ))),
    }
}

fn names_list<F>(files: &[&F], name: impl Fn(&F) -> &str) -> String {
    let mut list: Vec<_> = files.iter().take(LISTED_MAX).map(|file| name_show(name(file))).collect();
    if files.len() > LISTED_MAX {
        list.push(format!("and {} more", files.len() - LISTED_MAX));
    }
    list.join(", ")
}

#[cfg(test)]
mod tests {
    use super::disk_name;

    #[test]
    fn names_of_disks() {
        for name in ["a.img", "x/y.VMDK", "a.raw.gz", "b.tar.img", "c.qcow2.zst", "win\\disk.vhd"] {
            assert!(disk_name(name), "{name}");
        }
        for name in ["img", "README.txt", "a.img.sha256", "a.gz", "img.gz", "x.img/readme", "a.ovf"] {
            assert!(!disk_name(name), "{name}");
        }
    }
}

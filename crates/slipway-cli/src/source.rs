//! What `push` reads: a raw or sparse file, a block device, stdin, and disk images of other formats, compressed or in archives.

use crate::failure::{Failure, exit, path_shown};
use crate::packed::{FileBytes, Origin, Packed, Seen, packed_look};
use slipway_disk::SparseFile;
use slipway_format::{Format, Input, PROBE_LEN, PartitionTable, Said, probe};
use slipway_transfer::{Reading, Source};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How a source may be opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SourceOptions {
    /// What the bytes are taken for.
    pub(crate) format: Said,
    /// Read a block device although it is mounted, or a file although it is by way of a loop device.
    pub(crate) mounted: bool,
    /// The sector size, if somebody said it.
    pub(crate) sector_size: Option<u32>,
}

/// A source that was looked at and not yet read.
pub(crate) struct Found {
    /// What it is called in messages.
    pub(crate) name: String,
    /// Gives the raw image.
    pub(crate) opens: Opens,
    /// What it is, for people: said before the first byte is sent.
    pub(crate) said: String,
    /// What it is, for the version: `raw`, `raw.gz`, `qcow2` and so on.
    pub(crate) format: String,
    /// 512 or 4096.
    pub(crate) sector_size: u32,
    /// How far the input has been read and how long it is, when that is not the raw image's place and length.
    pub(crate) meter: Option<Meter>,
    /// The raw image's length, if it is known before reading.
    pub(crate) size: Option<u64>,
}

/// What a look at the first bytes came to.
pub(crate) enum Looked {
    /// It can be read.
    Ready(Found),
    /// It must be unpacked to a temporary file first, which may take a while.
    Packed(Packed),
}

/// How many bytes came out of the input, compressed ones of a compressed stream.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    /// Bytes so far.
    pub(crate) done: Arc<AtomicU64>,
    /// All of them, if known.
    pub(crate) total: Option<u64>,
}

/// How the bytes of a source are had.
pub(crate) enum Opens {
    /// As often as needed: a push reads again what the server lost before the commit.
    Again(Box<dyn FnMut() -> io::Result<Reading> + Send>),
    /// Once.
    Once(Reading),
}

impl Found {
    /// What `slipway-transfer` reads.
    pub(crate) fn into_source(self) -> Source {
        match self.opens {
            Opens::Again(reopen) => Source::again(self.name, self.size, reopen),
            Opens::Once(reading) => Source::once(self.name, self.size, reading),
        }
    }
}

/// Looks at what a person named; `-` is stdin. No more than its first bytes are unpacked.
pub(crate) fn source_look(path: &Path, options: &SourceOptions) -> Result<Looked, Failure> {
    if path.as_os_str() == "-" {
        return stream_look(Path::new("stdin"), Box::new(io::stdin()), options);
    }
    let meta = std::fs::metadata(path).map_err(|why| Failure::io("reading", path, &why))?;
    if meta.is_dir() {
        return Err(Failure::usage(format!("{} is a directory, not a disk image", path_shown(path))).next(
            "name an image file or a block device; 'mkfs.ext4 -d DIR disk.raw 4G' makes an image of a directory",
        ));
    }
    if std::os::unix::fs::FileTypeExt::is_fifo(&meta.file_type()) {
        let file = File::open(path).map_err(|why| Failure::io("opening", path, &why))?;
        return stream_look(path, Box::new(file), options);
    }
    file_look(path, options)
}

fn file_look(path: &Path, options: &SourceOptions) -> Result<Looked, Failure> {
    let file = SparseFile::open(path).map_err(|why| Failure::io("opening", path, &why))?;
    if file.size() == 0 {
        return Err(empty(path));
    }
    if let (Some(at), false) = (file.mounted_at(), options.mounted) {
        return Err(Failure::new(
            exit::TARGET,
            format!("{} is mounted on {at}, so its bytes change while they are read", path_shown(path)),
        )
        .next("unmount it, or push a snapshot of it; --mounted pushes it all the same"));
    }
    let mut head = vec![0; usize::try_from(file.size()).unwrap_or(PROBE_LEN).min(PROBE_LEN)];
    file.read_exact_at(0, &mut head).map_err(|why| Failure::io("reading", path, &why))?;
    if file.sector_size().is_some() {
        // What is on a disk may look like anything; it is still the disk.
        return match options.format {
            Said::Auto | Said::Disk(Format::Raw) => Ok(Looked::Ready(raw_found(path, file, &head, options))),
            Said::Disk(_) | Said::Archive(_) | Said::Wrapped(_) | Said::RawIn(_) => {
                Err(Failure::usage(format!("{} is a block device, and always taken as it is", path_shown(path))).next(
                    format!("'cat {} | slipway push - …' reads an image file that was written to it", path_shown(path)),
                ))
            }
        };
    }
    if options.format == Said::Disk(Format::Raw) {
        return Ok(Looked::Ready(raw_found(path, file, &head, options)));
    }
    let bytes = FileBytes::new(file);
    match packed_look(path, Input::At(Box::new(bytes.clone())), Origin::File(bytes), options)? {
        Seen::Found(found) => Ok(Looked::Ready(found)),
        Seen::Packed(packed) => Ok(Looked::Packed(packed)),
        Seen::Raw(bytes) => match bytes.into_file() {
            Some(file) => Ok(Looked::Ready(raw_found(path, file, &head, options))),
            None => Err(Failure::new(exit::FAILED, format!("{} is still being looked at", path_shown(path)))
                .next("please report this, with what -vv prints")),
        },
    }
}

fn raw_found(path: &Path, file: SparseFile, head: &[u8], options: &SourceOptions) -> Found {
    let size = file.size();
    let sector_size = sector_size(options, file.sector_size(), head);
    let said =
        format!("{}: {}, {}{}", path_shown(path), raw_said(head), crate::human::size(size), named_otherwise(path));
    let owned = path.to_owned();
    let mut first = Some(file);
    let opens = Opens::Again(Box::new(move || match first.take() {
        Some(file) => Ok(Box::new(file) as Reading),
        None => Ok(Box::new(SparseFile::open(&owned)?) as Reading),
    }));
    Found { name: path_shown(path), opens, said, format: "raw".into(), sector_size, meter: None, size: Some(size) }
}

/// What can be read only once: stdin or a named pipe.
fn stream_look(path: &Path, read: Box<dyn Read + Send>, options: &SourceOptions) -> Result<Looked, Failure> {
    let meter = Meter { done: Arc::default(), total: None };
    let counted = Box::new(Counted { read, done: meter.done.clone() });
    match packed_look(path, Input::Stream(counted), Origin::Stream(meter), options)? {
        Seen::Found(found) => Ok(Looked::Ready(found)),
        Seen::Packed(packed) => Ok(Looked::Packed(packed)),
        Seen::Raw(_) => Err(Failure::new(exit::FAILED, format!("{} is no file", path_shown(path)))
            .next("please report this, with what -vv prints")),
    }
}

/// Counts what comes out of an input.
struct Counted {
    read: Box<dyn Read + Send>,
    done: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.read.read(buf)?;
        self.done.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn empty(path: &Path) -> Failure {
    Failure::usage(format!("{} is empty: an image has at least one byte", path_shown(path)))
        .next("check the file that you meant to push")
}

pub(crate) fn sector_size(options: &SourceOptions, device: Option<u32>, head: &[u8]) -> u32 {
    let known = |size: &u32| matches!(size, 512 | 4096);
    options.sector_size.or(device.filter(known)).or(probe(head).sector_size_hint.filter(known)).unwrap_or(512)
}

/// What the first bytes of a raw image say.
pub(crate) fn raw_said(head: &[u8]) -> String {
    let seen = probe(head);
    match (seen.table, seen.file_system) {
        (PartitionTable::Gpt { sector_size }, _) => {
            format!("disk with a GPT partition table (sectors of {sector_size})")
        }
        (PartitionTable::Mbr, _) => "disk with an MBR partition table".into(),
        (PartitionTable::None, Some(name)) => format!("{name} file system"),
        (PartitionTable::None, None) => "raw bytes, no known file system".into(),
    }
}

/// A name that promises another format than the content is worth a word.
fn named_otherwise(path: &Path) -> String {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("").to_ascii_lowercase();
    match &ending[..] {
        "gz" | "xz" | "zst" => " (not compressed, whatever its name says)".into(),
        "qcow2" | "vmdk" | "vhd" | "vhdx" | "vdi" | "zip" | "ova" | "tar" => {
            format!(" (no {ending}, whatever its name says)")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Found, Looked, Opens, SourceOptions, source_look};
    use crate::failure::Failure;
    use slipway_chunk::Fill;
    use slipway_format::{Format, Said, Wrap};
    use std::io::Write;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    fn read_all(opens: Opens) -> Vec<u8> {
        match opens {
            // A second reading gives the same bytes.
            Opens::Again(mut reopen) => {
                let first = read_to_end(reopen().unwrap());
                assert!(first == read_to_end(reopen().unwrap()));
                first
            }
            Opens::Once(reading) => read_to_end(reading),
        }
    }

    fn read_to_end(mut input: slipway_transfer::Reading) -> Vec<u8> {
        let mut out = Vec::new();
        let mut buf = vec![0; 64 << 10];
        loop {
            match input.fill(&mut buf).unwrap() {
                Fill::Data(count) => out.extend_from_slice(&buf[..count]),
                Fill::Hole(len) => out.resize(out.len() + len as usize, 0),
                Fill::End => return out,
            }
        }
    }

    fn found(path: &Path, options: &SourceOptions) -> Result<Found, Failure> {
        match source_look(path, options)? {
            Looked::Ready(found) => Ok(found),
            Looked::Packed(packed) => packed.open(),
        }
    }

    fn packed(tool: &str, bytes: &[u8]) -> Vec<u8> {
        let mut child = Command::new(tool).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        child.wait_with_output().unwrap().stdout
    }

    fn file(dir: &Path, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn wrapped_and_plain_files_give_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let raw: Vec<u8> = (0..300_001u32).map(|i| (i / 7) as u8).collect();
        for (name, bytes, format) in [
            ("a.raw", raw.clone(), "raw"),
            ("misleading.gz", raw.clone(), "raw"),
            ("a.gz", packed("gzip", &raw), "raw.gz"),
            ("xz-without-ending", packed("xz", &raw), "raw.xz"),
        ] {
            let source = found(&file(dir.path(), name, &bytes), &SourceOptions::default()).unwrap();
            assert_eq!(source.format, format, "{name}: {}", source.said);
            assert_eq!(source.said.contains("whatever"), name == "misleading.gz");
            assert_eq!(source.sector_size, 512);
            assert_eq!(read_all(source.opens), raw, "{name}");
        }
        let gz = packed("gzip", &raw);
        let kept = found(
            &file(dir.path(), "kept.gz", &gz),
            &SourceOptions { format: Said::Disk(Format::Raw), ..SourceOptions::default() },
        )
        .unwrap();
        assert_eq!(read_all(kept.opens), gz);
    }

    #[test]
    fn a_packed_file_that_changes_while_it_is_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let raw: Vec<u8> = (0..3_000_001_u32).map(|i| (i / 7) as u8).collect();
        let path = file(dir.path(), "a.gz", &packed("gzip", &raw));
        let Opens::Again(mut open) = found(&path, &SourceOptions::default()).unwrap().opens else {
            panic!("a file can be opened again");
        };
        let (mut input, mut buf) = (open().unwrap(), vec![0; 10_000]);
        input.fill(&mut buf).unwrap();
        std::fs::File::open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let why = loop {
            match input.fill(&mut buf) {
                Ok(Fill::End) => panic!("nobody noticed"),
                Ok(_) => {}
                Err(why) => break why,
            }
        };
        assert!(why.to_string().contains("changed while it was read"), "{why}");
    }

    #[test]
    fn what_is_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let cut = packed("gzip", &[7; 100_000]);
        for (name, bytes, exit, word) in [
            ("empty.raw", Vec::new(), 2, "empty"),
            ("empty.gz", packed("gzip", b""), 2, "empty"),
            ("disk.qcow2", b"QFI\xfb\0\0\0\x03".repeat(600), 2, "backing file"),
            ("inner.gz", packed("gzip", &b"QFI\xfb\0\0\0\x03".repeat(600)), 2, "backing file"),
            ("a.7z", b"7z\xbc\xaf\x27\x1c".repeat(600), 2, "7z e"),
            ("cut.gz", cut[..cut.len() / 2].to_vec(), 7, "cut off"),
        ] {
            let why = found(&file(dir.path(), name, &bytes), &SourceOptions::default()).err().unwrap();
            assert_eq!(why.exit, exit, "{name}: {why:?}");
            assert!(why.what.contains(word) && why.what.contains(name) && why.next.is_some(), "{why:?}");
        }
        assert_eq!(found(&dir.path().join("none"), &SourceOptions::default()).err().unwrap().exit, 3);
        assert_eq!(found(dir.path(), &SourceOptions::default()).err().unwrap().exit, 2);
        let raw = file(dir.path(), "x.raw", b"abc");
        let forced = SourceOptions { format: Said::Wrapped(Wrap::Xz), ..SourceOptions::default() };
        assert_eq!(found(&raw, &forced).err().unwrap().exit, 2);
    }
}

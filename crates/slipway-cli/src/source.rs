//! What `push` reads: a raw or sparse file, a block device, a compressed stream around one, or stdin.

use crate::failure::{Failure, exit, path_shown};
use slipway_chunk::{IMAGE_SIZE_MAX, Stream};
use slipway_disk::SparseFile;
use slipway_format::{PROBE_LEN, PartitionTable, Wrap, probe, unwrap, wrap_detect};
use slipway_transfer::{Reading, Source};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What the bytes are taken for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// What the first bytes say.
    #[default]
    Auto,
    /// The image itself, whatever it looks like.
    Raw,
    Gzip,
    Xz,
    Zstd,
}

/// How a source may be opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SourceOptions {
    /// What the bytes are taken for.
    pub(crate) format: Format,
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
    /// What it is, for the version: `raw`, `raw.gz`, `raw.xz` or `raw.zst`.
    pub(crate) format: &'static str,
    /// 512 or 4096.
    pub(crate) sector_size: u32,
    /// How far the input has been read and how long it is, when that is not the raw image's place and length.
    pub(crate) meter: Option<Meter>,
    /// The raw image's length, if it is known before reading.
    pub(crate) size: Option<u64>,
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

fn reading(read: impl Read + Send + 'static) -> Reading {
    Box::new(Stream(read))
}

/// Formats that are images of another kind, which must be converted first: magic at offset, name, what reads it.
const FOREIGN: &[(usize, &[u8], &str, &str)] = &[
    (0, b"QFI\xfb", "qcow2", "qemu-img convert -O raw"),
    (0, b"KDMV", "VMDK", "qemu-img convert -O raw"),
    (0, b"# Disk DescriptorFile", "VMDK descriptor", "qemu-img convert -O raw"),
    (0, b"vhdxfile", "VHDX", "qemu-img convert -O raw"),
    (0, b"conectix", "VHD", "qemu-img convert -O raw"),
    (0x40, b"\x7f\x10\xda\xbe", "VDI", "qemu-img convert -O raw"),
    (0, b"\x3a\xff\x26\xed", "Android sparse", "simg2img"),
    (0, b"PK\x03\x04", "zip", "unzip -p"),
    (0, b"BZh", "bzip2", "bzip2 -dc"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z", "7z e -so"),
];

/// Opens what a person named; `-` is stdin.
pub(crate) fn source_open(path: &Path, options: &SourceOptions) -> Result<Found, Failure> {
    if path.as_os_str() == "-" {
        return stream_open(Path::new("stdin"), Box::new(io::stdin()), options);
    }
    let meta = std::fs::metadata(path).map_err(|why| Failure::io("reading", path, &why))?;
    if meta.is_dir() {
        return Err(Failure::usage(format!("{} is a directory, not a disk image", path_shown(path))).next(
            "name an image file or a block device; 'mkfs.ext4 -d DIR disk.raw 4G' makes an image of a directory",
        ));
    }
    if std::os::unix::fs::FileTypeExt::is_fifo(&meta.file_type()) {
        let file = File::open(path).map_err(|why| Failure::io("opening", path, &why))?;
        return stream_open(path, Box::new(file), options);
    }
    file_open(path, options)
}

fn file_open(path: &Path, options: &SourceOptions) -> Result<Found, Failure> {
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
    let wrap = wrap_chosen(path, &head, options.format)?;
    if wrap != Wrap::None {
        return wrapped_file(path, file.size(), wrap, options);
    }
    let size = file.size();
    let sector_size = sector_size(options, file.sector_size(), &head);
    let said =
        format!("{}: {}, {}{}", path_shown(path), raw_said(&head), crate::human::size(size), named_otherwise(path));
    let owned = path.to_owned();
    let mut first = Some(file);
    let opens = Opens::Again(Box::new(move || match first.take() {
        Some(file) => Ok(Box::new(file) as Reading),
        None => Ok(Box::new(SparseFile::open(&owned)?) as Reading),
    }));
    Ok(Found { name: path_shown(path), opens, said, format: "raw", sector_size, meter: None, size: Some(size) })
}

fn wrapped_file(path: &Path, size: u64, wrap: Wrap, options: &SourceOptions) -> Result<Found, Failure> {
    let meter = Meter { done: Arc::default(), total: Some(size) };
    let (done, owned) = (meter.done.clone(), path.to_owned());
    let open = move || -> io::Result<Box<dyn Read + Send>> {
        done.store(0, Ordering::Relaxed);
        let (read, still) = (Box::new(File::open(&owned)?), Some(SparseFile::open(&owned)?));
        let counted = Counted { read, done: done.clone(), still };
        Ok(Box::new(unwrap(wrap, Box::new(counted), IMAGE_SIZE_MAX)))
    };
    let mut raw = open().map_err(|why| Failure::io("opening", path, &why))?;
    let head = wrapped_head(path, &mut raw, wrap)?;
    let opens = Opens::Again(Box::new(move || Ok(reading(open()?))));
    Ok(wrapped_found(path, opens, &head, wrap, meter, options))
}

/// What can be read only once: stdin or a named pipe.
fn stream_open(path: &Path, mut read: Box<dyn Read + Send>, options: &SourceOptions) -> Result<Found, Failure> {
    let head = head_read(&mut read).map_err(|why| Failure::io("reading", path, &why))?;
    if head.is_empty() {
        return Err(empty(path));
    }
    let wrap = wrap_chosen(path, &head, options.format)?;
    let whole: Box<dyn Read + Send> = Box::new(io::Cursor::new(head.clone()).chain(read));
    if wrap == Wrap::None {
        let said = format!("{}: {}", path_shown(path), raw_said(&head));
        let sector_size = sector_size(options, None, &head);
        return Ok(Found {
            name: path_shown(path),
            opens: Opens::Once(reading(whole)),
            said,
            format: "raw",
            sector_size,
            meter: None,
            size: None,
        });
    }
    let meter = Meter { done: Arc::default(), total: None };
    let counted = Counted { read: whole, done: meter.done.clone(), still: None };
    let mut raw: Box<dyn Read + Send> = Box::new(unwrap(wrap, Box::new(counted), IMAGE_SIZE_MAX));
    let head = wrapped_head(path, &mut raw, wrap)?;
    let opens = Opens::Once(reading(io::Cursor::new(head.clone()).chain(raw)));
    Ok(wrapped_found(path, opens, &head, wrap, meter, options))
}

fn wrapped_head(path: &Path, raw: &mut dyn Read, wrap: Wrap) -> Result<Vec<u8>, Failure> {
    let head = head_read(raw).map_err(|why| {
        Failure::new(exit::VERIFY, format!("unpacking {}: {}", path_shown(path), crate::failure::reason(&why)))
            .next(format!("test the file with '{} -t', or take it as it is with --format raw", wrap.name()))
    })?;
    match head.is_empty() {
        true => Err(empty(path)),
        false => foreign_refuse(path, &head).map(|()| head),
    }
}

fn wrapped_found(path: &Path, opens: Opens, head: &[u8], wrap: Wrap, meter: Meter, options: &SourceOptions) -> Found {
    let format = match wrap {
        Wrap::None => "raw",
        Wrap::Gzip => "raw.gz",
        Wrap::Xz => "raw.xz",
        Wrap::Zstd => "raw.zst",
    };
    let said =
        format!("{}: {} stream, unpacked while it is read; in it {}", path_shown(path), wrap.name(), raw_said(head));
    Found {
        name: path_shown(path),
        opens,
        said,
        format,
        sector_size: sector_size(options, None, head),
        meter: Some(meter),
        size: None,
    }
}

struct Counted {
    read: Box<dyn Read + Send>,
    done: Arc<AtomicU64>,
    /// The file, which must be the same at its end; not every stream has a checksum that would notice.
    still: Option<SparseFile>,
}

impl Read for Counted {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.read.read(buf)?;
        if let (0, false, Some(file)) = (count, buf.is_empty(), &self.still) {
            file.unchanged_check()?;
        }
        self.done.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

fn head_read(read: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(PROBE_LEN);
    read.take(PROBE_LEN as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn empty(path: &Path) -> Failure {
    Failure::usage(format!("{} is empty: an image has at least one byte", path_shown(path)))
        .next("check the file that you meant to push")
}

fn wrap_chosen(path: &Path, head: &[u8], format: Format) -> Result<Wrap, Failure> {
    let found = wrap_detect(head);
    let wanted = match format {
        Format::Raw => return Ok(Wrap::None),
        Format::Auto => {
            if found == Wrap::None {
                foreign_refuse(path, head)?;
            }
            return Ok(found);
        }
        Format::Gzip => Wrap::Gzip,
        Format::Xz => Wrap::Xz,
        Format::Zstd => Wrap::Zstd,
    };
    match wanted == found {
        true => Ok(wanted),
        false => Err(Failure::usage(format!("{} is no {} stream", path_shown(path), wanted.name()))
            .next("leave --format out: what it is can be seen from its first bytes")),
    }
}

fn foreign_refuse(path: &Path, head: &[u8]) -> Result<(), Failure> {
    match FOREIGN.iter().find(|(at, magic, ..)| head.get(*at..at + magic.len()) == Some(*magic)) {
        None => Ok(()),
        Some((_, _, name, tool)) => {
            Err(Failure::usage(format!("{} is a {name} file, not a raw image", path_shown(path)))
                .next(format!("unpack it first with '{tool}'; --format raw keeps the file as it is")))
        }
    }
}

fn sector_size(options: &SourceOptions, device: Option<u32>, head: &[u8]) -> u32 {
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
fn named_otherwise(path: &Path) -> &'static str {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or("");
    match matches!(ending, "gz" | "xz" | "zst") {
        true => " (not compressed, whatever its name says)",
        false => "",
    }
}

#[cfg(test)]
mod tests {
    use super::{Format, Opens, SourceOptions, source_open};
    use slipway_chunk::Fill;
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
            let source = source_open(&file(dir.path(), name, &bytes), &SourceOptions::default()).unwrap();
            assert_eq!(source.format, format, "{name}: {}", source.said);
            assert_eq!(source.said.contains("whatever"), name == "misleading.gz");
            assert_eq!(source.sector_size, 512);
            assert_eq!(read_all(source.opens), raw, "{name}");
        }
        let gz = packed("gzip", &raw);
        let kept = source_open(
            &file(dir.path(), "kept.gz", &gz),
            &SourceOptions { format: Format::Raw, ..SourceOptions::default() },
        )
        .unwrap();
        assert_eq!(read_all(kept.opens), gz);
    }

    #[test]
    fn a_packed_file_that_changes_while_it_is_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let raw: Vec<u8> = (0..3_000_001_u32).map(|i| (i / 7) as u8).collect();
        let path = file(dir.path(), "a.gz", &packed("gzip", &raw));
        let Opens::Again(mut open) = source_open(&path, &SourceOptions::default()).unwrap().opens else {
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
            ("disk.qcow2", b"QFI\xfb\0\0\0\x03".repeat(600), 2, "qcow2"),
            ("inner.gz", packed("gzip", &b"QFI\xfb\0\0\0\x03".repeat(600)), 2, "qcow2"),
            ("a.zip", b"PK\x03\x04".repeat(600), 2, "zip"),
            ("cut.gz", cut[..cut.len() / 2].to_vec(), 7, "cut off"),
        ] {
            let why = source_open(&file(dir.path(), name, &bytes), &SourceOptions::default()).err().unwrap();
            assert_eq!(why.exit, exit, "{name}: {why:?}");
            assert!(why.what.contains(word) && why.what.contains(name) && why.next.is_some(), "{why:?}");
        }
        assert_eq!(source_open(&dir.path().join("none"), &SourceOptions::default()).err().unwrap().exit, 3);
        assert_eq!(source_open(dir.path(), &SourceOptions::default()).err().unwrap().exit, 2);
        let raw = file(dir.path(), "x.raw", b"abc");
        let forced = SourceOptions { format: Format::Xz, ..SourceOptions::default() };
        assert_eq!(source_open(&raw, &forced).err().unwrap().exit, 2);
    }
}

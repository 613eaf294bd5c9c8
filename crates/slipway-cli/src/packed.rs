//! Disk images in files and streams, whatever they are in: opened down to the disk, and unpacked to a temporary file where a container must be
//! read at any place.

use crate::failure::{Failure, exit, path_shown};
use crate::human::size;
use crate::source::{Found, Meter, Opens, SourceOptions, raw_said, sector_size};
use slipway_chunk::{Fill, IMAGE_SIZE_MAX, SparseRead, Stream};
use slipway_disk::SparseFile;
use slipway_format::{
    Bytes, Disk, DiskAhead, DiskError, Format, Held, Input, Limits, Looked, Opened, PROBE_LEN, ReadAt, Said, Spool,
    SpoolError, StreamError, image_look,
};
use slipway_transfer::Reading;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const LIMITS: Limits = Limits { size_max: IMAGE_SIZE_MAX };

/// A file whose bytes are read at any place. It must be the same at the end.
#[derive(Clone)]
pub(crate) struct FileBytes {
    file: Arc<SparseFile>,
    /// The farthest byte that was read.
    done: Arc<AtomicU64>,
}

impl FileBytes {
    pub(crate) fn new(file: SparseFile) -> Self {
        Self { file: Arc::new(file), done: Arc::default() }
    }

    /// The file, unless it is shared.
    pub(crate) fn into_file(self) -> Option<SparseFile> {
        Arc::into_inner(self.file)
    }
}

impl ReadAt for FileBytes {
    fn len(&self) -> u64 {
        self.file.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(offset, buf)?;
        self.done.fetch_max(offset + buf.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn data_next(&self, offset: u64) -> Option<u64> {
        self.file.data_next(offset)
    }
}

/// A reading that ends only if the file it came from did not change.
struct Unchanged {
    reading: Reading,
    file: Arc<SparseFile>,
}

impl SparseRead for Unchanged {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        let fill = self.reading.fill(buf)?;
        if fill == Fill::End {
            self.file.unchanged_check()?;
        }
        Ok(fill)
    }
}

/// Where an image comes from.
pub(crate) enum Origin {
    /// A regular file, which can be read again.
    File(FileBytes),
    /// What comes only once, counted.
    Stream(Meter),
}

/// What must be unpacked to a temporary file before it can be read.
pub(crate) struct Packed {
    path: PathBuf,
    held: Held,
    origin: Origin,
    options: SourceOptions,
}

/// Looks at what is not a raw file.
pub(crate) enum Seen {
    Found(Found),
    Packed(Packed),
    /// It is a raw file after all.
    Raw(FileBytes),
}

/// Opens the image in `input` as far as its first bytes allow.
pub(crate) fn packed_look(path: &Path, input: Input, origin: Origin, options: &SourceOptions) -> Result<Seen, Failure> {
    match (image_look(input, options.format, &LIMITS).map_err(|why| refused(path, &why))?, origin) {
        (Looked::Opened(opened), Origin::File(bytes)) if opened.layers.is_bare() => Ok(Seen::Raw(bytes)),
        (Looked::Opened(opened), origin) => found_of(path, opened, origin, options).map(Seen::Found),
        (Looked::Held(held), origin) => {
            Ok(Seen::Packed(Packed { path: path.to_owned(), held, origin, options: *options }))
        }
    }
}

impl Packed {
    /// What is about to be done, for people.
    pub(crate) fn said(&self) -> String {
        let folder = path_shown(&spool_folder());
        format!("{}: {}; unpacking it to a temporary file in {folder}", path_shown(&self.path), self.held.said())
    }

    /// Unpacks and opens it.
    pub(crate) fn open(self) -> Result<Found, Failure> {
        let opened = self.held.open(&mut spool(), &LIMITS).map_err(|why| refused(&self.path, &why))?;
        found_of(&self.path, opened, self.origin, &self.options)
    }
}

/// Where temporary files are made.
fn spool_folder() -> PathBuf {
    match std::env::var_os("TMPDIR") {
        Some(folder) if !folder.is_empty() => folder.into(),
        // Unlike /tmp it is not in memory.
        _ => "/var/tmp".into(),
    }
}

fn spool() -> Spool {
    Spool::new(spool_folder(), IMAGE_SIZE_MAX)
}

fn reading_of(bytes: Bytes) -> io::Result<Reading> {
    Ok(match bytes {
        Bytes::Disk(disk) => Box::new(DiskAhead::new(disk)?),
        Bytes::Stream(stream) => Box::new(Stream(stream)),
    })
}

/// Opens a file once more, with a temporary file if it needs one, and counts afresh.
fn file_again(path: &Path, said: Said, done: Arc<AtomicU64>) -> io::Result<(Bytes, FileBytes)> {
    done.store(0, Ordering::Relaxed);
    let bytes = FileBytes { file: Arc::new(SparseFile::open(path)?), done };
    let opened = slipway_format::image_open(Input::At(Box::new(bytes.clone())), said, &mut spool(), &LIMITS)?;
    Ok((opened.bytes, bytes))
}

fn found_of(path: &Path, opened: Opened, origin: Origin, options: &SourceOptions) -> Result<Found, Failure> {
    let Opened { layers, mut bytes } = opened;
    let (head, own, image_size) = match &mut bytes {
        Bytes::Stream(stream) => (stream.head().to_vec(), None, None),
        Bytes::Disk(disk) => {
            let head = disk_head(&mut **disk).map_err(|why| refused(path, &why))?;
            (head, (layers.disk == Some(Format::Vhdx)).then(|| disk.sector_size()), Some(disk.size()))
        }
    };
    if let (Some(own), Some(wanted)) = (own, options.sector_size)
        && own != wanted
    {
        let title = format!("{} has sectors of {own} bytes, not of {wanted}", path_shown(path));
        return Err(Failure::usage(title).next("leave --sector-size out"));
    }
    let long = image_size.map_or_else(String::new, |bytes| format!(", {}", size(bytes)));
    let said = format!("{}: {}; on it {}{long}", path_shown(path), layers.said(), raw_said(&head));
    let (opens, meter) = match origin {
        Origin::Stream(meter) => {
            let reading = reading_of(bytes).map_err(|why| Failure::io("reading", path, &why))?;
            (Opens::Once(reading), Some(meter))
        }
        Origin::File(file) => {
            let meter = Meter { done: file.done.clone(), total: Some(file.len()) };
            let (owned, wanted, mut first) = (path.to_owned(), options.format, Some((bytes, file)));
            let done = meter.done.clone();
            let opens = Opens::Again(Box::new(move || {
                let (bytes, FileBytes { file, .. }) = match first.take() {
                    Some(first) => first,
                    None => file_again(&owned, wanted, done.clone())?,
                };
                Ok(Box::new(Unchanged { reading: reading_of(bytes)?, file }) as Reading)
            }));
            (opens, Some(meter))
        }
    };
    // Where the image's length is known, the place in it says more than the place in the file.
    let meter = meter.filter(|_| image_size.is_none());
    Ok(Found {
        name: path_shown(path),
        opens,
        said,
        format: layers.name(),
        sector_size: sector_size(options, own, &head),
        meter,
        size: image_size,
    })
}

/// The first bytes of a disk.
fn disk_head(disk: &mut dyn Disk) -> io::Result<Vec<u8>> {
    let mut head = vec![0; usize::try_from(disk.size()).unwrap_or(PROBE_LEN).min(PROBE_LEN)];
    let mut done = 0;
    while done < head.len() {
        done += match disk.fill_at(done as u64, &mut head[done..])? {
            Fill::Data(len) => len,
            Fill::Hole(len) => {
                let end = head.len().min(done + usize::try_from(len).unwrap_or(head.len()));
                head[done..end].fill(0);
                end - done
            }
            Fill::End => break,
        };
    }
    Ok(head)
}

/// Why an image is not pushed, and what to do.
pub(crate) fn refused(path: &Path, why: &io::Error) -> Failure {
    let shown = path_shown(path);
    let inner = why.get_ref();
    let text = format!("{shown}: {}", crate::failure::reason(why));
    if let Some(disk) = inner.and_then(|inner| inner.downcast_ref::<DiskError>()) {
        return match disk {
            DiskError::Empty => Failure::usage(format!("{shown} is empty: an image has at least one byte"))
                .next("check the file that you meant to push"),
            DiskError::Not { what } => Failure::usage(format!("{shown} is no {what}"))
                .next("leave --format out: what it is can be seen from its content"),
            DiskError::Refused { .. } => Failure::usage(text)
                .next("'--format raw' keeps the bytes of the file as they are, for those who want that"),
            DiskError::TooLarge { .. } => Failure::usage(text).next("check that it is the image that was meant"),
            DiskError::Damaged { .. } => {
                Failure::new(exit::VERIFY, text).next("fetch or make the image again; 'qemu-img check' may tell more")
            }
            DiskError::Io { source, .. } => Failure::io("reading", path, source),
        };
    }
    if let Some(stream) = inner.and_then(|inner| inner.downcast_ref::<StreamError>()) {
        let next = match stream {
            StreamError::Truncated(wrap) | StreamError::Corrupt { wrap, .. } => {
                format!("test the file with '{wrap} -t', or take it as it is with --format raw")
            }
            StreamError::TooLarge { .. } => "check that it is the image that was meant".to_owned(),
        };
        return Failure::new(exit::VERIFY, format!("unpacking {text}")).next(next);
    }
    if let Some(spool) = inner.and_then(|inner| inner.downcast_ref::<SpoolError>()) {
        return match spool {
            SpoolError::Io { .. } => Failure::new(exit::SPACE, text)
                .next("name a folder with more room in TMPDIR, or unpack the image first; nothing was left behind"),
            SpoolError::Full { .. } => Failure::new(exit::SPACE, text).next("unpack the image first"),
        };
    }
    Failure::io("reading", path, why)
}

//! A disk image in whatever it came: compressed streams and archives are opened one in the other, down to the disk.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::detect::DETECT_TAIL_LEN;
use crate::spool::piece_read;
use crate::vhd;
use crate::{
    Archive, DETECT_HEAD_LEN, Detected, Disk, DiskError, Format, Inner, Limits, ReadAt, Spool, Wrap, disk_find,
    disk_open, format_detect, head_detect, tail_detect, unwrap, wrap_detect,
};

/// So many streams and archives may lie in each other. Files that people make have two.
const LAYERS_MAX: usize = 4;

/// What somebody says that a file is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Said {
    /// Nothing: its content tells.
    #[default]
    Auto,
    /// A disk image of this format, perhaps compressed or in an archive; its content is not asked whether it looks like another one.
    /// [`Format::Raw`] is the bytes themselves, whatever they look like.
    Disk(Format),
    /// An archive, perhaps compressed.
    Archive(Archive),
    /// A stream compressed like this; the content tells what is in it.
    Wrapped(Wrap),
    /// A raw image in a stream compressed like this, whatever it looks like.
    RawIn(Wrap),
}

impl Said {
    /// The words for [`FromStr`](std::str::FromStr).
    pub const WORDS: &str = "auto, raw, qcow2, vmdk, vhd, vhdx, vdi, zip, tar, gzip, xz or zstd";
}

impl std::str::FromStr for Said {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(format) = Format::ALL.into_iter().find(|format| format.name() == text) {
            return Ok(Said::Disk(format));
        }
        match text {
            "auto" => Ok(Said::Auto),
            "zip" => Ok(Said::Archive(Archive::Zip)),
            "tar" | "ova" => Ok(Said::Archive(Archive::Tar)),
            "gzip" => Ok(Said::Wrapped(Wrap::Gzip)),
            "xz" => Ok(Said::Wrapped(Wrap::Xz)),
            "zstd" => Ok(Said::Wrapped(Wrap::Zstd)),
            _ => Err(()),
        }
    }
}

/// A file, or what can be read only once.
pub enum Input {
    /// Read at any place.
    At(Box<dyn ReadAt>),
    /// Read from front to back.
    Stream(Box<dyn Read + Send>),
}

/// The raw disk.
pub enum Bytes {
    /// Out of a container, or a raw file.
    Disk(Box<dyn Disk>),
    /// A raw image that comes as a stream, and its first [`DETECT_HEAD_LEN`] bytes, which are in the stream too.
    Stream(RawStream),
}

/// What a file is, from the outside to the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// The streams and archives, the outermost first.
    pub around: Vec<Layer>,
    /// The disk's own format.
    pub disk: Option<Format>,
}

/// One thing around a disk image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layer {
    /// A compressed stream.
    Wrap(Wrap),
    /// An archive, and the name that the disk has in it, harmless for showing.
    Archive(Archive, String),
}

impl Layers {
    /// As a version's source format says it, from the disk outwards: `raw`, `raw.gz`, `qcow2.xz`, `vmdk.tar`.
    pub fn name(&self) -> String {
        let mut name = self.disk.unwrap_or(Format::Raw).name().to_owned();
        for layer in self.around.iter().rev() {
            name.push('.');
            name.push_str(match layer {
                Layer::Wrap(wrap) => wrap.ending(),
                Layer::Archive(archive, _) => archive.name(),
            });
        }
        name
    }

    /// Whether there is nothing around a raw disk.
    pub fn is_bare(&self) -> bool {
        self.around.is_empty() && self.disk == Some(Format::Raw)
    }

    /// For people: `zip archive, in it disk.vmdk: VMDK image`.
    pub fn said(&self) -> String {
        self.around_said() + self.disk.unwrap_or(Format::Raw).title() + " image"
    }

    fn around_said(&self) -> String {
        let mut said = String::new();
        for layer in &self.around {
            said.push_str(&match layer {
                Layer::Wrap(wrap) => format!("{} stream, in it ", wrap.name()),
                Layer::Archive(archive, name) => format!("{} archive, in it {name}: ", archive.name()),
            });
        }
        said
    }
}

/// An opened image.
pub struct Opened {
    /// What it was in.
    pub layers: Layers,
    /// The raw disk.
    pub bytes: Bytes,
}

/// What a look came to.
pub enum Looked {
    /// It is open.
    Opened(Opened),
    /// It comes as a stream and must be read at any place: it has to be kept in a file first.
    Held(Held),
}

/// An image on the way to its disk.
pub struct Held {
    layers: Layers,
    input: Input,
    said: Said,
    seen: Detected,
}

impl Held {
    /// What is known of it so far, for people.
    pub fn said(&self) -> String {
        let seen = match (self.said, self.seen) {
            (Said::Auto, seen) => seen.title(),
            (_, Detected::Archive(archive)) => archive.name(),
            (Said::Disk(format), _) => format.title(),
            (_, seen) => seen.title(),
        };
        let kind = if matches!(self.seen, Detected::Archive(_)) { "archive" } else { "image" };
        format!("{}{seen} {kind}", self.layers.around_said())
    }

    /// Opens it. Streams are unpacked into `spool` where a container must be read at any place; a raw image is not.
    ///
    /// # Errors
    /// As [`image_open`].
    pub fn open(self, spool: &mut Spool, limits: &Limits) -> io::Result<Opened> {
        match image_walk(self.layers, self.input, self.said, Some(spool), limits)? {
            Looked::Opened(opened) => Ok(opened),
            Looked::Held(_) => Err(io::Error::other("an image was not kept although it could be")),
        }
    }
}

/// Opens the disk in a file as far as that goes without keeping anything.
///
/// # Errors
/// As [`image_open`].
pub fn image_look(input: Input, said: Said, limits: &Limits) -> io::Result<Looked> {
    image_walk(Layers::default(), input, said, None, limits)
}

/// Opens the disk in a file. Streams are unpacked into `spool` where a container must be read at any place; a raw image is not.
///
/// # Errors
/// A [`DiskError`], [`StreamError`](crate::StreamError) or [`SpoolError`](crate::SpoolError) in an [`io::Error`], or one of reading.
pub fn image_open(input: Input, said: Said, spool: &mut Spool, limits: &Limits) -> io::Result<Opened> {
    match image_look(input, said, limits)? {
        Looked::Opened(opened) => Ok(opened),
        Looked::Held(held) => held.open(spool, limits),
    }
}

fn image_walk(
    mut layers: Layers,
    mut input: Input,
    mut said: Said,
    mut spool: Option<&mut Spool>,
    limits: &Limits,
) -> io::Result<Looked> {
    if let Said::RawIn(wrap) = said {
        if wrap != Wrap::None {
            layers.around.push(Layer::Wrap(wrap));
            input = Input::Stream(unwrap(wrap, stream_of(input), limits.size_max));
        }
        said = Said::Disk(Format::Raw);
    }
    if said == Said::Disk(Format::Raw) {
        layers.disk = Some(Format::Raw);
        let bytes = match input {
            Input::At(file) => Bytes::Disk(disk_open(Format::Raw, file, limits)?),
            Input::Stream(stream) => Bytes::Stream(RawStream::open(stream, false)?),
        };
        return Ok(Looked::Opened(Opened { layers, bytes }));
    }
    loop {
        if layers.around.len() > LAYERS_MAX {
            let reason = format!("more than {LAYERS_MAX} streams and archives lie in each other");
            return Err(DiskError::Refused { format: "packed", reason }.into());
        }
        let (seen, again) = detect(input, &mut said)?;
        input = match (seen, again) {
            (Detected::Wrapped(wrap), again) => {
                layers.around.push(Layer::Wrap(wrap));
                Input::Stream(unwrap(wrap, stream_of(again), limits.size_max))
            }
            (Detected::Disk(Format::Raw), Input::Stream(stream)) => {
                layers.disk = Some(Format::Raw);
                let bytes = Bytes::Stream(RawStream::open(stream, true)?);
                return Ok(Looked::Opened(Opened { layers, bytes }));
            }
            // The end has a word in what it is, so it is looked at once more when it is kept.
            (Detected::Disk(_) | Detected::Archive(_), Input::Stream(stream)) => match spool.as_deref_mut() {
                Some(spool) => Input::At(Box::new(spool.keep(stream)?)),
                None => return Ok(Looked::Held(Held { layers, input: Input::Stream(stream), said, seen })),
            },
            (Detected::Archive(archive), Input::At(file)) => {
                let (name, found) = archive_find(archive, file)?;
                layers.around.push(Layer::Archive(archive, name));
                if let Said::Archive(_) = said {
                    said = Said::Auto;
                }
                found
            }
            (Detected::Disk(format), Input::At(file)) => {
                layers.disk = Some(format);
                let bytes = Bytes::Disk(disk_open(format, file, limits)?);
                return Ok(Looked::Opened(Opened { layers, bytes }));
            }
        };
    }
}

/// The one disk in an archive: its name and its bytes.
fn archive_find(archive: Archive, file: Box<dyn ReadAt>) -> Result<(String, Input), DiskError> {
    let found = disk_find(archive, file)?;
    let bytes = match found.bytes {
        Inner::Placed(bytes) => Input::At(bytes),
        Inner::Packed(stream) => Input::Stream(stream),
    };
    Ok((found.name, bytes))
}

/// What the next layer is, and the input again from its beginning.
fn detect(input: Input, said: &mut Said) -> io::Result<(Detected, Input)> {
    let (head, input) = head_peek(input)?;
    if head.is_empty() {
        return Err(DiskError::Empty.into());
    }
    let wrap = wrap_detect(&head);
    let detected = match (*said, &input) {
        (Said::Wrapped(wanted), _) => {
            if wrap != wanted {
                let what = match wanted {
                    Wrap::None => "stream",
                    Wrap::Gzip => "gzip stream",
                    Wrap::Xz => "xz stream",
                    Wrap::Zstd => "zstd stream",
                };
                return Err(DiskError::Not { what }.into());
            }
            *said = Said::Auto;
            Detected::Wrapped(wrap)
        }
        // Somebody who names the disk's format knows of what is around it, or it is not there.
        (Said::Disk(_) | Said::Archive(_), _) if wrap != Wrap::None => Detected::Wrapped(wrap),
        (Said::Disk(format), _) => match head_detect(&head) {
            Ok(Detected::Archive(archive)) => Detected::Archive(archive),
            _ => Detected::Disk(format),
        },
        (Said::Archive(archive), _) => Detected::Archive(archive),
        (Said::Auto | Said::RawIn(_), Input::At(file)) => format_detect(&**file)?,
        (Said::Auto | Said::RawIn(_), Input::Stream(_)) => head_detect(&head)?,
    };
    Ok((detected, input))
}

/// The first bytes, which stay in the input.
fn head_peek(input: Input) -> io::Result<(Vec<u8>, Input)> {
    match input {
        Input::At(file) => {
            let len = file.len().min(DETECT_HEAD_LEN as u64);
            let mut head = vec![0; usize::try_from(len).unwrap_or(0)];
            file.read_exact_at(&mut head, 0)?;
            Ok((head, Input::At(file)))
        }
        Input::Stream(mut stream) => {
            let mut head = vec![0; DETECT_HEAD_LEN];
            let len = piece_read(&mut stream, &mut head)?;
            head.truncate(len);
            Ok((head.clone(), Input::Stream(Box::new(io::Cursor::new(head).chain(stream)))))
        }
    }
}

fn stream_of(input: Input) -> Box<dyn Read + Send> {
    match input {
        Input::Stream(stream) => stream,
        Input::At(file) => Box::new(Walk { file, at: 0 }),
    }
}

/// Reads a file from front to back.
struct Walk {
    file: Box<dyn ReadAt>,
    at: u64,
}

impl Read for Walk {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.file.len() - self.at).unwrap_or(usize::MAX);
        let len = buf.len().min(left);
        self.file.read_exact_at(&mut buf[..len], self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}

/// A raw image as a stream. What only its end can tell is seen there: the footer of a fixed VHD is taken off, the end of a zip archive is refused.
pub struct RawStream {
    stream: Box<dyn Read + Send>,
    head: Vec<u8>,
    /// Bytes that were read and not yet given out. The last ones stay until it is known that they are not the end.
    held: Vec<u8>,
    from: usize,
    /// Bytes read in all.
    len: u64,
    ended: bool,
    judged: bool,
    vhd: Arc<AtomicBool>,
}

const PIECE: usize = 256 << 10;

impl RawStream {
    fn open(mut stream: Box<dyn Read + Send>, judged: bool) -> io::Result<RawStream> {
        let mut head = vec![0; DETECT_HEAD_LEN];
        let len = piece_read(&mut stream, &mut head)?;
        head.truncate(len);
        let held = head.clone();
        Ok(RawStream { stream, len: len as u64, head, held, from: 0, ended: false, judged, vhd: Arc::default() })
    }

    /// Its first bytes.
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// Becomes true at the end of the stream if it was a fixed VHD.
    pub fn was_vhd(&self) -> Arc<AtomicBool> {
        self.vhd.clone()
    }

    fn refill(&mut self) -> io::Result<()> {
        self.held.drain(..self.from);
        self.from = 0;
        let kept = self.held.len();
        self.held.resize(kept + PIECE, 0);
        let got = piece_read(&mut self.stream, &mut self.held[kept..])?;
        self.held.truncate(kept + got);
        self.len += got as u64;
        if got < PIECE {
            self.ended = true;
            if let Err(why) = self.end_judge() {
                // Nothing more comes after a refusal.
                self.held.clear();
                return Err(why);
            }
        }
        Ok(())
    }

    fn end_judge(&mut self) -> io::Result<()> {
        let footer = match tail_detect(&self.held, self.len) {
            _ if !self.judged => return Ok(()),
            None => return Ok(()),
            Some(Detected::Archive(_) | Detected::Wrapped(_)) => {
                let reason = "it ends as a zip archive and begins as something else, so it is two formats at once; \
                              say 'raw' if it is a raw image";
                return Err(DiskError::Refused { format: "zip", reason: reason.into() }.into());
            }
            Some(Detected::Disk(_)) => self.held.len() - DETECT_TAIL_LEN,
        };
        if vhd::fixed_size(&self.held[footer..]) != Some(self.len - DETECT_TAIL_LEN as u64) {
            let reason = "its footer describes another disk than the bytes before it, and they are gone by when the footer \
                          comes; give it as a file, or say 'vhd', or 'raw' if it is a raw image";
            return Err(DiskError::Refused { format: "VHD", reason: reason.into() }.into());
        }
        self.held.truncate(footer);
        self.vhd.store(true, Ordering::Release);
        Ok(())
    }
}

impl Read for RawStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let free = |this: &Self| {
            let back = if this.ended { 0 } else { DETECT_TAIL_LEN };
            this.held.len().saturating_sub(this.from + back)
        };
        if free(self) == 0 && !self.ended {
            self.refill()?;
        }
        let len = buf.len().min(free(self));
        buf[..len].copy_from_slice(&self.held[self.from..self.from + len]);
        self.from += len;
        Ok(len)
    }
}

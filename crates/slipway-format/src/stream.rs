//! Compressed streams: gzip (also of several members), xz, and zstd (also of several frames,
//! skippable ones between them), recognised by content and unpacked under a cap.

use std::io::{self, BufReader, Read};

use liblzma::read::XzDecoder;
use liblzma::stream::{CONCATENATED, Stream, TELL_UNSUPPORTED_CHECK};

/// The largest window a stream may ask for: 128 MiB, what `zstd` itself accepts without `--long=31`.
pub const WINDOW_MAX: u64 = 1 << WINDOW_LOG_MAX;
const WINDOW_LOG_MAX: u32 = 27;
/// `xz` needs its dictionary and some hundred KiB beside it.
const XZ_MEMORY_MAX: u64 = WINDOW_MAX + (4 << 20);
/// How many bytes [`wrap_detect`] looks at.
pub const WRAP_HEAD_LEN: usize = 6;
const BUFFER_LEN: usize = 128 << 10;

/// What an image file is wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wrap {
    /// The bytes are the image.
    None,
    /// gzip, RFC 1952, one or several members.
    Gzip,
    /// The `.xz` format, one or several streams. The older `.lzma` has no magic and is not read.
    Xz,
    /// Zstandard, RFC 8878, one or several frames.
    Zstd,
}

impl Wrap {
    /// The name people use: `none`, `gzip`, `xz`, `zstd`.
    pub fn name(self) -> &'static str {
        match self {
            Wrap::None => "none",
            Wrap::Gzip => "gzip",
            Wrap::Xz => "xz",
            Wrap::Zstd => "zstd",
        }
    }

    /// What the names of such files end in: `gz`, `xz`, `zst`; nothing for [`Wrap::None`].
    pub fn ending(self) -> &'static str {
        match self {
            Wrap::None => "",
            Wrap::Gzip => "gz",
            Wrap::Xz => "xz",
            Wrap::Zstd => "zst",
        }
    }
}

/// Why a compressed stream was refused. Carried inside the [`io::Error`] that the reader returns.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The input ended inside a member, stream or frame.
    #[error("the {0} stream is cut off: it ends before its own end mark")]
    Truncated(&'static str),
    /// The input is damaged, is followed by other bytes, or needs a dictionary or too large a window.
    #[error("the {wrap} stream cannot be unpacked: {reason}")]
    Corrupt {
        /// The format's name.
        wrap: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// More came out than the caller allows.
    #[error("the stream unpacks to more than {cap} bytes")]
    TooLarge {
        /// The cap in bytes.
        cap: u64,
    },
}

/// Tells by its first bytes ([`WRAP_HEAD_LEN`] suffice) what a stream is wrapped in. Never by a file name.
pub fn wrap_detect(head: &[u8]) -> Wrap {
    match head {
        // Method 8 is the only one ever defined, and the three high flag bits are reserved.
        [0x1f, 0x8b, 8, flags, ..] if flags & 0xe0 == 0 => Wrap::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Wrap::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Wrap::Zstd,
        // A skippable frame may come first (pzstd writes one).
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Wrap::Zstd,
        _ => Wrap::None,
    }
}

/// Unpacks `input`. The reader ends only where the last member ends exactly at the end of the input;
/// a cut, a flipped bit that a checksum catches, trailing bytes, or output beyond `cap` bytes are
/// [`StreamError`]s. Errors of `input` itself pass through unchanged. After an error every further read fails too.
pub fn unwrap(wrap: Wrap, input: Box<dyn Read + Send>, cap: u64) -> Box<dyn Read + Send> {
    let source = Source::new(input);
    let decoder: Box<dyn Read + Send> = match wrap {
        Wrap::None => Box::new(source),
        Wrap::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(buffered(source))),
        Wrap::Xz => match Stream::new_stream_decoder(XZ_MEMORY_MAX, CONCATENATED | TELL_UNSUPPORTED_CHECK) {
            Ok(stream) => Box::new(XzDecoder::new_stream(source, stream)),
            Err(error) => Box::new(Refused(error.to_string())),
        },
        Wrap::Zstd => match zstd_open(source) {
            Ok(decoder) => decoder,
            Err(error) => Box::new(Refused(error.to_string())),
        },
    };
    Box::new(Unwrapped { decoder, wrap, left: cap, cap, state: State::Open })
}

fn buffered<R: Read>(source: R) -> BufReader<R> {
    BufReader::with_capacity(BUFFER_LEN, source)
}

fn zstd_open(source: Source) -> io::Result<Box<dyn Read + Send>> {
    let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(source))?;
    decoder.window_log_max(WINDOW_LOG_MAX)?;
    Ok(Box::new(decoder))
}

/// Marks errors of the input, so that they are not taken for errors of the format.
struct Source {
    input: Box<dyn Read + Send>,
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SourceError(io::Error);

impl Source {
    fn new(input: Box<dyn Read + Send>) -> Source {
        Source { input }
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buf) {
            // The decoders would retry or lose this one; it is simply asked again here.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(buf),
            Err(error) => Err(io::Error::new(error.kind(), SourceError(error))),
            ok => ok,
        }
    }
}

/// Stands in for a decoder that could not be made.
struct Refused(String);

impl Read for Refused {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other(self.0.clone()))
    }
}

enum State {
    Open,
    Done,
    Failed,
}

struct Unwrapped {
    decoder: Box<dyn Read + Send>,
    wrap: Wrap,
    left: u64,
    cap: u64,
    state: State,
}

impl Unwrapped {
    fn refuse(&mut self, error: io::Error) -> io::Error {
        self.state = State::Failed;
        if error.get_ref().is_some_and(|inner| inner.is::<SourceError>()) {
            let kind = error.kind();
            return match error.into_inner().map(|inner| inner.downcast::<SourceError>()) {
                Some(Ok(source)) => source.0,
                Some(Err(other)) => io::Error::new(kind, other),
                None => kind.into(),
            };
        }
        let name = self.wrap.name();
        if error.kind() == io::ErrorKind::UnexpectedEof {
            return io::Error::new(io::ErrorKind::UnexpectedEof, StreamError::Truncated(name));
        }
        let reason = error.to_string();
        io::Error::new(io::ErrorKind::InvalidData, StreamError::Corrupt { wrap: name, reason })
    }
}

impl Read for Unwrapped {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.state {
            State::Open => {}
            State::Done => return Ok(0),
            State::Failed => return Err(io::Error::other("the stream failed before")),
        }
        if buf.is_empty() {
            return Ok(0);
        }
        // One byte beyond the cap is asked for, so that exactly `cap` bytes pass and one more is seen.
        let room = buf.len().min(usize::try_from(self.left.saturating_add(1)).unwrap_or(usize::MAX));
        let got = match self.decoder.read(&mut buf[..room]) {
            Ok(got) => got,
            Err(error) => return Err(self.refuse(error)),
        };
        if got as u64 > self.left {
            self.state = State::Failed;
            let cap = self.cap;
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, StreamError::TooLarge { cap }));
        }
        self.left -= got as u64;
        if got == 0 {
            self.state = State::Done;
        }
        Ok(got)
    }
}

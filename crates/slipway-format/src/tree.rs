//! Archives of file trees, read as a stream: tar and cpio. What an entry says is passed on as it stands, checked for its shape only;
//! whether a path may be made is for who makes it.

mod cpio;
mod tar;

use std::io::{self, Read};

/// How many bytes [`tree_detect`] looks at.
pub const TREE_HEAD_LEN: usize = 512;
/// The longest path, as the kernel has it.
const PATH_MAX: u64 = 4096;

/// How an archive is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeFormat {
    /// POSIX.1-2017 pax and ustar, with GNU's long names.
    Tar,
    /// SVR4 cpio, with or without checksums: what an initramfs is.
    Cpio,
}

impl TreeFormat {
    /// The name people use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tar => "tar",
            Self::Cpio => "cpio",
        }
    }
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeWhat {
    /// A regular file; its bytes are read from the reader.
    File,
    /// A folder.
    Folder,
    /// A symbolic link to this.
    Symlink(Vec<u8>),
    /// Another name of the file that an earlier entry made. With bytes: they are that file's, in place of what it had.
    Link(Vec<u8>),
    /// A named pipe.
    Pipe,
    /// A character or block device.
    Device,
    /// A socket.
    Socket,
}

/// An entry of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeEntry {
    /// Its path as it stands there: not empty, without NUL, at most 4096 bytes, otherwise anything.
    pub path: Vec<u8>,
    /// What it is.
    pub what: TreeWhat,
    /// The lowest twelve bits of its mode.
    pub mode: u32,
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// When it was changed, in seconds since 1970.
    pub modified: i64,
    /// Its extended attributes.
    pub attributes: Vec<(String, Vec<u8>)>,
    /// How many bytes of content follow.
    pub size: u64,
}

/// Why an archive is not read further.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// It is damaged, cut off, or has what is not read here.
    #[error("the {format} archive cannot be read: {reason}")]
    Unfit {
        /// The format's name.
        format: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// Where it comes from.
    #[error(transparent)]
    Source(#[from] io::Error),
}

/// Tells by its first bytes ([`TREE_HEAD_LEN`]) what kind of archive this is, if it is one.
pub fn tree_detect(head: &[u8]) -> Option<TreeFormat> {
    if head.starts_with(b"070701") || head.starts_with(b"070702") {
        return Some(TreeFormat::Cpio);
    }
    // The oldest tars have no magic; their checksum is as good.
    let block = head.get(..512)?;
    (block[0] != 0 && tar::checksum_fits(block)).then_some(TreeFormat::Tar)
}

enum Layout {
    Tar(tar::Tar),
    Cpio(cpio::Cpio),
}

/// Reads an archive entry by entry. [`Read`] gives the content of the entry that came last.
pub struct TreeReader<R> {
    source: Source<R>,
    layout: Layout,
}

/// The bytes of an archive, and what is left of the current entry's.
struct Source<R> {
    input: R,
    format: &'static str,
    /// How many bytes were read so far.
    at: u64,
    /// Content that was not read yet.
    left: u64,
    /// Zeros behind the content.
    padding: u64,
    /// The sum of the content's bytes, as cpio wants it.
    sum: u32,
}

impl<R: Read> Source<R> {
    fn unfit(&self, reason: impl Into<String>) -> TreeError {
        TreeError::Unfit { format: self.format, reason: reason.into() }
    }

    fn cut_off(&self) -> TreeError {
        self.unfit(format!("it ends at byte {} without its end mark: it was cut off", self.at))
    }

    /// Fills the buffer; false if there was nothing at all any more.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool, TreeError> {
        let mut got = 0;
        while got < buffer.len() {
            match self.input.read(&mut buffer[got..]) {
                Ok(0) if got == 0 => return Ok(false),
                Ok(0) => return Err(self.cut_off()),
                Ok(more) => {
                    got += more;
                    self.at += more as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// So many bytes, which must be there; the caller has compared the number with a limit.
    fn take(&mut self, len: u64) -> Result<Vec<u8>, TreeError> {
        let mut bytes = vec![0; len as usize];
        match self.fill(&mut bytes)? || len == 0 {
            true => Ok(bytes),
            false => Err(self.cut_off()),
        }
    }

    fn skip(&mut self, mut len: u64) -> Result<(), TreeError> {
        let mut buffer = [0; 4096];
        while len > 0 {
            let part = len.min(4096) as usize;
            if !self.fill(&mut buffer[..part])? {
                return Err(self.cut_off());
            }
            len -= part as u64;
        }
        Ok(())
    }

    fn content_read(&mut self, buffer: &mut [u8]) -> Result<usize, TreeError> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let got = loop {
            match self.input.read(&mut buffer[..room]) {
                Ok(0) => return Err(self.cut_off()),
                Ok(got) => break got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        };
        self.at += got as u64;
        self.left -= got as u64;
        self.sum = buffer[..got].iter().fold(self.sum, |sum, byte| sum.wrapping_add(u32::from(*byte)));
        Ok(got)
    }

    /// Passes by what is left of the current entry.
    fn entry_end(&mut self) -> Result<(), TreeError> {
        let mut buffer = [0; 4096];
        while self.content_read(&mut buffer)? > 0 {}
        let padding = std::mem::take(&mut self.padding);
        self.skip(padding)
    }
}

impl<R: Read> TreeReader<R> {
    /// Begins to read.
    pub fn new(format: TreeFormat, input: R) -> Self {
        let source = Source { input, format: format.name(), at: 0, left: 0, padding: 0, sum: 0 };
        let layout = match format {
            TreeFormat::Tar => Layout::Tar(tar::Tar::default()),
            TreeFormat::Cpio => Layout::Cpio(cpio::Cpio::default()),
        };
        Self { source, layout }
    }

    /// The next entry; what was not read of the one before is passed by. None after the end mark; the input may have more bytes then.
    ///
    /// # Errors
    /// When the archive is damaged, is cut off, or its source has an error.
    pub fn entry_next(&mut self) -> Result<Option<TreeEntry>, TreeError> {
        self.source.entry_end()?;
        let entry = match &mut self.layout {
            Layout::Tar(tar) => tar.entry_next(&mut self.source)?,
            Layout::Cpio(cpio) => cpio.entry_next(&mut self.source)?,
        };
        if let Some(entry) = &entry {
            let texts = [
                Some(&entry.path),
                match &entry.what {
                    TreeWhat::Symlink(to) | TreeWhat::Link(to) => Some(to),
                    TreeWhat::File | TreeWhat::Folder | TreeWhat::Pipe | TreeWhat::Device | TreeWhat::Socket => None,
                },
            ];
            for text in texts.into_iter().flatten() {
                if text.is_empty() || text.len() as u64 > PATH_MAX || text.contains(&0) {
                    let shown = text[..text.len().min(80)].escape_ascii();
                    return Err(self.source.unfit(format!("'{shown}' is no path")));
                }
            }
        }
        Ok(entry)
    }

    /// The input, of which what is behind the end mark was not read.
    pub fn into_inner(self) -> R {
        self.source.input
    }
}

impl<R: Read> Read for TreeReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.content_read(buffer).map_err(|error| match error {
            TreeError::Source(error) => error,
            unfit @ TreeError::Unfit { .. } => io::Error::new(io::ErrorKind::InvalidData, unfit),
        })
    }
}

#[cfg(test)]
mod tests;

//! What comes as a stream and must be read at any place is kept meanwhile in a file that has no name.

use rustix::fs::{Mode, OFlags, open};
use slipway_chunk::is_zero;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::FileAt;

const PIECE: usize = 256 << 10;
const WATCH_EVERY: u64 = 16 << 20;
/// Blocks of zeros are not written.
const BLOCK: usize = 4096;

/// Makes temporary files in one folder, together no longer than a limit. They have no name, so whatever ends the program, they go with it.
pub struct Spool {
    folder: PathBuf,
    max: u64,
    left: u64,
    watch: Option<Box<dyn FnMut() -> io::Result<()> + Send>>,
}

/// Why the temporary file was not written. Carried inside an [`io::Error`] of the kind that the system gave.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The file could not be made or written.
    #[error("writing a temporary file in {}: {source}", folder.display())]
    Io {
        /// Where.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// More came than is allowed.
    #[error("it unpacks to more than {max} bytes, which is all that may be kept in {} meanwhile", folder.display())]
    Full {
        /// Where.
        folder: PathBuf,
        /// The limit in bytes.
        max: u64,
    },
}

impl SpoolError {
    fn io(folder: &Path, source: io::Error) -> io::Error {
        io::Error::new(source.kind(), SpoolError::Io { folder: folder.to_owned(), source })
    }
}

impl Spool {
    /// Files in `folder`, which must exist, of at most `max` bytes together.
    pub fn new(folder: impl Into<PathBuf>, max: u64) -> Self {
        Self { folder: folder.into(), max, left: max, watch: None }
    }

    /// Asks after every 16 MiB that came whether to go on.
    pub fn watched(self, watch: impl FnMut() -> io::Result<()> + Send + 'static) -> Self {
        Self { watch: Some(Box::new(watch)), ..self }
    }

    /// Reads `input` to its end. Blocks of zeros become holes.
    ///
    /// # Errors
    /// Those of `input`; a [`SpoolError`].
    pub fn keep(&mut self, mut input: Box<dyn Read + Send>) -> io::Result<FileAt> {
        let file = unnamed(&self.folder).map_err(|source| SpoolError::io(&self.folder, source))?;
        let (mut buf, mut at) = (vec![0; PIECE], 0);
        loop {
            let len = piece_read(&mut input, &mut buf)?;
            if len == 0 {
                break;
            }
            self.left = self.left.checked_sub(len as u64).ok_or_else(|| {
                let full = SpoolError::Full { folder: self.folder.clone(), max: self.max };
                io::Error::new(io::ErrorKind::FileTooLarge, full)
            })?;
            sparse_write(&file, at, &buf[..len]).map_err(|source| SpoolError::io(&self.folder, source))?;
            let before = at / WATCH_EVERY;
            at += len as u64;
            if let (Some(watch), true) = (&mut self.watch, before != at / WATCH_EVERY) {
                watch()?;
            }
        }
        file.set_len(at).map_err(|source| SpoolError::io(&self.folder, source))?;
        FileAt::new(file)
    }
}

fn sparse_write(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = bytes[done..].chunks(BLOCK);
        let len: usize = rest.clone().take_while(|block| is_zero(block)).map(<[u8]>::len).sum();
        if len > 0 {
            done += len;
            continue;
        }
        let len: usize = rest.take_while(|block| !is_zero(block)).map(<[u8]>::len).sum();
        file.write_all_at(&bytes[done..done + len], at + done as u64)?;
        done += len;
    }
    Ok(())
}

/// Fills `buf` unless the input ends.
pub(crate) fn piece_read(input: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < buf.len() {
        match input.read(&mut buf[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

/// A file without a name; where the file system has no such thing (NFS, overlays of old kernels), one that loses its name at once.
fn unnamed(folder: &Path) -> io::Result<File> {
    let mode = Mode::RUSR | Mode::WUSR;
    match open(folder, OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE, mode) {
        Ok(file) => return Ok(File::from(file)),
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {}
        Err(errno) => return Err(errno.into()),
    }
    let path = folder.join(format!(".slipway-{}", uuid::Uuid::new_v4().simple()));
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
    let file = File::from(open(&path, flags, mode)?);
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::{Spool, SpoolError};
    use crate::ReadAt;
    use std::io::{self, Read};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_kept_comes_back_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut bytes = vec![0; 3 << 20];
        bytes[1_000_000..1_100_000].fill(7);
        for len in [0, 1, 4096, 1_050_000, bytes.len()] {
            let mut spool = Spool::new(folder.path(), u64::MAX);
            let file = spool.keep(Box::new(io::Cursor::new(bytes[..len].to_vec()))).unwrap();
            let mut back = vec![1; len];
            assert_eq!(file.len(), len as u64);
            file.read_exact_at(&mut back, 0).unwrap();
            assert!(back == bytes[..len]);
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn zeros_take_no_room() {
        let folder = tempfile::tempdir().unwrap();
        let file = Spool::new(folder.path(), 64 << 20).keep(Box::new(io::repeat(0).take(64 << 20))).unwrap();
        assert!(file.metadata().unwrap().blocks() < 100);
    }

    #[test]
    fn the_limit_is_of_all_files_together() {
        let mut spool = Spool::new("/tmp", 1_000_000);
        spool.keep(Box::new(io::repeat(1).take(600_000))).unwrap();
        let why = spool.keep(Box::new(io::repeat(1))).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::FileTooLarge);
        assert!(why.to_string().contains("more than 1000000 bytes"), "{why}");
        let why = Spool::new("/nowhere", 1).keep(Box::new(io::empty())).unwrap_err();
        assert!(why.get_ref().is_some_and(|inner| inner.is::<SpoolError>()) && why.to_string().contains("/nowhere"));
    }
}

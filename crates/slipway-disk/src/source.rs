//! Files and block devices as sources: read once in order, a file with its holes, or at any place.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, Mode, OFlags, SeekFrom, fadvise, fdatasync, ioctl_blksszget, seek};
use rustix::io::Errno;
use slipway_chunk::{BLOCK, Fill, SparseRead};

use crate::faults::Faults;
use crate::open::{device_mount, direct_open, file_mount};
use crate::port::Port;
use crate::stream::DeviceStream;
use crate::sysfs::Dev;

/// A regular file or block device being read. Implements [`SparseRead`]: holes of a regular file come as holes, a device is read ahead, past
/// the page cache where it allows that, and a source that changed meanwhile ends in an error instead of an end.
pub struct SparseFile {
    path: PathBuf,
    file: File,
    size: u64,
    /// `None` for a block device: writes to it leave no trace to compare.
    stamp: Option<Stamp>,
    sector_size: Option<u32>,
    mounted_at: Option<String>,
    at: u64,
    /// Up to here is data; what follows is not yet known.
    data_end: u64,
    /// A device, once its bytes are asked for in order. Never locked: it lets threads share this for [`SparseFile::read_exact_at`].
    stream: Mutex<Option<DeviceStream>>,
    /// Whether the file system can tell where data is.
    seeks: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Stamp {
        Stamp { size: meta.size(), mtime: (meta.mtime(), meta.mtime_nsec()), ctime: (meta.ctime(), meta.ctime_nsec()) }
    }
}

impl SparseFile {
    /// Opens a regular file or block device for reading; symbolic links are followed.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for anything else, which is left unread.
    pub fn open(path: &Path) -> io::Result<SparseFile> {
        // O_NONBLOCK: a pipe without a writer would hold us up before we see that it is one.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
        let meta = file.metadata()?;
        let device = meta.file_type().is_block_device();
        if !device && !meta.is_file() {
            let text = format!("{} is not a regular file or a block device", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let mut source = SparseFile {
            path: path.to_owned(),
            file,
            size: meta.len(),
            stamp: None,
            sector_size: None,
            mounted_at: None,
            at: 0,
            data_end: 0,
            stream: Mutex::new(None),
            seeks: !device,
        };
        if device {
            source.size = seek(&source.file, SeekFrom::End(0))?;
            source.sector_size = Some(ioctl_blksszget(&source.file)?);
            source.mounted_at = device_mount(Dev::from_raw(meta.rdev()));
        } else {
            // Data that is only in memory may not be seen by SEEK_DATA on some file systems. Where we may not
            // flush (a read-only mount) there is none.
            let _ = fdatasync(&source.file);
            source.stamp = Some(Stamp::of(&source.file.metadata()?));
            source.mounted_at = file_mount(&meta);
        }
        let _ = fadvise(&source.file, 0, None, Advice::Sequential);
        Ok(source)
    }

    /// Its size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The logical sector size of a block device; a file has none of its own.
    pub fn sector_size(&self) -> Option<u32> {
        self.sector_size
    }

    /// Where the block device, or a part of it, is mounted, or the file, by way of a loop device that may be written:
    /// what is read may then never have existed at one moment.
    pub fn mounted_at(&self) -> Option<&str> {
        self.mounted_at.as_deref()
    }

    /// Starts again at the beginning.
    pub fn rewind(&mut self) {
        (self.at, self.data_end, self.stream) = (0, 0, Mutex::new(None));
    }

    /// Reads exactly `buf.len()` bytes at `at`, without moving the position of [`SparseRead::fill`].
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] beyond the end.
    pub fn read_exact_at(&self, at: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, at)
    }

    /// The first byte from `at` on that may be other than zero; none when only zeros follow.
    pub fn data_next(&self, at: u64) -> Option<u64> {
        match seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => Some(data.max(at)),
            Err(Errno::NXIO) => None,
            Err(_) => Some(at),
        }
    }

    /// Fails when the file is not the one that was opened any more: other size, written to, or touched.
    ///
    /// # Errors
    /// "changed while it was read".
    pub fn unchanged_check(&self) -> io::Result<()> {
        let same = match &self.stamp {
            Some(stamp) => Stamp::of(&self.file.metadata()?) == *stamp,
            None => seek(&self.file, SeekFrom::End(0))? == self.size,
        };
        if same { Ok(()) } else { Err(self.changed()) }
    }

    fn changed(&self) -> io::Error {
        io::Error::other(format!("{} changed while it was read", self.path.display()))
    }

    /// Finds what follows at a block border: `Some` length of a hole, or `None` and `data_end` moved on.
    fn look(&mut self) -> io::Result<Option<u64>> {
        let block = BLOCK as u64;
        if !self.seeks {
            self.data_end = self.size;
            return Ok(None);
        }
        let data = match seek(&self.file, SeekFrom::Data(self.at)) {
            Ok(data) => data.min(self.size),
            Err(Errno::NXIO) => self.size,
            Err(Errno::INVAL | Errno::OPNOTSUPP) => {
                self.seeks = false;
                self.data_end = self.size;
                return Ok(None);
            }
            Err(errno) => return Err(errno.into()),
        };
        // The hole ends at a border of the image's blocks, or with the image.
        let hole_end = if data == self.size { data } else { data - data % block };
        if hole_end > self.at {
            return Ok(Some(hole_end - self.at));
        }
        let end = match seek(&self.file, SeekFrom::Hole(data)) {
            Ok(end) => end,
            Err(Errno::NXIO) => return Err(self.changed()),
            Err(errno) => return Err(errno.into()),
        };
        self.data_end = end.next_multiple_of(block).min(self.size);
        Ok(None)
    }

    /// The next bytes of a device.
    fn device_read(&mut self, sector_size: u32, buf: &mut [u8]) -> io::Result<usize> {
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = stream {
            return stream.read(buf);
        }
        let file = self.file.try_clone()?;
        // A path that leads there no more costs the direct reads, not what is open.
        let path = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let direct = direct_open(&path, &file, OFlags::RDONLY);
        let port = Port::new(&path, file, direct, true, self.size, sector_size.into(), Faults::none());
        stream.insert(DeviceStream::new(port)?).read(buf)
    }

    fn next_read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self.sector_size {
            Some(sector_size) => self.device_read(sector_size, buf),
            None => self.file.read_at(buf, self.at),
        }
    }
}

impl SparseRead for SparseFile {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        if self.at == self.size {
            self.unchanged_check()?;
            return Ok(Fill::End);
        }
        if self.at == self.data_end
            && let Some(len) = self.look()?
        {
            self.at += len;
            self.data_end = self.at;
            return Ok(Fill::Hole(len));
        }
        let room = usize::try_from(self.data_end - self.at).unwrap_or(usize::MAX).min(buf.len());
        loop {
            match self.next_read(&mut buf[..room]) {
                Ok(0) if room > 0 => return Err(self.changed()),
                Ok(got) => {
                    self.at += got as u64;
                    return Ok(Fill::Data(got));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

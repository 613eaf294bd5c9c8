//! Blobs in a local directory: temporary file beside the target, write, fdatasync, rename, fsync
//! of the folder. Folders are made durable before the first blob in them.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use super::{BlobAt, BlobError};
use crate::faults::crash_point;
use crate::io::Io;

/// Folders remembered as durable; beyond it the memory is emptied and they are flushed again.
const FOLDERS_KNOWN_MAX: usize = 16_384;

#[derive(Debug)]
pub(super) struct LocalBlobs {
    root: PathBuf,
    durable: Mutex<HashSet<PathBuf>>,
    /// A read without waiting has gone well here: this is no file system behind a network, whose opening may wait.
    near: AtomicBool,
}

impl LocalBlobs {
    pub(super) fn open(root: &Path, io: &Io) -> Result<LocalBlobs, BlobError> {
        let shown = root.display().to_string();
        let made = || -> io::Result<()> {
            if !root.is_dir() {
                fs::create_dir(root)?;
                fs::set_permissions(root, fs::Permissions::from_mode(0o700))?;
                let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty());
                io.fsync_folder(parent.unwrap_or(Path::new(".")))?;
            }
            Ok(())
        };
        made().map_err(|source| BlobError::Io { act: "opening the blob folder", key: shown, source })?;
        Ok(LocalBlobs { root: root.to_owned(), durable: Mutex::default(), near: AtomicBool::new(false) })
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    // The temporary name follows from the key, so that whoever deletes the key can remove the
    // leavings of a writer that was killed.
    fn part_path(&self, key: &str) -> PathBuf {
        let (folder, name) = key.rsplit_once('/').unwrap_or(("", key));
        self.root.join(folder).join(format!(".{name}.part"))
    }

    /// Creates the folders above a key and flushes each new name in its parent.
    fn folders_ready(&self, io: &Io, key: &str) -> io::Result<()> {
        let Some((folders, _)) = key.rsplit_once('/') else {
            return Ok(());
        };
        // One lock for making and flushing: a second writer must not find a folder that exists
        // but is not durable yet.
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if durable.contains(Path::new(folders)) {
            return Ok(());
        }
        let mut at = PathBuf::new();
        for part in folders.split('/') {
            let parent = self.root.join(&at);
            at.push(part);
            if durable.contains(&at) {
                continue;
            }
            io.folder_create(&self.root.join(&at))?;
            io.fsync_folder(&parent)?;
            if durable.len() >= FOLDERS_KNOWN_MAX {
                durable.clear();
            }
            durable.insert(at.clone());
        }
        Ok(())
    }

    fn file_open(&self, key: &str) -> io::Result<File> {
        let file = OpenOptions::new().read(true).custom_flags(OFlags::NOFOLLOW.bits() as i32).open(self.path(key))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("is no regular file"));
        }
        Ok(file)
    }

    fn file_open_ranged(&self, key: &str, range: &Range<u64>) -> io::Result<File> {
        let file = self.file_open(key)?;
        if range.end > file.metadata()?.len() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(file)
    }

    pub(super) fn read(&self, io: &Io, key: &str, range: Range<u64>) -> Result<Vec<u8>, BlobError> {
        let read = || -> io::Result<Vec<u8>> {
            let file = self.file_open(key)?;
            let len = range.end - range.start;
            if range.end > file.metadata()?.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
            let mut done = 0;
            while done < bytes.len() {
                match io.read_at(&file, &mut bytes[done..], range.start + done as u64) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(n) => done += n,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(bytes)
        };
        read().map_err(BlobError::io("reading", key))
    }

    pub(super) fn reader(
        self: &Arc<Self>,
        io: &Arc<Io>,
        key: &str,
        range: Range<u64>,
    ) -> Result<LocalReader, BlobError> {
        let file = self.file_open_ranged(key, &range).map_err(BlobError::io("reading", key))?;
        Ok(LocalReader { blobs: Arc::clone(self), io: Arc::clone(io), file, at: range.start, end: range.end })
    }

    /// The same if the kernel knows the file's name without asking a disk. Whatever is wrong, `reader` says.
    pub(super) fn reader_now(self: &Arc<Self>, io: &Arc<Io>, key: &str, range: Range<u64>) -> Option<LocalReader> {
        if !self.near.load(Ordering::Relaxed) {
            return None;
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = File::from(openat2(CWD, self.path(key), flags, Mode::empty(), ResolveFlags::CACHED).ok()?);
        let facts = file.metadata().ok().filter(|facts| facts.is_file() && range.end <= facts.len());
        facts.map(|_| LocalReader {
            blobs: Arc::clone(self),
            io: Arc::clone(io),
            file,
            at: range.start,
            end: range.end,
        })
    }

    pub(super) fn len(&self, _io: &Io, key: &str) -> Result<u64, BlobError> {
        let len = || -> io::Result<u64> { Ok(self.file_open(key)?.metadata()?.len()) };
        len().map_err(BlobError::io("measuring", key))
    }

    pub(super) fn delete(&self, io: &Io, key: &str) -> Result<(), BlobError> {
        // No fsync: if the file comes back after a power cut, its row says that it is gone and the
        // next prune removes it again.
        io.delete(&self.part_path(key))
            .and_then(|()| io.delete(&self.path(key)))
            .map_err(BlobError::io("deleting", key))
    }

    pub(super) fn rename(&self, io: &Io, from: &str, to: &str) -> Result<(), BlobError> {
        let moved = || -> io::Result<()> {
            self.folders_ready(io, to)?;
            io.rename(&self.path(from), &self.path(to))?;
            io.fsync_folder(parent(&self.path(to)))?;
            io.fsync_folder(parent(&self.path(from)))
        };
        moved().map_err(BlobError::io("moving", from))
    }

    pub(super) fn list(&self, _io: &Io, prefix: &str, each: &mut dyn FnMut(BlobAt)) -> Result<(), BlobError> {
        let mut folders = vec![prefix.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(self.path(&folder)) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(BlobError::io("listing", &folder)(error)),
            };
            for entry in entries {
                let entry = entry.map_err(BlobError::io("listing", &folder))?;
                let Ok(name) = entry.file_name().into_string() else {
                    continue;
                };
                if name.starts_with('.') {
                    continue;
                }
                let key = format!("{folder}/{name}");
                let facts = match entry.metadata() {
                    Ok(facts) => facts,
                    // Deleted between listing and asking.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(BlobError::io("listing", &key)(error)),
                };
                if facts.is_dir() {
                    folders.push(key);
                } else if facts.is_file() {
                    each(BlobAt { key, len: facts.len() });
                }
            }
        }
        Ok(())
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

#[derive(Debug)]
pub(super) struct LocalWriter {
    blobs: Arc<LocalBlobs>,
    io: Arc<Io>,
    key: String,
    file: File,
    part: PathBuf,
    kept: bool,
}

impl LocalWriter {
    pub(super) fn create(blobs: Arc<LocalBlobs>, io: Arc<Io>, key: &str) -> Result<LocalWriter, BlobError> {
        let part = blobs.part_path(key);
        let open = || -> io::Result<File> {
            blobs.folders_ready(&io, key)?;
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(OFlags::NOFOLLOW.bits() as i32)
                .open(&part)
        };
        let file = open().map_err(BlobError::io("creating", key))?;
        Ok(LocalWriter { key: key.to_owned(), blobs, io, file, part, kept: false })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.io.write(&mut self.file, bytes)
    }

    pub(super) fn finish(mut self) -> Result<(), BlobError> {
        let target = self.blobs.path(&self.key);
        crash_point("blob_written");
        self.io.fsync(&self.file).map_err(BlobError::io("flushing", &self.key))?;
        crash_point("blob_synced");
        self.io.rename(&self.part, &target).map_err(BlobError::io("naming", &self.key))?;
        self.kept = true;
        crash_point("blob_renamed");
        // Until the folder is flushed the name may vanish in a power cut.
        self.io.fsync_folder(parent(&target)).map_err(BlobError::io("flushing the folder of", &self.key))
    }
}

impl Drop for LocalWriter {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is removed by prune, by way of its staged row.
            let _ = self.io.delete(&self.part);
        }
    }
}

pub(super) struct LocalReader {
    blobs: Arc<LocalBlobs>,
    io: Arc<Io>,
    file: File,
    at: u64,
    end: u64,
}

impl LocalReader {
    /// As `read`, but none where the kernel would have to wait.
    pub(super) fn read_now(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let len = self.wanted(buf);
        if len == 0 {
            return Ok(Some(0));
        }
        let Some(n) = self.io.read_at_now(&self.file, &mut buf[..len], self.at)? else { return Ok(None) };
        self.blobs.near.store(true, Ordering::Relaxed);
        self.passed(n).map(Some)
    }

    fn wanted(&self, buf: &[u8]) -> usize {
        buf.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX))
    }

    fn passed(&mut self, n: usize) -> io::Result<usize> {
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        Ok(n)
    }
}

impl Read for LocalReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.wanted(buf);
        if len == 0 {
            return Ok(0);
        }
        let n = self.io.read_at(&self.file, &mut buf[..len], self.at)?;
        self.passed(n)
    }
}

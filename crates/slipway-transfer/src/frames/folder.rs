//! Frames in a folder: as they came, one file each, in the order of their last use, within a bound. A file is checked by whoever
//! reads it, so nothing here has to be flushed.

use super::FrameKey;
use super::lru::Lru;
use crate::TransferError;
use rustix::fs::{FlockOperation, flock};
use slipway_chunk::FRAME_LEN_MAX;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

/// The file that says whose folder it is; also tells backup programs to pass over it.
const TAG: &str = "CACHEDIR.TAG";
const TAG_TEXT: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Frames of disk images, kept by slipway. May be deleted.\n";
/// Frames that wait to be written; beyond that they are not kept, so that a slow disk never slows a reader.
const QUEUE: usize = 64;
/// A file's time of last use is written down at most so often.
const TOUCH_EVERY: Duration = Duration::from_secs(600);

/// A folder for frames.
#[derive(Clone, Debug)]
pub struct FolderOptions {
    /// Is made, readable by this user only, if it does not exist.
    pub path: PathBuf,
    /// Bytes of frames in it at most.
    pub bytes: u64,
}

pub(super) struct Folder {
    shelf: Arc<Shelf>,
    queue: Option<SyncSender<(FrameKey, Vec<u8>)>>,
    writer: Option<JoinHandle<()>>,
    /// Held as long as the folder is used.
    _lock: File,
}

struct Shelf {
    path: PathBuf,
    rows: Mutex<Lru<FrameKey, SystemTime>>,
    complained: AtomicBool,
}

impl Folder {
    pub(super) fn open(options: &FolderOptions) -> Result<Self, TransferError> {
        let path = options.path.clone();
        let failed = |act| move |why| TransferError::io(act, options.path.display().to_string(), why);
        let lock = folder_take(&path).map_err(failed("using the cache folder"))?;
        let shelf = Shelf { path, rows: Mutex::new(Lru::new(options.bytes)), complained: AtomicBool::new(false) };
        shelf.scan().map_err(failed("reading the cache folder"))?;
        let shelf = Arc::new(shelf);
        let (queue, frames) = sync_channel(QUEUE);
        let writing = shelf.clone();
        let writer = std::thread::Builder::new().name("cache-writer".into()).spawn(move || writing.write_all(&frames));
        let writer = writer.map_err(failed("starting the writer of the cache folder"))?;
        Ok(Self { shelf, queue: Some(queue), writer: Some(writer), _lock: lock })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shelf.rows().weight()
    }

    pub(super) fn has(&self, key: &FrameKey) -> bool {
        self.shelf.rows().has(key)
    }

    /// The bytes of a frame, unchecked.
    pub(super) fn load(&self, key: &FrameKey) -> Option<Vec<u8>> {
        let used = *self.shelf.rows().get(key)?;
        match self.shelf.read(key, used) {
            Ok(bytes) => Some(bytes),
            Err(why) => {
                self.shelf.complain("reading", &why);
                self.forget(key);
                None
            }
        }
    }

    /// Lets the writer keep it, if the writer has room.
    pub(super) fn keep(&self, key: FrameKey, encoded: &[u8]) {
        if let Some(queue) = &self.queue {
            // Not kept is no harm: the frame will be fetched again.
            let _ = queue.try_send((key, encoded.to_vec()));
        }
    }

    pub(super) fn forget(&self, key: &FrameKey) {
        if self.shelf.rows().remove(key).is_some() {
            self.shelf.delete(key);
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // It ends when its queue is empty; a panic of it was its own.
            let _ = writer.join();
        }
    }
}

/// Makes the folder or finds it to be ours, and takes its lock.
fn folder_take(path: &Path) -> io::Result<File> {
    let made = match DirBuilder::new().mode(0o700).recursive(true).create(path) {
        Ok(()) => fs::metadata(path)?,
        Err(why) => return Err(why),
    };
    if made.mode() & 0o077 != 0 {
        let reason = "other users may open it, and it holds the bytes of images: chmod 700 it";
        return Err(io::Error::new(ErrorKind::PermissionDenied, reason));
    }
    let tag = path.join(TAG);
    let is_empty = fs::read_dir(path)?.next().is_none();
    if !is_empty && !fs::read_to_string(&tag).is_ok_and(|text| text == TAG_TEXT) {
        let reason = "it holds other files: name an empty folder, or one that does not exist";
        return Err(io::Error::new(ErrorKind::AlreadyExists, reason));
    }
    fs::write(&tag, TAG_TEXT)?;
    let lock = OpenOptions::new().read(true).open(&tag)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|why| match why {
        rustix::io::Errno::WOULDBLOCK => io::Error::new(ErrorKind::ResourceBusy, "another process uses it"),
        why => why.into(),
    })?;
    Ok(lock)
}

impl Shelf {
    fn rows(&self) -> MutexGuard<'_, Lru<FrameKey, SystemTime>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, key: &FrameKey) -> PathBuf {
        let name = format!("{}-{:x}", key.pack, key.offset);
        self.path.join("frames").join(&name[..2]).join(name)
    }

    /// Where frames are written before they have their name.
    fn fresh(&self) -> PathBuf {
        self.path.join("new")
    }

    /// Learns what an earlier process left, oldest first, and removes what has no name.
    fn scan(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.fresh()) {
            Err(why) if why.kind() != ErrorKind::NotFound => return Err(why),
            _ => fs::create_dir(self.fresh())?,
        }
        fs::create_dir_all(self.path.join("frames"))?;
        let mut found = Vec::new();
        for shelf in fs::read_dir(self.path.join("frames"))? {
            for file in fs::read_dir(shelf?.path())? {
                let file = file?;
                let (facts, name) = (file.metadata()?, file.file_name());
                let Some(key) = name.to_str().and_then(key_read) else { continue };
                found.push((facts.modified()?, key, facts.len()));
            }
        }
        found.sort_unstable();
        for (used, key, len) in found {
            self.put(key, used, len);
        }
        Ok(())
    }

    fn put(&self, key: FrameKey, used: SystemTime, len: u64) {
        let gone = self.rows().insert(key, used, len);
        gone.iter().for_each(|(key, _)| self.delete(key));
    }

    fn read(&self, key: &FrameKey, used: SystemTime) -> io::Result<Vec<u8>> {
        let mut file = File::open(self.file(key))?;
        let len = file.metadata()?.len();
        if len > FRAME_LEN_MAX as u64 {
            return Err(io::Error::new(ErrorKind::InvalidData, "a file is longer than any frame"));
        }
        let mut bytes = Vec::with_capacity(len as usize);
        file.read_to_end(&mut bytes)?;
        let now = SystemTime::now();
        if now.duration_since(used).is_ok_and(|since| since > TOUCH_EVERY) && file.set_modified(now).is_ok() {
            self.rows().insert(*key, now, len);
        }
        Ok(bytes)
    }

    fn write_all(&self, frames: &Receiver<(FrameKey, Vec<u8>)>) {
        for (key, bytes) in frames {
            if self.rows().has(&key) {
                continue;
            }
            match self.write(&key, &bytes) {
                Ok(()) => self.put(key, SystemTime::now(), bytes.len() as u64),
                Err(why) => self.complain("writing", &why),
            }
        }
    }

    /// Under another name first, so that a process that is killed leaves no half frame under a good one.
    fn write(&self, key: &FrameKey, bytes: &[u8]) -> io::Result<()> {
        let (fresh, file) = (self.fresh().join("frame"), self.file(key));
        let mut out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        out.write_all(bytes)?;
        drop(out);
        match fs::rename(&fresh, &file) {
            Err(why) if why.kind() == ErrorKind::NotFound => {
                file.parent().map_or(Ok(()), fs::create_dir_all)?;
                fs::rename(&fresh, &file)
            }
            renamed => renamed,
        }
    }

    fn delete(&self, key: &FrameKey) {
        match fs::remove_file(self.file(key)) {
            Err(why) if why.kind() != ErrorKind::NotFound => self.complain("deleting in", &why),
            _ => {}
        }
    }

    /// Once: a full disk fails for every frame.
    fn complain(&self, act: &str, why: &io::Error) {
        if !self.complained.swap(true, Ordering::Relaxed) {
            tracing::warn!(folder = %self.path.display(), %why, "{act} the cache folder; reading goes on without it where it must");
        }
    }
}

fn key_read(name: &str) -> Option<FrameKey> {
    let (pack, offset) = name.split_once('-')?;
    Some(FrameKey { pack: pack.parse().ok()?, offset: u64::from_str_radix(offset, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use super::{Folder, FolderOptions, FrameKey};
    use slipway_chunk::PackId;
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    fn key(n: u8) -> FrameKey {
        FrameKey { pack: PackId::from_bytes([n; 16]), offset: 0x1000 + u64::from(n) }
    }

    fn open(path: &Path, bytes: u64) -> Folder {
        Folder::open(&FolderOptions { path: path.to_owned(), bytes }).unwrap()
    }

    #[test]
    fn frames_outlive_the_process_oldest_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let cache = open(&path, 1000);
        (1..=5).for_each(|n| cache.keep(key(n), &[n; 200]));
        drop(cache);
        // One is used again; one was lost, one never got its name, and one is no frame's file.
        let cache = open(&path, 1000);
        assert_eq!(cache.bytes(), 1000);
        std::fs::write(path.join("new/frame"), b"half").unwrap();
        std::fs::remove_file(cache.shelf.file(&key(4))).unwrap();
        std::fs::write(path.join("frames").join("01").join("notes"), b"?").unwrap();
        let old = SystemTime::now() - Duration::from_secs(5000);
        for n in [1, 2, 3, 5] {
            let file = std::fs::File::options().write(true).open(cache.shelf.file(&key(n))).unwrap();
            file.set_modified(old + Duration::from_secs(n.into())).unwrap();
        }
        drop(cache);
        let cache = open(&path, 1000);
        assert_eq!(cache.load(&key(1)).unwrap(), [1; 200]);
        drop(cache);
        let cache = open(&path, 500);
        assert!(cache.has(&key(1)) && cache.has(&key(5)) && !cache.has(&key(3)));
        assert_eq!(cache.load(&key(5)).unwrap(), [5; 200]);
        assert!(!path.join("new/frame").exists() && !cache.shelf.file(&key(3)).exists());
        cache.forget(&key(5));
        assert!(cache.load(&key(5)).is_none() && !cache.shelf.file(&key(5)).exists());
    }

    #[test]
    fn folders_that_are_not_ours_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |path: &Path| {
            let why = Folder::open(&FolderOptions { path: path.to_owned(), bytes: 1 }).map(drop).unwrap_err();
            std::error::Error::source(&why).unwrap().to_string()
        };
        let cache = open(&folder.path().join("a/b"), 1000);
        assert_eq!(refused(&folder.path().join("a/b")), "another process uses it");
        drop(cache);
        let other = folder.path().join("other");
        std::fs::create_dir(&other).unwrap();
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(refused(&other).contains("chmod 700"));
        std::fs::set_permissions(&other, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(other.join("precious"), b"").unwrap();
        assert!(refused(&other).contains("other files"));
        assert!(other.join("precious").exists());
    }
}

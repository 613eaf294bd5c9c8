//! The file system as the kernel asks for it. What is here already is answered on the kernel's thread; what the server must be asked for
//! is answered by a thread that may wait, so that a slow server holds up nobody else.

use super::catalogue::{Catalogue, File, Folder, Found, TOP};
use super::follow::Follower;
use super::readers::{Readers, Refusal};
use fuser::{
    AccessFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;

/// How long the kernel believes a name or an attribute. It is told of changes besides.
const TTL: Duration = Duration::from_secs(1);
/// `lseek`'s numbers on Linux.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

/// Whose the files are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// The view, as the kernel asks it.
#[derive(Clone)]
pub(crate) struct Files(Arc<Inner>);

struct Inner {
    catalogue: Arc<Catalogue>,
    readers: Arc<Readers>,
    follower: Arc<Follower>,
    access: Access,
    runtime: Handle,
    /// Folders that are being read: their names as they were when they were opened.
    listings: Mutex<HashMap<u64, Arc<Vec<Entry>>>>,
    next: AtomicU64,
}

struct Entry {
    ino: u64,
    kind: FileType,
    name: String,
}

impl Files {
    pub(crate) fn new(
        catalogue: Arc<Catalogue>,
        readers: Arc<Readers>,
        follower: Arc<Follower>,
        access: Access,
    ) -> Self {
        let (listings, next) = (Mutex::default(), AtomicU64::new(1));
        Self(Arc::new(Inner { catalogue, readers, follower, access, runtime: Handle::current(), listings, next }))
    }

    /// Leaves the kernel's thread.
    fn apart(&self, work: impl FnOnce(&Self) + Send + 'static) {
        let files = self.clone();
        self.0.runtime.spawn_blocking(move || work(&files));
    }

    fn attr(&self, ino: u64, kind: FileType, changed: SystemTime) -> FileAttr {
        let Access { uid, gid } = self.0.access;
        let is_file = kind == FileType::RegularFile;
        FileAttr {
            ino: INodeNo(ino),
            size: 0,
            blocks: 0,
            atime: changed,
            mtime: changed,
            ctime: changed,
            crtime: changed,
            kind,
            perm: if is_file { 0o440 } else { 0o550 },
            nlink: if is_file { 1 } else { 2 },
            uid,
            gid,
            rdev: 0,
            blksize: 128 << 10,
            flags: 0,
        }
    }

    fn file_attr(&self, file: &File) -> FileAttr {
        // Blocks are what is not a hole, so that `du` and `cp --sparse` see it.
        FileAttr {
            size: file.size,
            blocks: file.data_bytes.min(file.size).div_ceil(512),
            ..self.attr(file.ino, FileType::RegularFile, file.created)
        }
    }

    fn folder_attr(&self, folder: &Folder) -> FileAttr {
        self.attr(folder.ino, FileType::Directory, folder.changed)
    }

    /// The file of a number, asking the server if need be; for threads that may wait.
    fn file_find(&self, folder: u64, number: u64) -> Result<Option<Arc<File>>, Errno> {
        for _ in 0..2 {
            match self.0.catalogue.file_named(folder, number) {
                Found::File(file) => return Ok(Some(file)),
                Found::Nothing => return Ok(None),
                Found::Ask(reference) => self.folder_ask(&reference)?,
            }
        }
        // It changes as fast as it is asked for, or is gone.
        Ok(None)
    }

    fn folder_ask(&self, reference: &slipway_api::ImageRef) -> Result<(), Errno> {
        self.0.runtime.block_on(self.0.follower.folder_refresh(reference)).map_err(|why| {
            tracing::warn!("listing {reference}: {}", crate::failure::chain(&why));
            Errno::EIO
        })
    }

    fn entries(&self, ino: u64) -> Result<Vec<Entry>, Errno> {
        let dots = [".", ".."].map(|name| Entry { ino: TOP, kind: FileType::Directory, name: name.into() });
        let mut entries = Vec::from(dots);
        entries[0].ino = ino;
        if ino == TOP {
            let folders = self.0.catalogue.folders().into_iter();
            entries.extend(folders.map(|folder| Entry {
                ino: folder.ino,
                kind: FileType::Directory,
                name: folder.id.to_string(),
            }));
            return Ok(entries);
        }
        let files = match self.0.catalogue.files(ino) {
            Ok(files) => files,
            Err(None) => return Err(Errno::ESTALE),
            Err(Some(reference)) => {
                self.folder_ask(&reference)?;
                self.0.catalogue.files(ino).map_err(|_| Errno::ESTALE)?
            }
        };
        entries.extend(files.iter().map(|file| Entry {
            ino: file.ino,
            kind: FileType::RegularFile,
            name: file.name(),
        }));
        Ok(entries)
    }

    fn listings(&self) -> MutexGuard<'_, HashMap<u64, Arc<Vec<Entry>>>> {
        self.0.listings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file with this inode, if it may still be read.
    fn living(&self, ino: INodeNo) -> Result<Arc<File>, Errno> {
        let file = self.0.catalogue.file(ino.0).ok_or(Errno::ESTALE)?;
        if file.is_gone() { Err(Errno::ESTALE) } else { Ok(file) }
    }

    /// Reads with all the time that the reader allows itself; for threads that may wait.
    fn read_wait(&self, file: &File, offset: u64, buf: &mut [u8]) -> Result<(), Errno> {
        let reference = self.0.catalogue.reference(file).ok_or(Errno::ESTALE)?;
        let reader = self.0.readers.get(file, &reference).map_err(errno)?;
        let read = reader.read_at(offset, buf);
        // Checked behind the read: what was deleted meanwhile is not given out any more.
        if file.is_gone() {
            return Err(Errno::ESTALE);
        }
        read.map_err(|why| errno(self.0.readers.refuse(file, &reference, &format!("reading at {offset} of"), &why)))
    }

    /// Reads what is here already, if all of it is.
    fn read_now(&self, file: &File, offset: u64, buf: &mut [u8]) -> bool {
        let reader = self.0.catalogue.reference(file).and_then(|reference| self.0.readers.ready(file, &reference));
        reader.is_some_and(|reader| matches!(reader.read_local(offset, buf), Ok(true))) && !file.is_gone()
    }
}

fn errno(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::Stale => Errno::ESTALE,
        Refusal::Forbidden => Errno::EACCES,
        Refusal::Failed => Errno::EIO,
    }
}

/// `N.img`, as it is written here and in no other way.
fn number_read(name: &OsStr) -> Option<u64> {
    let digits = name.to_str()?.strip_suffix(".img")?;
    let number = digits.parse::<u64>().ok()?;
    (number.to_string() == digits).then_some(number)
}

impl Filesystem for Files {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Only more speed where the kernel has it.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_background(64);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent.0 == TOP {
            let text = name.to_str().unwrap_or_default();
            let id = uuid::Uuid::try_parse(text).ok().filter(|id| id.to_string() == text);
            return match id.and_then(|id| self.0.catalogue.folder_named(&id)) {
                Some(folder) => reply.entry(&TTL, &self.folder_attr(&folder), Generation(0)),
                None => reply.error(Errno::ENOENT),
            };
        }
        let Some(number) = number_read(name) else { return reply.error(Errno::ENOENT) };
        match self.0.catalogue.file_named(parent.0, number) {
            Found::File(file) => reply.entry(&TTL, &self.file_attr(&file), Generation(0)),
            Found::Nothing => reply.error(Errno::ENOENT),
            Found::Ask(_) => self.apart(move |files| match files.file_find(parent.0, number) {
                Ok(Some(file)) => reply.entry(&TTL, &files.file_attr(&file), Generation(0)),
                Ok(None) => reply.error(Errno::ENOENT),
                Err(why) => reply.error(why),
            }),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, _nlookup: u64) {
        self.0.catalogue.forget(ino.0);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        if ino.0 == TOP {
            return reply.attr(&TTL, &self.attr(TOP, FileType::Directory, self.0.catalogue.changed()));
        }
        if let Some(folder) = self.0.catalogue.folder(ino.0) {
            return reply.attr(&TTL, &self.folder_attr(&folder));
        }
        match self.living(ino) {
            Ok(file) => reply.attr(&TTL, &self.file_attr(&file)),
            Err(why) => reply.error(why),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let file = match self.living(ino) {
            Ok(file) => file,
            Err(why) => return reply.error(why),
        };
        // An inode's bytes never change, so what the kernel has of them stays good.
        let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH;
        let Some(reference) = self.0.catalogue.reference(&file) else { return reply.error(Errno::ESTALE) };
        if self.0.readers.ready(&file, &reference).is_some() {
            return reply.opened(FileHandle(0), flags);
        }
        self.apart(move |files| match files.0.readers.get(&file, &reference) {
            Ok(_) => reply.opened(FileHandle(0), flags),
            Err(refusal) => reply.error(errno(refusal)),
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = match self.living(ino) {
            Ok(file) => file,
            Err(why) => return reply.error(why),
        };
        let len = file.size.saturating_sub(offset).min(size.into()) as usize;
        let mut buf = vec![0; len];
        if self.read_now(&file, offset, &mut buf) {
            return reply.data(&buf);
        }
        self.apart(move |files| match files.read_wait(&file, offset, &mut buf) {
            Ok(()) => reply.data(&buf),
            Err(why) => reply.error(why),
        });
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let file = match self.living(ino) {
            Ok(file) => file,
            Err(why) => return reply.error(why),
        };
        let hole = match whence {
            SEEK_DATA => false,
            SEEK_HOLE => true,
            _ => return reply.error(Errno::EINVAL),
        };
        let Some(offset) = u64::try_from(offset).ok().filter(|offset| *offset < file.size) else {
            return reply.error(Errno::ENXIO);
        };
        // The extents may have to be fetched.
        self.apart(move |files| {
            let Some(reference) = files.0.catalogue.reference(&file) else { return reply.error(Errno::ESTALE) };
            let sought = files.0.readers.get(&file, &reference).map_err(errno).and_then(|reader| {
                let sought = reader.seek(offset, hole);
                sought.map_err(|why| errno(files.0.readers.refuse(&file, &reference, "seeking in", &why)))
            });
            match sought {
                Ok(Some(at)) => reply.offset(at.cast_signed()),
                Ok(None) => reply.error(Errno::ENXIO),
                Err(why) => reply.error(why),
            }
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.apart(move |files| match files.entries(ino.0) {
            Ok(entries) => {
                let handle = files.0.next.fetch_add(1, Ordering::Relaxed);
                files.listings().insert(handle, Arc::new(entries));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(why) => reply.error(why),
        });
    }

    fn readdir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(entries) = self.listings().get(&fh.0).cloned() else { return reply.error(Errno::EBADF) };
        for (n, entry) in entries.iter().enumerate().skip(offset as usize) {
            if reply.add(INodeNo(entry.ino), n as u64 + 1, entry.kind, &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        self.listings().remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let (images, files) = self.0.catalogue.counts();
        reply.statfs(0, 0, 0, images + files, 0, 4096, 255, 4096);
    }

    // The kernel asks once and remembers that there is none of these.

    fn flush(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getxattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn listxattr(&self, _req: &Request, _ino: INodeNo, _size: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}

#[cfg(test)]
mod tests {
    use super::number_read;

    #[test]
    fn a_version_has_one_name() {
        for (name, number) in [
            ("0.img", Some(0)),
            ("17.img", Some(17)),
            ("18446744073709551615.img", Some(u64::MAX)),
            ("18446744073709551616.img", None),
            ("00.img", None),
            ("+1.img", None),
            ("1.IMG", None),
            ("1", None),
            (".img", None),
            ("-1.img", None),
        ] {
            assert_eq!(number_read(name.as_ref()), number, "{name}");
        }
    }
}

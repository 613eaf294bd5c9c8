//! An archive as a tree in memory.
//!
//! The archive is believed in nothing. Each path is resolved by the kernel as if the tree were all that there is, so neither `..` nor a link
//! leads out of it; absolute paths and `..` are refused anyway, since no honest archive has them. Devices and sockets are left out: the
//! mount would not let them work. Owners, modes (set-user-ID too), times and the attributes that belong to an image are kept.

use super::super::{filesystem, system};
use super::{stream_error, too_large};
use crate::refusal::DriverError;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use slipway_format::{TreeEntry, TreeError, TreeFormat, TreeReader, TreeWhat, Wrap};
use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::rc::Rc;

/// Extended attributes take memory that the size does not count.
const ATTRIBUTES_BYTES_MAX: usize = 16 << 20;
const BUFFER: usize = 128 << 10;

/// Unpacks into a file system in memory that is nowhere yet. Gives its mount, and what of the input is behind the archive's end.
pub(super) fn tree_make<R: Read>(
    format: TreeFormat,
    input: R,
    size: u64,
    entries: u64,
) -> Result<(OwnedFd, R), DriverError> {
    // The root of the tree counts too, and so do folders that the archive does not name.
    let own = vec![format!("size={size}"), format!("nr_inodes={}", entries + 1), "mode=0755".to_owned()];
    let options = filesystem::Options { attr: MountAttrFlags::MOUNT_ATTR_NODEV.bits(), own };
    let mount = filesystem::mounted("tmpfs", "slipway", &options)?;
    let root = rustix::fs::openat(&mount, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| system("open", Path::new("the tree"), errno))?;
    let root = Rc::new(root);
    let mut tree = Tree {
        root,
        folder: None,
        size,
        entries,
        entries_left: entries,
        attributes_left: ATTRIBUTES_BYTES_MAX,
        left_out: 0,
    };
    let mut reader = TreeReader::new(format, input);
    while let Some(entry) = reader.entry_next().map_err(archive_error)? {
        tree.entry_make(&entry, &mut reader)?;
    }
    if tree.left_out > 0 {
        tracing::info!(count = tree.left_out, "devices and sockets of an archive were left out");
    }
    Ok((mount, reader.into_inner()))
}

struct Tree {
    root: Rc<OwnedFd>,
    /// The folder that was used last, by its path: the next entry is mostly in the same one.
    folder: Option<(Vec<u8>, OwnedFd)>,
    size: u64,
    entries: u64,
    entries_left: u64,
    attributes_left: usize,
    left_out: u64,
}

const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_XDEV);

impl Tree {
    fn entry_make<R: Read>(&mut self, entry: &TreeEntry, reader: &mut TreeReader<R>) -> Result<(), DriverError> {
        self.entries_left = self.entries_left.checked_sub(1).ok_or_else(|| self.too_many())?;
        let path = path_of(&entry.path)?;
        if path.is_empty() {
            // The top itself: the archive says what it looks like.
            if entry.what != TreeWhat::Folder {
                return Err(refused(entry, "it stands for the top of the tree, and is no folder"));
            }
            let root = self.root.clone();
            return self.facts_set(root.as_fd(), entry).map_err(|errno| self.failed("fchmod", entry, errno));
        }
        let (folder, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&path[..0], &path[..]),
        };
        let folder = self.folder_open(folder).map_err(|errno| self.failed("mkdir", entry, errno))?;
        let made = match &entry.what {
            TreeWhat::File => self.file_make(folder.as_fd(), name, entry, reader)?,
            TreeWhat::Folder => self.folder_make(folder.as_fd(), name, &path, entry),
            TreeWhat::Symlink(to) => self.symlink_make(folder.as_fd(), name, to, entry),
            TreeWhat::Link(to) => self.link_make(folder.as_fd(), name, &path_of(to)?, entry, reader)?,
            TreeWhat::Pipe => self.pipe_make(folder.as_fd(), name, entry),
            TreeWhat::Device | TreeWhat::Socket => {
                self.left_out += 1;
                Ok(())
            }
        };
        self.folder = Some((path[..path.len() - name.len()].to_vec(), folder));
        made.map_err(|errno| self.failed("unpack", entry, errno))
    }

    fn too_many(&self) -> DriverError {
        let text = format!("the archive has more entries than the {} of uri.entries_limit", self.entries);
        DriverError::request("unpack", text)
    }

    fn failed(&self, step: &str, entry: &TreeEntry, errno: Errno) -> DriverError {
        match errno {
            Errno::NOSPC | Errno::FBIG => {
                let mut error = too_large(self.size);
                error.error.text.push_str(&format!(" (or more than {} entries), at {}", self.entries, shown(entry)));
                error
            }
            Errno::EXIST => refused(entry, "its place is taken by what is no folder, or by one"),
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::NAMETOOLONG | Errno::INVAL => {
                let mut error = system(step, Path::new(&shown(entry)), errno);
                error.status = 400;
                error
            }
            errno => system(step, Path::new(&shown(entry)), errno),
        }
    }

    fn open(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        loop {
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), INSIDE) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                opened => return opened,
            }
        }
    }

    /// A folder of the tree, made with those above it if it is not there.
    fn folder_open(&mut self, path: &[u8]) -> Result<OwnedFd, Errno> {
        if let Some((known, folder)) = self.folder.take()
            && known.strip_suffix(b"/").unwrap_or(&known) == path
        {
            return Ok(folder);
        }
        match self.open(path, FOLDER) {
            Err(Errno::NOENT) => {}
            opened => return opened,
        }
        let mut len = 0;
        for name in path.split(|byte| *byte == b'/') {
            let above = self.open(&path[..usize::saturating_sub(len, 1)], FOLDER)?;
            len += name.len() + 1;
            match self.open(&path[..len - 1], FOLDER) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&above, name, Mode::from(0o755))?;
                    rustix::fs::chmodat(&above, name, Mode::from(0o755), AtFlags::empty())?;
                }
                there => drop(there?),
            }
        }
        self.open(path, FOLDER)
    }

    /// Takes away what an earlier entry of the same name made, unless it is a folder.
    fn place_clear(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => Err(Errno::EXIST),
            Err(errno) => Err(errno),
        }
    }

    fn file_make<R: Read>(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        entry: &TreeEntry,
        reader: &mut TreeReader<R>,
    ) -> Result<Result<(), Errno>, DriverError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened =
            Self::place_clear(folder, name).and_then(|()| rustix::fs::openat(folder, name, flags, Mode::from(0o600)));
        match opened {
            Ok(file) => self.content_write(file, entry, reader),
            Err(errno) => Ok(Err(errno)),
        }
    }

    fn content_write<R: Read>(
        &mut self,
        file: OwnedFd,
        entry: &TreeEntry,
        reader: &mut TreeReader<R>,
    ) -> Result<Result<(), Errno>, DriverError> {
        let mut file = File::from(file);
        let mut buffer = vec![0; BUFFER.min(usize::try_from(entry.size).unwrap_or(BUFFER)).max(1)];
        loop {
            let got = reader.read(&mut buffer).map_err(|error| stream_error(error, Wrap::None))?;
            if got == 0 {
                break;
            }
            if let Err(error) = file.write_all(&buffer[..got]) {
                return Ok(Err(Errno::from_io_error(&error).unwrap_or(Errno::IO)));
            }
        }
        Ok(self.facts_set(file.as_fd(), entry))
    }

    fn folder_make(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        path: &[u8],
        entry: &TreeEntry,
    ) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Err(errno) = rustix::fs::mkdirat(folder, name, Mode::from(0o700)) {
            let facts = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(facts.st_mode) {
                _ if errno != Errno::EXIST => return Err(errno),
                FileType::Directory => {}
                // As with merged directories: the link stays, and the entries below it go where it leads, within the tree.
                FileType::Symlink if self.open(path, FOLDER).is_ok() => return Ok(()),
                _ => {
                    Self::place_clear(folder, name)?;
                    rustix::fs::mkdirat(folder, name, Mode::from(0o700))?;
                }
            }
        }
        let made = rustix::fs::openat(folder, name, flags, Mode::empty())?;
        self.facts_set(made.as_fd(), entry)
    }

    fn symlink_make(&mut self, folder: BorrowedFd<'_>, name: &[u8], to: &[u8], entry: &TreeEntry) -> Result<(), Errno> {
        Self::place_clear(folder, name)?;
        rustix::fs::symlinkat(to, folder, name)?;
        let (uid, gid) = owner(entry)?;
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::utimensat(folder, name, &times(entry), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn link_make<R: Read>(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        to: &[u8],
        entry: &TreeEntry,
        reader: &mut TreeReader<R>,
    ) -> Result<Result<(), Errno>, DriverError> {
        let linked = || {
            let target = self.open(to, OFlags::PATH | OFlags::NOFOLLOW)?;
            let facts = rustix::fs::fstat(&target)?;
            if FileType::from_raw_mode(facts.st_mode) == FileType::Directory {
                return Err(Errno::INVAL);
            }
            // The name that it has already may be named again.
            let there = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
            if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (facts.st_dev, facts.st_ino)) {
                return Ok(());
            }
            Self::place_clear(folder, name)?;
            rustix::fs::linkat(&target, "", folder, name, AtFlags::EMPTY_PATH)
        };
        match linked() {
            Ok(()) if entry.size > 0 => {}
            done => return Ok(done),
        }
        match self.open(to, OFlags::WRONLY | OFlags::TRUNC | OFlags::NOFOLLOW) {
            Ok(file) => self.content_write(file, entry, reader),
            Err(errno) => Ok(Err(errno)),
        }
    }

    fn pipe_make(&mut self, folder: BorrowedFd<'_>, name: &[u8], entry: &TreeEntry) -> Result<(), Errno> {
        Self::place_clear(folder, name)?;
        rustix::fs::mknodat(folder, name, FileType::Fifo, Mode::from(0o600), 0)?;
        let (uid, gid) = owner(entry)?;
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        rustix::fs::chmodat(folder, name, Mode::from(entry.mode), AtFlags::empty())
    }

    /// Owner first: a change of owner takes the set-user-ID bit and capabilities away.
    fn facts_set(&mut self, file: BorrowedFd<'_>, entry: &TreeEntry) -> Result<(), Errno> {
        let (uid, gid) = owner(entry)?;
        rustix::fs::fchown(file, Some(uid), Some(gid))?;
        rustix::fs::fchmod(file, Mode::from(entry.mode))?;
        for (name, value) in &entry.attributes {
            let is_user = name.starts_with("user.");
            // Others belong to the machine that packed it: labels of its policy, marks of its overlays.
            if !is_user && name != "security.capability" {
                continue;
            }
            let left = self.attributes_left.checked_sub(name.len() + value.len());
            self.attributes_left = left.ok_or(Errno::NOSPC)?;
            let name = CString::new(name.as_str()).map_err(|_| Errno::INVAL)?;
            match rustix::fs::fsetxattr(file, &name, value, XattrFlags::empty()) {
                // Kernels before 6.6 have none of these in memory.
                Err(Errno::OPNOTSUPP) if is_user => {}
                done => done?,
            }
        }
        rustix::fs::futimens(file, &times(entry))
    }
}

/// A path within the tree, without `.` and doubled slashes; empty for the top.
fn path_of(given: &[u8]) -> Result<Vec<u8>, DriverError> {
    let refused = |why: &str| {
        let shown = given[..given.len().min(80)].escape_ascii();
        Err(DriverError::request("unpack", format!("the archive has the path '{shown}', {why}")))
    };
    if given.starts_with(b"/") {
        return refused("which is absolute");
    }
    let mut path = Vec::with_capacity(given.len());
    for name in given.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return refused("which leads upwards"),
            name => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
            }
        }
    }
    Ok(path)
}

fn owner(entry: &TreeEntry) -> Result<(Uid, Gid), Errno> {
    // This number means "as it is" to the kernel.
    match [entry.uid, entry.gid].contains(&u32::MAX) {
        true => Err(Errno::INVAL),
        false => Ok((Uid::from_raw(entry.uid), Gid::from_raw(entry.gid))),
    }
}

fn times(entry: &TreeEntry) -> Timestamps {
    let time = Timespec { tv_sec: entry.modified, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn shown(entry: &TreeEntry) -> String {
    entry.path[..entry.path.len().min(80)].escape_ascii().to_string()
}

fn refused(entry: &TreeEntry, why: &str) -> DriverError {
    DriverError::request("unpack", format!("the archive has '{}': {why}", shown(entry)))
}

fn archive_error(error: TreeError) -> DriverError {
    match error {
        TreeError::Source(error) => stream_error(error, Wrap::None),
        unfit @ TreeError::Unfit { .. } => DriverError::request("unpack", unfit.to_string()),
    }
}

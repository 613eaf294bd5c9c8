//! A target that is compared and cannot be written.

use crate::aligned::ReadBuffer;
use crate::error::DiskError;
use crate::target::{Target, TargetFacts};

/// A file or block device, opened read-only: there is no way from here to [`Writing`](crate::Writing).
pub struct TargetReader {
    target: Target,
    mounted_at: Option<String>,
}

impl TargetReader {
    pub(crate) fn new(target: Target, mounted_at: Option<String>) -> TargetReader {
        TargetReader { target, mounted_at }
    }

    /// What is known about it.
    pub fn facts(&self) -> &TargetFacts {
        self.target.facts()
    }

    /// Where it, or a part of it, is mounted, for a file by way of a loop device: it may change while it is read.
    pub fn mounted_at(&self) -> Option<&str> {
        self.mounted_at.as_deref()
    }

    /// As [`Target::read`].
    ///
    /// # Errors
    /// [`DiskError::OutOfRange`] beyond the target's end, [`DiskError::Io`].
    pub fn read(&mut self, at: u64, len: usize) -> Result<&[u8], DiskError> {
        self.target.read(at, len)
    }

    /// As [`Target::read_into`].
    ///
    /// # Errors
    /// As [`Target::read`].
    pub fn read_into(&self, at: u64, len: usize, into: &mut ReadBuffer) -> Result<(), DiskError> {
        self.target.read_into(at, len, into)
    }

    /// As [`Target::hole_at`].
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn hole_at(&self, at: u64) -> Result<Option<u64>, DiskError> {
        self.target.hole_at(at)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use rustix::fs::{OFlags, fcntl_getfl};

    use crate::{Faults, Shape, TargetError, TargetOptions, target_open, target_open_to_read};

    const SHAPE: Shape = Shape { size: 5000, sector_size: 512 };

    #[test]
    fn files_are_opened_to_read_only() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let bytes: Vec<u8> = (0..6001_u32).map(|n| n as u8).collect();
        std::fs::write(at("file"), &bytes).unwrap();
        std::fs::set_permissions(at("file"), std::fs::Permissions::from_mode(0o444)).unwrap();
        symlink("file", at("link")).unwrap();
        for name in ["file", "link"] {
            let mut reader = target_open_to_read(&at(name), &SHAPE, Faults::none()).unwrap();
            // Root may write everything, so the mode alone would prove nothing.
            let flags = fcntl_getfl(reader.target.medium.file()).unwrap();
            assert_eq!(flags & OFlags::RWMODE, OFlags::RDONLY, "{name}");
            assert_eq!((reader.facts().size, reader.facts().tail_bytes, reader.mounted_at()), (6001, 1001, None));
            assert_eq!(reader.read(1, 6000).unwrap(), &bytes[1..]);
            assert!(reader.read(1, 6001).is_err());
            assert_eq!(reader.hole_at(0).unwrap(), None);
        }
    }

    #[test]
    fn many_read_what_nobody_writes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 5000]).unwrap();
        let open = || target_open_to_read(&path, &SHAPE, Faults::none());
        let both = (open().unwrap(), open().unwrap());
        let write = || target_open(&path, &SHAPE, &TargetOptions::default(), Faults::none());
        assert!(matches!(write(), Err(TargetError::Locked(_))));
        drop(both);
        let _writing = write().unwrap();
        assert!(matches!(open(), Err(TargetError::Locked(_))));
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        fn check(path: &Path, size: u64, expected: &str) {
            let shape = Shape { size, ..SHAPE };
            let error = target_open_to_read(path, &shape, Faults::none()).err().unwrap().to_string();
            assert_eq!(error.replace(&*path.parent().unwrap().to_string_lossy(), "DIR"), expected);
        }
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), [7; 5000]).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("folder", at("link")).unwrap();
        check(&at("absent"), 1, "DIR/absent does not exist");
        check(&at("dangling"), 1, "DIR/dangling does not exist");
        check(&at("folder"), 1, "DIR/folder is a directory, not a regular file or a block device");
        check(&at("link"), 1, "DIR/link is a directory, not a regular file or a block device");
        check(&at("file"), 5001, "DIR/file has 5000 bytes, the image needs 5001");
        check(&at("file"), 0, "an image of 0 bytes in sectors of 512 cannot be written anywhere");
        check(Path::new("/dev/null"), 1, "DIR/null is a character device, not a regular file or a block device");
        assert!(!at("absent").exists() && !at("nowhere").exists());
    }
}

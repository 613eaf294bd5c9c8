//! The lock on a data directory: SQLite mode has one server.

use crate::db::DbError;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Held for as long as this lives; the kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock file beside `path`, or says who holds it.
    pub fn take(path: &Path) -> Result<Self, DbError> {
        let lock: PathBuf = path.with_extension("lock");
        let shown = || lock.display().to_string();
        let fault = |source: std::io::Error| DbError::Lock { path: shown(), source };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&lock).map_err(fault)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = (&file).take(200).read_to_string(&mut holder);
                let holder = match holder.trim() {
                    "" => "another process".to_owned(),
                    text => text.to_owned(),
                };
                return Err(DbError::Held { path: path.display().to_string(), holder });
            }
            Err(errno) => return Err(fault(errno.into())),
        }
        file.set_len(0).map_err(fault)?;
        file.rewind().map_err(fault)?;
        writeln!(file, "process {}", std::process::id()).map_err(fault)?;
        Ok(Self { _file: file })
    }
}

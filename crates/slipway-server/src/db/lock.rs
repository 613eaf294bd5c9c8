//! The lock on a data directory: SQLite mode has one server.

use crate::db::DbError;
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Held for as long as this lives; the kernel takes it back when the process ends, however it ends.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// A doctor that looks who has the lock holds it for a moment; a server holds it for long.
const PATIENCE: [Duration; 4] =
    [Duration::from_millis(5), Duration::from_millis(10), Duration::from_millis(20), Duration::from_millis(40)];

fn lock_patiently(file: &File) -> Result<(), rustix::io::Errno> {
    let mut waits = PATIENCE.iter();
    loop {
        match (flock(file, FlockOperation::NonBlockingLockExclusive), waits.next()) {
            (Err(rustix::io::Errno::WOULDBLOCK), Some(wait)) => std::thread::sleep(*wait),
            (ended, _) => return ended,
        }
    }
}

impl DirLock {
    /// Takes the lock file beside `path`, or says who holds it.
    pub fn take(path: &Path) -> Result<Self, DbError> {
        let lock: PathBuf = path.with_extension("lock");
        let shown = || lock.display().to_string();
        let fault = |source: std::io::Error| DbError::Lock { path: shown(), source };
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(&lock).map_err(fault)?;
        match lock_patiently(&file) {
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

#[cfg(test)]
mod tests {
    use super::{DirLock, File, FlockOperation, flock};
    use std::time::Duration;

    #[test]
    fn a_look_delays_a_start_and_a_server_refuses_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slipway.sqlite");
        drop(DirLock::take(&path).unwrap());
        let looking = File::open(path.with_extension("lock")).unwrap();
        flock(&looking, FlockOperation::NonBlockingLockShared).unwrap();
        let look = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            drop(looking);
        });
        let held = DirLock::take(&path).unwrap();
        look.join().unwrap();
        let refused = DirLock::take(&path).unwrap_err().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        DirLock::take(&path).unwrap();
    }
}

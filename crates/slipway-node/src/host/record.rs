//! What of each container's life outlives the service: one small file each in the state directory, renamed into place.

use super::life::Kept;
use crate::crash::crash_point;
use slipway_api::node::ObjectId;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The files of all containers.
#[derive(Clone, Debug)]
pub(super) struct Records(PathBuf);

impl Records {
    pub(super) fn open(state_dir: &Path) -> io::Result<Self> {
        let dir = state_dir.join("containers");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }

    fn path(&self, id: ObjectId) -> PathBuf {
        self.0.join(format!("{id}.json"))
    }

    /// What is known of a container; nothing when its request was never answered. A file that makes no sense is none.
    pub(super) fn get(&self, id: ObjectId) -> Option<Kept> {
        serde_json::from_slice(&fs::read(self.path(id)).ok()?).ok()
    }

    /// Keeps it through a crash of the service; `firmly`, also through one of the node.
    pub(super) fn put(&self, id: ObjectId, kept: &Kept, firmly: bool) -> io::Result<()> {
        let (path, part) = (self.path(id), self.0.join(format!("{id}.part")));
        crash_point("record.put.before");
        let written = (|| {
            let mut file = fs::File::create(&part)?;
            file.write_all(&serde_json::to_vec(kept)?)?;
            if firmly {
                file.sync_data()?;
            }
            crash_point("record.put.written");
            fs::rename(&part, path)
        })();
        if written.is_err() {
            // On a full disk it would take the room that is left.
            let _ = fs::remove_file(&part);
        }
        written?;
        if firmly {
            fs::File::open(&self.0)?.sync_all()?;
        }
        crash_point("record.put.after");
        Ok(())
    }

    pub(super) fn forget(&self, id: ObjectId) -> io::Result<()> {
        crash_point("record.forget.before");
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                crash_point("record.forget.after");
                Ok(())
            }
        }
    }

    /// Removes the files of containers that are no more, and half-written ones.
    pub(super) fn sweep(&self, is_there: impl Fn(ObjectId) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            let whole = path.extension().is_some_and(|ending| ending == "json");
            if !(whole && id.is_some_and(&is_there)) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

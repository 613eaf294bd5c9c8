//! Footers of packs: from memory, from the cache folder, or from the pack itself.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use slipway_chunk::{Digest, Footer, PACK_TRAILER_LEN, PackTrailer};

use crate::blobs::Blobs;
use crate::cache::Cache;
use crate::error::StoreError;
use crate::faults::{Faults, OpKind};
use crate::id::BlobId;
use crate::ledger::BlobKind;
use crate::packmap::PackMap;

/// Bytes of decoded footers kept in memory. A pack of 64 MiB of fresh data takes about 0.3 MiB.
const FOOTERS_BYTES: usize = 16 << 20;

#[derive(Debug)]
pub(crate) struct Footers {
    memory: Cache<BlobId, Arc<PackMap>>,
    folder: Option<PathBuf>,
    faults: Faults,
}

impl Footers {
    /// `folder` is made if it is missing; one that cannot be made is done without.
    pub(crate) fn new(folder: Option<PathBuf>, faults: Faults) -> Footers {
        let folder = folder.filter(|folder| match fs::create_dir_all(folder) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "no folder for the index cache");
                false
            }
        });
        Footers { memory: Cache::new(FOOTERS_BYTES), folder, faults }
    }

    /// Remembers the footer of a pack that was just written.
    pub(crate) fn keep(&self, pack: BlobId, footer: &Footer) -> Arc<PackMap> {
        let map = Arc::new(PackMap::from_footer(footer));
        self.memory.put(pack, Arc::clone(&map), map.weight());
        self.file_write(pack, footer);
        map
    }

    /// The footer if it is decoded already.
    pub(crate) fn in_memory(&self, pack: BlobId) -> Option<Arc<PackMap>> {
        self.memory.get(&pack)
    }

    /// The footer of a pack of `len` bytes.
    ///
    /// # Errors
    /// `Damaged` when the pack is too short or its footer has another digest than its trailer says.
    pub(crate) fn load(&self, blobs: &Blobs, pack: BlobId, key: &str, len: u64) -> Result<Arc<PackMap>, StoreError> {
        if let Some(map) = self.memory.get(&pack) {
            return Ok(map);
        }
        let cached = self.file_read(pack);
        let footer = match cached {
            Some(footer) => footer,
            None => {
                let footer = footer_fetch(blobs, pack, key, len)?;
                self.file_write(pack, &footer);
                footer
            }
        };
        let map = Arc::new(PackMap::from_footer(&footer));
        self.memory.put(pack, Arc::clone(&map), map.weight());
        Ok(map)
    }

    // The cache is only speed: a planned fault, like a real one, makes it answer nothing.
    fn file_read(&self, pack: BlobId) -> Option<Footer> {
        let folder = self.folder.as_ref()?;
        match self.faults.next(OpKind::Read) {
            None => file_read(folder, pack),
            Some(_) => None,
        }
    }

    fn file_write(&self, pack: BlobId, footer: &Footer) {
        if let Some(folder) = &self.folder
            && self.faults.next(OpKind::Write).is_none()
        {
            file_write(folder, pack, footer);
        }
    }

    /// Forgets one pack's footer everywhere.
    pub(crate) fn forget(&self, pack: BlobId) {
        self.memory.remove(&pack);
        if let Some(folder) = &self.folder {
            // A file that stays is harmless: ids are never used again.
            let _ = fs::remove_file(file_path(folder, pack));
        }
    }

    /// Forgets all, so that the next look asks the packs themselves.
    pub(crate) fn clear(&self) {
        self.memory.clear();
        if let Some(folder) = &self.folder {
            let _ = fs::remove_dir_all(folder);
            let _ = fs::create_dir_all(folder);
        }
    }
}

/// Reads and verifies the footer at the end of a pack.
pub(crate) fn footer_fetch(blobs: &Blobs, pack: BlobId, key: &str, len: u64) -> Result<Footer, StoreError> {
    let damaged = |detail: String| StoreError::Damaged { kind: BlobKind::Pack, name: pack.to_string(), detail };
    let read = |range: std::ops::Range<u64>| {
        blobs.read(key, range).map_err(|error| match error {
            crate::blobs::BlobError::Missing(_) => damaged("its blob is missing".to_owned()),
            crate::blobs::BlobError::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                damaged("it is cut off".to_owned())
            }
            other => StoreError::from(other),
        })
    };
    let trailer_at =
        len.checked_sub(PACK_TRAILER_LEN as u64).ok_or_else(|| damaged("it is shorter than its trailer".to_owned()))?;
    let trailer = PackTrailer::decode(&read(trailer_at..len)?).map_err(|error| damaged(error.to_string()))?;
    if trailer.pack_len() != len {
        return Err(damaged(format!("its trailer speaks of {} bytes, its row of {len}", trailer.pack_len())));
    }
    let bytes = read(trailer.footer_offset..trailer_at)?;
    trailer.footer_decode(&bytes).map_err(|error| damaged(error.to_string()))
}

fn file_path(folder: &Path, pack: BlobId) -> PathBuf {
    folder.join(format!("{pack}.footer"))
}

// A cache file is a digest and the footer's encoding. It is never flushed: one that does not fit
// its digest is as good as none.
fn file_read(folder: &Path, pack: BlobId) -> Option<Footer> {
    let bytes = fs::read(file_path(folder, pack)).ok()?;
    let (digest, footer) = bytes.split_at_checked(Digest::LEN)?;
    if Digest::of(footer).as_bytes() != digest {
        return None;
    }
    Footer::decode(footer).ok()
}

fn file_write(folder: &Path, pack: BlobId, footer: &Footer) {
    let bytes = footer.encode();
    let part = folder.join(format!("{pack}.part"));
    let write = || -> io::Result<()> {
        let mut file = fs::File::create(&part)?;
        file.write_all(Digest::of(&bytes).as_bytes())?;
        file.write_all(&bytes)?;
        fs::rename(&part, file_path(folder, pack))
    };
    if let Err(error) = write() {
        tracing::debug!(%pack, %error, "writing index cache");
        let _ = fs::remove_file(&part);
    }
}

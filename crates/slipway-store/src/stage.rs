//! One blob on its way from a staged row to a live one.

use slipway_chunk::Digest;

use crate::blobs::BlobWriter;
use crate::error::StoreError;
use crate::faults::crash_point;
use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobKind, Ledger, NewBlob};
use crate::store::Store;

/// A staged row whose blob is being written. Dropped before `publish`, it takes back both.
pub(crate) struct Stage<'a> {
    store: &'a Store,
    ledger: &'a dyn Ledger,
    pub id: BlobId,
    key: String,
    settled: bool,
}

impl<'a> Stage<'a> {
    /// Inserts the row, then begins the blob. `name` is none for a pack, which is named by its id.
    pub(crate) fn begin(
        store: &'a Store,
        ledger: &'a dyn Ledger,
        space: &SpaceId,
        kind: BlobKind,
        name: Option<String>,
        upload: Option<&str>,
    ) -> Result<(Stage<'a>, BlobWriter), StoreError> {
        store.poison_check()?;
        let id = BlobId::random();
        let folder = kind.folder();
        // The id is part of every key: a blob that prune is deleting is never the one that an
        // upload of the same segment is writing.
        let (name, key) = match name {
            Some(name) => {
                let key = format!("{folder}/{space}/{name}.{id}");
                (name, key)
            }
            None => (id.to_string(), format!("{folder}/{space}/{id}")),
        };
        ledger.blob_stage(&NewBlob {
            id,
            space: space.clone(),
            kind,
            name,
            key: key.clone(),
            upload: upload.map(str::to_owned),
        })?;
        crash_point("blob_staged");
        let stage = Stage { store, ledger, id, key, settled: false };
        let writer = store.blobs.create(&stage.key)?;
        Ok((stage, writer))
    }

    /// Makes the blob durable, then its row live.
    pub(crate) fn publish(
        mut self,
        writer: BlobWriter,
        len: u64,
        frames_len: u64,
        digest: &Digest,
    ) -> Result<BlobId, StoreError> {
        writer.finish()?;
        crash_point("blob_durable");
        self.store.poison_check()?;
        // From here on the row may be live although the call says otherwise (a lost answer), so
        // nothing is taken back: prune finds what nobody refers to.
        self.settled = true;
        self.ledger.blob_live(&self.id, len, frames_len, digest)?;
        crash_point("blob_live");
        Ok(self.id)
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        // A poisoned store touches nothing more: what was staged is distrusted and left to prune.
        if self.settled || self.store.is_poisoned() {
            return;
        }
        if self.store.blobs.delete(&self.key).is_ok() {
            // A row that stays is doomed by prune when it is old.
            let _ = self.ledger.blob_forget(&self.id);
        }
    }
}

impl Store {
    /// Writes a segment or manifest as a new blob of the space.
    pub(crate) fn named_write(
        &self,
        space: &SpaceId,
        kind: BlobKind,
        name: String,
        bytes: &[u8],
        upload: Option<&str>,
        ledger: &dyn Ledger,
    ) -> Result<BlobId, StoreError> {
        let (stage, mut writer) = Stage::begin(self, ledger, space, kind, Some(name), upload)?;
        let written = std::io::Write::write_all(&mut writer, bytes);
        if let Err(source) = written {
            drop(writer);
            return Err(stage.write_error(source));
        }
        stage.publish(writer, bytes.len() as u64, 0, &Digest::of(bytes))
    }
}

impl Stage<'_> {
    /// Names the blob in an error of writing it.
    pub(crate) fn write_error(&self, source: std::io::Error) -> StoreError {
        StoreError::Blob(crate::blobs::BlobError::Io { act: "writing", key: self.key.clone(), source })
    }
}

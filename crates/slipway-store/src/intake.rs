//! Chunks in, packs out: what ingest and copy have in common.

use std::collections::{HashMap, HashSet};

use slipway_chunk::{ChunkId, EncodedFrame, FrameBuilder, Framer, PackWriter, Segment, SegmentId};

use crate::blobs::BlobWriter;
use crate::error::StoreError;
use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobKind, BlobState, Ledger};
use crate::stage::Stage;
use crate::store::{Store, footer_is_full, spaces_with};
use crate::usage::Usage;

/// A pack being written. The writer is dropped before the stage that takes its row back.
struct OpenPack<'a> {
    writer: PackWriter<BlobWriter>,
    stage: Stage<'a>,
    frames: u32,
}

/// Takes chunks in image order, stores those that no live pack of its spaces holds, and counts
/// what the content refers to. Frames lie in the packs in the order of their first chunks,
/// whatever the number of workers.
pub(crate) struct Intake<'a> {
    store: &'a Store,
    ledger: &'a dyn Ledger,
    space: SpaceId,
    lookup: Vec<SpaceId>,
    upload: String,
    framer: Framer,
    builder: FrameBuilder,
    /// Chunks in the builder, the framer or the open pack; finished packs answer by the index.
    pending: HashSet<ChunkId>,
    pack: Option<OpenPack<'a>>,
    pub usage: Usage,
    segments: HashMap<SegmentId, BlobId>,
}

impl<'a> Intake<'a> {
    pub(crate) fn new(
        store: &'a Store,
        ledger: &'a dyn Ledger,
        space: &SpaceId,
        lookup: &[SpaceId],
        upload: &str,
    ) -> Result<Intake<'a>, StoreError> {
        store.poison_check()?;
        store.index_sync(ledger)?;
        Ok(Intake {
            store,
            ledger,
            space: space.clone(),
            lookup: spaces_with(space, lookup),
            upload: upload.to_owned(),
            framer: Framer::new(store.config.workers, store.config.level),
            builder: FrameBuilder::new(),
            pending: HashSet::new(),
            pack: None,
            usage: Usage::default(),
            segments: HashMap::new(),
        })
    }

    /// Whether the chunk needs no bytes: it is here already, or on its way in.
    pub(crate) fn chunk_known(&mut self, id: &ChunkId, len: u32) -> Result<bool, StoreError> {
        if self.pending.contains(id) {
            return Ok(true);
        }
        let place = self.store.index.live(&self.store.blobs, &self.lookup, id)?;
        match place {
            Some(place) if place.len == len => {
                self.usage.mark(&place, &self.upload);
                Ok(true)
            }
            Some(_) | None => Ok(false),
        }
    }

    /// Takes a chunk in; `id` must be the BLAKE3 of `bytes`.
    pub(crate) fn chunk(&mut self, id: ChunkId, bytes: &[u8]) -> Result<(), StoreError> {
        if self.chunk_known(&id, bytes.len() as u32)? {
            return Ok(());
        }
        if !self.builder.fits(bytes.len()) {
            self.frame_submit()?;
        }
        self.builder.push(id, bytes);
        self.pending.insert(id);
        Ok(())
    }

    fn frame_submit(&mut self) -> Result<(), StoreError> {
        if self.builder.is_empty() {
            return Ok(());
        }
        let frame = self.builder.take();
        let done = self.framer.submit(frame);
        self.frames_append(&done)
    }

    fn frames_append(&mut self, frames: &[EncodedFrame]) -> Result<(), StoreError> {
        for frame in frames {
            self.frame_append(frame)?;
        }
        Ok(())
    }

    fn frame_append(&mut self, frame: &EncodedFrame) -> Result<(), StoreError> {
        let mut pack = match self.pack.take() {
            Some(pack) => pack,
            None => self.pack_begin()?,
        };
        pack.writer.frame_append(frame).map_err(|source| pack.stage.write_error(source))?;
        self.usage.mark_new(pack.stage.id, pack.frames, frame.bytes.len() as u32);
        pack.frames += 1;
        if pack.writer.len() >= self.store.config.pack_len || footer_is_full(&pack.writer) {
            self.pack_finish(pack)
        } else {
            self.pack = Some(pack);
            Ok(())
        }
    }

    fn pack_begin(&self) -> Result<OpenPack<'a>, StoreError> {
        let (stage, writer) =
            Stage::begin(self.store, self.ledger, &self.space, BlobKind::Pack, None, Some(&self.upload))?;
        let writer = PackWriter::new(writer).map_err(|source| stage.write_error(source))?;
        Ok(OpenPack { writer, stage, frames: 0 })
    }

    fn pack_finish(&mut self, pack: OpenPack<'a>) -> Result<(), StoreError> {
        let OpenPack { writer, stage, .. } = pack;
        let (writer, receipt) = writer.finish().map_err(|source| stage.write_error(source))?;
        let id = stage.publish(writer, receipt.len, receipt.frames_len, &receipt.digest)?;
        self.store.index.footer_keep(id, &receipt.footer);
        self.store.index_sync(self.ledger)?;
        for frame in &receipt.footer.frames {
            for (chunk, _) in &frame.chunks {
                self.pending.remove(chunk);
            }
        }
        Ok(())
    }

    /// Stores a finished segment unless its spaces have it. Its chunks may still be on their way:
    /// a segment alone proves nothing, and only a manifest makes it reachable.
    pub(crate) fn segment(&mut self, segment: &Segment) -> Result<(), StoreError> {
        let id = segment.id();
        if self.segments.contains_key(&id) {
            return Ok(());
        }
        let blob = self.named(BlobKind::Segment, id.to_string(), || segment.encode())?;
        self.segments.insert(id, blob);
        Ok(())
    }

    fn named(&self, kind: BlobKind, name: String, bytes: impl FnOnce() -> Vec<u8>) -> Result<BlobId, StoreError> {
        let found = self.ledger.blob_find(&self.lookup, kind, &name)?;
        match found {
            Some(row) if row.state == BlobState::Live => Ok(row.id),
            Some(_) | None => {
                self.store.named_write(&self.space, kind, name, &bytes(), Some(&self.upload), self.ledger)
            }
        }
    }

    /// Finishes all packs: every chunk that was taken in is then in a live one.
    pub(crate) fn flush(&mut self) -> Result<(), StoreError> {
        self.frame_submit()?;
        let rest = self.framer.drain();
        self.frames_append(&rest)?;
        match self.pack.take() {
            Some(pack) => self.pack_finish(pack),
            None => Ok(()),
        }
    }

    /// Writes the manifest, after everything it names is durable, and says which blobs a commit
    /// must touch.
    pub(crate) fn manifest(&mut self, root: String, bytes: Vec<u8>) -> Result<Vec<BlobId>, StoreError> {
        crate::faults::crash_point("manifest_before");
        let manifest = self.named(BlobKind::Manifest, root, || bytes)?;
        let mut blobs: Vec<BlobId> = self.usage.packs().collect();
        let mut segments: Vec<BlobId> = self.segments.values().copied().collect();
        segments.sort_unstable();
        blobs.extend(segments);
        blobs.push(manifest);
        Ok(blobs)
    }
}

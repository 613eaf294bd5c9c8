//! A version on the server: its manifest, segments and layouts, each checked before it is used.

use crate::TransferError;
use slipway_api::{Client, FindingReport, ImageRef, Version, VersionPick, VersionRef};
use slipway_chunk::{ChunkId, Layout, Manifest, PackId, Segment, SegmentId};
use slipway_disk::Shape;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Extents of segments that are kept, so that an image of some GiB needs each segment once: about 8 MiB.
const EXTENTS_KEPT: usize = 200_000;

/// A version that can be fetched; cheap to clone.
#[derive(Clone)]
pub struct RemoteContent(Arc<Inner>);

struct Inner {
    client: Client,
    image: ImageRef,
    /// The number, so that a channel that is moved meanwhile changes nothing.
    pick: VersionPick,
    version: Version,
    manifest: Manifest,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    segments: HashMap<SegmentId, Arc<Segment>>,
    order: VecDeque<SegmentId>,
    extents: usize,
}

impl RemoteContent {
    /// Finds the version that a reference means and reads its manifest.
    ///
    /// # Errors
    /// [`TransferError::Document`] when the manifest is not the one that the version's root names.
    pub async fn open(client: &Client, reference: &VersionRef) -> Result<Self, TransferError> {
        // Both at once: on a long line each question costs a round trip.
        let manifest_ask = client.version_manifest(&reference.image, &reference.pick);
        let (version, bytes) = tokio::join!(client.version_resolve(reference), manifest_ask);
        let version = version?;
        let pick = VersionPick::Number(version.number);
        let what = format!("manifest of {}:{}", reference.image, version.number);
        let decode = |bytes: &[u8]| {
            Manifest::decode(bytes).map_err(|source| TransferError::Format { what: what.clone(), source })
        };
        let mut manifest = decode(&bytes?)?;
        if manifest.root() != version.root && reference.pick != pick {
            // The channel was moved between the two answers.
            manifest = decode(&client.version_manifest(&reference.image, &pick).await?)?;
        }
        if manifest.root() != version.root || manifest.size != version.size {
            let reason = format!("it has the root {}, not {}", manifest.root(), version.root);
            return Err(TransferError::Document { what, reason });
        }
        let image = reference.image.clone();
        let kept = Mutex::default();
        Ok(Self(Arc::new(Inner { client: client.clone(), image, pick, version, manifest, kept })))
    }

    /// The version as the server describes it.
    pub fn version(&self) -> &Version {
        &self.0.version
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.0.manifest
    }

    /// What a target must hold.
    pub fn shape(&self) -> Shape {
        Shape { size: self.0.manifest.size, sector_size: self.0.manifest.sector_size }
    }

    /// `owner/name:N`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.0.image, self.0.pick)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn segment_count(&self) -> usize {
        self.0.manifest.segments.len()
    }

    /// The extents of segment `index`.
    pub(crate) async fn segment(&self, index: usize) -> Result<Arc<Segment>, TransferError> {
        if let Some(segment) = self.segment_kept(index) {
            return Ok(segment);
        }
        let segment = self.segment_fetch(index).await?;
        self.kept().keep(self.0.manifest.segments[index], segment.clone());
        Ok(segment)
    }

    /// The extents of segment `index`, if they are here already.
    pub(crate) fn segment_kept(&self, index: usize) -> Option<Arc<Segment>> {
        self.kept().segments.get(&self.0.manifest.segments[index]).cloned()
    }

    /// As [`segment`](Self::segment), but it is not kept here.
    pub(crate) async fn segment_fetch(&self, index: usize) -> Result<Arc<Segment>, TransferError> {
        let id = self.0.manifest.segments[index];
        let bytes = self.0.client.version_segment(&self.0.image, &self.0.pick, index).await?;
        let what = || format!("segment {index} of {}", self.name());
        if SegmentId::of(&bytes) != id {
            return Err(TransferError::Document { what: what(), reason: "its bytes have another digest".into() });
        }
        let segment =
            Arc::new(Segment::decode(&bytes).map_err(|source| TransferError::Format { what: what(), source })?);
        if segment.len() != self.0.manifest.segment_len(index) {
            return Err(TransferError::Document { what: what(), reason: "it has another length".into() });
        }
        Ok(segment)
    }

    /// Where the chunks of segment `index` lie now.
    pub(crate) async fn layout(&self, index: usize) -> Result<Layout, TransferError> {
        let bytes = self.0.client.version_layout(&self.0.image, &self.0.pick, index).await?;
        Layout::decode(&bytes).map_err(|source| {
            let what = format!("layout of segment {index} of {}", self.name());
            TransferError::Format { what, source }
        })
    }

    /// Tells the server of a bad chunk. That it cannot be told is no failure of the transfer.
    pub(crate) async fn finding_report(&self, chunk: &ChunkId, pack: &PackId) {
        let report = FindingReport { chunk: chunk.to_string(), pack: pack.to_string() };
        if let Err(why) = self.0.client.version_finding(&self.0.image, &self.0.pick, &report).await {
            tracing::warn!(%chunk, %pack, %why, "reporting a bad chunk");
        }
    }

    fn kept(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.0.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn keep(&mut self, id: SegmentId, segment: Arc<Segment>) {
        self.extents += segment.extents().len();
        if let Some(before) = self.segments.insert(id, segment) {
            self.extents -= before.extents().len();
        } else {
            self.order.push_back(id);
        }
        while self.extents > EXTENTS_KEPT && self.order.len() > 1 {
            let gone = self.order.pop_front().and_then(|id| self.segments.remove(&id));
            self.extents -= gone.map_or(0, |gone| gone.extents().len());
        }
    }
}

//! An image in: cut, hash, look up, compress, store, manifest last.

use slipway_chunk::{ChunkId, ChunkerParams, ImageBuilder, RawDigest, Run, Scan, SparseRead};

use crate::error::StoreError;
use crate::id::SpaceId;
use crate::intake::Intake;
use crate::ledger::Ledger;
use crate::prepare::Prepared;
use crate::store::{Progress, Store};

/// Bytes of image between two reports.
const REPORT_EVERY: u64 = 16 << 20;

/// Where an image goes.
#[derive(Debug, Clone)]
pub struct IngestSpec {
    /// New packs, segments and the manifest lie here.
    pub space: SpaceId,
    /// Spaces whose chunks may be used: every reader of the image may read them. `space` always is.
    pub lookup: Vec<SpaceId>,
    /// 512 or 4096.
    pub sector_size: u32,
    pub params: ChunkerParams,
    /// The upload whose lease keeps what is written until the commit.
    pub upload: String,
}

impl Store {
    /// Reads an image to its end and stores what is not there yet. Nothing refers to it until the
    /// caller commits [`Prepared::blobs`]. `progress` is told the bytes of image read.
    ///
    /// Memory: the scan's 4 MiB, four frames per worker, and the footer of one pack, beside the
    /// index.
    pub fn ingest(
        &self,
        spec: &IngestSpec,
        source: &mut dyn SparseRead,
        ledger: &dyn Ledger,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Prepared, StoreError> {
        let mut intake = Intake::new(self, ledger, &spec.space, &spec.lookup, &spec.upload)?;
        let mut image = ImageBuilder::new(spec.params, spec.sector_size);
        let mut scan = Scan::new(source, spec.params);
        let mut digest = DigestWithin::new(self.config.digest_zeros_max);
        let mut data_bytes = 0;
        let mut reported = 0;
        loop {
            match scan.next().map_err(StoreError::Source)? {
                None => break,
                Some(Run::Hole { len, .. }) => {
                    digest.zeros(len);
                    for segment in image.hole(len) {
                        data_bytes += segment.data_bytes();
                        intake.segment(&segment)?;
                    }
                }
                Some(Run::Data { bytes, .. }) => {
                    digest.data(bytes);
                    let id = ChunkId::of(bytes);
                    intake.chunk(id, bytes)?;
                    if let Some(segment) = image.chunk(id, bytes.len() as u32) {
                        data_bytes += segment.data_bytes();
                        intake.segment(&segment)?;
                    }
                }
            }
            if scan.position() - reported >= REPORT_EVERY {
                reported = scan.position();
                progress(Progress { step: "reading", done: reported, total: 0 });
            }
        }
        let (last, manifest) =
            image.finish().map_err(|source| StoreError::Format { what: "image".to_owned(), source })?;
        if let Some(segment) = last {
            data_bytes += segment.data_bytes();
            intake.segment(&segment)?;
        }
        intake.flush()?;
        let root = manifest.root();
        // The manifest is written last: until it exists no reader can reach the chunks above.
        let blobs = intake.manifest(root.to_string(), manifest.encode())?;
        progress(Progress { step: "reading", done: manifest.size, total: manifest.size });
        Ok(Prepared {
            root,
            size: manifest.size,
            sector_size: manifest.sector_size,
            data_bytes,
            stored_bytes: intake.usage.stored,
            new_bytes: intake.usage.new,
            digest: digest.finish(),
            blobs,
        })
    }
}

/// The digest of the raw image, given up when holes would make it cost more than the data.
struct DigestWithin {
    digest: Option<RawDigest>,
    zeros_left: u64,
}

impl DigestWithin {
    fn new(zeros_max: u64) -> DigestWithin {
        DigestWithin { digest: Some(RawDigest::new()), zeros_left: zeros_max }
    }

    fn data(&mut self, bytes: &[u8]) {
        if let Some(digest) = &mut self.digest {
            digest.data(bytes);
        }
    }

    fn zeros(&mut self, len: u64) {
        match self.zeros_left.checked_sub(len) {
            Some(left) => self.zeros_left = left,
            None => self.digest = None,
        }
        if let Some(digest) = &mut self.digest {
            digest.zeros(len);
        }
    }

    fn finish(self) -> Option<slipway_chunk::Digest> {
        self.digest.map(RawDigest::finish)
    }
}

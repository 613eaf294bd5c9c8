//! A content whose parts are all here, ready to be committed.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use slipway_chunk::{ChunkId, Digest, Manifest, Root, SegmentId};

use crate::error::StoreError;
use crate::id::{BlobId, SpaceId};
use crate::ledger::{BlobKind, BlobRow, BlobState, Ledger};
use crate::store::{Store, spaces_with};
use crate::usage::Usage;

/// Names looked up in one question to the ledger.
pub(crate) const NAMES_AT_ONCE: usize = 500;

/// For whom a content is prepared, and where its parts may lie.
#[derive(Debug, Clone)]
pub struct PrepareSpec {
    pub space: SpaceId,
    /// Spaces whose blobs may be used; `space` always is.
    pub lookup: Vec<SpaceId>,
    pub upload: String,
}

/// The receipt that a content is whole and durable. A commit must find every one of `blobs` live
/// in the same transaction, and count it as touched; a short count is `chunks_gone`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    pub root: Root,
    /// Bytes of the image.
    pub size: u64,
    pub sector_size: u32,
    /// 4096 × non-zero blocks.
    pub data_bytes: u64,
    /// Stored bytes of the distinct frames that hold its chunks, each counted once and whole.
    pub stored_bytes: u64,
    /// Those of them that this upload wrote.
    pub new_bytes: u64,
    /// BLAKE3 of the raw image, if it was computed on the way.
    pub digest: Option<Digest>,
    /// Packs, segments and manifest that it uses.
    pub blobs: Vec<BlobId>,
}

/// Counts what is missing and keeps the first.
#[derive(Debug)]
struct Missing<T> {
    count: u64,
    first: Option<T>,
}

impl<T> Missing<T> {
    fn none() -> Missing<T> {
        Missing { count: 0, first: None }
    }

    fn add(&mut self, thing: T) {
        self.count += 1;
        self.first.get_or_insert(thing);
    }
}

impl Store {
    /// Verifies that a content's segments are here and canonical and that every chunk lies in a
    /// live pack with the length that its segment says, then writes the manifest.
    ///
    /// # Errors
    /// `Format`, `SegmentsMissing` or `ChunksMissing`; nothing was written then.
    pub fn content_prepare(
        &self,
        spec: &PrepareSpec,
        manifest_bytes: &[u8],
        ledger: &dyn Ledger,
    ) -> Result<Prepared, StoreError> {
        self.poison_check()?;
        let manifest = Manifest::decode(manifest_bytes)
            .map_err(|source| StoreError::Format { what: "manifest".to_owned(), source })?;
        self.index_sync(ledger)?;
        let lookup = spaces_with(&spec.space, &spec.lookup);
        let rows = self.segments_live(&lookup, &manifest, ledger)?;

        let mut usage = Usage::default();
        let mut missing = Missing::none();
        // Data bytes of each distinct segment: images repeat segments of zeros by the thousand.
        let mut data_of: HashMap<SegmentId, u64> = HashMap::new();
        let mut data_bytes = 0;
        for (number, id) in manifest.segments.iter().enumerate() {
            if let Some(data) = data_of.get(id) {
                data_bytes += data;
                continue;
            }
            let segment = self.segment_of_row(&rows[id])?;
            if segment.len() != manifest.segment_len(number) {
                return Err(StoreError::Format {
                    what: format!("segment {id}"),
                    source: slipway_chunk::FormatError::NotCanonical {
                        what: "manifest",
                        rule: "a segment has another length than its place in the image",
                    },
                });
            }
            self.chunks_account(&lookup, &segment, &spec.upload, &mut usage, &mut missing)?;
            data_of.insert(*id, segment.data_bytes());
            data_bytes += segment.data_bytes();
        }
        segment_lens_check(&manifest)?;
        if let Some(first) = missing.first {
            return Err(StoreError::ChunksMissing { count: missing.count, first });
        }

        let root = manifest.root();
        let name = root.to_string();
        // The manifest is written last: until it exists no reader can reach the rest.
        let manifest_blob = match ledger.blob_find(&lookup, BlobKind::Manifest, &name)? {
            Some(row) if row.state == BlobState::Live => row.id,
            Some(_) | None => {
                crate::faults::crash_point("manifest_before");
                let upload = Some(spec.upload.as_str());
                let kind = BlobKind::Manifest;
                self.named_write(&spec.space, kind, name, manifest_bytes, upload, ledger)?
            }
        };
        let mut blobs: Vec<BlobId> = usage.packs().collect();
        blobs.extend(rows.values().map(|row| row.id));
        blobs.push(manifest_blob);
        Ok(Prepared {
            root,
            size: manifest.size,
            sector_size: manifest.sector_size,
            data_bytes,
            stored_bytes: usage.stored,
            new_bytes: usage.new,
            digest: None,
            blobs,
        })
    }

    /// A live row of each distinct segment.
    fn segments_live(
        &self,
        lookup: &[SpaceId],
        manifest: &Manifest,
        ledger: &dyn Ledger,
    ) -> Result<BTreeMap<SegmentId, BlobRow>, StoreError> {
        let mut rows = segment_rows(lookup, manifest, ledger)?;
        rows.retain(|_, row| row.state == BlobState::Live);
        let mut missing = Missing::none();
        let mut seen = std::collections::HashSet::new();
        for id in &manifest.segments {
            if seen.insert(*id) && !rows.contains_key(id) {
                missing.add(*id);
            }
        }
        match missing.first {
            None => Ok(rows),
            Some(first) => Err(StoreError::SegmentsMissing { count: missing.count, first }),
        }
    }

    fn chunks_account(
        &self,
        lookup: &[SpaceId],
        segment: &slipway_chunk::Segment,
        upload: &str,
        usage: &mut Usage,
        missing: &mut Missing<ChunkId>,
    ) -> Result<(), StoreError> {
        for (_, id, len) in segment.chunks() {
            match self.index.live(&self.blobs, lookup, &id)? {
                Some(place) if place.len == len => usage.mark(&place, upload),
                Some(_) | None => missing.add(id),
            }
        }
        Ok(())
    }
}

/// The row of each distinct segment, live before doomed; those without a row are left out.
pub(crate) fn segment_rows(
    spaces: &[SpaceId],
    manifest: &Manifest,
    ledger: &dyn Ledger,
) -> Result<BTreeMap<SegmentId, BlobRow>, StoreError> {
    let distinct: std::collections::BTreeSet<SegmentId> = manifest.segments.iter().copied().collect();
    let distinct: Vec<SegmentId> = distinct.into_iter().collect();
    let mut rows: BTreeMap<SegmentId, BlobRow> = BTreeMap::new();
    for ids in distinct.chunks(NAMES_AT_ONCE) {
        let names: Vec<String> = ids.iter().map(SegmentId::to_string).collect();
        for row in ledger.blobs_find(spaces, BlobKind::Segment, &names)? {
            let Ok(id) = row.name.parse::<SegmentId>() else {
                continue;
            };
            let better =
                rows.get(&id).is_none_or(|known| known.state != BlobState::Live && row.state == BlobState::Live);
            if better {
                rows.insert(id, row);
            }
        }
    }
    Ok(rows)
}

/// A segment that occurs twice has one length, so only the last place may differ from the rest:
/// the same id there and before it would be a segment of the wrong length somewhere.
fn segment_lens_check(manifest: &Manifest) -> Result<(), StoreError> {
    let count = manifest.segments.len();
    let Some((last, before)) = manifest.segments.split_last() else {
        return Ok(());
    };
    let short = manifest.segment_len(count - 1) != slipway_chunk::SEGMENT_LEN;
    if short && before.contains(last) {
        return Err(StoreError::Format {
            what: format!("segment {last}"),
            source: slipway_chunk::FormatError::NotCanonical {
                what: "manifest",
                rule: "a segment has another length than its place in the image",
            },
        });
    }
    Ok(())
}

//! Parts that may differ, read and told apart block by block.

use crate::failure::Failure;
use crate::progress::Progress;
use slipway_api::{DiffExtent, DiffKind, VersionDiff};
use slipway_chunk::{DiffRanges, blocks_diff};
use slipway_transfer::RemoteReader;

/// Bytes read at once on each side.
const STRIDE: u64 = 1 << 20;

/// The parts without what is the same in them. Holes are exact already: a block of zeros is always one.
pub(super) fn extents_exact(
    one: &RemoteReader,
    two: &RemoteReader,
    extents: &[DiffExtent],
    progress: &Progress,
) -> Result<Vec<DiffExtent>, Failure> {
    let total = extents.iter().filter(|extent| extent.kind == DiffKind::Changed).map(|extent| extent.length).sum();
    let (mut exact, mut done) = (Vec::new(), 0u64);
    let (mut x, mut y) = (Vec::new(), Vec::new());
    for extent in extents {
        if extent.kind != DiffKind::Changed {
            exact.push(*extent);
            continue;
        }
        let mut ranges = DiffRanges::default();
        let mut at = extent.offset;
        while at < extent.offset + extent.length {
            let len = STRIDE.min(extent.offset + extent.length - at);
            x.resize(len as usize, 0);
            y.resize(len as usize, 0);
            one.read_at(at, &mut x)?;
            two.read_at(at, &mut y)?;
            blocks_diff(at, &x, &y, &mut ranges);
            at += len;
            done += len;
            progress.at("compare", done, Some(total));
        }
        let parts = ranges.into_vec();
        exact.extend(parts.iter().map(|part| DiffExtent { offset: part.offset, length: part.len, kind: extent.kind }));
    }
    Ok(exact)
}

/// The sum of what really changed. What is told of chunks, which are stored and fetched whole, stays.
pub(super) fn bytes_exact(diff: &mut VersionDiff) {
    if let Some(bytes) = &mut diff.bytes {
        let changed = diff.extents.iter().filter(|extent| extent.kind == DiffKind::Changed);
        bytes.changed = changed.map(|extent| extent.length).sum();
    }
}

//! Verify: compare a target with a version, and change nothing.

use crate::compare::{Range, target_compare};
use crate::look::Readable;
use crate::{Caps, Control, RemoteContent, TransferError};
use slipway_disk::TargetReader;
use tokio::runtime::Handle;

/// What a comparison found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Checked {
    /// The target holds exactly the image.
    pub same: bool,
    /// The image's size; so many bytes were compared.
    pub size: u64,
    /// Data that is in its place.
    pub matched_bytes: u64,
    /// Bytes of chunks and of parts of holes that differ.
    pub differing_bytes: u64,
    /// The first differing ranges.
    pub ranges: Vec<Range>,
    /// There are more than these.
    pub ranges_more: bool,
    /// Bytes of the target behind the image, which were not looked at.
    pub tail_bytes: u64,
}

/// Reads the whole target, past the page cache where it allows that, and compares it with the version.
///
/// # Errors
/// When it cannot be read to the end. A target that differs is no error.
pub async fn target_verify(
    content: &RemoteContent,
    target: TargetReader,
    control: &Control,
) -> Result<Checked, TransferError> {
    let (content, control, runtime) = (content.clone(), control.clone(), Handle::current());
    // What differs is only counted.
    let nothing = Caps { index: 0, prints: 0, ..Caps::default() };
    let compare = move || {
        let found = target_compare(Readable::Reader(&target), &content, &nothing, &runtime, &control)?;
        Ok(Checked {
            same: found.is_same(),
            size: content.manifest().size,
            matched_bytes: found.matched,
            differing_bytes: found.lacking + found.unzero,
            ranges: found.ranges,
            ranges_more: found.ranges_more,
            tail_bytes: target.facts().tail_bytes,
        })
    };
    tokio::task::spawn_blocking(compare).await.map_err(|_| TransferError::Panicked)?
}

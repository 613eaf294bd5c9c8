//! Versions of a catalogue as block devices: read-only, each byte verified before the kernel gets it.

use super::exports::{Exports, version_spec};
use super::nbd::{self, Place, Server, Wanted, Watch};
use crate::export::{ExportReport, ExportSpec};
use crate::object::Proof;
use crate::refusal::DriverError;
use slipway_api::node::{AttachKind, AttachSlipway, ObjectId};

/// Seconds that a request waits for a process that is started again.
const DEAD_TIMEOUT: u64 = 30;
/// Seconds until a process that gives no answer is given up: more than it waits for its own server.
const TIMEOUT: u64 = 90;

pub(super) fn make(watch: &Watch, id: ObjectId, mark: String, block: &AttachSlipway) -> Result<Proof, DriverError> {
    let exports = watch.exports();
    let told = exports.begin(id, ExportSpec::Version(version_spec(block)?))?;
    let made = attach(watch, exports, id, mark, &told);
    made.inspect_err(|_| {
        if let Err(error) = exports.stop(id) {
            tracing::warn!(id, %error, "clearing away an export that did not come about");
        }
    })
}

fn attach(
    watch: &Watch,
    exports: &Exports,
    id: ObjectId,
    mark: String,
    told: &ExportReport,
) -> Result<Proof, DriverError> {
    let ExportReport::Ready { reference, size, sector_size } = told else {
        return Err(DriverError::other("slipway", "the process of the attachment gives no version"));
    };
    let (size, sector_size) = (*size, *sector_size);
    if size == 0 || !size.is_multiple_of(sector_size.into()) {
        let text = format!(
            "the version has {size} bytes, which are no whole sectors of {sector_size}, and a device has only whole ones; pull it, and attach the file as loopback"
        );
        return Err(DriverError::request("slipway", text));
    }
    let wanted = Wanted {
        id,
        kind: AttachKind::Slipway,
        mark,
        server: Server { at: Place::Unix(exports.files(id).socket()), export: String::new() },
        read_only: true,
        connections: 1,
        timeout: TIMEOUT,
        dead_timeout: DEAD_TIMEOUT,
        block_size: Some(sector_size),
    };
    let mut proof = nbd::attach(watch, wanted)?;
    proof.detail.insert("reference".to_owned(), reference.as_str().into());
    proof.detail.insert("size".to_owned(), size.into());
    Ok(proof)
}

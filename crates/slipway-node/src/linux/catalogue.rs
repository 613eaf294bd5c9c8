//! Versions of a catalogue as block devices: read-only, each byte verified before the kernel gets it.

use super::exports::{Exports, Listening};
use super::nbd::{self, Place, Server, Wanted, Watch};
use crate::object::Proof;
use crate::refusal::DriverError;
use slipway_api::node::{AttachKind, AttachSlipway, ObjectId};

/// Seconds that a request waits for a process that is started again.
const DEAD_TIMEOUT: u64 = 30;
/// Seconds until a process that gives no answer is given up: more than it waits for its own server.
const TIMEOUT: u64 = 90;

pub(super) fn make(watch: &Watch, id: ObjectId, mark: String, block: &AttachSlipway) -> Result<Proof, DriverError> {
    let exports = watch.exports();
    let listening = exports.begin(id, block)?;
    let made = attach(watch, exports, id, mark, listening);
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
    listening: Listening,
) -> Result<Proof, DriverError> {
    let Listening { socket, size, sector_size } = listening;
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
        server: Server { at: Place::Unix(socket), export: String::new() },
        read_only: true,
        connections: 1,
        timeout: TIMEOUT,
        dead_timeout: DEAD_TIMEOUT,
        block_size: Some(sector_size),
    };
    let mut proof = nbd::attach(watch, wanted)?;
    let reference = exports.files(id).spec().map(|spec| spec.reference).unwrap_or_default();
    proof.detail.insert("reference".to_owned(), reference.into());
    proof.detail.insert("size".to_owned(), size.into());
    Ok(proof)
}

/// The device first: while it is in use, its process stays.
pub(super) fn undo(watch: &Watch, id: ObjectId, mark: &str) -> Result<(), DriverError> {
    nbd::undo(watch, id, mark)?;
    watch.exports().stop(id)
}

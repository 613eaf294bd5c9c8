//! Block devices that are there already.

use super::io_error;
use crate::object::Proof;
use crate::refusal::DriverError;
use slipway_api::node::AttachLocal;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

pub(super) fn make(block: &AttachLocal) -> Result<Proof, DriverError> {
    let path = Path::new(&block.path);
    let facts = fs::metadata(path).map_err(|error| {
        let mut error = io_error("stat", path, &error);
        error.status = 400;
        error
    })?;
    if !facts.file_type().is_block_device() {
        return Err(DriverError::request("stat", format!("{} is not a block device", path.display())));
    }
    let mut proof = Proof { device: block.path.clone(), ..Proof::default() };
    proof.detail.insert("rdev".to_owned(), facts.rdev().into());
    Ok(proof)
}

/// Whether the same device is still behind the name.
pub(super) fn is_there(proof: &Proof) -> bool {
    let rdev = proof.detail.get("rdev").and_then(serde_json::Value::as_u64);
    fs::metadata(&proof.device).is_ok_and(|facts| facts.file_type().is_block_device() && Some(facts.rdev()) == rdev)
}

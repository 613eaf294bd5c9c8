//! The two directories of a service, closed to others.

use crate::failure::Failure;
use std::fs::{DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;

/// Makes a directory that only root enters.
pub(crate) fn dir_make(dir: &Path) -> Result<(), Failure> {
    let failed = |why: std::io::Error| io_failure(&format!("opening the directory {}", dir.display()), &why);
    if let Some(parent) = dir.parent() {
        // Others may look for the socket in it.
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(failed)
}

/// What a failed call on a file means for whoever started the service.
pub(crate) fn io_failure(act: &str, why: &std::io::Error) -> Failure {
    use std::io::ErrorKind as Kind;
    let (exit, next) = match why.kind() {
        Kind::PermissionDenied => (4, "check who owns the path and its directories"),
        Kind::NotFound => (3, "check the path"),
        Kind::AddrInUse => (5, "choose another address, or stop what uses it"),
        Kind::ResourceBusy => {
            (5, "stop that service first, or choose other directories with --run-dir and --state-dir")
        }
        Kind::StorageFull => (6, "make room there, then start the service again"),
        _ => (1, "look at the path and at 'dmesg', then start the service again"),
    };
    Failure::new(exit, format!("{act}: {why}"), next)
}

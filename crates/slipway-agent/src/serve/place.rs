//! The two directories of a service: closed to others, and held by one service at a time.

use crate::failure::Failure;
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Holds a directory until it is dropped or the process dies.
#[derive(Debug)]
pub(crate) struct Held(#[allow(dead_code, reason = "it is the lock")] File);

/// Makes a directory that only root enters, and takes it for this service.
pub(crate) fn dir_take(dir: &Path) -> Result<Held, Failure> {
    let failed = |why: std::io::Error| io_failure(&format!("opening the directory {}", dir.display()), &why);
    if let Some(parent) = dir.parent() {
        // Others may look for the socket in it.
        DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    std::fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(failed)?;
    let path = dir.join("service.lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    if slipway_node::lock_wait(&file).is_err() {
        let mut pid = String::new();
        let _ = file.read_to_string(&mut pid);
        let who = if pid.trim().is_empty() { "another service".to_owned() } else { format!("process {}", pid.trim()) };
        return Err(Failure::new(
            5,
            format!("the directory {} is in use by {who}", dir.display()),
            "stop that service first, or choose other directories with --run-dir and --state-dir",
        ));
    }
    // For people and for the next service's message; the lock itself is the kernel's.
    file.rewind()
        .and_then(|()| file.set_len(0))
        .and_then(|()| writeln!(file, "{}", std::process::id()))
        .map_err(failed)?;
    Ok(Held(file))
}

/// What a failed call on a file means for whoever started the service.
pub(crate) fn io_failure(act: &str, why: &std::io::Error) -> Failure {
    use std::io::ErrorKind as Kind;
    let (exit, next) = match why.kind() {
        Kind::PermissionDenied => (4, "check who owns the path and its directories"),
        Kind::NotFound => (3, "check the path"),
        Kind::AddrInUse => (5, "choose another address, or stop what uses it"),
        Kind::StorageFull => (6, "make room there, then start the service again"),
        _ => (1, "look at the path and at 'dmesg', then start the service again"),
    };
    Failure::new(exit, format!("{act}: {why}"), next)
}

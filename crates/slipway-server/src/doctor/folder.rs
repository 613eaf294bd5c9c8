//! The data folder and the disk below it.

use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::{Probe, size};
use crate::config::ServeOptions;
use crate::db::inspect::Facts;
use crate::rules::room::reserve_of;

/// A flush that takes longer makes every commit wait for it.
const FLUSH_SLOW: Duration = Duration::from_millis(500);

/// The folder, its rights, its disk, and whether a flush reaches it.
pub(super) fn folder_examine(options: &ServeOptions) -> Vec<Probe> {
    let folder = &options.data;
    let shown = folder.display();
    let meta = match std::fs::metadata(folder) {
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => return vec![absent(folder)],
        Err(why) => {
            let next = format!("run it as the user whose server it is, or look with 'ls -ld {shown}'");
            return vec![Probe::fail("data", format!("looking at the data folder {shown}: {}", why), next)];
        }
        Ok(meta) if !meta.is_dir() => {
            let next = "name a folder with --data, or move that file away";
            return vec![Probe::fail("data", format!("the data folder {shown} is not a folder"), next)];
        }
        Ok(meta) => meta,
    };
    let mut report = vec![rights(folder, &meta)];
    report.extend(space(folder, options.min_free_bytes, options.min_free_percent));
    report.push(flush(folder, &meta));
    report
}

fn absent(folder: &Path) -> Probe {
    let shown = folder.display();
    let above = folder.ancestors().skip(1).find(|above| above.is_dir()).unwrap_or(Path::new("/"));
    match rustix::fs::access(above, rustix::fs::Access::WRITE_OK) {
        Ok(()) => Probe::warn(
            "data",
            format!("the data folder {shown} is not there; the first start makes it"),
            format!("'slipway serve --data {shown}', or name the right folder with --data"),
        ),
        Err(_) => Probe::fail(
            "data",
            format!("the data folder {shown} is not there, and {} lets you make none", above.display()),
            format!("'mkdir -m 700 {shown}' as root, then give it to the server's user with 'chown'"),
        ),
    }
}

fn rights(folder: &Path, meta: &std::fs::Metadata) -> Probe {
    let shown = folder.display();
    let me = rustix::process::geteuid();
    if !me.is_root() && meta.uid() != me.as_raw() {
        return Probe::fail(
            "data",
            format!("the data folder {shown} belongs to user {}, you are {}", meta.uid(), me.as_raw()),
            format!("run doctor and serve as that user, or 'chown -R {} {shown}'", me.as_raw()),
        );
    }
    match meta.mode() & 0o077 {
        0 => Probe::ok("data", format!("{shown} is there and only its owner can enter it")),
        _ => Probe::warn(
            "data",
            format!(
                "the data folder {shown} is open to others (mode {:o}); it holds hashes of passwords",
                meta.mode() & 0o777
            ),
            format!("'chmod 700 {shown}'; the next start does so too"),
        ),
    }
}

/// What lies below the folder, by the magic numbers of statfs(2).
fn file_system(folder: &Path) -> Option<(&'static str, &'static str)> {
    let magic = rustix::fs::statfs(folder).ok()?.f_type as u64 & 0xffff_ffff;
    match magic {
        0x0102_1994 | 0x8584_58f6 => Some(("in memory", "everything is lost at the next restart of the machine")),
        0x6969 => Some(("on NFS", "locks and flushes depend on the other machine")),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => {
            Some(("on an SMB share", "locks and flushes depend on the other machine"))
        }
        0x0102_1997 => Some(("on a 9p share", "locks and flushes depend on the other machine")),
        0x794c_7630 => Some(("in a container's own layer", "everything is lost with the container")),
        0x4d44 => Some(("on FAT", "it knows neither rights nor large files")),
        _ => None,
    }
}

fn space(folder: &Path, reserve_bytes: u64, reserve_percent: u64) -> Vec<Probe> {
    let shown = folder.display();
    let free = match rustix::fs::statvfs(folder) {
        Ok(stat) => stat,
        Err(why) => {
            return vec![Probe::fail("space", format!("asking for free space of {shown}: {why}"), "look with 'df -h'")];
        }
    };
    let bytes = free.f_bavail.saturating_mul(free.f_frsize);
    let whole = free.f_blocks.saturating_mul(free.f_frsize);
    let reserve = reserve_of(whole, reserve_bytes, reserve_percent);
    let said = format!("{} of {} free, {} of them kept for deleting", size(bytes), size(whole), size(reserve));
    let more =
        "'slipway prune' frees what was deleted ('--now' at once), 'slipway image rm' deletes; or make the disk larger";
    let mut report = vec![match bytes {
        _ if bytes < reserve => Probe::fail("space", format!("{said}: uploads are refused (507)"), more),
        _ if bytes < reserve.saturating_mul(2) || bytes < whole / 20 => {
            Probe::warn("space", format!("{said}: uploads will soon be refused"), more)
        }
        _ => Probe::ok("space", said),
    }];
    if free.f_files > 0 && free.f_favail < 1000 {
        let next = "'df -i' shows who uses them; make a file system with more";
        report.push(Probe::fail(
            "space",
            format!("the disk of {shown} has only {} file numbers (inodes) left", free.f_favail),
            next,
        ));
    }
    if let Some((place, so)) = file_system(folder) {
        let next = "put the data folder on a local disk, or use PostgreSQL and S3";
        report.push(Probe::warn("disk", format!("the data folder {shown} lies {place}: {so}"), next));
    }
    report
}

/// A file that goes when the check is over, however it ends.
struct Trace(PathBuf);

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn flush(folder: &Path, meta: &std::fs::Metadata) -> Probe {
    let shown = folder.display();
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let begun = Instant::now();
    let tried = || -> std::io::Result<bool> {
        let mut file = std::fs::File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let trace = Trace(path.clone());
        let bytes = [0x5a; 4096];
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::File::open(folder)?.sync_all()?;
        let mut back = Vec::new();
        file.rewind()?;
        file.read_to_end(&mut back)?;
        drop(trace);
        Ok(back == bytes)
    };
    match tried() {
        Ok(false) => Probe::fail(
            "flush",
            format!("the disk of {shown} does not give back what was written to it"),
            "look at 'dmesg' and 'smartctl -a', and use another disk",
        ),
        Ok(true) if begun.elapsed() > FLUSH_SLOW => Probe::warn(
            "flush",
            format!(
                "writing and flushing 4 KiB in {shown} took {} ms; every commit waits for that",
                begun.elapsed().as_millis()
            ),
            "look at what else uses the disk with 'iostat -x 1', and at 'dmesg'",
        ),
        Ok(true) => Probe::ok("flush", format!("written, flushed and read back in {} ms", begun.elapsed().as_millis())),
        Err(why) => {
            let next = match why.kind() {
                std::io::ErrorKind::PermissionDenied => format!("run it as user {}, whose folder it is", meta.uid()),
                std::io::ErrorKind::StorageFull => "'slipway prune' frees space, or make the disk larger".to_owned(),
                std::io::ErrorKind::ReadOnlyFilesystem => {
                    format!("'mount -o remount,rw' its disk; 'findmnt -T {shown}' names it")
                }
                _ => "look at 'dmesg'; a disk that cannot flush loses what was answered with success".to_owned(),
            };
            Probe::fail("flush", format!("writing a file in {shown} and flushing it: {}", why), next)
        }
    }
}

/// Bodies of uploads by `PATCH` that no upload needs any more. A running server removes them once a minute.
pub(super) fn spool_examine(folder: &Path, facts: Option<&Facts>) -> Option<Probe> {
    let facts = facts?;
    let entries = std::fs::read_dir(folder).ok()?;
    let (mut needed, mut left, mut bytes) = (0u64, 0u64, 0u64);
    for entry in entries.flatten() {
        let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
        let Ok(meta) = entry.metadata() else { continue };
        // One that was begun after the rows were read is not left over.
        let fresh = meta.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
        if facts.uploads.contains(&name) || fresh.is_none_or(|age| age < Duration::from_secs(300)) {
            needed += 1;
        } else {
            (left, bytes) = (left + 1, bytes + meta.len());
        }
    }
    Some(match left {
        0 => Probe::ok("spool", format!("{needed} running uploads, nothing left over")),
        _ => Probe::warn(
            "spool",
            format!("{left} files with {} in {} belong to no running upload", size(bytes), folder.display()),
            "'slipway serve' removes those of uploads that have ended; others are not its own, look at them with 'ls -l'",
        ),
    })
}

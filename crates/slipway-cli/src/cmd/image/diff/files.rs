//! The files of ext4 in both versions.

use crate::failure::Failure;
use crate::progress::Progress;
use slipway_api::DiffExtent;
use slipway_chunk::{DiffKind as RangeKind, DiffRange};
use slipway_format::ext4::{Change, ChangeKind, CompareLimits, Ext4, Ext4Error, FileKind, Window, trees_compare};
use slipway_format::{ReadAt, Volume, volumes_find, volumes_pair};
use slipway_transfer::{RemoteReader, TransferError};
use std::io;
use std::time::{Duration, Instant};

/// Bytes of metadata that are read of one file system: some 60 million inodes.
const METADATA_MAX: u64 = 16 << 30;

/// What differs in one file system.
#[derive(Debug, serde::Serialize)]
pub(super) struct FileSystemDiff {
    /// The partition that it is in; null for an image without partitions.
    pub(super) partition: Option<u32>,
    /// What it is, as `blkid` calls it.
    pub(super) file_system: Option<String>,
    /// Its files were compared.
    pub(super) compared: bool,
    /// Why they were not, or what to bear in mind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) note: Option<String>,
    /// Names looked at, on both sides together.
    pub(super) entries: u64,
    /// Bytes of files that had to be read, on both sides together.
    pub(super) read_bytes: u64,
    pub(super) changes: Vec<FileDiff>,
    /// Changes that are not listed.
    pub(super) more: u64,
}

/// What became of one file.
#[derive(Debug, serde::Serialize)]
pub(super) struct FileDiff {
    /// `added`, `removed`, `changed`, `meta`, `renamed` or `unsure`.
    pub(super) kind: &'static str,
    /// From the root; bytes that are no UTF-8 are written as `\xNN`.
    pub(super) path: String,
    /// Its name before, if it was renamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<String>,
    /// `file`, `directory`, `link` …
    #[serde(rename = "type")]
    pub(super) file: &'static str,
    /// What of it is another.
    pub(super) what: Vec<&'static str>,
    pub(super) size_before: Option<u64>,
    pub(super) size_now: Option<u64>,
}

/// A version as those who look into images want it.
struct RemoteAt(RemoteReader);

impl ReadAt for RemoteAt {
    fn len(&self) -> u64 {
        self.0.size()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.0.read_at(offset, buf).map_err(io::Error::other)
    }
}

/// The parts that may differ, for those who compare file systems.
pub(super) fn ranges(extents: &[DiffExtent]) -> Vec<DiffRange> {
    extents
        .iter()
        .map(|extent| DiffRange { offset: extent.offset, len: extent.length, kind: RangeKind::Changed })
        .collect()
}

/// Compares the files in each file system of both versions.
pub(super) fn file_systems_compare(
    one: &RemoteReader,
    two: &RemoteReader,
    ranges: &[DiffRange],
    limit: Duration,
    progress: &Progress,
) -> Result<Vec<FileSystemDiff>, Failure> {
    let until = Instant::now() + limit;
    let find = |reader: &RemoteReader| volumes_find(&RemoteAt(reader.clone())).map_err(|why| unreadable(why.into()));
    let (left, right) = (find(one)?, find(two)?);
    let mut all = Vec::new();
    for (a, b) in volumes_pair(&left, &right) {
        let mut diff = FileSystemDiff {
            partition: b.or(a).and_then(|volume| volume.partition),
            file_system: b.or(a).and_then(|volume| volume.file_system).map(str::to_owned),
            compared: false,
            note: None,
            entries: 0,
            read_bytes: 0,
            changes: Vec::new(),
            more: 0,
        };
        match (a, b) {
            (Some(a), Some(b)) => volume_compare((one, a), (two, b), ranges, until, progress, &mut diff)?,
            (None, _) => diff.note = Some("only the newer version has this partition".into()),
            (_, None) => diff.note = Some("only the older version has this partition".into()),
        }
        all.push(diff);
    }
    Ok(all)
}

fn volume_compare(
    (one, a): (&RemoteReader, &Volume),
    (two, b): (&RemoteReader, &Volume),
    ranges: &[DiffRange],
    until: Instant,
    progress: &Progress,
    diff: &mut FileSystemDiff,
) -> Result<(), Failure> {
    let in_place = a.start == b.start;
    let within = clipped(ranges, b.start, a.len.min(b.len));
    if in_place && a.len == b.len && within.is_empty() {
        diff.compared = true;
        return Ok(());
    }
    let open = |reader: &RemoteReader, volume: &Volume| {
        let window = Window::new(RemoteAt(reader.clone()), volume.start, volume.len);
        window.map_or(Err(Ext4Error::Absent), |window| Ext4::open(Box::new(window), METADATA_MAX))
    };
    let (old, new) = match (open(one, a), open(two, b)) {
        (Ok(old), Ok(new)) => (old, new),
        (Err(Ext4Error::Absent), _) | (_, Err(Ext4Error::Absent)) => {
            diff.note = Some("its files are not compared: that is done in ext2, ext3 and ext4 only".into());
            return Ok(());
        }
        (Err(why), _) | (_, Err(why)) => return noted(why, diff),
    };
    let known = in_place.then_some(&within[..]);
    let mut tick = |_: u64| {
        progress.at("files", 0, None);
        Instant::now() < until
    };
    match trees_compare(&old, &new, known, &CompareLimits::default(), &mut tick) {
        Ok(Some(found)) => {
            diff.compared = true;
            (diff.entries, diff.read_bytes, diff.more) = (found.entries, found.read_bytes, found.more);
            diff.changes = found.changes.iter().map(file_diff).collect();
            if old.needs_replay() || new.needs_replay() {
                let text = "it was in use when it was taken: what its journal still held is not seen";
                diff.note = Some(text.into());
            }
            Ok(())
        }
        Ok(None) => {
            diff.note = Some("its files were not compared in time: --timeout gives it more".into());
            Ok(())
        }
        Err(why) => noted(why, diff),
    }
}

/// A file system that is damaged is said to be; a version that cannot be read fails the command.
fn noted(why: Ext4Error, diff: &mut FileSystemDiff) -> Result<(), Failure> {
    match why {
        why @ Ext4Error::Io(_) => Err(unreadable(why)),
        why => {
            diff.note = Some(format!("its files were not compared: {why}"));
            Ok(())
        }
    }
}

fn unreadable(why: Ext4Error) -> Failure {
    match why {
        Ext4Error::Io(why) if why.get_ref().is_some_and(|inner| inner.is::<TransferError>()) => {
            match why.into_inner().map(|inner| inner.downcast::<TransferError>()) {
                Some(Ok(inner)) => (*inner).into(),
                _ => Failure::new(crate::failure::exit::FAILED, "reading the version").next("run the command again"),
            }
        }
        why => Failure::new(crate::failure::exit::FAILED, format!("reading the version: {why}"))
            .next("'slipway image verify' says whether the version is whole"),
    }
}

/// The parts of ranges within a volume, from its beginning.
fn clipped(ranges: &[DiffRange], start: u64, len: u64) -> Vec<DiffRange> {
    let end = start + len;
    let inside = ranges.iter().filter(|range| range.offset < end && range.offset + range.len > start);
    inside
        .map(|range| {
            let (from, until) = (range.offset.max(start), (range.offset + range.len).min(end));
            DiffRange { offset: from - start, len: until - from, kind: range.kind }
        })
        .collect()
}

fn file_diff(change: &Change) -> FileDiff {
    FileDiff {
        kind: match change.kind {
            ChangeKind::Added => "added",
            ChangeKind::Removed => "removed",
            ChangeKind::Changed => "changed",
            ChangeKind::Meta => "meta",
            ChangeKind::Renamed => "renamed",
            ChangeKind::Unsure => "unsure",
        },
        path: path_text(&change.path),
        before: change.before.as_deref().map(path_text),
        file: match change.file {
            FileKind::File => "file",
            FileKind::Directory => "directory",
            FileKind::Link => "link",
            FileKind::Character => "character_device",
            FileKind::Block => "block_device",
            FileKind::Pipe => "pipe",
            FileKind::Socket => "socket",
            FileKind::Other => "other",
        },
        what: change.what.clone(),
        size_before: change.size_before,
        size_now: change.size_now,
    }
}

/// Names are bytes; those that are no text are shown so that they can be told apart.
fn path_text(path: &[u8]) -> String {
    match std::str::from_utf8(path) {
        Ok(text) => text.to_owned(),
        Err(_) => path.utf8_chunks().fold(String::new(), |mut out, chunk| {
            out.push_str(chunk.valid());
            chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
            out
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{RangeKind, clipped, path_text};
    use slipway_chunk::DiffRange;

    #[test]
    fn names_that_are_no_text_stay_apart() {
        assert_eq!(path_text("/etc/ä".as_bytes()), "/etc/ä");
        assert_eq!(path_text(b"/a\xff\xfeb"), "/a\\xff\\xfeb");
    }

    #[test]
    fn ranges_are_cut_to_a_partition() {
        let range = |offset, len| DiffRange { offset, len, kind: RangeKind::Changed };
        let all = [range(0, 10), range(95, 10), range(150, 10), range(190, 30), range(300, 5)];
        assert_eq!(clipped(&all, 100, 100), [range(0, 5), range(50, 10), range(90, 10)]);
    }
}

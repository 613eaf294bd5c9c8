//! For people.

use super::Answer;
use super::files::{FileDiff, FileSystemDiff};
use crate::human::{clean, count, size};
use crate::output::{Table, facts};
use slipway_api::{DiffKind, VersionDiff};

/// Parts that are shown unless all are wanted.
const PARTS: usize = 10;

pub(super) fn text(answer: &Answer, all: bool) -> String {
    let diff = &answer.diff;
    if diff.same {
        return format!("{} and {} are the same to the last byte\n", clean(&diff.from), clean(&diff.to));
    }
    let mut out = sums(diff);
    out.push_str(&parts(diff, all));
    for file_system in answer.file_systems.iter().flatten() {
        out.push_str(&files(file_system));
    }
    out
}

fn sums(diff: &VersionDiff) -> String {
    let bytes = diff.bytes.unwrap_or_default();
    let total = bytes.changed + bytes.became_hole + bytes.was_hole + bytes.cut_off + bytes.added;
    let some = |bytes: u64| if bytes == 0 { String::new() } else { size(bytes) };
    let sizes = match diff.from_size == diff.to_size {
        true => String::new(),
        false => format!("{} before, {} now", size(diff.from_size), size(diff.to_size)),
    };
    facts(&[
        ("Versions", format!("{} to {}", diff.from, diff.to)),
        ("Size", sizes),
        ("Differs", format!("{} in {}", size(total), count(diff.extents.len() as u64, "part"))),
        ("Changed", some(bytes.changed)),
        ("Became holes", some(bytes.became_hole)),
        ("Were holes", some(bytes.was_hole)),
        ("Cut off", some(bytes.cut_off)),
        ("Added", some(bytes.added)),
        ("Shared", size(bytes.shared)),
        ("Moved", bytes.moved.map(some).unwrap_or_default()),
        ("To fetch", bytes.stored.map(size).unwrap_or_default()),
    ])
}

fn parts(diff: &VersionDiff, all: bool) -> String {
    let shown = if all { diff.extents.len() } else { diff.extents.len().min(PARTS) };
    let mut table = Table::new(&[">OFFSET", ">LENGTH", "KIND"]);
    for extent in &diff.extents[..shown] {
        let kind = match extent.kind {
            DiffKind::Changed => "changed",
            DiffKind::BecameHole => "became a hole",
            DiffKind::WasHole => "was a hole",
            DiffKind::CutOff => "cut off",
            DiffKind::Added => "added",
        };
        table.row(vec![extent.offset.to_string(), extent.length.to_string(), kind.into()]);
    }
    let mut out = format!("\n{}", table.render());
    if shown < diff.extents.len() {
        out.push_str(&format!("and {} more: --extents lists all\n", diff.extents.len() - shown));
    }
    out
}

fn files(diff: &FileSystemDiff) -> String {
    let name = match (diff.partition, diff.file_system.as_deref()) {
        (Some(number), Some(kind)) => format!("Partition {number}, {kind}"),
        (Some(number), None) => format!("Partition {number}"),
        (None, Some(kind)) => format!("File system {kind}"),
        (None, None) => "No file system that is known".into(),
    };
    let changes = match (diff.compared, diff.changes.len()) {
        (false, _) => "not compared".to_owned(),
        (true, 0) => "no file differs".to_owned(),
        (true, some) => format!("{} in {}", count(some as u64 + diff.more, "change"), count(diff.entries, "name")),
    };
    let mut out = format!("\n{}: {changes}\n", clean(&name));
    if let Some(note) = &diff.note {
        out.push_str(&format!("{}\n", clean(note)));
    }
    for change in &diff.changes {
        out.push_str(&line(change));
    }
    if diff.more > 0 {
        out.push_str(&format!("and {} more\n", diff.more));
    }
    out
}

fn line(change: &FileDiff) -> String {
    let sign = match change.kind {
        "added" => 'A',
        "removed" => 'D',
        "changed" => 'M',
        "meta" => 'm',
        "renamed" => 'R',
        _ => '?',
    };
    let before = change.before.as_ref().map(|path| format!("{} -> ", clean(path))).unwrap_or_default();
    let slash = if change.file == "directory" && !change.path.ends_with('/') { "/" } else { "" };
    let what = if change.what.is_empty() { String::new() } else { format!("  ({})", change.what.join(", ")) };
    let sizes = match (change.size_before, change.size_now) {
        (Some(old), Some(new)) if old != new => format!("  {} -> {}", size(old), size(new)),
        (None, Some(new)) => format!("  {}", size(new)),
        _ => String::new(),
    };
    format!("{sign} {before}{}{slash}{what}{sizes}\n", clean(&change.path))
}

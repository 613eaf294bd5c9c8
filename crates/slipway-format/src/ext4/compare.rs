//! What differs between two file systems, file by file.
//!
//! The bytes of a file are read only where they may differ: a part that lies at the same place on both sides, in a range that is known to be the same, is
//! equal without being looked at. Everything is bounded: names, depth, changes that are kept, bytes that are read.

use super::{Ext4, Ext4Error, FileKind, Inode, Mapped, ROOT_INODE, damaged};
use slipway_chunk::DiffRange;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Bytes compared at once.
const STRIDE: usize = 1 << 20;

/// How far a comparison goes.
#[derive(Clone, Copy, Debug)]
pub struct CompareLimits {
    /// Names on both sides together.
    pub entries: u64,
    /// Directories within each other.
    pub depth: usize,
    /// Names in one directory.
    pub directory: usize,
    /// Changes that are kept, and names without counterpart on each side that are looked into; others are only counted.
    pub changes: usize,
    /// Bytes of files read on both sides together; what would need more is called unsure.
    pub read_bytes: u64,
}

impl Default for CompareLimits {
    fn default() -> Self {
        Self { entries: 20_000_000, depth: 1000, directory: 1_000_000, changes: 300_000, read_bytes: 64 << 30 }
    }
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its bytes, link target, device number or type are others.
    Changed,
    /// Only owner, permissions, times, flags or extended attributes are others.
    Meta,
    /// It has another name; if it changed besides, the change's `what` says so.
    Renamed,
    /// Whether its bytes are the same would have taken too much reading.
    Unsure,
}

/// A file that is not the same on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// From the root, beginning with `/`; any bytes.
    pub path: Vec<u8>,
    /// Its name before, if it was renamed.
    pub before: Option<Vec<u8>>,
    /// What became of it.
    pub kind: ChangeKind,
    /// What it is; of a removed one, what it was.
    pub file: FileKind,
    /// What of it is another: `bytes`, `type`, `target`, `device`, `mode`, `owner`, `mtime`, `flags`, `xattrs`.
    pub what: Vec<&'static str>,
    /// Its length before.
    pub size_before: Option<u64>,
    /// Its length now.
    pub size_now: Option<u64>,
}

/// What a comparison found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// In order of their paths.
    pub changes: Vec<Change>,
    /// Changes that were not kept; at least so many.
    pub more: u64,
    /// Names looked at, on both sides together.
    pub entries: u64,
    /// Bytes of files read, on both sides together.
    pub read_bytes: u64,
}

/// Compares the second file system with the first. `differing` are the ranges in which the two may differ, in bytes from their beginnings, in order; none if
/// that is not known, such as for file systems at different places of their images. `tick` hears the number of names now and then, and stops it by answering false.
///
/// # Errors
/// When one of them is damaged or hostile, or a limit is reached; none in the answer when it was stopped.
pub fn trees_compare(
    one: &Ext4,
    two: &Ext4,
    differing: Option<&[DiffRange]>,
    limits: &CompareLimits,
    tick: &mut dyn FnMut(u64) -> bool,
) -> Result<Option<Compared>, Ext4Error> {
    let mut walk = Walk {
        one,
        two,
        differing,
        limits,
        tick,
        found: Compared::default(),
        pairs: Vec::new(),
        removed: Pool::default(),
        added: Pool::default(),
        compared: HashMap::new(),
        stopped: false,
    };
    let (a, b) = (one.inode(ROOT_INODE)?, two.inode(ROOT_INODE)?);
    walk.pair(b"/", None, a, b)?;
    walk.run()?;
    if walk.stopped {
        return Ok(None);
    }
    let mut found = walk.found;
    found.changes.sort_by(|x, y| (&x.path, x.kind).cmp(&(&y.path, y.kind)));
    Ok(Some(found))
}

/// A file on one side whose name the other side does not have.
struct Lone {
    path: Vec<u8>,
    inode: Inode,
}

/// What tells an inode from one that used its number before.
type Birth = (u32, u32, FileKind, Option<i128>);

fn birth(inode: &Inode) -> Option<Birth> {
    // Neither says when it was made: then equal numbers say nothing.
    let known = inode.created.is_some_and(|at| at != 0) || inode.generation != 0;
    known.then_some((inode.number, inode.generation, inode.kind, inode.created))
}

/// Names without a counterpart, and the directories that were entered on this side.
#[derive(Default)]
struct Pool {
    fresh: Vec<Lone>,
    settled: Vec<Lone>,
    directories: HashSet<u32>,
}

struct Walk<'a> {
    one: &'a Ext4,
    two: &'a Ext4,
    differing: Option<&'a [DiffRange]>,
    limits: &'a CompareLimits,
    tick: &'a mut dyn FnMut(u64) -> bool,
    found: Compared,
    /// Directories of one name that are still to be compared.
    pairs: Vec<(Vec<u8>, Inode, Inode)>,
    removed: Pool,
    added: Pool,
    /// Whether the bytes of two inodes are the same: a file may have many names.
    compared: HashMap<(u32, u32), Option<bool>>,
    stopped: bool,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Ext4Error> {
        loop {
            while let Some((path, a, b)) = self.pairs.pop() {
                self.directories(&path, &a, &b)?;
                if self.stopped {
                    return Ok(());
                }
            }
            // Names that are gone and names that are new may be one file; only then are directories without a counterpart entered.
            if self.renames_find()? || self.lone_enter()? {
                continue;
            }
            break;
        }
        for lone in std::mem::take(&mut self.removed.settled) {
            self.lone_tell(lone, ChangeKind::Removed);
        }
        for lone in std::mem::take(&mut self.added.settled) {
            self.lone_tell(lone, ChangeKind::Added);
        }
        Ok(())
    }

    /// Counts names; false when it shall stop.
    fn count(&mut self, names: u64) -> Result<bool, Ext4Error> {
        let before = self.found.entries / 256;
        self.found.entries += names;
        if self.found.entries > self.limits.entries {
            return Err(damaged(format!("more than {} names", self.limits.entries)));
        }
        if self.found.entries / 256 != before && !(self.tick)(self.found.entries) {
            self.stopped = true;
        }
        Ok(!self.stopped)
    }

    fn directories(&mut self, path: &[u8], a: &Inode, b: &Inode) -> Result<(), Ext4Error> {
        let left = self.names(true, path, a)?;
        let mut right = self.names(false, path, b)?;
        for (name, number) in left {
            let below = join(path, &name);
            let a = self.one.inode(number)?;
            let other = right.remove(&name);
            if !self.count(1 + u64::from(other.is_some()))? {
                return Ok(());
            }
            match other {
                None => self.lone_keep(true, Lone { path: below, inode: a }),
                Some(number) => {
                    let b = self.two.inode(number)?;
                    self.pair(&below, None, a, b)?;
                }
            }
        }
        for (name, number) in right {
            if !self.count(1)? {
                return Ok(());
            }
            let inode = self.two.inode(number)?;
            self.lone_keep(false, Lone { path: join(path, &name), inode });
        }
        Ok(())
    }

    /// The names of a directory. One that is entered twice is a loop, or is made to look like one.
    fn names(&mut self, first: bool, path: &[u8], inode: &Inode) -> Result<BTreeMap<Vec<u8>, u32>, Ext4Error> {
        let (ext4, pool) = if first { (self.one, &mut self.removed) } else { (self.two, &mut self.added) };
        if !pool.directories.insert(inode.number) {
            return Err(damaged(format!("directory {} has two names, one is {}", inode.number, shown(path))));
        }
        if path.iter().filter(|byte| **byte == b'/').count() > self.limits.depth {
            return Err(damaged(format!("more than {} directories within each other", self.limits.depth)));
        }
        let names = ext4.directory(inode, self.limits.directory)?;
        Ok(names.into_iter().map(|(name, entry)| (name, entry.inode)).collect())
    }

    /// Compares two files that are one by name, or by a rename; directories are put off.
    fn pair(&mut self, path: &[u8], before: Option<Vec<u8>>, a: Inode, b: Inode) -> Result<(), Ext4Error> {
        if a.kind != b.kind {
            let change = Change {
                path: path.to_vec(),
                before,
                kind: ChangeKind::Changed,
                file: b.kind,
                what: vec!["type"],
                size_before: size_of(&a),
                size_now: size_of(&b),
            };
            self.tell(change);
            // What lies below one of them has lost its place, or gained it.
            self.below_lone(true, path, &a)?;
            return self.below_lone(false, path, &b);
        }
        let mut what = Vec::new();
        let mut unsure = false;
        match a.kind {
            FileKind::File => match self.bytes_same(&a, &b)? {
                Some(true) => {}
                Some(false) => what.push("bytes"),
                None => unsure = true,
            },
            FileKind::Link => {
                if self.one.link_read(&a)? != self.two.link_read(&b)? {
                    what.push("target");
                }
            }
            FileKind::Character | FileKind::Block => {
                if a.device() != b.device() {
                    what.push("device");
                }
            }
            FileKind::Directory | FileKind::Pipe | FileKind::Socket | FileKind::Other => {}
        }
        let content = !what.is_empty();
        self.meta_compare(&a, &b, &mut what)?;
        let kind = match (&before, content, unsure) {
            (Some(_), ..) => Some(ChangeKind::Renamed),
            (None, true, _) => Some(ChangeKind::Changed),
            (None, false, true) => Some(ChangeKind::Unsure),
            (None, false, false) => (!what.is_empty()).then_some(ChangeKind::Meta),
        };
        if let Some(kind) = kind {
            let (size_before, size_now) = (size_of(&a), size_of(&b));
            self.tell(Change { path: path.to_vec(), before, kind, file: b.kind, what, size_before, size_now });
        }
        if a.kind == FileKind::Directory {
            self.pairs.push((path.to_vec(), a, b));
        }
        Ok(())
    }

    fn meta_compare(&self, a: &Inode, b: &Inode, what: &mut Vec<&'static str>) -> Result<(), Ext4Error> {
        if a.mode != b.mode {
            what.push("mode");
        }
        if (a.uid, a.gid) != (b.uid, b.gid) {
            what.push("owner");
        }
        // A directory's time changes with every name in it, which is told by the names.
        if a.kind != FileKind::Directory && a.modified != b.modified {
            what.push("mtime");
        }
        if a.flags != b.flags {
            what.push("flags");
        }
        if self.attributes_differ(a, b)? {
            what.push("xattrs");
        }
        Ok(())
    }

    fn attributes_differ(&self, a: &Inode, b: &Inode) -> Result<bool, Ext4Error> {
        let (left, right) = (a.attributes_block, b.attributes_block);
        let size = self.one.block_size();
        let known = left == right && (left == 0 || (size == self.two.block_size() && self.is_same(left * size, size)));
        if known && a.extra == b.extra {
            return Ok(false);
        }
        Ok(self.one.attributes(a)? != self.two.attributes(b)?)
    }

    /// Whether nothing differs in a range that lies at the same place on both sides.
    fn is_same(&self, at: u64, len: u64) -> bool {
        self.differing_in(at, len).is_none_or(|(_, len)| len == 0)
    }

    /// The first part of a range that may differ; none if all of it is the same.
    fn differing_in(&self, at: u64, len: u64) -> Option<(u64, u64)> {
        let Some(ranges) = self.differing else { return Some((at, len)) };
        let first = ranges.partition_point(|range| range.offset + range.len <= at);
        let range = ranges.get(first).filter(|range| range.offset < at + len)?;
        let from = range.offset.max(at);
        Some((from, (range.offset + range.len).min(at + len) - from))
    }

    /// Whether two files have the same bytes; none if too much would have to be read.
    fn bytes_same(&mut self, a: &Inode, b: &Inode) -> Result<Option<bool>, Ext4Error> {
        if a.size != b.size {
            return Ok(Some(false));
        }
        let key = (a.number, b.number);
        let many = a.links > 1 && b.links > 1;
        if let Some(known) = self.compared.get(&key).filter(|_| many) {
            return Ok(*known);
        }
        let same = match a.is_inline() && b.is_inline() {
            true => Some(self.one.inline_data(a)? == self.two.inline_data(b)?),
            false => self.stored_same(a, b)?,
        };
        if many {
            self.compared.insert(key, same);
        }
        Ok(same)
    }

    fn stored_same(&mut self, a: &Inode, b: &Inode) -> Result<Option<bool>, Ext4Error> {
        let (left, right) = (self.one.runs(a)?, self.two.runs(b)?);
        let mut at = 0;
        while at < a.size {
            let (x, y) = (part(&left, at, a.size), part(&right, at, a.size));
            let len = x.1.min(y.1);
            // Bytes within an inode lie in no run.
            let in_inodes = a.is_inline() || b.is_inline();
            let mut rest = match (x.0, y.0) {
                (None, None) if !in_inodes => None,
                (Some(x), Some(y)) if x == y && self.one.block_size() == self.two.block_size() => {
                    self.differing_in(x, len).map(|(from, len)| (at + (from - x), len))
                }
                _ => Some((at, len)),
            };
            let end = at + len;
            while let Some((from, len)) = rest {
                match self.parts_same((a, &left), (b, &right), from, len)? {
                    Some(true) => {}
                    other => return Ok(other),
                }
                let next = from + len;
                rest = match (x.0, next < end) {
                    (Some(x), true) => {
                        self.differing_in(x + (next - at), end - next).map(|(from, len)| (at + (from - x), len))
                    }
                    _ => None,
                };
            }
            at = end;
        }
        Ok(Some(true))
    }

    /// Reads a part of both and compares.
    fn parts_same(
        &mut self,
        (a, left): (&Inode, &[Mapped]),
        (b, right): (&Inode, &[Mapped]),
        from: u64,
        len: u64,
    ) -> Result<Option<bool>, Ext4Error> {
        let mut done = 0;
        let (mut x, mut y) = (Vec::new(), Vec::new());
        while done < len {
            let step = (len - done).min(STRIDE as u64);
            if self.found.read_bytes + 2 * step > self.limits.read_bytes {
                return Ok(None);
            }
            self.found.read_bytes += 2 * step;
            x.resize(step as usize, 0);
            y.resize(step as usize, 0);
            self.one.file_read(a, left, from + done, &mut x)?;
            self.two.file_read(b, right, from + done, &mut y)?;
            if x != y {
                return Ok(Some(false));
            }
            done += step;
            if !(self.tick)(self.found.entries) {
                self.stopped = true;
                return Ok(None);
            }
        }
        Ok(Some(true))
    }

    /// Pairs names that are gone with new ones of the same inode; true if there were any.
    fn renames_find(&mut self) -> Result<bool, Ext4Error> {
        let mut gone: HashMap<Birth, Vec<Lone>> = HashMap::new();
        let mut rest = Vec::new();
        for lone in std::mem::take(&mut self.removed.fresh) {
            match birth(&lone.inode) {
                Some(birth) => gone.entry(birth).or_default().push(lone),
                None => rest.push(lone),
            }
        }
        let mut any = false;
        for lone in std::mem::take(&mut self.added.fresh) {
            let old = birth(&lone.inode).and_then(|birth| gone.get_mut(&birth)?.pop());
            match old {
                Some(old) => {
                    any = true;
                    self.pair(&lone.path, Some(old.path), old.inode, lone.inode)?;
                }
                None => self.added.fresh.push(lone),
            }
        }
        rest.extend(gone.into_values().flatten());
        self.removed.fresh.extend(rest);
        Ok(any && !self.stopped)
    }

    /// Enters the directories among the names without counterpart, one level; true if there is something new.
    fn lone_enter(&mut self) -> Result<bool, Ext4Error> {
        let mut any = false;
        for first in [true, false] {
            let pool = if first { &mut self.removed } else { &mut self.added };
            for lone in std::mem::take(&mut pool.fresh) {
                if lone.inode.kind == FileKind::Directory {
                    any = true;
                    self.below_lone(first, &lone.path, &lone.inode)?;
                }
                let pool = if first { &mut self.removed } else { &mut self.added };
                pool.settled.push(lone);
                if self.stopped {
                    return Ok(false);
                }
            }
        }
        Ok(any)
    }

    /// What lies below a directory that the other side does not have.
    fn below_lone(&mut self, first: bool, path: &[u8], inode: &Inode) -> Result<(), Ext4Error> {
        if inode.kind != FileKind::Directory {
            return Ok(());
        }
        for (name, number) in self.names(first, path, inode)? {
            if !self.count(1)? {
                return Ok(());
            }
            let ext4 = if first { self.one } else { self.two };
            let lone = Lone { path: join(path, &name), inode: ext4.inode(number)? };
            self.lone_keep(first, lone);
        }
        Ok(())
    }

    fn lone_keep(&mut self, first: bool, lone: Lone) {
        let pool = if first { &mut self.removed } else { &mut self.added };
        match pool.fresh.len() + pool.settled.len() < self.limits.changes {
            true => pool.fresh.push(lone),
            false => self.found.more += 1,
        }
    }

    fn lone_tell(&mut self, lone: Lone, kind: ChangeKind) {
        let size = size_of(&lone.inode);
        let (size_before, size_now) = match kind {
            ChangeKind::Removed => (size, None),
            ChangeKind::Added | ChangeKind::Changed | ChangeKind::Meta | ChangeKind::Renamed | ChangeKind::Unsure => {
                (None, size)
            }
        };
        let file = lone.inode.kind;
        self.tell(Change { path: lone.path, before: None, kind, file, what: Vec::new(), size_before, size_now });
    }

    fn tell(&mut self, change: Change) {
        match self.found.changes.len() < self.limits.changes {
            true => self.found.changes.push(change),
            false => self.found.more += 1,
        }
    }
}

fn size_of(inode: &Inode) -> Option<u64> {
    (inode.kind == FileKind::File).then_some(inode.size)
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
    [path, slash, name].concat()
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Where a file's byte `at` lies, if it is stored, and how far that goes on, at most to the file's end.
fn part(runs: &[Mapped], at: u64, size: u64) -> (Option<u64>, u64) {
    let first = runs.partition_point(|run| run.at + run.len <= at);
    match runs.get(first) {
        Some(run) if run.at <= at => (Some(run.disk + (at - run.at)), (run.at + run.len).min(size) - at),
        Some(run) => (None, run.at.min(size) - at),
        None => (None, size - at),
    }
}

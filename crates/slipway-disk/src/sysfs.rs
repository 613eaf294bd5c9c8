//! What the kernel says about a block device: its parts, what is built on it, what it is built on, where it is
//! mounted. Read from `/sys` and `/proc`, decided on plain values.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Dev {
    pub(crate) major: u32,
    pub(crate) minor: u32,
}

impl Dev {
    pub(crate) fn from_raw(dev: u64) -> Dev {
        Dev { major: rustix::fs::major(dev), minor: rustix::fs::minor(dev) }
    }

    fn parse(text: &str) -> Option<Dev> {
        let (major, minor) = text.trim().split_once(':')?;
        Some(Dev { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }

    /// The device a path leads to, when it is a block device.
    pub(crate) fn of_path(path: &Path) -> Option<Dev> {
        let meta = fs::metadata(path).ok()?;
        meta.file_type().is_block_device().then(|| Dev::from_raw(meta.rdev()))
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    pub(crate) dev: Dev,
    pub(crate) at: String,
    pub(crate) source: String,
    /// Whether the file system as a whole may be written, whatever this mount point allows.
    pub(crate) writable: bool,
}

/// Reads `mountinfo` (proc_pid_mountinfo(5)); lines that are not understood are left out.
pub(crate) fn mounts_parse(text: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(2);
        let dev = Dev::parse(fields.next()?)?;
        let at = unescape(fields.nth(1)?);
        let mut right = right.split(' ').skip(1);
        let source = unescape(right.next()?);
        let writable = right.next().is_none_or(|options| options.split(',').all(|option| option != "ro"));
        Some(Mount { dev, at, source, writable })
    };
    text.lines().filter_map(line).collect()
}

/// The swap areas in `/proc/swaps`: devices or files.
pub(crate) fn swaps_parse(text: &str) -> Vec<PathBuf> {
    let name = |line: &str| line.split_whitespace().next().map(|name| PathBuf::from(unescape(name)));
    text.lines().skip(1).filter_map(name).collect()
}

/// Undoes the kernel's `\040` for blanks in paths.
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let octal = bytes
            .get(at + 1..at + 4)
            .filter(|digits| bytes[at] == b'\\' && digits.iter().all(|d| (b'0'..=b'7').contains(d)));
        match octal {
            Some(digits) => {
                let value = digits.iter().fold(0_u32, |value, digit| value * 8 + u32::from(digit - b'0'));
                out.push(value as u8);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The tree of block devices under a `sysfs` mount.
pub(crate) struct Tree {
    root: PathBuf,
}

impl Tree {
    pub(crate) fn at(root: impl Into<PathBuf>) -> Tree {
        Tree { root: root.into() }
    }

    /// The device of this name, like `loop0`.
    pub(crate) fn named(&self, name: &str) -> Option<Dev> {
        Dev::parse(&fs::read_to_string(self.root.join("block").join(name).join("dev")).ok()?)
    }

    fn folder(&self, dev: Dev) -> Option<PathBuf> {
        let link = self.root.join(format!("dev/block/{}:{}", dev.major, dev.minor));
        fs::canonicalize(link).ok()
    }

    /// The kernel's name: `sda1`, `dm-0`; the number when `/sys` does not know it.
    pub(crate) fn name(&self, dev: Dev) -> String {
        let folder = self.folder(dev);
        let name = folder.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        name.unwrap_or_else(|| format!("{}:{}", dev.major, dev.minor))
    }

    pub(crate) fn is_read_only(&self, dev: Dev) -> bool {
        self.attribute(dev, "ro").is_some_and(|text| text == "1")
    }

    fn attribute(&self, dev: Dev, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.folder(dev)?.join(name)).ok()?;
        Some(text.trim().to_owned())
    }

    /// Vendor and model of the disk, whichever there are.
    pub(crate) fn model(&self, dev: Dev) -> Option<String> {
        let disk = self.disk_of(dev).unwrap_or(dev);
        let parts = ["device/vendor", "device/model"].map(|name| self.attribute(disk, name).unwrap_or_default());
        let text: String = parts.join(" ").chars().filter(|c| !c.is_control()).collect();
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// The whole disk of a partition.
    pub(crate) fn disk_of(&self, dev: Dev) -> Option<Dev> {
        let folder = self.folder(dev)?;
        if !folder.join("partition").exists() {
            return None;
        }
        Dev::parse(&fs::read_to_string(folder.parent()?.join("dev")).ok()?)
    }

    fn partitions_of(&self, dev: Dev) -> Vec<Dev> {
        let Some(folder) = self.folder(dev) else { return Vec::new() };
        let found = entries(&folder).into_iter().filter(|path| path.join("partition").exists());
        found.filter_map(|path| Dev::parse(&fs::read_to_string(path.join("dev")).ok()?)).collect()
    }

    /// Devices listed in `holders` or `slaves`.
    fn linked(&self, dev: Dev, name: &str) -> Vec<Dev> {
        let Some(folder) = self.folder(dev) else { return Vec::new() };
        let found = entries(&folder.join(name)).into_iter();
        found.filter_map(|path| Dev::parse(&fs::read_to_string(path.join("dev")).ok()?)).collect()
    }

    /// The device itself, its partitions, and everything built on them: what a write to it would change.
    pub(crate) fn above(&self, dev: Dev) -> BTreeSet<Dev> {
        self.closure(dev, |dev| {
            let mut next = self.partitions_of(dev);
            next.extend(self.linked(dev, "holders"));
            next
        })
    }

    /// The device itself, the disk it is a partition of, and everything it is built on.
    pub(crate) fn below(&self, dev: Dev) -> BTreeSet<Dev> {
        self.closure(dev, |dev| {
            let mut next = self.linked(dev, "slaves");
            next.extend(self.disk_of(dev));
            next
        })
    }

    /// Who holds the device itself, by name.
    pub(crate) fn holders(&self, dev: Dev) -> Vec<Dev> {
        self.linked(dev, "holders")
    }

    fn closure(&self, dev: Dev, next: impl Fn(Dev) -> Vec<Dev>) -> BTreeSet<Dev> {
        let mut found = BTreeSet::from([dev]);
        let mut open = vec![dev];
        while let Some(dev) = open.pop() {
            open.extend(next(dev).into_iter().filter(|dev| found.insert(*dev)));
        }
        found
    }

    /// Loop devices, by name, with the file or device that backs them.
    pub(crate) fn loops(&self) -> Vec<(String, PathBuf)> {
        let backing = |path: PathBuf| {
            let name = path.file_name()?.to_string_lossy().into_owned();
            let text = fs::read_to_string(path.join("loop/backing_file")).ok()?;
            Some((name, PathBuf::from(text.trim_end_matches('\n'))))
        };
        entries(&self.root.join("block")).into_iter().filter_map(backing).collect()
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(listing) = fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = listing.filter_map(|entry| Some(entry.ok()?.path())).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn mountinfo_lines() {
        fn check(line: &str, expected: Option<(u32, u32, &str, &str, bool)>) {
            let found = mounts_parse(line);
            let found = found.first().map(|m| (m.dev.major, m.dev.minor, m.at.as_str(), m.source.as_str(), m.writable));
            assert_eq!(found, expected);
        }
        check("22 1 254:0 / / rw,relatime - ext4 /dev/vda rw", Some((254, 0, "/", "/dev/vda", true)));
        check(
            "36 35 98:0 /mnt1 /mnt/a\\040b rw,noatime master:1 shared:7 - ext3 /dev/root rw",
            Some((98, 0, "/mnt/a b", "/dev/root", true)),
        );
        check("40 1 0:33 / /data rw - btrfs /dev/sdb1 rw", Some((0, 33, "/data", "/dev/sdb1", true)));
        check("40 1 7:0 / /m ro - ext4 /dev/loop0 rw,errors=ro", Some((7, 0, "/m", "/dev/loop0", true)));
        check("40 1 7:0 / /m ro - ext4 /dev/loop0 ro,noload", Some((7, 0, "/m", "/dev/loop0", false)));
        check("40 1 0:33 / /data rw", None);
        check("40 1 x:33 / /data rw - btrfs /dev/sdb1 rw", None);
        check("", None);
    }

    #[test]
    fn swap_lines() {
        let text = "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n/var/swap\\040file file 1 0 -3\n";
        assert_eq!(swaps_parse(text), [PathBuf::from("/dev/sda2"), PathBuf::from("/var/swap file")]);
        assert!(swaps_parse("").is_empty());
    }

    /// sda (8:0) with sda1 (8:1) and sda2 (8:2); dm-0 (253:0) on sda2; sdb (8:16) bare.
    fn tree_sample(root: &Path) -> Tree {
        let folders = [("sda", "8:0"), ("sda/sda1", "8:1"), ("sda/sda2", "8:2"), ("dm-0", "253:0"), ("sdb", "8:16")];
        for (path, dev) in folders {
            let folder = root.join("devices").join(path);
            fs::create_dir_all(folder.join("holders")).unwrap();
            fs::create_dir_all(folder.join("slaves")).unwrap();
            fs::create_dir_all(root.join("dev/block")).unwrap();
            fs::write(folder.join("dev"), format!("{dev}\n")).unwrap();
            if path.contains('/') {
                fs::write(folder.join("partition"), "1\n").unwrap();
            }
            symlink(&folder, root.join("dev/block").join(dev)).unwrap();
        }
        symlink(root.join("devices/dm-0"), root.join("devices/sda/sda2/holders/dm-0")).unwrap();
        symlink(root.join("devices/sda/sda2"), root.join("devices/dm-0/slaves/sda2")).unwrap();
        fs::write(root.join("devices/sdb/ro"), "1\n").unwrap();
        fs::create_dir_all(root.join("devices/sdb/device")).unwrap();
        fs::write(root.join("devices/sdb/device/model"), "Flash\u{1b}[2J Disk  \n").unwrap();
        Tree::at(root)
    }

    #[test]
    fn closures() {
        let root = tempfile::tempdir().unwrap();
        let tree = tree_sample(root.path());
        let names = |set: BTreeSet<Dev>| set.into_iter().map(|dev| tree.name(dev)).collect::<Vec<_>>().join(" ");
        let dev = |text| Dev::parse(text).unwrap();
        assert_eq!(names(tree.above(dev("8:0"))), "sda sda1 sda2 dm-0");
        assert_eq!(names(tree.above(dev("8:1"))), "sda1");
        assert_eq!(names(tree.above(dev("8:2"))), "sda2 dm-0");
        assert_eq!(names(tree.below(dev("253:0"))), "sda sda2 dm-0");
        assert_eq!(names(tree.below(dev("8:16"))), "sdb");
        assert_eq!(names(tree.above(dev("9:9"))), "9:9");
        assert_eq!(tree.disk_of(dev("8:2")), Some(dev("8:0")));
        assert_eq!(tree.disk_of(dev("8:0")), None);
        assert!(tree.is_read_only(dev("8:16")) && !tree.is_read_only(dev("8:0")));
        assert_eq!(tree.model(dev("8:16")).as_deref(), Some("Flash[2J Disk"));
        assert_eq!(tree.model(dev("8:0")), None);
    }
}

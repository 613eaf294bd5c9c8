//! Real disk images, made with the tools that people make them with; none needs root or a mount.

use super::image::{Chance, image_dense};
use super::{text, tool_run};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MIB: u64 = 1 << 20;
const TREE_BYTES: u64 = 6 * MIB;

/// An image and how to see whether it is whole.
pub struct Sample {
    pub name: &'static str,
    pub path: PathBuf,
    /// The sectors of the disks it is for.
    pub sector_size: u32,
    /// Looks at an image or device as its file system's own checker does.
    pub whole: fn(&Path),
}

impl Sample {
    pub fn size(&self) -> u64 {
        fs::metadata(&self.path).unwrap().len()
    }

    /// The reference under which it is pushed.
    pub fn reference(&self) -> String {
        format!("me/{}", self.name)
    }
}

fn anything(_: &Path) {}

fn sparse(path: &Path, len: u64) -> File {
    let file = File::create(path).unwrap();
    file.set_len(len).unwrap();
    file
}

/// A folder with this repository's sources and some files that do not compress.
pub fn tree(folder: &Path) -> PathBuf {
    let top = folder.join("tree");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/ is above");
    let mut left = TREE_BYTES / 2;
    tree_copy(sources, &top, &mut left);
    for number in 0..6 {
        fs::write(top.join(format!("data.{number}")), image_dense(number, 300_000 + 1000 * number as usize)).unwrap();
    }
    top
}

fn tree_copy(from: &Path, to: &Path, left: &mut u64) {
    fs::create_dir_all(to).unwrap();
    let mut entries: Vec<_> = fs::read_dir(from).unwrap().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let Ok(facts) = entry.metadata() else { continue };
        let target = to.join(entry.file_name());
        if facts.is_dir() {
            tree_copy(&entry.path(), &target, left);
        } else if facts.is_file() && facts.len() <= *left && fs::copy(entry.path(), &target).is_ok() {
            *left -= facts.len();
        }
    }
}

/// A description of a folder as `mkfs.xfs -p` reads it.
fn xfs_proto(tree: &Path, out: &Path) {
    fn folder(path: &Path, depth: usize, file: &mut impl Write) {
        let mut entries: Vec<_> = fs::read_dir(path).unwrap().flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name().into_string().expect("our own names are UTF-8");
            let pad = " ".repeat(depth);
            if entry.path().is_dir() {
                writeln!(file, "{pad}{name} d--755 0 0").unwrap();
                folder(&entry.path(), depth + 1, file);
            } else {
                writeln!(file, "{pad}{name} ---644 0 0 {}", entry.path().display()).unwrap();
            }
        }
        writeln!(file, "{}$", " ".repeat(depth)).unwrap();
    }
    let mut file = File::create(out).unwrap();
    writeln!(file, "/\n0 0\nd--755 0 0").unwrap();
    folder(tree, 0, &mut file);
}

pub fn ext4_whole(path: &Path) {
    tool_run("e2fsck", &["-f", "-n", text(path)]);
}

pub fn xfs_whole(path: &Path) {
    match path.starts_with("/dev") {
        true => tool_run("xfs_repair", &["-n", text(path)]),
        false => tool_run("xfs_repair", &["-n", "-f", text(path)]),
    };
}

pub fn btrfs_whole(path: &Path) {
    tool_run("btrfs", &["check", "--readonly", text(path)]);
}

/// Both partitions of [`gpt`] and the table's two halves; on a larger disk the backup is not at its end, which is as it should be.
pub fn gpt_whole(path: &Path) {
    let said = tool_run("sgdisk", &["-p", text(path)]);
    assert!(said.contains("EF00") && said.contains("8300"), "{said}");
    if !path.starts_with("/dev") {
        let said = tool_run("sgdisk", &["-v", text(path)]);
        assert!(said.contains("No problems found"), "{said}");
    }
}

/// ext4 with a tree in it.
pub fn ext4(folder: &Path, tree: &Path, name: &'static str, mib: u64) -> Sample {
    let path = folder.join(format!("{name}.raw"));
    sparse(&path, mib * MIB);
    tool_run("mke2fs", &["-q", "-F", "-t", "ext4", "-E", "root_owner=0:0", "-d", text(tree), text(&path)]);
    Sample { name, path, sector_size: 512, whole: ext4_whole }
}

/// xfs with a tree in it, for sectors of this size.
pub fn xfs(folder: &Path, tree: &Path, name: &'static str, sector_size: u32) -> Sample {
    let path = folder.join(format!("{name}.raw"));
    let proto = folder.join(format!("{name}.proto"));
    xfs_proto(tree, &proto);
    sparse(&path, 300 * MIB);
    let sector = format!("size={sector_size}");
    tool_run("mkfs.xfs", &["-q", "-f", "-s", &sector, "-p", text(&proto), text(&path)]);
    Sample { name, path, sector_size, whole: xfs_whole }
}

/// btrfs with a tree in it.
pub fn btrfs(folder: &Path, tree: &Path) -> Sample {
    let path = folder.join("btrfs.raw");
    sparse(&path, 128 * MIB);
    tool_run("mkfs.btrfs", &["-q", "-f", "--rootdir", text(tree), text(&path)]);
    Sample { name: "btrfs", path, sector_size: 512, whole: btrfs_whole }
}

/// A disk with a GPT, an EFI system partition and an ext4.
pub fn gpt(folder: &Path, ext4: &Path) -> Sample {
    let path = folder.join("gpt.raw");
    let esp = folder.join("esp.raw");
    let disk = sparse(&path, 112 * MIB);
    sparse(&esp, 34 * MIB);
    tool_run("mkfs.vfat", &["-F", "32", "-n", "ESP", text(&esp)]);
    tool_run("sgdisk", &["-n", "1:2048:+34M", "-t", "1:ef00", "-n", "2:0:+64M", "-t", "2:8300", text(&path)]);
    for (at, part) in [(MIB, &*esp), (35 * MIB, ext4)] {
        let bytes = fs::read(part).unwrap();
        for (number, block) in bytes.chunks(4096).enumerate().filter(|(_, block)| block.iter().any(|byte| *byte != 0)) {
            disk.write_all_at(block, at + number as u64 * 4096).unwrap();
        }
    }
    fs::remove_file(esp).unwrap();
    Sample { name: "gpt", path, sector_size: 512, whole: gpt_whole }
}

/// Nothing at all, 6 GiB of it.
pub fn empty(folder: &Path) -> Sample {
    let path = folder.join("empty.raw");
    sparse(&path, 6 << 30);
    Sample { name: "empty", path, sector_size: 512, whole: anything }
}

/// 100 GiB with a little data here and there, at the end too.
pub fn scattered(folder: &Path) -> Sample {
    let path = folder.join("scattered.raw");
    let len = 100u64 << 30;
    let file = sparse(&path, len);
    let mut chance = Chance::new(100);
    let mut bytes = vec![0; 48 << 10];
    for number in 0..64u64 {
        let at = number * (len / 64) + 4096 * chance.below(100_000) as u64;
        let part = &mut bytes[..4096 * (1 + chance.below(12))];
        chance.fill(part);
        file.write_all_at(part, at).unwrap();
    }
    file.write_all_at(b"the end", len - 7).unwrap();
    Sample { name: "scattered", path, sector_size: 512, whole: anything }
}

/// Data up to the last byte of a length that is no multiple of 4 KiB.
pub fn odd(folder: &Path, name: &'static str, len: u64) -> Sample {
    let path = folder.join(format!("{name}.raw"));
    fs::write(&path, super::image::image_fresh(len, len as usize)).unwrap();
    let end = File::options().write(true).open(&path).unwrap();
    end.write_all_at(b"last", len - 4).unwrap();
    Sample { name, path, sector_size: 512, whole: anything }
}

/// All of them; the one for disks with sectors of 4 KiB among them.
pub fn all(folder: &Path) -> Vec<Sample> {
    let tree = tree(folder);
    let ext4 = ext4(folder, &tree, "ext4", 64);
    vec![
        gpt(folder, &ext4.path),
        ext4,
        xfs(folder, &tree, "xfs", 512),
        xfs(folder, &tree, "xfs4k", 4096),
        btrfs(folder, &tree),
        odd(folder, "sectors", 5 * MIB + 1536),
        odd(folder, "bytes", 3 * MIB + 777),
        empty(folder),
        scattered(folder),
    ]
}

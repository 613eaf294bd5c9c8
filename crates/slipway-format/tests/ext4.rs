//! ext4 read and compared, with the file system's own tools as the oracle: mke2fs makes them, debugfs changes them and takes them apart.
#![allow(clippy::unwrap_used)]

use slipway_chunk::{DiffRange, DiffRanges, blocks_diff};
use slipway_format::ReadAt;
use slipway_format::ext4::{
    ChangeKind, CompareLimits, Compared, Ext4, Ext4Error, FileKind, ROOT_INODE, Window, trees_compare,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

fn tool(name: &str) -> Command {
    let path = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].iter().map(|folder| Path::new(folder).join(name));
    let path = path.into_iter().find(|path| path.exists()).unwrap_or_else(|| panic!("{name} is not installed"));
    let mut command = Command::new(path);
    command.stdin(Stdio::null()).env("MKE2FS_CONFIG", "/dev/null");
    command
}

fn run(command: &mut Command) -> String {
    let done = command.output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{command:?}: {text}");
    text
}

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("slipway-ext4-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Every kind of thing that a tree may hold: files of all sizes, holes, a large directory, short and long links, names with two inodes.
fn tree_make(root: &Path) {
    for folder in ["etc", "many", "deep/er/and/deeper", "empty"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (name, len) in
        [("nothing", 0), ("tiny", 20), ("small", 130), ("block", 4096), ("some", 50_000), ("large", 3_000_000)]
    {
        std::fs::write(root.join("etc").join(name), noise(len as u64, len)).unwrap();
    }
    for n in 0..1500 {
        std::fs::write(root.join(format!("many/a file with a rather long name, number {n}")), n.to_string()).unwrap();
    }
    let mut sparse = vec![0; 1_600_000];
    sparse[1_500_000..1_600_000].copy_from_slice(&noise(9, 100_000));
    std::fs::write(root.join("deep/er/sparse"), sparse).unwrap();
    symlink("tiny", root.join("etc/short-link")).unwrap();
    symlink("../".repeat(40), root.join("etc/long-link")).unwrap();
    std::fs::hard_link(root.join("etc/some"), root.join("deep/er/and/second-name")).unwrap();
    std::fs::write(root.join("deep/er/and/deeper/\u{fc}\u{4e2d} odd"), "odd").unwrap();
}

const KINDS: [(&str, &[&str]); 6] = [
    (
        "plain",
        &[
            "-I",
            "256",
            "-O",
            "extent,64bit,metadata_csum,dir_index,huge_file,flex_bg,sparse_super,filetype,extra_isize,has_journal,ext_attr",
        ],
    ),
    (
        "small blocks",
        &["-b", "1024", "-I", "256", "-O", "extent,dir_index,filetype,sparse_super,resize_inode,ext_attr"],
    ),
    ("old pointers", &["-b", "1024", "-I", "128", "-O", "filetype,dir_index,sparse_super,ext_attr"]),
    ("inline", &["-I", "256", "-O", "extent,inline_data,filetype,dir_index,64bit,metadata_csum,extra_isize,ext_attr"]),
    (
        "meta groups",
        &["-b", "1024", "-I", "256", "-g", "1024", "-O", "extent,meta_bg,64bit,filetype,sparse_super,ext_attr"],
    ),
    ("no file types", &["-I", "256", "-O", "extent,dir_index,sparse_super2,ext_attr"]),
];

fn image_make(folder: &Folder, options: &[&str], name: &str) -> PathBuf {
    let (root, image) = (folder.path("root"), folder.path(name));
    if !root.exists() {
        tree_make(&root);
    }
    let mut mke2fs = tool("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-E", "no_copy_xattrs", "-O", "none"]).args(options).arg("-d").arg(&root);
    run(mke2fs.arg(&image).arg("24m"));
    image
}

fn debugfs(image: &Path, lines: &str) {
    let script = image.with_extension("cmd");
    std::fs::write(&script, lines).unwrap();
    let said = run(tool("debugfs").arg("-w").arg("-f").arg(&script).arg(image));
    let wrong = ["Command not found", "not found by", "File exists", "Usage"].iter().find(|text| said.contains(**text));
    assert!(wrong.is_none(), "{said}");
}

fn open(image: &Path) -> Ext4 {
    Ext4::open(Box::new(std::fs::read(image).unwrap()), 1 << 30).unwrap()
}

/// Everything below the root: kind, bytes or link target.
fn tree_read(ext4: &Ext4) -> BTreeMap<String, (FileKind, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut todo = vec![(String::new(), ROOT_INODE)];
    while let Some((path, number)) = todo.pop() {
        let directory = ext4.inode(number).unwrap();
        for (name, entry) in ext4.directory(&directory, 1 << 20).unwrap() {
            let path = format!("{path}/{}", String::from_utf8(name).unwrap());
            let inode = ext4.inode(entry.inode).unwrap();
            let bytes = match inode.kind {
                FileKind::File => {
                    let runs = ext4.runs(&inode).unwrap();
                    let mut bytes = vec![1; inode.size as usize];
                    ext4.file_read(&inode, &runs, 0, &mut bytes).unwrap();
                    bytes
                }
                FileKind::Link => ext4.link_read(&inode).unwrap(),
                _ => Vec::new(),
            };
            if inode.kind == FileKind::Directory && path != "/lost+found" {
                todo.push((path.clone(), entry.inode));
            }
            all.insert(path, (inode.kind, bytes));
        }
    }
    all
}

fn tree_expected(root: &Path, at: &Path, all: &mut BTreeMap<String, (FileKind, Vec<u8>)>) {
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let name = format!("/{}", path.strip_prefix(root).unwrap().to_str().unwrap());
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        let thing = if kind.is_symlink() {
            (FileKind::Link, std::fs::read_link(&path).unwrap().to_str().unwrap().as_bytes().to_vec())
        } else if kind.is_dir() {
            tree_expected(root, &path, all);
            (FileKind::Directory, Vec::new())
        } else {
            (FileKind::File, std::fs::read(&path).unwrap())
        };
        all.insert(name, thing);
    }
}

#[test]
fn every_kind_of_file_system_is_read_as_it_was_made() {
    let folder = Folder::new();
    for (name, options) in KINDS {
        let image = image_make(&folder, options, "image");
        let ext4 = open(&image);
        let mut want = BTreeMap::new();
        tree_expected(&folder.path("root"), &folder.path("root"), &mut want);
        let mut have = tree_read(&ext4);
        have.remove("/lost+found");
        assert_eq!(have.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{name}");
        for (path, thing) in &want {
            assert!(have[path] == *thing, "{name}: {path}");
        }
        assert!(!ext4.needs_replay());
    }
}

#[test]
fn attributes_owners_and_times_are_read() {
    let folder = Folder::new();
    for (_, options) in KINDS {
        let image = image_make(&folder, options, "image");
        debugfs(
            &image,
            &format!(
                "ea_set etc/some user.note hello\nea_set etc/some user.long {}\nea_set etc/tiny security.capability xx\n\
             set_inode_field etc/some uid 70000\nset_inode_field etc/some mode 0104755\nset_inode_field etc/some mtime 1700000000\n",
                "v".repeat(300)
            ),
        );
        let ext4 = open(&image);
        let find = |path: &[&str]| {
            let mut inode = ext4.inode(ROOT_INODE).unwrap();
            for name in path {
                let names = ext4.directory(&inode, 1 << 20).unwrap();
                inode = ext4.inode(names[name.as_bytes()].inode).unwrap();
            }
            inode
        };
        let some = find(&["etc", "some"]);
        assert_eq!((some.uid, some.mode, some.links, some.modified / 1_000_000_000), (70000, 0o4755, 2, 1_700_000_000));
        let names: Vec<_> = ext4.attributes(&some).unwrap();
        let text: Vec<_> =
            names.iter().map(|one| (String::from_utf8(one.name.clone()).unwrap(), one.value.len())).collect();
        assert_eq!(text, [("user.long".to_owned(), 300), ("user.note".to_owned(), 5)]);
        assert_eq!(ext4.attributes(&find(&["etc", "tiny"])).unwrap()[0].name, b"security.capability");
        assert!(ext4.attributes(&find(&["etc", "block"])).unwrap().is_empty());
    }
}

/// Remembers where it was read.
struct Watched(Arc<Vec<u8>>, Arc<Mutex<Vec<(u64, usize)>>>);

impl ReadAt for Watched {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.lock().unwrap().push((offset, buf.len()));
        self.0.read_exact_at(buf, offset)
    }
}

/// Counts what is read.
struct Counted(Arc<Vec<u8>>, Arc<AtomicU64>);

impl ReadAt for Counted {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_exact_at(buf, offset)
    }
}

fn differing(one: &[u8], two: &[u8]) -> Vec<DiffRange> {
    let mut ranges = DiffRanges::default();
    // As chunks do, in pieces of 32 KiB.
    for (n, (a, b)) in one.chunks(32 << 10).zip(two.chunks(32 << 10)).enumerate() {
        if a != b {
            let mut whole = DiffRanges::default();
            blocks_diff(0, a, b, &mut whole);
            let kind = whole.as_slice()[0].kind;
            ranges.push(DiffRange { offset: (n * (32 << 10)) as u64, len: a.len() as u64, kind });
        }
    }
    ranges.into_vec()
}

fn compare(one: &Path, two: &Path, known: bool) -> Compared {
    let (a, b) = (std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    let ranges = differing(&a, &b);
    let open = |bytes: Vec<u8>| Ext4::open(Box::new(bytes), 1 << 30).unwrap();
    let known = known.then_some(&ranges[..]);
    trees_compare(&open(a), &open(b), known, &CompareLimits::default(), &mut |_| true).unwrap().unwrap()
}

fn told(found: &Compared) -> BTreeSet<String> {
    let one = |change: &slipway_format::ext4::Change| {
        let path = String::from_utf8_lossy(&change.path).into_owned();
        let before = change.before.as_ref().map(|path| format!(" from {}", String::from_utf8_lossy(path)));
        format!("{:?} {path}{} {}", change.kind, before.unwrap_or_default(), change.what.join(","))
            .trim_end()
            .to_owned()
    };
    found.changes.iter().map(one).collect()
}

#[test]
fn what_debugfs_changes_is_what_is_told() {
    let folder = Folder::new();
    for (name, options) in KINDS {
        let one = image_make(&folder, options, "one");
        let two = folder.path("two");
        std::fs::copy(&one, &two).unwrap();
        std::fs::write(folder.path("new"), noise(77, 70_000)).unwrap();
        let new = folder.path("new").display().to_string();
        let birth = "set_inode_field etc/block generation 7\n";
        debugfs(&one, birth);
        debugfs(
            &two,
            &format!(
                "{birth}write {new} etc/new\nrm etc/small\nrm etc/large\nwrite {new} etc/large\n\
             set_inode_field etc/tiny mode 0100600\nea_set etc/nothing user.a b\n\
             rm etc/short-link\nsymlink etc/short-link elsewhere\nmkdir fresh\nwrite {new} fresh/inside\n\
             ln etc/block renamed\nunlink etc/block\nmknod pipe p\n"
            ),
        );
        let found = compare(&one, &two, true);
        // The times of files that were written anew are those of now, and those of links too.
        let mut want: BTreeSet<String> = [
            "Added /etc/new",
            "Removed /etc/small",
            "Meta /etc/tiny mode",
            "Added /fresh",
            "Added /fresh/inside",
            "Renamed /renamed from /etc/block",
            "Added /pipe",
        ]
        .map(str::to_owned)
        .into();
        let all = told(&found);
        for line in &want {
            assert!(all.contains(line), "{name}: {line} in {all:#?}");
        }
        for start in ["Changed /etc/large bytes", "Changed /etc/short-link target"] {
            let line = all
                .iter()
                .find(|line| line.starts_with(start))
                .unwrap_or_else(|| panic!("{name}: {start} in {all:#?}"));
            want.insert(line.clone());
        }
        want.insert("Meta /etc/nothing xattrs".to_owned());
        assert!(all.contains("Meta /etc/nothing xattrs"), "{name}: {all:#?}");
        assert!(all.is_subset(&want), "{name}: {:#?}", all.difference(&want));
        assert_eq!(told(&compare(&one, &two, false)), all, "{name}: without knowing what differs it is the same");
        assert!(compare(&two, &two, true).changes.is_empty());
        assert!(found.read_bytes <= 200_000, "{name}: {} bytes of files were read", found.read_bytes);
    }
}

#[test]
fn a_byte_changed_behind_the_file_systems_back_is_found_and_little_is_read() {
    let folder = Folder::new();
    let one = image_make(&folder, KINDS[0].1, "one");
    let mut bytes = std::fs::read(&one).unwrap();
    let place = noise(3_000_000, 3_000_000);
    let at = bytes.windows(64).position(|window| window == &place[2_000_000 / 4096 * 4096..][..64]).unwrap();
    bytes[at + 5] ^= 1;
    let (a, b) = (Arc::new(std::fs::read(&one).unwrap()), Arc::new(bytes));
    let ranges = differing(&a, &b);
    let read = Arc::new(AtomicU64::new(0));
    let open =
        |bytes: &Arc<Vec<u8>>| Ext4::open(Box::new(Counted(Arc::clone(bytes), Arc::clone(&read))), 1 << 30).unwrap();
    let found = trees_compare(&open(&a), &open(&b), Some(&ranges), &CompareLimits::default(), &mut |_| true);
    let found = found.unwrap().unwrap();
    assert_eq!(told(&found), BTreeSet::from(["Changed /etc/large bytes".to_owned()]));
    assert!(found.read_bytes <= 128 << 10, "{}", found.read_bytes);
    let read = read.load(Ordering::Relaxed);
    assert!(read < 4 << 20, "{read} bytes of 48 MiB");
    let few = CompareLimits { read_bytes: 0, ..CompareLimits::default() };
    let unsure = trees_compare(&open(&a), &open(&b), Some(&ranges), &few, &mut |_| true).unwrap().unwrap();
    assert_eq!(unsure.changes[0].kind, ChangeKind::Unsure);
    let stopped = trees_compare(&open(&a), &open(&b), Some(&ranges), &CompareLimits::default(), &mut |_| false);
    assert!(stopped.unwrap().is_none());
}

#[test]
fn a_tree_in_a_file_system_made_afresh_is_the_same_tree() {
    let folder = Folder::new();
    let one = image_make(&folder, KINDS[0].1, "one");
    let two = image_make(&folder, KINDS[1].1, "two");
    let found = compare(&one, &two, false);
    assert_eq!(told(&found), BTreeSet::new());
    assert!(found.read_bytes > 3_000_000, "everything was read: nothing lies where it lay");
    // Within a partition it is read as well.
    let shifted = [vec![0u8; 1 << 20], std::fs::read(&two).unwrap()].concat();
    let len = shifted.len() as u64 - (1 << 20);
    let window = Window::new(shifted.clone(), 1 << 20, len).unwrap();
    let inner = Ext4::open(Box::new(window), 1 << 30).unwrap();
    assert_eq!(tree_read(&inner).len(), tree_read(&open(&two)).len());
    assert!(Window::new(shifted, 1 << 20, len + 1).is_none());
}

#[test]
fn hostile_bytes_end_in_an_error_and_never_in_a_loop() {
    let folder = Folder::new();
    let image = image_make(&folder, KINDS[0].1, "one");
    let good = std::fs::read(&image).unwrap();
    let limits = CompareLimits { read_bytes: 64 << 20, ..CompareLimits::default() };
    let seed = std::env::var("SLIPWAY_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1u64);
    let mut state = seed | 1;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    // Where a comparison looks: superblock, descriptors, inodes, directories, trees of extents.
    let looked = Arc::new(Mutex::new(Vec::new()));
    let watched = |bytes: &[u8]| Watched(Arc::new(bytes.to_vec()), Arc::clone(&looked));
    let open = |bytes: &[u8]| Ext4::open(Box::new(watched(bytes)), 1 << 30).unwrap();
    trees_compare(&open(&good), &open(&good), None, &limits, &mut |_| true).unwrap().unwrap();
    let looked = looked.lock().unwrap().clone();
    let mut ended = [0; 2];
    for _ in 0..40 {
        let mut bad = good.clone();
        for _ in 0..1 + random(60) {
            let (at, len) = looked[random(looked.len())];
            bad[at as usize + random(len)] = [0, 1, 0x7f, 0x80, 0xff, random(256) as u8][random(6)];
        }
        let ranges = differing(&good, &bad);
        let Ok(two) = Ext4::open(Box::new(bad), 32 << 20) else { continue };
        let one = Ext4::open(Box::new(good.clone()), 32 << 20).unwrap();
        let known = (random(2) == 0).then_some(&ranges[..]);
        let done = trees_compare(&one, &two, known, &limits, &mut |_| true);
        ended[usize::from(done.is_err())] += 1;
    }
    assert!(ended[0] > 0 && ended[1] > 0, "seed {seed}: both outcomes were met: {ended:?}");
    for (bytes, why) in [(vec![0; 100], "too short"), (vec![0; 1 << 20], "zeros"), (noise(5, 1 << 20), "noise")] {
        assert!(matches!(Ext4::open(Box::new(bytes), 1 << 20), Err(Ext4Error::Absent)), "{why}");
    }
    let few = Ext4::open(Box::new(good.clone()), 64 << 10).unwrap();
    let one = Ext4::open(Box::new(good.clone()), 1 << 30).unwrap();
    assert!(matches!(trees_compare(&one, &few, None, &limits, &mut |_| true), Err(Ext4Error::TooMuch(_))));
    let names = CompareLimits { entries: 100, ..limits };
    let again = Ext4::open(Box::new(good.clone()), 1 << 30).unwrap();
    assert!(matches!(trees_compare(&one, &again, None, &names, &mut |_| true), Err(Ext4Error::Damaged(_))));
    let mut strange = good;
    strange[1024 + 0x60 + 3] = 0x80;
    assert!(matches!(Ext4::open(Box::new(strange), 1 << 20), Err(Ext4Error::Unknown(_))));
}

#[test]
fn a_few_blocks_that_point_at_each_other_are_no_tree_without_end() {
    let folder = Folder::new();
    // Blocks of 1 KiB: a file with three levels of pointers, all of which go through the same two blocks, the last of them empty or full.
    let image = image_make(&folder, KINDS[2].1, "one");
    let good = std::fs::read(&image).unwrap();
    let ext4 = open(&image);
    let etc = ext4.directory(&ext4.inode(ROOT_INODE).unwrap(), 100).unwrap()[&b"etc"[..]].inode;
    let large = ext4.directory(&ext4.inode(etc).unwrap(), 100).unwrap()[&b"large"[..]].inode;
    let runs = ext4.runs(&ext4.inode(large).unwrap()).unwrap();
    let (one, two) = (runs[0].disk / 1024, runs[0].disk / 1024 + 1);
    // Its first pointers follow each other.
    let pointers: Vec<u8> = (0..4).flat_map(|n| (one as u32 + n).to_le_bytes()).collect();
    let inode_at = good.windows(16).position(|bytes| bytes == pointers).unwrap();
    for full in [false, true] {
        let mut bad = good.clone();
        let (node, leaf) = ((one * 1024) as usize, (two * 1024) as usize);
        for slot in 0..256 {
            bad[node + slot * 4..][..4].copy_from_slice(&(two as u32).to_le_bytes());
            let pointer = if full { two as u32 } else { 0 };
            bad[leaf + slot * 4..][..4].copy_from_slice(&pointer.to_le_bytes());
        }
        // The last of the fifteen pointers has three levels, and the file is as long as it can be.
        bad[inode_at + 14 * 4..][..4].copy_from_slice(&(one as u32).to_le_bytes());
        bad[inode_at - 0x28 + 4..][..4].copy_from_slice(&u32::MAX.to_le_bytes());
        bad[inode_at - 0x28 + 0x6c..][..4].copy_from_slice(&3u32.to_le_bytes());
        let hostile = Ext4::open(Box::new(bad), 64 << 20).unwrap();
        let begun = std::time::Instant::now();
        let error = hostile.runs(&hostile.inode(large).unwrap()).unwrap_err();
        assert!(matches!(error, Ext4Error::Damaged(_) | Ext4Error::TooMuch(_)), "{error}");
        assert!(begun.elapsed().as_secs() < 20, "it ends soon");
    }
}

//! The images that are measured: a real Debian tree in an ext4 file system, changed in place, and the changed tree in a file system made afresh.
//!
//! They are made once and kept in `target/bench`. Names, times, UUIDs, hash seeds and our own files are fixed; what remains free is the
//! archive of the day, and where the kernel puts blocks when it changes the second image.

use super::random::Random;
use crate::run::{is_root, read, run};
use crate::tools::{self, command, tool};
use anyhow::{Context, Result, ensure};
use rustix::fs::{SeekFrom, seek};
use std::collections::HashSet;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Changes whenever the recipe does, so that no older set is taken for this one.
const RECIPE: &str = "2";
const TIME: &str = "1747699200";
const SUITE: &str = "bookworm";
const PACKAGES: &str = "ca-certificates,openssh-server,python3,perl,vim-tiny,curl,git,gcc,make,systemd-sysv,udev,iproute2,nginx-light,sqlite3,\
                        linux-image-amd64,locales,less,rsync,tmux,man-db,iso-codes";
/// New or once more in the second version, and gone from it.
const ADDED: &[&str] = &["php-cli", "postgresql-client", "nginx-light", "openssh-server", "curl", "git"];
const REMOVED: &str = "iso-codes";
const HASH_SEED: &str = "22222222-2222-4222-8222-222222222222";
const PAGE: usize = 4096;

/// The three images, and the data of the first without its holes.
#[derive(Clone)]
pub(super) struct DataSet {
    pub(super) v1: PathBuf,
    pub(super) v2: PathBuf,
    pub(super) v3: PathBuf,
    pub(super) dense: PathBuf,
}

impl DataSet {
    fn within(folder: &Path) -> Self {
        let file = |name: &str| folder.join(name);
        Self { v1: file("v1.img"), v2: file("v2.img"), v3: file("v3.img"), dense: file("v1.data") }
    }

    /// Takes images that are there; `v3.img` is wanted only by those who ask for it.
    pub(super) fn given(folder: &Path) -> Result<Self> {
        let set = Self::within(folder);
        for path in [&set.v1, &set.v2] {
            ensure!(path.is_file(), "{} is not there", path.display());
        }
        Ok(set)
    }

    /// Makes them, unless they have been made.
    pub(super) fn made(cache: &Path, quick: bool) -> Result<Self> {
        let folder = cache.join(if quick { "data-quick" } else { "data" });
        let (set, mark) = (Self::within(&folder), folder.join("recipe"));
        if fs::read_to_string(&mark).is_ok_and(|found| found == RECIPE) {
            return Ok(set);
        }
        ensure!(is_root(), "making the images needs root: they are changed through a mount");
        eprintln!("making the images in {} (the first time takes some minutes)", folder.display());
        match fs::remove_dir_all(&folder) {
            Err(why) if why.kind() != std::io::ErrorKind::NotFound => return Err(why).context("removing old images"),
            Ok(()) | Err(_) => fs::create_dir_all(&folder).context("making the folder of the images")?,
        }
        let tree = folder.join("tree");
        let debs = folder.join("debs");
        fs::create_dir_all(&debs).context("making a folder")?;
        let size = match quick {
            true => tree_small(&tree)?,
            false => tree_debian(&tree, &debs)?,
        };
        own_files(&tree, quick)?;
        tidy(&tree)?;
        image_make(&set.v1, size, &tree, "11111111-1111-4111-8111-111111111111")?;
        fs::remove_dir_all(&tree).context("removing the tree")?;
        sparse_copy(&set.v1, &set.v2)?;
        {
            let mount = Mount::new(&set.v2, &folder.join("mnt"), "loop,noatime")?;
            match quick {
                true => small_change(&mount.at)?,
                false => packages_change(&mount, &debs)?,
            }
            own_files_change(&mount.at)?;
            tidy(&mount.at)?;
        }
        fs::remove_dir_all(&debs).context("removing the packages")?;
        {
            let mount = Mount::new(&set.v2, &folder.join("mnt"), "loop,ro")?;
            image_make(&set.v3, size, &mount.at, "33333333-3333-4333-8333-333333333333")?;
        }
        for image in [&set.v1, &set.v2, &set.v3] {
            // Blocks of zeros become holes.
            let part = image.with_extension("part");
            sparse_copy(image, &part)?;
            fs::rename(&part, image).context("renaming an image")?;
        }
        dense_make(&set.v1, &set.dense)?;
        run(&mut Command::new("sync"))?;
        fs::write(&mark, RECIPE).context("marking the images as made")?;
        Ok(set)
    }
}

/// A mounted image; unmounted when dropped.
struct Mount {
    at: PathBuf,
    inner: Vec<PathBuf>,
}

impl Mount {
    fn new(image: &Path, at: &Path, options: &str) -> Result<Self> {
        fs::create_dir_all(at).context("making a mount point")?;
        run(command("mount").args(["-o", options]).arg(image).arg(at))?;
        Ok(Self { at: at.to_owned(), inner: Vec::new() })
    }

    fn within(&mut self, words: &[&str], at: PathBuf) -> Result<()> {
        run(command("mount").args(words).arg(&at))?;
        self.inner.push(at);
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for at in self.inner.iter().rev().chain([&self.at]) {
            let _ = command("umount").arg(at).status();
        }
    }
}

pub(super) fn sparse_copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").args(["--sparse=always", "--"]).arg(from).arg(to))
}

/// A tree of this machine's own files: soon made, good enough for a quick look. Gives the size of the image.
fn tree_small(tree: &Path) -> Result<u64> {
    let mut left: u64 = 160 << 20;
    for folder in ["usr/bin", "usr/share/doc", "usr/lib/x86_64-linux-gnu"] {
        let share = left / 2;
        let mut unused = share;
        crate::demo::image::tree_fill(&Path::new("/").join(folder), &tree.join(folder), &mut unused)?;
        left -= share - unused;
    }
    Ok(512 << 20)
}

/// A Debian root with a kernel, compilers and servers, and beside it the packages of the change.
fn tree_debian(tree: &Path, debs: &Path) -> Result<u64> {
    tools::tools_need(&[tool("debootstrap", "debootstrap")])?;
    let mut words = vec!["--variant=minbase".to_owned(), format!("--include={PACKAGES}"), SUITE.into()];
    words.push(tree.to_str().context("a path that is not UTF-8")?.into());
    words.extend(mirror());
    let log = File::create(debs.join("debootstrap.log")).context("making a log")?;
    let mut making = command("debootstrap");
    making.args(&words).stdout(log.try_clone().context("sharing a log")?).stderr(log);
    run(&mut making).with_context(|| format!("see {}", debs.join("debootstrap.log").display()))?;
    fs::remove_file(debs.join("debootstrap.log")).context("removing a log")?;
    let inside = |words: &[&str]| {
        read(command("chroot").arg(tree).args(words).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive"))
    };
    inside(&["apt-get", "clean"])?;
    inside(&["apt-get", "update", "-qq"])?;
    let mut fetch =
        vec!["apt-get", "install", "-y", "-qq", "--download-only", "--reinstall", "--no-install-recommends"];
    fetch.extend(ADDED);
    inside(&fetch)?;
    for entry in fs::read_dir(tree.join("var/cache/apt/archives")).context("listing the packages")? {
        let path = entry.context("listing the packages")?.path();
        if path.extension().is_some_and(|end| end == "deb") {
            fs::rename(&path, debs.join(path.file_name().context("a package has a name")?))
                .context("moving a package")?;
        }
    }
    Ok(4 << 30)
}

/// Where this machine takes its packages from, so that the same mirror is asked.
fn mirror() -> Option<String> {
    let mut sources = vec![PathBuf::from("/etc/apt/sources.list")];
    sources.extend(fs::read_dir("/etc/apt/sources.list.d").ok()?.flatten().map(|entry| entry.path()));
    let text: String = sources.iter().filter_map(|path| fs::read_to_string(path).ok()).collect::<Vec<_>>().join("\n");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let mut words = lines.flat_map(str::split_whitespace);
    words.find(|word| word.starts_with("http") && word.trim_end_matches('/').ends_with("/debian")).map(str::to_owned)
}

/// What a server holds beside its packages: something like a database, of noise and text, and logs.
fn own_files(tree: &Path, quick: bool) -> Result<()> {
    let (pages, lines) = if quick { (2_000, 40_000) } else { (24_000, 480_000) };
    let folder = tree.join("srv");
    fs::create_dir_all(&folder).context("making /srv")?;
    let mut random = Random::new(42);
    let mut out = std::io::BufWriter::new(File::create(folder.join("app.db")).context("making app.db")?);
    for number in 0..pages {
        out.write_all(&page_make(&mut random, number)).context("writing app.db")?;
    }
    out.flush().context("writing app.db")?;
    let mut out = std::io::BufWriter::new(File::create(folder.join("app.log")).context("making app.log")?);
    for n in 0..lines {
        let (day, hour, minute, second) = (n % 28 + 1, n % 24, n % 60, n * 7 % 60);
        let (process, item, took) = (random.below(9999), random.below(1_000_000), random.below(900));
        writeln!(
            out,
            "2025-05-{day:02} {hour:02}:{minute:02}:{second:02} host app[{process}]: GET /item/{item} 200 {took}ms"
        )
        .context("writing app.log")?;
    }
    out.flush().context("writing app.log")
}

/// Some rows of a key, 300 bytes of noise and 200 of text, as in a page of a database.
fn page_make(random: &mut Random, number: u64) -> Vec<u8> {
    let mut page = format!("page {number:012}").into_bytes();
    while page.len() < PAGE - 600 {
        page.extend(format!("key-{:08x}/useruseruser", random.below(1 << 32)).bytes());
        page.extend(random.bytes(300));
        page.extend(b"status=ok;".repeat(20));
    }
    page.resize(PAGE, 0);
    page
}

fn own_files_change(root: &Path) -> Result<()> {
    let path = root.join("srv/app.db");
    let file = File::options().write(true).open(&path).context("opening app.db")?;
    let pages = file.metadata().context("looking at app.db")?.len() / PAGE as u64;
    let mut random = Random::new(7);
    for _ in 0..pages / 10 {
        let number = random.below(pages);
        file.write_all_at(&page_make(&mut random, number), number * PAGE as u64).context("changing app.db")?;
    }
    let mut log = File::options().append(true).open(root.join("srv/app.log")).context("opening app.log")?;
    log.write_all(&b"2025-06-01 appended\n".repeat(50_000)).context("appending to app.log")?;
    fs::write(root.join("etc/edited.conf"), "# edited\n".repeat(100))
        .or_else(|_| {
            fs::create_dir_all(root.join("etc"))?;
            fs::write(root.join("etc/edited.conf"), "# edited\n".repeat(100))
        })
        .context("writing a file of /etc")
}

/// Every eighth program is written again with other bytes in it, and the documentation of many packages goes.
fn small_change(root: &Path) -> Result<()> {
    let listed = |folder: &str| -> Result<Vec<PathBuf>> {
        let mut paths: Vec<_> =
            fs::read_dir(root.join(folder)).context("listing a folder")?.flatten().map(|e| e.path()).collect();
        paths.sort();
        Ok(paths)
    };
    for path in listed("usr/bin")?.iter().step_by(8) {
        let mut bytes = fs::read(path).context("reading a file of the image")?;
        bytes.extend(Random::new(bytes.len() as u64).bytes(5000));
        fs::write(path, bytes).context("writing a file of the image")?;
    }
    for path in listed("usr/share/doc")?.iter().step_by(5).filter(|path| path.is_dir()) {
        fs::remove_dir_all(path).context("removing a folder of the image")?;
    }
    Ok(())
}

/// Packages added, installed once more and purged, by dpkg within the image.
fn packages_change(mount: &Mount, debs: &Path) -> Result<()> {
    let at = &mount.at;
    let mut inner = Mount { at: at.join("proc"), inner: Vec::new() };
    run(command("mount").args(["-t", "proc", "proc"]).arg(&inner.at))?;
    let shown = at.join("var/tmp/debs");
    fs::create_dir_all(&shown).context("making a folder of the image")?;
    inner.within(&["--bind", debs.to_str().context("a path that is not UTF-8")?], shown.clone())?;
    let script = format!(
        "dpkg --force-depends --force-confold -i /var/tmp/debs/*.deb; dpkg --purge --force-depends {REMOVED}; test -x /usr/bin/php"
    );
    let mut change = command("chroot");
    change.arg(at).args(["sh", "-c", &script]).env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    // A package that wants a running system complains; what counts is that files came and went.
    read(change.stdin(Stdio::null())).context("changing the packages")?;
    drop(inner);
    fs::remove_dir(&shown).context("removing a folder of the image")
}

/// Takes out what is different each time, and times that are later than the fixed one.
fn tidy(root: &Path) -> Result<()> {
    let script = "cd \"$1\" && rm -rf var/cache/apt/*.bin var/cache/apt/archives/*.deb var/lib/apt/lists/* var/log/*.log var/log/apt/* tmp/* \
                  var/cache/ldconfig/aux-cache etc/ssh/ssh_host_* && mkdir -p etc && echo slipway > etc/hostname && : > etc/machine-id && \
                  find . -xdev -newermt \"@$2\" -print0 | xargs -0r touch -h -d \"@$2\"";
    run(Command::new("sh").args(["-c", script, "sh"]).arg(root).arg(TIME)).context("tidying the tree")
}

fn image_make(image: &Path, size: u64, tree: &Path, uuid: &str) -> Result<()> {
    File::create(image).and_then(|file| file.set_len(size)).context("making an image")?;
    let extended = format!("hash_seed={HASH_SEED},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0");
    let mut make = command("mke2fs");
    make.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-m",
        "1",
        "-L",
        "slip-root",
        "-U",
        uuid,
        "-E",
        &extended,
        "-d",
    ]);
    run(make.arg(tree).arg(image).env("E2FSPROGS_FAKE_TIME", TIME))
}

/// The data of an image without its holes.
fn dense_make(image: &Path, dense: &Path) -> Result<()> {
    let mut out = File::create(dense).context("making a file")?;
    let file = File::open(image).context("opening an image")?;
    let mut buf = vec![0; 1 << 20];
    for (mut at, end) in data_extents(image)? {
        while at < end {
            let len = (end - at).min(buf.len() as u64) as usize;
            file.read_exact_at(&mut buf[..len], at).context("reading an image")?;
            out.write_all(&buf[..len]).context("writing the data of an image")?;
            at += len as u64;
        }
    }
    Ok(())
}

/// Where a file holds data: begin and end of each extent.
pub(super) fn data_extents(path: &Path) -> Result<Vec<(u64, u64)>> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    let (mut extents, mut at) = (Vec::new(), 0);
    while let Ok(begin) = seek(&file, SeekFrom::Data(at)) {
        let end = seek(&file, SeekFrom::Hole(begin)).context("looking for a hole")?;
        extents.push((begin, end));
        at = end;
    }
    Ok(extents)
}

/// Bytes that a file holds, its holes left out.
pub(super) fn data_len(path: &Path) -> Result<u64> {
    Ok(data_extents(path)?.iter().map(|(begin, end)| end - begin).sum())
}

/// The extents of blocks of 4 KiB in which two images of one size differ.
pub(super) fn differences(a: &Path, b: &Path) -> Result<Vec<(u64, u64)>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("opening {}", path.display()));
    let (first, second) = (open(a)?, open(b)?);
    let size = second.metadata().context("looking at an image")?.len();
    ensure!(first.metadata().context("looking at an image")?.len() == size, "the images differ in size");
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    while at < size {
        let len = (size - at).min(left.len() as u64) as usize;
        first.read_exact_at(&mut left[..len], at).context("reading an image")?;
        second.read_exact_at(&mut right[..len], at).context("reading an image")?;
        if left[..len] != right[..len] {
            for from in (0..len).step_by(PAGE) {
                let to = (from + PAGE).min(len);
                if left[from..to] != right[from..to] {
                    match found.last_mut() {
                        Some(last) if last.1 == at + from as u64 => last.1 = at + to as u64,
                        _ => found.push((at + from as u64, at + to as u64)),
                    }
                }
            }
        }
        at += len as u64;
    }
    Ok(found)
}

/// Writes the blocks of 4 KiB of an image that are neither zero nor in `seen`, adds them to it, and gives their bytes.
pub(super) fn blocks_fresh(image: &Path, seen: &mut HashSet<u128>, out: File) -> Result<u64> {
    let mut out = std::io::BufWriter::new(out);
    let file = File::open(image).context("opening an image")?;
    let mut buf = vec![0; 1 << 20];
    let mut fresh = 0;
    for (mut at, end) in data_extents(image)? {
        while at < end {
            let len = (end - at).min(buf.len() as u64) as usize;
            file.read_exact_at(&mut buf[..len], at).context("reading an image")?;
            for block in buf[..len].chunks(PAGE) {
                if block.iter().any(|byte| *byte != 0) && seen.insert(fingerprint(block)) {
                    out.write_all(block).context("writing a block")?;
                    fresh += block.len() as u64;
                }
            }
            at += len as u64;
        }
    }
    out.flush().context("writing blocks")?;
    Ok(fresh)
}

/// Good enough to count equal blocks by.
fn fingerprint(block: &[u8]) -> u128 {
    let half = |seed: u64| {
        let mut state = std::collections::hash_map::DefaultHasher::new();
        state.write_u64(seed);
        state.write(block);
        state.finish()
    };
    (u128::from(half(1)) << 64) | u128::from(half(2))
}

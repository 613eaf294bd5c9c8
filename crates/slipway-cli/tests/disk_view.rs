//! `/disk` as root has it: real file systems behind loop devices, programs that copy and compare, versions that come and go under the
//! readers, servers that die, bytes that are damaged. Every byte that is read is compared with what was pushed.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::client::Client;
use kit::image::{Chance, data_bytes, image_changed, image_dense, image_fresh, image_write, same};
use kit::loops::Mount;
use kit::samples::{self, Sample};
use kit::server::{Place, Server};
use kit::view::View;
use kit::{text, tool_run};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const STALE: i32 = 116;
const EIO: i32 = 5;

fn image_id(client: &Client, reference: &str) -> String {
    client.json(&["image", "show", reference])["id"].as_str().unwrap().to_owned()
}

fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    begun.elapsed()
}

/// Files of a mounted image are those of the tree that it was made of.
fn tree_same(tree: &Path, mounted: &Path) {
    tool_run("diff", &["-r", "--exclude=lost+found", text(tree), text(mounted)]);
}

/// Past the page cache, so that the view is asked.
fn uncached(path: &Path) -> File {
    let file = File::open(path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    file
}

#[test]
#[ignore = "needs root"]
fn root_real_disks_are_read_through_the_view_as_from_their_files() {
    let folder = tempfile::tempdir().unwrap();
    // Others have to come as far as the view, to be refused or let in there.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    let tree = samples::tree(folder.path());
    let ext4 = samples::ext4(folder.path(), &tree, "ext4", 64);
    let disks = [
        samples::gpt(folder.path(), &ext4.path),
        samples::xfs(folder.path(), &tree, "xfs", 512),
        samples::odd(folder.path(), "odd", (3 << 20) + 777),
        samples::empty(folder.path()),
        ext4,
    ];
    for disk in &disks {
        client.ok(&["push", text(&disk.path), &disk.reference(), "-q"]);
    }
    let cache = folder.path().join("cache");
    let view = View::start(&client, &folder.path().join("disk"), &["--cache", text(&cache), "--group", "daemon"]);
    assert_eq!(std::fs::read_dir(&view.at).unwrap().count(), disks.len());
    for disk in &disks {
        let file = view.file(&image_id(&client, &disk.reference()), 0);
        let (shown, facts) = (text(&file).to_owned(), std::fs::metadata(&file).unwrap());
        assert_eq!(
            (facts.len(), facts.mode() & 0o7777, facts.uid(), facts.gid()),
            (disk.size(), 0o440, 0, 1),
            "{shown}"
        );
        let data = data_bytes(&disk.path);
        assert!(
            facts.blocks() * 512 <= data && facts.blocks() * 512 + 8192 > data,
            "{shown}: {} of {data}",
            facts.blocks()
        );
        assert_eq!(std::fs::metadata(file.parent().unwrap()).unwrap().mode() & 0o7777, 0o550);
        tool_run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &shown, text(&disk.path)]);
        let copy = folder.path().join("copy.raw");
        tool_run("cp", &["--sparse=always", &shown, text(&copy)]);
        same(&copy, &disk.path);
        assert!(
            std::fs::metadata(&copy).unwrap().blocks() * 512 <= data + (1 << 20),
            "{shown}: the copy is not sparse"
        );
        std::fs::remove_file(copy).unwrap();
        assert!(File::options().write(true).open(&file).is_err());
    }
    for name in ["ext4", "xfs"] {
        let file = view.file(&image_id(&client, &format!("me/{name}")), 0);
        let options = if name == "xfs" { "loop,ro,norecovery" } else { "loop,ro" };
        let mount = Mount::new(&["-o", options, text(&file)], &folder.path().join("mnt"));
        tree_same(&tree, &mount.at);
        drop(mount);
    }
    gpt_mounts(&view, &client, &disks[0], &tree, folder.path());
    others_may_not(&view);
    let open = uncached(&view.file(&image_id(&client, "me/ext4"), 0));
    assert_eq!(view.stop().code(), Some(0));
    assert!(open.read_at(&mut [0; 512], 40 << 20).is_err(), "what was open is an error after the end");
    assert_eq!(std::fs::read_dir(folder.path().join("disk")).unwrap().count(), 0, "nothing is mounted any more");
}

fn gpt_mounts(view: &View, client: &Client, disk: &Sample, tree: &Path, folder: &Path) {
    let file = view.file(&image_id(client, &disk.reference()), 0);
    let device = tool_run("losetup", &["-r", "--find", "--show", "--partscan", text(&file)]);
    let device = device.trim();
    // Without udev the partition's node may be missing; the offset needs none.
    tool_run("losetup", &["-d", device]);
    let offset = format!("loop,ro,offset={},sizelimit={}", 35 << 20, 64 << 20);
    let mount = Mount::new(&["-o", &offset, text(&file)], &folder.join("mnt"));
    tree_same(tree, &mount.at);
}

/// Root and members of the group, and nobody else: the mode says so and the kernel holds it.
fn others_may_not(view: &View) {
    let ls = |id: &str, groups: &str| {
        let drop = [&format!("--reuid={id}"), &format!("--regid={id}"), groups];
        std::process::Command::new(kit::tool("setpriv"))
            .args(drop)
            .arg("ls")
            .arg(&view.at)
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(!ls("65534", "--clear-groups"));
    assert!(ls("65534", "--groups=1"));
}

/// What was pushed, by image and number; gone once a deletion was asked for.
#[derive(Default)]
struct Book {
    bytes: BTreeMap<(usize, u64), Arc<Vec<u8>>>,
}

struct Load {
    at: PathBuf,
    book: Mutex<Book>,
    ids: Vec<String>,
    stop: AtomicBool,
    reads: AtomicU64,
    gone: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    /// Reads here and there; an error is fine only where the version went away or the server is being started again.
    fn reader(&self, seed: u64, may_fail: &AtomicBool) {
        let mut chance = Chance::new(seed);
        while !self.stop.load(Ordering::Relaxed) {
            let picked = {
                let book = self.book.lock().unwrap();
                let nth = chance.below(book.bytes.len());
                book.bytes.iter().nth(nth).map(|(key, bytes)| (*key, bytes.clone()))
            };
            let Some(((image, number), bytes)) = picked else { continue };
            let path = self.at.join(&self.ids[image]).join(format!("{number}.img"));
            let Ok(file) = File::open(&path) else {
                self.gone_check(image, number, may_fail, "open");
                continue;
            };
            for _ in 0..1 + chance.below(6) {
                let len = 1 + chance.below(300_000);
                let from = chance.below(bytes.len() - len);
                if chance.below(3) == 0 {
                    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
                }
                let mut buf = vec![0; len];
                match file.read_exact_at(&mut buf, from as u64) {
                    Ok(()) => {
                        assert!(buf == bytes[from..from + len], "wrong bytes of {}: {len} at {from}", path.display());
                        self.reads.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => {
                        self.gone_check(image, number, may_fail, "read");
                        break;
                    }
                }
            }
        }
    }

    fn gone_check(&self, image: usize, number: u64, may_fail: &AtomicBool, act: &str) {
        if may_fail.load(Ordering::Relaxed) {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let stands = self.book.lock().unwrap().bytes.contains_key(&(image, number));
        assert!(!stands, "{act} of {image}:{number} failed, and it still stands");
        self.gone.fetch_add(1, Ordering::Relaxed);
    }

    /// Versions come, go with and without a trash, and are pruned.
    fn changes(&self, client: &Client, folder: &Path, rounds: u64) {
        let mut chance = Chance::new(99);
        for round in 0..rounds {
            let image = chance.below(self.ids.len());
            let name = format!("me/load{image}");
            let (old, count) = {
                let book = self.book.lock().unwrap();
                let all: Vec<_> = book.bytes.range((image, 0)..(image + 1, 0)).collect();
                (all.last().map(|(key, bytes)| (key.1, (*bytes).clone())), all.len())
            };
            let (newest, bytes) = old.unwrap();
            let new = Arc::new(image_changed(&bytes, round));
            let path = folder.join("next.raw");
            image_write(&path, &new);
            let said = client.json(&["push", text(&path), &name]);
            let number = said["version"]["number"].as_u64().unwrap();
            if number != newest {
                let file = self.at.join(&self.ids[image]).join(format!("{number}.img"));
                until("the new version", Duration::from_secs(5), || file.exists());
                self.book.lock().unwrap().bytes.insert((image, number), new);
            }
            if count > 2 {
                let first = self.book.lock().unwrap().bytes.range((image, 0)..).next().map(|(key, _)| key.1).unwrap();
                // Out of the book first: from here on an error is as good as the right bytes.
                self.book.lock().unwrap().bytes.remove(&(image, first));
                client.ok(&["image", "rm", &format!("{name}:{first}"), "--now", "--yes", "-q"]);
            }
            if round % 4 == 3 {
                client.ok(&["prune", "--now", "-q"]);
            }
        }
    }
}

#[test]
#[ignore = "needs root"]
fn root_versions_come_and_go_under_readers_and_no_byte_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    let mut book = Book::default();
    let mut ids = Vec::new();
    for image in 0..3 {
        let bytes = Arc::new(image_fresh(image as u64, 6 << 20));
        let path = folder.path().join("first.raw");
        image_write(&path, &bytes);
        let name = format!("me/load{image}");
        client.ok(&["push", text(&path), &name, "-q"]);
        ids.push(image_id(&client, &name));
        book.bytes.insert((image, 0), bytes);
    }
    let cache = folder.path().join("cache");
    let more = ["--cache", text(&cache), "--cache-size", "8M", "--memory", "4M", "--timeout", "20"];
    let view = View::start(&client, &folder.path().join("disk"), &more);
    let (at, book) = (view.at.clone(), Mutex::new(book));
    let counts = [0; 3].map(AtomicU64::new);
    let [reads, gone, failed] = counts;
    let load = Load { at, book, ids, stop: AtomicBool::new(false), reads, gone, failed };
    let may_fail = AtomicBool::new(false);
    let mut server = Some(server);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (load, may_fail) = (&load, &may_fail);
            scope.spawn(move || {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| load.reader(seed, may_fail)));
                if let Err(why) = ended {
                    load.stop.store(true, Ordering::Relaxed);
                    std::panic::resume_unwind(why);
                }
            });
        }
        let work = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            load.changes(&client, folder.path(), 12);
            // The server is killed under the readers: what they read is right, late, or an error, and then all goes on.
            may_fail.store(true, Ordering::Relaxed);
            let place = server.take().unwrap().kill();
            std::thread::sleep(Duration::from_millis(700));
            server = Some(Server::start_again(&place));
            std::thread::sleep(Duration::from_secs(2));
            may_fail.store(false, Ordering::Relaxed);
            let before = load.reads.load(Ordering::Relaxed);
            load.changes(&client, folder.path(), 4);
            assert!(load.reads.load(Ordering::Relaxed) > before, "nobody reads any more");
        }));
        load.stop.store(true, Ordering::Relaxed);
        if let Err(why) = work {
            std::panic::resume_unwind(why);
        }
    });
    let (reads, gone) = (load.reads.load(Ordering::Relaxed), load.gone.load(Ordering::Relaxed));
    println!("{reads} reads, {gone} of versions that went, {} during the restart", load.failed.load(Ordering::Relaxed));
    assert!(reads > 200, "{reads} reads");
    let rss = memory_peak(view.pid());
    assert!(rss < 120 << 20, "the view took {rss} bytes");
    assert_eq!(view.stop().code(), Some(0));
}

fn memory_peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[test]
#[ignore = "needs root"]
fn root_deleted_images_are_gone_within_a_second_and_their_open_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    let bytes = image_dense(1, 4 << 20);
    let path = folder.path().join("one.raw");
    std::fs::write(&path, &bytes).unwrap();
    client.ok(&["push", text(&path), "me/one", "-q"]);
    client.ok(&["push", text(&path), "me/two", "-q"]);
    let view = View::start(&client, &folder.path().join("disk"), &[]);
    let (one, two) = (image_id(&client, "me/one"), image_id(&client, "me/two"));
    let file = view.file(&one, 0);
    let open = File::open(&file).unwrap();
    let mut buf = vec![0; bytes.len()];
    open.read_exact_at(&mut buf, 0).unwrap();
    assert!(buf == bytes);
    // A new version and a new name are seen as fast.
    std::fs::write(&path, image_dense(2, 4 << 20)).unwrap();
    client.ok(&["push", text(&path), "me/one", "-q"]);
    until("the new version", Duration::from_millis(1500), || view.file(&one, 1).exists());
    client.ok(&["image", "rename", "me/one", "me/other", "-q"]);
    std::thread::sleep(Duration::from_millis(700));
    assert!(std::fs::read(view.file(&one, 1)).unwrap() == image_dense(2, 4 << 20));
    for (rm, gone) in [
        (&["image", "rm", "me/other:0"][..], file.clone()),
        (&["image", "rm", "me/two", "--now", "--yes"][..], view.at.join(&two)),
    ] {
        client.ok(rm);
        let took = until("the deletion", Duration::from_millis(1500), || !gone.exists());
        println!("gone after {took:?}");
    }
    let stale = until("the open file", Duration::from_secs(1), || open.read_at(&mut buf, 0).is_err());
    assert_eq!(open.read_at(&mut buf, 4096).unwrap_err().raw_os_error(), Some(STALE), "after {stale:?}");
    // From the trash it comes back as itself.
    client.ok(&["image", "restore", "me/other:0", "-q"]);
    until("the restored version", Duration::from_millis(1500), || file.exists());
    assert!(std::fs::read(&file).unwrap() == bytes);
    // A token that is revoked sees nothing more.
    let token = client.json(&["token", "new", "view", "--scope", "image:read"]);
    let secret = token["secret"].as_str().unwrap();
    let narrow = Client::new(&client.url, secret, &folder.path().join("home2"));
    let second = View::start(&narrow, &folder.path().join("disk2"), &[]);
    let open = File::open(second.file(&one, 0)).unwrap();
    open.read_exact_at(&mut buf, 0).unwrap();
    client.ok(&["token", "rm", token["token"]["id"].as_str().unwrap(), "-q"]);
    until("the revoked token", Duration::from_secs(3), || std::fs::read_dir(&second.at).unwrap().count() == 0);
    assert!(open.read_at(&mut buf, 0).is_err());
    assert_eq!(second.stop().code(), Some(0));
}

#[test]
#[ignore = "needs root"]
fn root_damage_is_an_error_and_never_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    let (bytes, cache) = (image_dense(5, 8 << 20), folder.path().join("cache"));
    let path = folder.path().join("one.raw");
    std::fs::write(&path, &bytes).unwrap();
    client.ok(&["push", text(&path), "me/one", "-q"]);
    let id = image_id(&client, "me/one");
    let at = folder.path().join("disk");
    let view = View::start(&client, &at, &["--cache", text(&cache)]);
    assert!(std::fs::read(view.file(&id, 0)).unwrap() == bytes);
    assert_eq!(view.stop().code(), Some(0));

    // The cache's files are damaged while nobody looks: it is noticed, and fetched again.
    let files = files_below(&cache.join("frames"));
    assert!(files.len() > 20, "{} frames were kept", files.len());
    for file in files.iter().step_by(3) {
        flip(file, 100);
    }
    let view = View::start(&client, &at, &["--cache", text(&cache)]);
    assert!(std::fs::read(view.file(&id, 0)).unwrap() == bytes);
    // A second view may not use the same folder, and says so.
    let other = folder.path().join("disk2");
    std::fs::create_dir(&other).unwrap();
    client.run(&["disk-view", text(&other), "--cache", text(&cache)]).expect(1).names(&["another process uses it"]);
    // A view that was killed leaves a dead mount, which the next one takes away.
    let dead = view.kill();
    assert!(std::fs::read_dir(&dead).is_err());
    let view = View::start(&client, &dead, &[]);
    assert!(std::fs::read(view.file(&id, 0)).unwrap() == bytes);
    client.run(&["disk-view", text(&dead)]).expect(5).names(&["mounted over", "umount"]);
    assert_eq!(view.stop().code(), Some(0));

    // The server's own packs are damaged: an error, which the server is told of.
    for pack in files_below(&server.place.data().join("blobs")).iter().filter(|pack| text(pack).contains("pack")) {
        let len = std::fs::metadata(pack).unwrap().len();
        (1..8).for_each(|part| flip(pack, len / 8 * part));
    }
    let view = View::start(&client, &at, &[]);
    let file = uncached(&view.file(&id, 0));
    let (mut wrong, mut right) = (0, 0);
    for from in (0..bytes.len()).step_by(64 << 10) {
        let mut buf = vec![0; 64 << 10];
        match file.read_exact_at(&mut buf, from as u64) {
            Ok(()) => {
                assert!(buf == bytes[from..from + buf.len()], "wrong bytes at {from}");
                right += 1;
            }
            Err(why) => {
                assert_eq!(why.raw_os_error(), Some(EIO), "{why}");
                wrong += 1;
            }
        }
    }
    println!("{right} parts read, {wrong} refused");
    assert!(wrong > 0, "no damage was met");
    assert!(view.log().contains("damaged"), "{}", view.log());
    assert_eq!(view.stop().code(), Some(0));
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.path().is_dir() {
            true => found.extend(files_below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found.sort();
    found
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

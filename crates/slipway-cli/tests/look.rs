//! Looking after what is kept, as people do it: scrub, findings, verify, digest, diff, with real servers and real damage.
#![allow(clippy::unwrap_used)]

mod kit;

use kit::client::Client;
use kit::database::{postgres, postgres_drop, postgres_new};
use kit::s3::{KEY, S3, SECRET};
use kit::samples::{ext4, gpt};
use kit::server::{Place, Server};
use kit::{seed, tool_run};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Bytes that follow from the seed and hardly compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn file(folder: &Path, name: &str, bytes: &[u8]) -> String {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

fn blobs(place: &Place, kind: &str) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for space in fs::read_dir(place.data().join("blobs").join(kind)).unwrap() {
        for blob in fs::read_dir(space.unwrap().path()).unwrap() {
            all.push(blob.unwrap().path());
        }
    }
    all.sort();
    all
}

fn flip(path: &Path, at: u64) {
    let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

/// Waits until nothing waits or runs that a finding asked for.
fn settled(admin: &Client) {
    let begun = Instant::now();
    loop {
        let tasks = admin.json(&["task", "ls", "--limit", "50"]);
        let busy = |task: &Value| matches!(task["state"].as_str(), Some("queued" | "running"));
        if !tasks.as_array().unwrap().iter().any(busy) {
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{tasks:#}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn damage_is_found_named_put_aside_and_made_whole_by_pushing_again() {
    let folder = tempfile::tempdir().unwrap();
    let seed = seed("damage");
    let place = Place::new(folder.path()).with_env("SLIPWAY_SCRUB_BYTES_PER_SECOND", "0");
    let server = Server::start(&place);
    let admin = server.admin();
    let base = noise(seed, 6 << 20);
    let raw = file(folder.path(), "one.raw", &base);
    admin.ok(&["push", &raw, "me/os"]);
    let other = file(folder.path(), "two.raw", &[&base[..5 << 20], &noise(seed + 1, 1 << 20)].concat());
    admin.ok(&["push", &other, "me/os"]);
    settled(&admin);
    let said = admin.ok(&["scrub", "start", "--wait"]);
    assert!(said.stdout.contains("Last pass") && said.stdout.contains("0 findings"), "{}", said.stdout);
    assert_eq!(admin.ok(&["scrub", "findings"]).stdout, "Nothing is known to be wrong.\n");
    assert!(admin.ok(&["image", "verify", "me/os"]).stdout.contains("admin/os:0 is whole"));

    // One frame of the first pack, a segment that is gone.
    let pack = &blobs(&place, "packs")[0];
    flip(pack, fs::metadata(pack).unwrap().len() / 2);
    let said = admin.run(&["scrub", "start", "--wait", "-o", "json"]);
    said.expect(7);
    assert!(said.stderr.contains("slipway scrub findings"), "{}", said.stderr);
    settled(&admin);
    let found = admin.json(&["scrub", "findings"]);
    let first = &found.as_array().unwrap()[0];
    assert_eq!((first["kind"].as_str(), first["source"].as_str()), (Some("damaged"), Some("scrub")), "{found:#}");
    assert!(!first["versions"].as_array().unwrap().is_empty() && first["repaired"].is_string(), "{found:#}");
    let table = admin.ok(&["scrub", "findings"]).stdout;
    assert!(table.contains("not whole: admin/os:") && table.contains("done: "), "{table}");
    assert!(place.data().join("blobs/quarantine").exists(), "nothing is deleted");

    let said = admin.run(&["image", "verify", "me/os", "-o", "json"]);
    said.expect(7);
    let results = said.json();
    let bad: Vec<&Value> = results.as_array().unwrap().iter().filter(|one| one["whole"] == false).collect();
    assert!(!bad.is_empty() && bad.iter().all(|one| one["bad"][0]["length"].as_u64().unwrap() > 0), "{results:#}");
    // Never a wrong byte, only an error.
    let out = folder.path().join("out.raw");
    let name = bad[0]["ref"].as_str().unwrap();
    admin.run(&["pull", name, "-o", out.to_str().unwrap()]).expect_any(&[1, 7]);
    assert!(!out.exists());

    admin.ok(&["push", &raw, "me/os", "--new"]);
    admin.ok(&["push", &other, "me/os", "--new"]);
    admin.ok(&["image", "verify", "me/os"]);
    admin.ok(&["scrub", "start", "--wait"]);
    assert_eq!(admin.ok(&["scrub", "findings"]).stdout, "Nothing is known to be wrong.\n");
    assert!(admin.ok(&["scrub", "findings", "--all"]).stdout.contains("over since"));
    admin.ok(&["pull", name, "-o", out.to_str().unwrap()]);

    let metrics = metrics_read(server.url.trim_start_matches("http://"));
    for line in
        ["slipway_findings_open{kind=\"damaged\"} 0", "slipway_scrub_passes_total 3", "slipway_scrub_age_seconds "]
    {
        assert!(metrics.contains(line), "{line} in\n{metrics}");
    }
}

fn metrics_read(address: &str) -> String {
    let mut wire = std::net::TcpStream::connect(address).unwrap();
    wire.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    wire.read_to_string(&mut text).unwrap();
    text
}

/// Each place is damaged alone, found by one pass, and served to nobody.
#[test]
fn one_pass_finds_every_seeded_damage() {
    let folder = tempfile::tempdir().unwrap();
    let seed = seed("every_seeded_damage");
    let place = Place::new(folder.path()).with_env("SLIPWAY_SCRUB_BYTES_PER_SECOND", "0");
    let server = Server::start(&place);
    let admin = server.admin();
    for n in 0..3 {
        let raw = file(folder.path(), "disk.raw", &noise(seed + n, 1 << 20));
        admin.ok(&["push", &raw, &format!("me/os{n}")]);
    }
    settled(&admin);
    let mut wrong = 0;
    for (n, path) in ["packs", "segments", "manifests"].iter().flat_map(|kind| blobs(&place, kind)).enumerate() {
        let len = fs::metadata(&path).unwrap().len();
        match n % 3 {
            0 => flip(&path, (seed * 31 + n as u64 * 7919) % len),
            1 => fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(len - 1).unwrap(),
            _ => fs::remove_file(&path).unwrap(),
        }
        wrong += 1;
    }
    admin.run(&["scrub", "start", "--wait"]).expect(7);
    let status = admin.json(&["scrub", "status"]);
    assert_eq!(status["last"]["findings"], wrong, "{status:#}");
    for n in 0..3 {
        let out = folder.path().join("out.raw");
        let said = admin.run(&["pull", &format!("me/os{n}"), "-o", out.to_str().unwrap()]);
        assert!(said.code != Some(0) || fs::read(&out).unwrap() == noise(seed + n, 1 << 20), "a wrong byte was served");
    }
}

/// A slow scrub is killed in the middle; the next server goes on where it was.
#[test]
fn a_killed_server_goes_on_with_the_pass() {
    let folder = tempfile::tempdir().unwrap();
    let slow = Place::new(folder.path()).with_env("SLIPWAY_SCRUB_BYTES_PER_SECOND", "1000000");
    let server = Server::start(&slow);
    let admin = server.admin();
    for n in 0..40 {
        let raw = file(folder.path(), "disk.raw", &noise(n, 1 << 20));
        admin.ok(&["push", &raw, "me/os"]);
    }
    settled(&admin);
    admin.ok(&["scrub", "start"]);
    let begun = Instant::now();
    let before = loop {
        let status = admin.json(&["scrub", "status"]);
        let done = status["pass"]["blobs"].as_u64().unwrap_or(0);
        if done > 0 {
            break done;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{status:#}");
        std::thread::sleep(Duration::from_millis(200));
    };
    let mut place = server.kill();
    place.env.retain(|(name, _)| name != "SLIPWAY_SCRUB_BYTES_PER_SECOND");
    let server = Server::start_again(&place.with_env("SLIPWAY_SCRUB_BYTES_PER_SECOND", "0"));
    let admin = server.admin();
    let status = admin.json(&["scrub", "status"]);
    let at = status["pass"]["blobs"].as_u64().or(status["last"]["blobs"].as_u64()).unwrap();
    assert!(at >= before, "{status:#}");
    let begun = Instant::now();
    let last = loop {
        let status = admin.json(&["scrub", "status"]);
        if status["last"].is_object() {
            break status["last"].clone();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{status:#}");
        std::thread::sleep(Duration::from_millis(200));
    };
    // 40 packs, 40 segments, 40 manifests, each once.
    assert_eq!(
        (last["number"].as_u64(), last["blobs"].as_u64(), last["findings"].as_u64()),
        (Some(1), Some(120), Some(0)),
        "{last:#}"
    );
    assert_eq!(admin.json(&["scrub", "pause"])["state"], "paused");
    assert_eq!(admin.json(&["scrub", "start"])["state"], "waiting");
}

/// Files below a folder whose path has this part.
fn below(folder: &Path, part: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => below(&path, part, found),
            false if path.to_str().unwrap().contains(part) => found.push(path),
            false => {}
        }
    }
}

/// Blobs in a bucket, and on PostgreSQL two servers beside each other: one of them scrubs, whoever is asked.
#[test]
fn a_bucket_is_scrubbed_by_one_of_two_servers() {
    let folder = tempfile::tempdir().unwrap();
    let bucket = folder.path().join("bucket");
    let s3 = S3::start(&bucket);
    let mut place = Place::new(&folder.path().join("one"))
        .with_env("AWS_ACCESS_KEY_ID", KEY)
        .with_env("AWS_SECRET_ACCESS_KEY", SECRET)
        .with_env("SLIPWAY_SCRUB_BYTES_PER_SECOND", "1500000");
    place.blobs = Some(s3.blobs());
    let database = postgres();
    place.database = database.as_deref().map(postgres_new);
    let server = Server::start(&place);
    let admin = server.admin();
    for n in 0..6 {
        let raw = file(folder.path(), "disk.raw", &noise(n, 1 << 20));
        admin.ok(&["push", &raw, "me/os"]);
    }
    settled(&admin);
    let mut packs = Vec::new();
    below(&bucket, "/packs/", &mut packs);
    packs.retain(|path| fs::metadata(path).unwrap().len() > 500_000);
    flip(&packs[0], 300_000);
    let second = place
        .database
        .as_ref()
        .map(|_| Server::start(&Place { folder: folder.path().join("two"), port: 0, ..place.clone() }));
    let asked = admin.json(&["scrub", "start"]);
    if let Some(second) = &second {
        let there = admin.at(&second.url);
        let also = there.json(&["scrub", "start"]);
        assert_eq!(asked["task"], also["task"]);
    }
    admin.run(&["scrub", "start", "--wait"]).expect(7);
    let tasks = admin.json(&["task", "ls"]);
    let scrubs = tasks.as_array().unwrap().iter().filter(|task| task["kind"] == "scrub").count();
    assert_eq!(scrubs, 1, "{tasks:#}");
    let status = admin.json(&["scrub", "status"]);
    // A pack that was written to save what was good may be read too.
    let blobs = status["last"]["blobs"].as_u64().unwrap();
    assert!((18..=19).contains(&blobs) && status["last"]["findings"] == 1, "{status:#}");
    drop(second);
    drop(server);
    if let (Some(postgres), Some(url)) = (database, &place.database) {
        postgres_drop(&postgres, url);
    }
}

fn debugfs(image: &Path, lines: &str) {
    let script = image.with_extension("cmd");
    fs::write(&script, lines).unwrap();
    tool_run("debugfs", &["-w", "-f", script.to_str().unwrap(), image.to_str().unwrap()]);
}

fn tree(folder: &Path) -> PathBuf {
    let tree = folder.join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/motd"), "welcome\n").unwrap();
    fs::write(tree.join("etc/old"), noise(1, 9000)).unwrap();
    fs::write(tree.join("data"), noise(2, 5 << 20)).unwrap();
    tree
}

/// `kind path` of each change.
fn changes(file_system: &Value) -> Vec<String> {
    let list = file_system["changes"].as_array().unwrap();
    list.iter().map(|one| format!("{} {}", one["kind"].as_str().unwrap(), one["path"].as_str().unwrap())).collect()
}

#[test]
fn versions_are_compared_by_parts_and_by_files() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Place::new(folder.path()));
    let admin = server.admin();
    let image = ext4(folder.path(), &tree(folder.path()), "os", 64);
    let raw = image.path.to_str().unwrap();
    admin.ok(&["push", raw, "me/os"]);
    let new = file(folder.path(), "new", &noise(3, 20_000));
    debugfs(&image.path, &format!("write {new} etc/new\nrm etc/old\nset_inode_field etc/motd mode 0100600\n"));
    admin.ok(&["push", raw, "me/os"]);
    let same = admin.ok(&["image", "diff", "me/os:1..1"]).stdout;
    assert!(same.contains("the same to the last byte"), "{same}");

    let diff = admin.json(&["image", "diff", "me/os:0..1"]);
    assert_eq!(
        (diff["from"].as_str(), diff["to"].as_str(), diff["same"].as_bool()),
        (Some("admin/os:0"), Some("admin/os:1"), Some(false))
    );
    let files = &diff["file_systems"][0];
    assert_eq!(changes(files), ["meta /etc/motd", "added /etc/new", "removed /etc/old"], "{files:#}");
    assert!(files["compared"] == true && files["read_bytes"].as_u64().unwrap() < 1 << 20, "{files:#}");
    assert!(diff["bytes"]["shared"].as_u64().unwrap() > 4 << 20, "{diff:#}");
    // What is told exactly lies within what is told without reading, and is what really differs.
    let exact = admin.json(&["image", "diff", "me/os:0", "me/os:latest", "--exact", "--no-files"]);
    assert!(exact["file_systems"].is_null());
    let sum = |diff: &Value| {
        diff["extents"].as_array().unwrap().iter().map(|one| one["length"].as_u64().unwrap()).sum::<u64>()
    };
    let out = folder.path().join("old.raw");
    admin.ok(&["pull", "me/os:0", "-o", out.to_str().unwrap()]);
    let (old, now) = (fs::read(&out).unwrap(), fs::read(&image.path).unwrap());
    let differ = old.chunks(4096).zip(now.chunks(4096)).filter(|(a, b)| a != b).count() as u64;
    assert_eq!(sum(&exact), differ * 4096);
    assert!(sum(&diff) >= sum(&exact));
    let table = admin.ok(&["image", "diff", "me/os:0..1"]).stdout;
    for line in ["A /etc/new", "D /etc/old", "m /etc/motd  (mode)", "To fetch", "File system ext4: 3 changes"] {
        assert!(table.contains(line), "{line} in\n{table}");
    }

    // The same within a partition, against another image.
    let disk = gpt(folder.path(), &image.path);
    admin.ok(&["push", disk.path.to_str().unwrap(), "me/disk"]);
    debugfs(&image.path, "rm etc/new\n");
    let again = gpt_with(&disk.path, &image.path);
    admin.ok(&["push", again.to_str().unwrap(), "me/disk2"]);
    let diff = admin.json(&["image", "diff", "me/disk:0", "me/disk2:0"]);
    let parts = diff["file_systems"].as_array().unwrap();
    assert_eq!((parts[0]["partition"].as_u64(), parts[1]["partition"].as_u64()), (Some(1), Some(2)), "{diff:#}");
    assert_eq!((changes(&parts[0]).len(), changes(&parts[1])), (0, vec!["removed /etc/new".to_owned()]), "{diff:#}");
    let yaml = admin.ok(&["image", "diff", "me/disk:0", "me/disk2:0", "-o", "yaml"]).stdout;
    assert!(yaml.contains("file_systems:"), "{yaml}");

    for (words, code) in [
        (vec!["image", "diff", "me/os"], 2),
        (vec!["image", "diff", "me/os:0..9"], 3),
        (vec!["image", "diff", "me/os:0", "me/none:0"], 3),
        (vec!["image", "diff", "me/os:0..1", "me/os:1"], 2),
    ] {
        let said = admin.run(&words);
        said.expect(code);
        assert!(said.stderr.contains("next: "), "{}", said.stderr);
    }
}

/// The disk with another file system in its second partition.
fn gpt_with(disk: &Path, ext4: &Path) -> PathBuf {
    let path = disk.with_extension("again.raw");
    fs::copy(disk, &path).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&fs::read(ext4).unwrap(), 35 << 20).unwrap();
    path
}

#[test]
fn digests_are_shown_and_computed_when_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Place::new(folder.path()));
    let admin = server.admin();
    let bytes = noise(5, 300_000);
    let raw = file(folder.path(), "disk.raw", &bytes);
    admin.ok(&["push", &raw, "me/os"]);
    let answer = admin.json(&["image", "digest", "me/os"]);
    assert_eq!(answer["digest"].as_str().unwrap(), blake3::hash(&bytes).to_string());
    let sha256 = tool_run("sha256sum", &[raw.as_str()]);
    assert_eq!(answer["sha256"].as_str(), sha256.split_whitespace().next());
    assert_eq!(admin.json(&["image", "digest", "me/os:0", "--anew"]), answer);
    admin.run(&["image", "verify", "me/none"]).expect(3);
    admin.run(&["image", "digest", "me/os:7"]).expect(3);
}

//! Real images, there and back: pushed, counted, pulled, flashed over each other onto files and, as root, onto loop devices.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::client::Client;
use kit::image::{BLOCK, data_bytes, first_difference, same};
use kit::loops::{Loop, Mount};
use kit::oracle::check_clean;
use kit::samples::{self, Sample};
use kit::server::{Place, Server};
use kit::{text, tool_run};
use serde_json::Value;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

const MIB: u64 = 1 << 20;
/// Hashing more than this takes too long for a test.
const HASH_MAX: u64 = 1 << 30;

fn push(client: &Client, sample: &Sample, more: &[&str]) -> Value {
    let (reference, sector_size) = (sample.reference(), sample.sector_size.to_string());
    let mut words = vec!["push", text(&sample.path), &reference, "--sector-size", &sector_size];
    words.extend(more);
    client.json(&words)
}

fn field(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// What a push says of an image must be what can be counted without it.
fn counted(client: &Client, sample: &Sample) {
    let name = sample.name;
    let pushed = push(client, sample, &["-m", "first"]);
    let version = &pushed["version"];
    assert_eq!(pushed["outcome"], "created", "{name}");
    assert_eq!(field(version, "number"), 0, "{name}");
    assert_eq!(field(version, "size"), sample.size(), "{name}");
    assert_eq!(field(version, "sector_size"), u64::from(sample.sector_size), "{name}");
    let data = data_bytes(&sample.path);
    assert_eq!(field(version, "data_bytes"), data, "{name}: 4096 × the blocks that are not zero");
    let (stored, new) = (field(version, "stored_bytes"), field(version, "new_bytes"));
    assert!(new <= stored && stored <= data + data / 50 + 4096, "{name}: {new} new of {stored} stored of {data}");
    assert_eq!(stored == 0, data == 0, "{name}: {stored} stored of {data}");
    let again = push(client, sample, &[]);
    assert_eq!((again["outcome"].as_str(), field(&again["version"], "number")), (Some("unchanged"), 0), "{name}");
    let forced = push(client, sample, &["--new"]);
    let version = &forced["version"];
    assert_eq!((forced["outcome"].as_str(), field(version, "number")), (Some("created"), 1), "{name}");
    assert_eq!((field(version, "new_bytes"), field(version, "stored_bytes")), (0, stored), "{name}");
    assert_eq!(field(&forced, "sent_bytes"), 0, "{name}");
    let shown = client.json(&["image", "show", &sample.reference()]);
    assert_eq!(shown["versions"].as_array().map(Vec::len), Some(2), "{name}");
    if sample.size() <= HASH_MAX {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&sample.path).unwrap()).unwrap();
        let digest = shown["versions"][1]["digest"].as_str().map(str::to_owned);
        assert!(digest.is_none_or(|digest| digest == hasher.finalize().to_hex().as_str()), "{name}: the digest");
    }
}

fn pulled(client: &Client, folder: &Path, sample: &Sample) {
    let out = folder.join("out.raw");
    let _ = std::fs::remove_file(&out);
    client.ok(&["pull", &format!("{}:0", sample.reference()), "-o", text(&out)]);
    same(&out, &sample.path);
    // Holes come back as holes: what a 100 GiB image takes up here is what it holds.
    let taken = std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&out).unwrap()) * 512;
    let data = data_bytes(&sample.path);
    assert!(taken <= data + data / 4 + 4 * MIB, "{}: {taken} bytes on disk for {data} of data", sample.name);
    (sample.whole)(&out);
}

/// Flashes onto whatever is there, verifies, and compares with our own eyes.
fn flashed(client: &Client, sample: &Sample, target: &Path) {
    let reference = format!("{}:0", sample.reference());
    let flashed = client.json(&["flash", &reference, text(target), "--yes"]);
    if let Some(at) = first_difference(&sample.path, target, sample.size()) {
        panic!("{} flashed onto {} differs at byte {at}: {flashed}", sample.name, target.display());
    }
    client.ok(&["verify", &reference, text(target)]);
    let again = client.json(&["flash", &reference, text(target), "--yes"]);
    assert_eq!(field(&again, "fetched_bytes"), 0, "{}: {again}", sample.name);
    assert_eq!(field(&again, "written_bytes"), 0, "{}: {again}", sample.name);
}

#[test]
fn real_images_round_trip() {
    let folder = tempfile::tempdir().unwrap();
    let samples = samples::all(folder.path());
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    // One target for all, larger than the largest: each is flashed over the one before.
    let target = folder.path().join("target.raw");
    File::create(&target).unwrap().set_len((100 << 30) + 5 * MIB).unwrap();
    for sample in &samples {
        let begun = Instant::now();
        counted(&client, sample);
        pulled(&client, folder.path(), sample);
        flashed(&client, sample, &target);
        println!("{}: {} bytes, {} ms", sample.name, sample.size(), begun.elapsed().as_millis());
    }
    check_clean(&client);
}

#[test]
fn one_wrong_byte_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let sample = samples::odd(folder.path(), "bytes", 3 * MIB + 777);
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    push(&client, &sample, &[]);
    let target = folder.path().join("target.raw");
    let len = sample.size();
    for at in [0, 511, BLOCK as u64, MIB - 1, MIB, 2 * MIB + 17, len - 1] {
        flashed(&client, &sample, &target);
        let file = File::options().read(true).write(true).open(&target).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
        let said = client.run(&["verify", "me/bytes:0", text(&target)]);
        said.expect(7).names(&["target.raw"]);
    }
}

#[test]
#[ignore = "needs root"]
fn root_images_over_each_other_on_loop_devices() {
    let folder = tempfile::tempdir().unwrap();
    let mut samples = samples::all(folder.path());
    if !kit::all() {
        // A device cannot say where its holes are: all 100 GiB of it would be read several times.
        samples.retain(|sample| sample.name != "scattered");
    }
    samples.push(gpt_4k(folder.path()));
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    for sample in &samples {
        push(&client, sample, &[]);
    }
    for sector_size in [512, 4096] {
        let fitting: Vec<_> = samples.iter().filter(|sample| sample.sector_size == sector_size).collect();
        let largest = fitting.iter().map(|sample| sample.size()).max().expect("there are some");
        let disk = Loop::new(
            &folder.path().join(format!("disk.{sector_size}")),
            largest.next_multiple_of(MIB) + MIB,
            sector_size,
        );
        for sample in &fitting {
            let begun = Instant::now();
            flashed(&client, sample, &disk.device);
            (sample.whole)(&disk.device);
            println!("{} on {sector_size}: {} ms", sample.name, begun.elapsed().as_millis());
        }
        // And back over a disk that holds something else.
        flashed(&client, fitting[0], &disk.device);
    }
}

/// A GPT for sectors of 4 KiB, which only a disk with such sectors gets from sgdisk.
fn gpt_4k(folder: &Path) -> Sample {
    let path = folder.join("gpt4k.raw");
    let disk = Loop::new(&path, 64 * MIB, 4096);
    tool_run("sgdisk", &["-n", "1:256:+34M", "-t", "1:ef00", "-n", "2:0:0", "-t", "2:8300", text(&disk.device)]);
    let file = File::options().write(true).open(&disk.device).unwrap();
    file.write_all_at(&kit::image::image_dense(4096, 2 << 20), 40 * MIB).unwrap();
    file.sync_all().unwrap();
    drop(disk);
    Sample { name: "gpt4k", path, sector_size: 4096, whole: samples::gpt_whole }
}

/// What is mounted is not pushed without a word, whether it is named by its device or by the file behind it; it may be compared.
#[test]
#[ignore = "needs root"]
fn root_a_file_that_a_loop_device_mounts_is_not_pushed() {
    let folder = tempfile::tempdir().unwrap();
    let sample = samples::ext4(folder.path(), &samples::tree(folder.path()), "ext4", 64);
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    push(&client, &sample, &[]);
    let disk = Loop::of(&sample.path, 512);
    let at = folder.path().join("mnt");
    let mount = Mount::new(&["-o", "ro,noload", text(&disk.device)], &at);
    push(&client, &sample, &[]);
    let said = client.run(&["verify", "me/ext4:0", text(&disk.device)]);
    let warning = format!("warning: {} is mounted on {}", text(&disk.device), text(&at));
    assert!(said.expect(0).stderr.contains(&warning), "{}", said.stderr);
    drop(mount);
    let mount = Mount::new(&[text(&disk.device)], &at);
    for path in [&sample.path, &disk.device] {
        let said = client.run(&["push", text(path), "me/ext4"]);
        said.expect(10).names(&[text(path), "mounted", text(&at), "--mounted"]);
    }
    push(&client, &sample, &["--mounted"]);
    drop(mount);
    push(&client, &sample, &[]);
}

#[test]
#[ignore = "needs root"]
fn root_unfit_targets_are_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let tree = samples::tree(folder.path());
    let sample = samples::ext4(folder.path(), &tree, "ext4", 64);
    let xfs4k = samples::xfs(folder.path(), &tree, "xfs4k", 4096);
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    push(&client, &sample, &[]);
    push(&client, &xfs4k, &[]);
    let refused = |reference: &str, device: &Path, words: &[&str]| {
        let before = hash(device);
        let said = client.run(&["flash", reference, text(device), "--yes"]);
        said.expect(10).names(words);
        assert_eq!(hash(device), before, "{} was touched", device.display());
    };
    let small = Loop::new(&folder.path().join("small"), 64 * MIB - 4096, 512);
    refused("me/ext4:0", &small.device, &[text(&small.device), "67104768", "67108864"]);
    let wrong = Loop::new(&folder.path().join("wrong"), 300 * MIB, 512);
    refused("me/xfs4k:0", &wrong.device, &[text(&wrong.device), "512", "4096"]);
    let copy = folder.path().join("mounted.raw");
    std::fs::copy(&sample.path, &copy).unwrap();
    let mounted = Loop::of(&copy, 512);
    let at = folder.path().join("mnt");
    let mount = Mount::new(&["-o", "ro", text(&mounted.device)], &at);
    refused("me/ext4:0", &mounted.device, &[text(&mounted.device), "mounted"]);
    drop(mount);
    flashed(&client, &sample, &mounted.device);
    // A disk one of whose partitions is mounted is as much in use; so is one that is behind another device.
    let gpt = samples::gpt(folder.path(), &sample.path);
    let disk = Loop::of(&gpt.path, 512);
    let part = format!("{}p2", text(&disk.device));
    if Path::new(&part).exists() {
        let mount = Mount::new(&["-o", "ro", &part], &at);
        refused("me/ext4:0", &disk.device, &[text(&disk.device), "mounted"]);
        drop(mount);
    } else {
        println!("ignored: this kernel shows no partitions of loop devices");
    }
    let behind = Loop::of(&disk.device, 512);
    refused("me/ext4:0", &disk.device, &[text(&disk.device), behind.name()]);
    drop(behind);
    // A file behind a loop device is refused as well, and a folder or a name below /dev that is no device never made.
    let said = client.run(&["flash", "me/ext4:0", text(&disk.file), "--yes"]);
    said.expect(10).names(&[disk.name()]);
    client
        .run(&["flash", "me/ext4:0", "/dev/slipway-none", "--yes"])
        .expect_any(&[3, 10])
        .names(&["/dev/slipway-none"]);
    assert!(!Path::new("/dev/slipway-none").exists());
}

fn hash(device: &Path) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(device).unwrap()).unwrap();
    hasher.finalize().to_hex().to_string()
}

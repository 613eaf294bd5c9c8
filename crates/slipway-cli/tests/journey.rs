//! The main job against a real server: push, change, push, look, flash, verify, pull.
#![allow(clippy::unwrap_used)]

#[allow(unreachable_pub)]
mod house;

use house::{House, golden, image, noise, signal_send};
use slipway_chunk::Digest;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

#[test]
fn push_change_push_flash_verify_pull() {
    let house = House::start();
    let first = image(1);
    let mut second = first.clone();
    second[100_000..160_000].copy_from_slice(&noise(9, 60_000));
    let (raw0, raw1) = (house.place.file("v0.raw", &first), house.place.file("v1.raw", &second));

    let ran = house.run(&["push", &raw0, "me/os", "-m", "as installed"]).expect(0);
    assert!(ran.text().contains("os:0") && ran.text().contains("shared"), "{}", ran.text());
    assert!(ran.err.contains("v0.raw: raw bytes"), "{}", ran.err);
    assert!(!ran.err.contains('\u{1b}') && !ran.err.contains('\r'), "a bar was drawn into a pipe: {:?}", ran.err);
    let pushed = house.run(&["push", &raw1, "me/os", "-m", "changed", "-o", "json", "-q"]).expect(0);
    assert!(pushed.err.is_empty(), "{}", pushed.err);
    let pushed = pushed.json();
    assert_eq!((pushed["outcome"].as_str(), pushed["version"]["number"].as_u64()), (Some("created"), Some(1)));
    assert!(pushed["shared_bytes"].as_u64().unwrap() > 1_500_000, "{pushed}");
    let again = house.run(&["push", &raw1, "me/os", "-o", "json"]).expect(0).json();
    assert_eq!((again["outcome"].as_str(), again["version"]["number"].as_u64()), (Some("unchanged"), Some(1)));

    let shown = house.run(&["image", "show", "me/os", "-o", "json"]).expect(0).json();
    let versions = shown["versions"].as_array().unwrap();
    assert_eq!(versions.len(), 2);
    let (new, old) = (&versions[0], &versions[1]);
    assert_eq!((new["number"].as_u64(), old["number"].as_u64()), (Some(1), Some(0)));
    assert_eq!(old["size"].as_u64(), Some(first.len() as u64));
    assert_eq!(old["data_bytes"].as_u64(), Some((first.len() as u64 - (2 << 20)).div_ceil(4096) * 4096));
    assert!(new["new_bytes"].as_u64().unwrap() < old["new_bytes"].as_u64().unwrap() / 4);
    for (version, bytes) in [(old, &first), (new, &second)] {
        digest_wait(&house, version["number"].as_u64().unwrap(), bytes);
    }

    let target = house.place.path("target.raw");
    let target = target.to_str().unwrap();
    house.run(&["flash", "me/os:0", target, "--yes"]).expect(0);
    assert!(std::fs::read(target).unwrap() == first);
    let flashed = house.run(&["flash", "me/os", target, "--yes", "-o", "json"]).expect(0).json();
    assert!(flashed["written_bytes"].as_u64().unwrap() < 1 << 20, "{flashed}");
    assert!(std::fs::read(target).unwrap() == second);
    let flashed = house.run(&["flash", "me/os:1", target, "--yes", "-o", "json"]).expect(0).json();
    assert_eq!(flashed["written_bytes"].as_u64(), Some(0), "{flashed}");
    let link = house.place.path("link.raw");
    std::os::unix::fs::symlink(target, &link).unwrap();
    std::fs::set_permissions(target, std::os::unix::fs::PermissionsExt::from_mode(0o444)).unwrap();
    for path in [target, link.to_str().unwrap()] {
        house.run(&["verify", "me/os:1", path]).expect(0);
    }
    std::fs::set_permissions(target, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let ran = house.run(&["verify", "me/os:0", target, "-o", "json"]).expect(7);
    let range = &ran.json()["ranges"][0];
    let (at, len) = (range["at"].as_u64().unwrap(), range["len"].as_u64().unwrap());
    assert!(at <= 100_000 && at + len > 100_000, "{range}");
    assert!(ran.err.contains(&format!("byte {at}")) && ran.err.contains("next: "), "{}", ran.err);

    let out = house.place.path("out.raw");
    house.run(&["pull", "me/os:0", "-o", out.to_str().unwrap()]).expect(0);
    assert!(std::fs::read(&out).unwrap() == first);
    let ran = house.run(&["pull", "me/os:1", "-o", "-"]).expect(0);
    assert!(ran.out == second);
    let log = house.run(&["image", "log", "me/os", "-o", "jsonl"]).expect(0).text();
    assert_eq!(log.lines().count(), 2);
    house.run(&["check"]).expect(0);
}

/// The digest is computed in the background; it must come, and be right.
fn digest_wait(house: &House, number: u64, bytes: &[u8]) {
    let until = Instant::now() + Duration::from_secs(20);
    let reference = format!("me/os:{number}");
    loop {
        let version = house.run(&["image", "show", &reference, "-o", "json"]).expect(0).json();
        match version["digest"].as_str() {
            Some(digest) => return assert_eq!(digest, Digest::of(bytes).to_string()),
            None => assert!(Instant::now() < until, "no digest came: {version}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn every_kind_of_source_gives_the_same_version() {
    let house = House::start();
    let raw = image(3);
    let plain = house.place.file("disk.raw", &raw);
    house.run(&["push", &plain, "me/os"]).expect(0);
    let gz = packed("gzip", &raw);
    let xz = packed("xz", &raw);
    let zst = zstd::encode_all(&raw[..], 1).unwrap();
    for (name, bytes) in [("a", &gz), ("b", &xz), ("c", &zst)] {
        let file = house.place.file(name, bytes);
        let from_file = house.run(&["push", &file, "me/os", "-o", "json"]).expect(0).json();
        assert_eq!(from_file["outcome"].as_str(), Some("unchanged"), "{name}");
        let piped = house.run_as(&house.token, &["push", "-", "me/os", "-o", "json"], bytes).expect(0).json();
        assert_eq!(piped["outcome"].as_str(), Some("unchanged"), "{name} by stdin");
    }
    let kept =
        house.run(&["push", &house.place.file("a", &gz), "me/os", "--format", "raw", "-o", "json"]).expect(0).json();
    assert_eq!(kept["version"]["size"].as_u64(), Some(gz.len() as u64));
    house.run(&["push", &plain, "me/os", "--new", "--channel", "stable"]).expect(0);
    let channels = house.run(&["channel", "ls", "me/os", "-o", "json"]).expect(0).json();
    assert_eq!((channels[0]["name"].as_str(), channels[0]["version"].as_u64()), (Some("stable"), Some(2)));

    let cut = house.place.file("cut.gz", &gz[..gz.len() - 1000]);
    let ran = house.run(&["push", &cut, "me/os"]);
    assert!(ran.code == 7 && ran.err.contains("cut off"), "{ran:?}");
    let other = Digest::of(b"something else").to_string();
    house.run(&["push", &house.place.file("x", &noise(4, 70_000)), "me/os", "--digest", &other]).expect(7);
    house.run(&["push", &plain, "me/none", "--no-create"]).expect(3);
    let log = house.run(&["image", "log", "me/os", "-o", "json"]).expect(0).json();
    assert_eq!(log.as_array().unwrap().len(), 3, "a failed push left a version: {log}");
}

fn packed(tool: &str, bytes: &[u8]) -> Vec<u8> {
    let mut command = std::process::Command::new(tool);
    command.arg("-c");
    house::run(command, bytes).expect(0).out
}

#[test]
fn mistakes_with_a_server_are_named() {
    let house = House::start();
    let raw = house.place.file("disk.raw", &image(5));
    house.run(&["push", &raw, "me/os"]).expect(0);
    let small = house.place.file("small.raw", &[1; 4096]);
    let folder = house.place.path("");
    let mut all = String::new();
    let rows: &[(&str, &[&str], i32)] = &[
        ("", &["image", "show", "me/nothing"], 3),
        ("", &["image", "show", "nobody/os"], 3),
        ("", &["image", "show", "me/os:7"], 3),
        ("", &["image", "show", "me/os:stable"], 3),
        ("", &["pull", "me/nothing", "-o", "x"], 3),
        ("", &["flash", "me/os:7", "x"], 3),
        ("", &["flash", "me/os", "no-such-folder/x"], 3),
        ("", &["flash", "me/os", "/dev/no-such-device"], 3),
        ("", &["flash", "me/os", "/dev/null"], 10),
        ("", &["flash", "me/os", "."], 10),
        ("", &["flash", "me/os", &small, "--yes"], 10),
        ("", &["verify", "me/os", &small], 7),
        ("", &["verify", "me/os", "missing.raw"], 3),
        ("", &["image", "create", "me/os"], 5),
        ("", &["image", "rm", "me/os:9"], 3),
        ("", &["user", "show", "nobody"], 3),
        ("", &["user", "rm", "admin"], 2),
        ("", &["task", "show", "0198c0de-0000-7000-8000-000000000000"], 3),
        ("slp_wrong", &["image", "ls"], 4),
    ];
    for (token, words, code) in rows {
        let token = if token.is_empty() { &house.token } else { *token };
        let ran = house.run_as(token, words, b"").expect(*code);
        assert!(ran.err.contains("next: "), "{words:?} has no next step: {}", ran.err);
        let shown = ran.err.replace(&house.url, "http://SERVER").replace(folder.to_str().unwrap(), "FOLDER/");
        let words = words.join(" ").replace(folder.to_str().unwrap(), "FOLDER/");
        all.push_str(&format!("$ slipway {words}\n{shown}exit {code}\n\n"));
    }
    assert!(!house.place.path("x").exists(), "a refused flash or pull left a file");
    assert_eq!(std::fs::read(&small).unwrap(), vec![1; 4096]);
    golden("mistakes-server.txt", &all);
}

#[test]
fn an_interrupted_push_ends_with_130() {
    let house = House::start();
    let mut command = house.command(&house.token, &["push", "-", "me/os"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&noise(1, 3 << 20)).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    signal_send(child.id(), "INT");
    let begun = Instant::now();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    assert!(begun.elapsed() < Duration::from_secs(3));
    drop(stdin);
    let images = house.run(&["image", "ls", "-o", "json"]).expect(0).json();
    let versions: u64 = images.as_array().unwrap().iter().map(|image| image["version_count"].as_u64().unwrap()).sum();
    assert_eq!(versions, 0);
}

#[test]
fn an_interrupted_pull_leaves_nothing_behind() {
    let house = House::start();
    // Large enough that a debug build needs a while to write and read it back.
    let raw = house.place.file("disk.raw", &noise(81, 96 << 20));
    house.run(&["push", &raw, "me/os"]).expect(0);
    std::fs::create_dir(house.place.path("to")).unwrap();
    let left = || std::fs::read_dir(house.place.path("to")).unwrap().count();
    for (signal, pause) in [("INT", 200), ("TERM", 300), ("INT", 400)] {
        let mut command = house.command(&house.token, &["pull", "me/os", "-o", "to/out.raw"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        signal_send(child.id(), signal);
        match child.wait().unwrap().code() {
            Some(130) => assert_eq!(left(), 0, "after {signal}"),
            // It was done before the signal came.
            code => {
                assert_eq!(code, Some(0));
                std::fs::remove_file(house.place.path("to/out.raw")).unwrap();
                assert_eq!(left(), 0);
            }
        }
    }
}

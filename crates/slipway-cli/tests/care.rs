//! Care for what is kept, as people do it: rules of retention, a way back, quotas, and a disk that is never quite full.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::client::Client;
use kit::database::time_pass;
use kit::image::{image_changed, image_dense};
use kit::loops::Mount;
use kit::oracle::{Oracle, check_clean, file_of, pull, push_begin};
use kit::server::{Place, Server};
use kit::text;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const MIB: usize = 1 << 20;

fn numbers(versions: &Value, key: &str) -> Vec<u64> {
    versions.as_array().unwrap().iter().map(|version| version[key].as_u64().unwrap()).collect()
}

/// The numbers of the versions that go by a plan.
fn going(plan: &Value) -> Vec<u64> {
    let goes = |version: &&Value| version["keep"].as_array().unwrap().is_empty();
    plan["versions"].as_array().unwrap().iter().filter(goes).map(|v| v["number"].as_u64().unwrap()).collect()
}

#[test]
fn rules_a_way_back_and_a_quota() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    let oracle = Oracle::default();
    let mut image = image_dense(1, 2 * MIB);
    let mut contents = Vec::new();
    for seed in 0..5 {
        oracle.push(&client, folder.path(), "me/os", image.clone());
        contents.push(image.clone());
        image = image_changed(&image, seed + 10);
    }
    // Nothing goes before somebody says so, and a preview changes nothing.
    assert_eq!(client.json(&["image", "retention", "preview", "me/os"])["going"], 0);
    client.run(&["image", "retention", "set", "me/os"]).expect(2).names(&["rule", "--help"]);
    client.run(&["image", "retention", "set", "me/os", "--keep-last", "0"]).expect(2).names(&["keep last 0"]);
    client.ok(&["image", "retention", "set", "me/os", "--keep-last", "2"]);
    client.ok(&["channel", "set", "me/os:1", "stable"]);
    client.ok(&["image", "protect", "me/os:0"]);
    let said = client.ok(&["image", "retention", "preview", "me/os"]).stdout;
    for words in ["channel stable", "protected", "newest", "1 version of admin/os would go", "Keeps last 2"] {
        assert!(said.contains(words), "{words} in\n{said}");
    }
    let preview = client.json(&["image", "retention", "preview", "me/os"]);
    assert_eq!((going(&preview), &preview["bytes_exact"]), (vec![2], &Value::Bool(true)), "{preview}");
    assert_eq!(numbers(&client.json(&["image", "log", "me/os"]), "number"), [4, 3, 2, 1, 0]);
    let done = client.json(&["image", "retention", "run", "me/os"]);
    assert_eq!((going(&done), &done["bytes_freed"]), (vec![2], &preview["bytes_freed"]));
    oracle.give_up("admin/os", 2);
    assert_eq!(numbers(&client.json(&["image", "log", "me/os"]), "number"), [4, 3, 1, 0]);
    client.ok(&["image", "restore", "me/os:2"]);
    client.ok(&["image", "retention", "run", "me/os", "--keep-daily", "1"]);
    // The account's default holds where an image has no rules.
    client.ok(&["image", "retention", "set", "me", "--keep-monthly", "6"]);
    client.ok(&["image", "retention", "set", "me/os", "--inherit"]);
    let shown = client.json(&["image", "retention", "show", "me/os"]);
    assert_eq!((&shown["from"], &shown["rules"]["keep_monthly"]), (&Value::from("account"), &Value::from(6)));
    // Back to what was, without a byte more.
    let stored = || client.json(&["quota"])["stored_bytes"]["used"].as_u64().unwrap();
    let before = stored();
    let said = client.ok(&["image", "rollback", "me/os", "--to", "0"]).stdout;
    assert!(said.contains("admin/os:5 has the content of version 0"), "{said}");
    assert!(client.ok(&["image", "rollback", "me/os", "--to", "0"]).stdout.contains("unchanged"));
    assert_eq!(stored(), before);
    assert!(pull(&client, folder.path(), "me/os", 5) == contents[0]);
    client.run(&["image", "rollback", "me/os", "--to", "77"]).expect(3).names(&["77"]);
    // A quota of somebody else's.
    client.ok(&["user", "add", "jan"]);
    let token = client.ok(&["token", "new", "test", "--user", "jan"]).stdout.trim().to_owned();
    let jan = Client::new(&server.url, &token, &folder.path().join("jan"));
    client.ok(&["user", "quota", "jan", "--stored", "3M", "--versions", "5"]);
    assert!(client.run(&["user", "quota", "jan", "--stored", "lots"]).expect(2).stderr.contains("500G"));
    jan.run(&["user", "quota", "jan", "--stored", "none"]).expect(4);
    jan.run(&["quota", "admin"]).expect(3);
    push_begin(&jan, folder.path(), "me/os", &image_dense(30, 2 * MIB)).finish().expect(0);
    let said = push_begin(&jan, folder.path(), "me/os", &image_dense(31, 2 * MIB)).finish();
    said.expect(6).names(&["quota of jan", "stored bytes", "slipway quota"]);
    let shown = jan.ok(&["quota"]).stdout;
    assert!(shown.contains("stored") && shown.contains("3.0 MiB") && shown.contains("the account"), "{shown}");
    assert_eq!(numbers(&jan.json(&["image", "log", "me/os"]), "number"), [0]);
    client.ok(&["user", "quota", "jan", "--stored", "none"]);
    push_begin(&jan, folder.path(), "me/os", &image_dense(31, 2 * MIB)).finish().expect(0);
    let journal = client.ok(&["journal", "-o", "jsonl"]).stdout;
    for verb in ["retention_set", "retention_run", "image_rollback", "quota_change", "version_trash"] {
        assert!(journal.contains(&format!("\"verb\":\"{verb}\"")), "{verb} is not in the journal");
    }
    check_clean(&client);
}

/// The server applies the rules by itself when their time has come.
#[test]
fn the_server_applies_rules_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Place::new(folder.path()).with_env("SLIPWAY_RETENTION", "last=1"));
    let client = server.admin();
    for seed in 0..3 {
        push_begin(&client, folder.path(), "me/os", &image_dense(seed, MIB / 4)).finish().expect(0);
    }
    let shown = client.ok(&["image", "retention", "show", "me/os"]).stdout;
    assert!(shown.contains("last 1") && shown.contains("the server's default") && shown.contains("1 day"), "{shown}");
    let place = server.kill();
    time_pass(&place, 25);
    let server = Server::start_again(&place);
    let client = server.admin();
    let until = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while numbers(&client.json(&["image", "log", "me/os"]), "number") != [2] {
        assert!(std::time::Instant::now() < until, "the rules were not applied");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let trash = client.json(&["image", "log", "me/os", "--trash"]);
    assert_eq!(numbers(&trash, "number"), [1, 0]);
    let journal = client.ok(&["journal", "-o", "jsonl"]).stdout;
    let by_server = |line: &&str| line.contains("\"version_trash\"") && line.contains("\"actor\":\"server\"");
    assert_eq!(journal.lines().filter(by_server).count(), 2);
}

/// Bytes that are free on the disk of this folder.
fn free(at: &Path) -> u64 {
    let disk = rustix::fs::statvfs(at).unwrap();
    disk.f_bavail * disk.f_frsize
}

/// `PUT` of a whole body by curl: the status and what was said.
fn put(client: &Client, image: &str, file: &Path) -> (String, String) {
    let url = format!("{}/api/v1/images/{image}/content", client.url);
    let mut curl = Command::new(kit::tool("curl"));
    curl.args(["-sS", "--noproxy", "*", "-T", text(file), "-w", "\n%{http_code}"]);
    curl.args(["-H", &format!("Authorization: Bearer {}", client.token), &url]);
    let out = curl.output().unwrap();
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    let (body, status) = said.rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

/// A small disk is filled by every way in until nothing more is taken: what is kept free for deleting stays free, and deleting makes room.
#[test]
#[ignore = "needs root"]
fn root_a_disk_that_is_never_quite_full() {
    let reserve = 16 * MIB as u64;
    let folder = tempfile::tempdir().unwrap();
    let disk = Mount::new(&["-t", "tmpfs", "-o", "size=64m", "tmpfs"], &folder.path().join("disk"));
    // A quarter of the disk is more than the bytes that are set: the larger one counts.
    let place = Place::new(&disk.at);
    let place = place.with_env("SLIPWAY_MIN_FREE_BYTES", "1000000").with_env("SLIPWAY_MIN_FREE_PERCENT", "25");
    let server = Server::start(&place);
    let client = server.admin();
    let oracle = Oracle::default();
    // Frames, until they are refused.
    let mut kept = Vec::new();
    for seed in 0..12 {
        let bytes = std::sync::Arc::new(image_dense(seed, 7 * MIB));
        let said = push_begin(&client, folder.path(), "me/os", &bytes).finish();
        if said.code != Some(0) {
            said.expect(6).names(&["free", "for deleting", "prune --now"]);
            break;
        }
        kept.push(oracle.record("me/os", &bytes, &said).unwrap().number);
    }
    assert!((3..=7).contains(&kept.len()), "{} pushes of 7 MiB went into 64 MiB", kept.len());
    // A body in one go, and a small one that unpacks to much: both end on their way.
    client.ok(&["image", "create", "me/put"]);
    let plain = file_of(folder.path(), &image_dense(50, 40 * MIB));
    let packed = folder.path().join("packed.zst");
    std::fs::write(&packed, zstd::encode_all(&image_dense(51, 40 * MIB)[..], 1).unwrap()).unwrap();
    for file in [&plain, &packed] {
        let (status, said) = put(&client, "admin/put", file);
        assert!(status == "507" && said.contains("no_space") && said.contains("for deleting"), "{status} {said}");
        // What was in flight when it was noticed is less than a few pieces.
        assert!(free(&disk.at) + 4 * MIB as u64 >= reserve, "only {} bytes are free", free(&disk.at));
    }
    let metrics = Command::new(kit::tool("curl"))
        .args(["-sS", "--noproxy", "*", &format!("{}/metrics", client.url)])
        .output()
        .unwrap();
    let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
    assert!(metrics.contains("slipway_uploads_refused 1") && metrics.contains("slipway_reserve_bytes"), "{metrics}");
    // Reading and deleting go on.
    oracle.everything_reads(&client, folder.path());
    for number in &kept[..kept.len() - 1] {
        client.ok(&["image", "rm", "--now", "--yes", &format!("me/os:{number}")]);
        oracle.give_up("me/os", *number);
    }
    let before = free(&disk.at);
    let done = client.json(&["prune", "--now"]);
    let freed = done["bytes_freed"].as_u64().unwrap();
    assert!(freed >= (kept.len() as u64 - 1) * 7 * MIB as u64, "{done}");
    assert!(free(&disk.at) >= before + freed - MIB as u64, "{before} and {freed} are not {}", free(&disk.at));
    oracle.push(&client, folder.path(), "me/again", image_dense(60, 7 * MIB));
    check_clean(&client);
    oracle.everything_reads(&client, folder.path());
}

//! The server with its blobs in S3, a real one over HTTP, and its rows in PostgreSQL where the tests have one.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::database::{postgres, postgres_drop, postgres_new, time_pass};
use kit::image::{image_changed, image_dense, image_fresh, image_write};
use kit::oracle::{Oracle, check_clean, pull, push_begin};
use kit::s3::{KEY, S3, SECRET};
use kit::server::{Place, Server};
use kit::text;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MIB: usize = 1 << 20;

/// A place on an S3 and on PostgreSQL, if there is one; its database goes with it.
struct Cloud {
    place: Place,
}

impl Cloud {
    fn new(folder: &Path, s3: &S3) -> Self {
        let mut place = Place::new(folder).with_env("AWS_ACCESS_KEY_ID", KEY).with_env("AWS_SECRET_ACCESS_KEY", SECRET);
        place.blobs = Some(s3.blobs());
        place.database = postgres().as_deref().map(postgres_new);
        if place.database.is_none() {
            println!("the rows are in SQLite: SLIPWAY_TEST_POSTGRES is not set");
        }
        Self { place }
    }
}

impl Drop for Cloud {
    fn drop(&mut self) {
        if let (Some(server), Some(url)) = (postgres(), &self.place.database) {
            postgres_drop(&server, url);
        }
    }
}

#[test]
fn a_whole_life_in_s3() {
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(&folder.path().join("bucket"));
    let cloud = Cloud::new(&folder.path().join("server"), &s3);
    let folder = folder.path();
    let oracle = Oracle::default();
    let server = Server::start(&cloud.place);
    let client = server.admin();
    let first = image_fresh(11, 12 * MIB);
    oracle.push(&client, folder, "me/os", first.clone());
    let second = oracle.push(&client, folder, "me/os", image_changed(&first, 12));
    oracle.push(&client, folder, "me/big", image_dense(13, 20 * MIB));
    let target = folder.join("target.raw");
    image_write(&target, &first);
    client.ok(&["flash", "me/os:1", text(&target), "--yes"]);
    assert!(std::fs::read(&target).unwrap() == *second.bytes, "flashed from S3");
    oracle.everything_reads(&client, folder);
    check_clean(&client);
    client.ok(&["image", "rm", "me/big"]);
    oracle.give_up("me/big", 0);
    let full = s3.objects();
    let mut place = server.kill();
    for hours in [8 * 24, 48] {
        time_pass(&place, hours);
        let server = Server::start_again(&place);
        server.admin().ok(&["prune"]);
        check_clean(&server.admin());
        oracle.everything_reads(&server.admin(), folder);
        place = server.kill();
    }
    assert!(s3.objects() < full, "{} objects before the prunes, {} after", full, s3.objects());
    let server = Server::start_again(&place);
    oracle.everything_reads(&server.admin(), folder);
}

#[test]
fn s3_goes_away_and_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut s3 = S3::start(&folder.path().join("bucket"));
    let cloud = Cloud::new(&folder.path().join("server"), &s3);
    let folder = folder.path();
    let oracle = Oracle::default();
    let server = Server::start(&cloud.place);
    let client = server.admin();
    let image = image_fresh(21, 6 * MIB);
    oracle.push(&client, folder, "me/os", image.clone());
    // A short absence is waited for: by the server, and by a push.
    for requests in [0, 1, 2, 4] {
        let bytes = Arc::new(image_changed(&image_dense(22 + requests as u64, 3 * MIB), 1));
        s3.go_away_after(requests);
        let push = push_begin(&client, folder, "me/os", &bytes);
        std::thread::sleep(Duration::from_millis(700));
        s3.go_away();
        std::thread::sleep(Duration::from_millis(300));
        s3.come_back();
        let said = push.finish();
        said.expect(0);
        oracle.record("me/os", &bytes, &said);
    }
    oracle.everything_reads(&client, folder);
    // A long one is not: everybody is told what is away, and nothing half is left.
    let (target, none) = (folder.join("target.raw"), folder.join("none.raw"));
    let old = image_dense(30, 6 * MIB);
    image_write(&target, &old);
    s3.go_away();
    let commands = [
        push_begin(&client, folder, "me/os", &image_dense(31, 3 * MIB)),
        client.begin(&["flash", "me/os:0", text(&target), "--yes"]),
        client.begin(&["pull", "me/os:0", "-o", text(&none)]),
    ];
    for command in commands {
        let said = command.finish();
        println!("after {:?}: {}", said.took, said.stderr);
        said.expect(8).names(&["storage"]);
    }
    assert!(!none.exists(), "a pull that failed left a file");
    let left = std::fs::read(&target).unwrap();
    assert!(left == old || left[..MIB].iter().all(|byte| *byte == 0), "the target is a mixture that could boot");
    s3.come_back();
    client.ok(&["flash", "me/os:0", text(&target), "--yes"]);
    assert!(std::fs::read(&target).unwrap() == image, "flashed after S3 came back");
    check_clean(&client);
    oracle.everything_reads(&client, folder);
}

#[test]
fn two_servers_on_one_postgres_and_s3() {
    if postgres().is_none() {
        println!("ignored: SLIPWAY_TEST_POSTGRES is not set; 'cargo xtask test' sets it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let s3 = S3::start(&folder.path().join("bucket"));
    let cloud = Cloud::new(&folder.path().join("one"), &s3);
    let oracle = Oracle::default();
    let one = Server::start(&cloud.place);
    let client = one.admin();
    let other = Place { folder: folder.path().join("two"), ..cloud.place.clone() };
    let two = Server::start(&other);
    let client_two = client.at(&two.url);
    let folder = folder.path();
    // What one keeps, the other has, and shares with.
    let image = image_fresh(31, 6 * MIB);
    oracle.push(&client, folder, "me/os", image.clone());
    assert!(pull(&client_two, folder, "me/os", 0) == image, "pushed to one, pulled from the other");
    let said = push_begin(&client_two, folder, "me/os", &image_changed(&image, 32)).finish();
    said.expect(0);
    let new = said.json()["version"]["new_bytes"].as_u64().expect("a version has new_bytes");
    assert!(new < MIB as u64, "{new} new bytes for a small change: the other server's chunks were not found");
    // Both at once into one image, and prunes on both at the same time.
    let numbers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = [&client, &client_two, &client, &client_two]
            .into_iter()
            .zip(33..)
            .map(|(client, seed)| {
                let (oracle, image) = (&oracle, &image);
                scope.spawn(move || {
                    let pushed: Vec<_> = (0..3)
                        .map(|round| {
                            oracle.push(client, folder, "me/os", image_changed(image, seed * 10 + round)).number
                        })
                        .collect();
                    client.run(&["prune"]).expect_any(&[0, 5, 8]);
                    pushed
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 12, "{numbers:?}");
    assert_eq!(numbers.iter().max(), Some(&13), "{numbers:?}");
    for client in [&client, &client_two] {
        check_clean(client);
        oracle.everything_reads(client, folder);
    }
    // One is shot; the other goes on at once.
    one.kill();
    oracle.push(&client_two, folder, "me/os", image_changed(&image, 99));
    check_clean(&client_two);
}

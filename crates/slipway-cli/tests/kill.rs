//! kill -9 at random: of the server under pushes, flashes and prunes, and of a flash.
//!
//! Normally 6 rounds; 100 with `SLIPWAY_TEST_ALL=1`. The seed is printed and can be given as `SLIPWAY_TEST_SEED`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::client::Client;
use kit::database::{postgres, postgres_drop, postgres_new, time_pass};
use kit::image::{BLOCK, Chance, image_changed, image_dense, image_fresh, image_write, same};
use kit::oracle::{Oracle, check_clean, push_begin};
use kit::server::{Place, Server};
use kit::text;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// What a command may end with when its server is shot: success, or that the server went away or is busy again with the same thing.
const SHOT: [i32; 5] = [0, 5, 8, 9, 3];

/// Work that goes on until told to stop; each line of it is a thread.
struct Crowd<'a> {
    folder: &'a Path,
    client: Client,
    oracle: Oracle,
    stop: &'a AtomicBool,
    done: &'a AtomicUsize,
}

impl Crowd<'_> {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::SeqCst)
    }

    /// Pushes changed versions of one image, one after the other.
    fn pushes(&self, image: &str, mut chance: Chance) {
        let mut bytes = match self.oracle.standing().into_iter().rfind(|ack| ack.image == image) {
            Some(ack) => ack.bytes.to_vec(),
            None => image_fresh(chance.next(), 2 * MIB + BLOCK * chance.below(64)),
        };
        while self.goes_on() {
            bytes = image_changed(&bytes, chance.next());
            let kept = Arc::new(bytes.clone());
            let said = push_begin(&self.client, self.folder, image, &kept).finish();
            said.expect_any(&SHOT);
            if self.oracle.record(image, &kept, &said).is_some() {
                self.done.fetch_add(1, Ordering::SeqCst);
            }
            let _ = std::fs::remove_file(kit::oracle::file_of(self.folder, &kept));
        }
    }

    /// Flashes one version after the other onto the same file; one that succeeds is what was pushed.
    fn flashes(&self, mut chance: Chance) {
        let target = self.folder.join("crowd.raw");
        while self.goes_on() {
            let standing = self.oracle.standing();
            let Some(ack) = standing.get(chance.below(standing.len())) else { continue };
            let old = image_fresh(chance.next(), ack.bytes.len());
            let _ = std::fs::remove_file(&target);
            image_write(&target, &old);
            let reference = format!("{}:{}", ack.image, ack.number);
            let said = self.client.run(&["flash", &reference, text(&target), "--yes"]);
            said.expect_any(&SHOT);
            let state = left(&std::fs::read(&target).unwrap(), &old, &ack.bytes);
            if said.code == Some(0) {
                assert_eq!(state, Left::New, "flashed {reference} is not what was pushed");
                self.done.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    /// Deletes old versions and prunes.
    fn prunes(&self, mut chance: Chance) {
        while self.goes_on() {
            // Several at a time, so that there is not more and more to read in each round.
            for _ in 0..3 {
                let standing = self.oracle.standing();
                if standing.len() <= 8 {
                    break;
                }
                let ack = &standing[chance.below(standing.len() - 3)];
                self.oracle.give_up(&ack.image, ack.number);
                self.client.run(&["image", "rm", &format!("{}:{}", ack.image, ack.number)]).expect_any(&SHOT);
            }
            // On PostgreSQL a prune whose server was shot is begun again when its lease is over: nobody waits here for that.
            let mut prune = self.client.begin(&["prune", "-o", "json"]);
            while prune.runs() && self.goes_on() {
                std::thread::sleep(Duration::from_millis(5));
            }
            if prune.runs() {
                prune.kill();
                return;
            }
            let said = prune.finish();
            said.expect_any(&SHOT);
            if said.code == Some(0) {
                self.done.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

/// One server, shot again and again while a crowd works on it.
fn rounds(place: Place, seed: u64, rounds: usize) {
    let folder = place.folder.clone();
    let mut chance = Chance::new(seed);
    let oracle = Oracle::default();
    let mut server = Server::start(&place);
    let mut slowest = Duration::ZERO;
    let done = AtomicUsize::new(0);
    for round in 0..rounds {
        let stop = AtomicBool::new(false);
        let crowd = Crowd { folder: &folder, client: server.admin(), oracle: oracle.clone(), stop: &stop, done: &done };
        let shots = 1 + chance.below(2);
        server = std::thread::scope(|scope| {
            for image in ["me/a", "me/b"] {
                let chance = Chance::new(chance.next());
                let crowd = &crowd;
                scope.spawn(move || crowd.pushes(image, chance));
            }
            let (flash, prune) = (Chance::new(chance.next()), Chance::new(chance.next()));
            let crowd = &crowd;
            scope.spawn(move || crowd.flashes(flash));
            scope.spawn(move || crowd.prunes(prune));
            // Whatever fails, the crowd must stop, or the scope would wait for it for ever.
            let _stop = Stop(&stop);
            for _ in 0..shots {
                std::thread::sleep(Duration::from_millis(50 + chance.below(1500) as u64));
                let place = server.kill();
                server = Server::start_again(&place);
                slowest = slowest.max(server.ready_after);
            }
            server
        });
        let client = server.admin();
        check_clean(&client);
        let read = oracle.everything_reads(&client, &folder);
        println!("round {round}: {shots} shots, {read:?}, {} commands done", done.load(Ordering::SeqCst));
        // Half of a grace each time: what was doomed two rounds ago may be deleted now.
        let place = server.kill();
        time_pass(&place, 13);
        server = Server::start_again(&place);
    }
    println!("seed {seed}: {rounds} rounds, slowest restart {} ms", slowest.as_millis());
    assert!(done.load(Ordering::SeqCst) >= rounds, "the crowd got nothing done");
    let client = server.admin();
    client.ok(&["prune"]);
    check_clean(&client);
    oracle.everything_reads(&client, &folder);
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A proof is worth something only if it fails when it should.
#[test]
fn the_oracle_notices_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    let oracle = Oracle::default();
    let ack = oracle.push(&client, folder.path(), "me/os", image_fresh(1, MIB));
    oracle.push(&client, folder.path(), "me/os", image_fresh(2, MIB));
    assert_eq!(oracle.everything_reads(&client, folder.path()).acknowledged, 2);
    let fails = || {
        let read = std::panic::AssertUnwindSafe(|| oracle.everything_reads(&client, folder.path()));
        std::panic::catch_unwind(read).is_err()
    };
    client.ok(&["image", "rm", "me/os:1"]);
    assert!(fails(), "a version that is gone");
    client.ok(&["image", "restore", "me/os:1"]);
    assert!(!fails());
    oracle.replace(&kit::oracle::Ack { bytes: Arc::new(image_fresh(3, MIB)), ..ack });
    assert!(fails(), "a version with other bytes");
}

#[test]
fn server_shot_under_load_on_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let place = Place::new(folder.path()).with_env("SLIPWAY_TRASH_HOURS", "1");
    rounds(place, kit::seed("server_shot"), if kit::all() { 100 } else { 6 });
}

#[test]
fn server_shot_under_load_on_postgres() {
    let Some(server) = postgres() else {
        println!("ignored: SLIPWAY_TEST_POSTGRES is not set; 'cargo xtask test' sets it");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::new(folder.path()).with_env("SLIPWAY_TRASH_HOURS", "1");
    let url = postgres_new(&server);
    place.database = Some(url.clone());
    rounds(place, kit::seed("server_shot"), if kit::all() { 50 } else { 2 });
    postgres_drop(&server, &url);
}

/// What an interrupted flash may leave behind.
#[derive(Debug, PartialEq, Eq)]
enum Left {
    Old,
    New,
    /// Neither, and unable to boot: the first MiB is zero, or all else is one or the other.
    Disarmed,
}

fn left(target: &[u8], old: &[u8], new: &[u8]) -> Left {
    if target == old {
        return Left::Old;
    }
    if target == new {
        return Left::New;
    }
    let zero = target[..MIB].iter().all(|byte| *byte == 0);
    assert!(zero || is_partly(target, old) || is_partly(target, new), "a mixture that could boot");
    Left::Disarmed
}

/// Whether the shot fell before anything but guarded blocks (the first MiB and the last block) was changed, or after all else was
/// there: these are zero or `whole`'s then, and the first 8 KiB are made zero before the others and written after them.
fn is_partly(target: &[u8], whole: &[u8]) -> bool {
    let blocks = || target.chunks(BLOCK).zip(whole.chunks(BLOCK)).enumerate();
    let (first, last) = ((8 << 10) / BLOCK, target.len() / BLOCK - 1);
    let is_zero = |block: &[u8]| block.iter().all(|byte| *byte == 0);
    blocks().all(|(n, (now, then))| now == then || (n < MIB / BLOCK || n == last) && is_zero(now))
        && (is_zero(&target[..first * BLOCK]) || blocks().skip(first).all(|(_, (now, then))| now == then))
}

/// Bytes that differ, and in how many runs; differences closer than a frame are one run.
fn missing(target: &[u8], new: &[u8]) -> (u64, u64) {
    let near = (256 << 10) / BLOCK;
    let (mut blocks, mut runs) = (0, 0);
    let mut last: Option<usize> = None;
    for (number, (a, b)) in target.chunks(BLOCK).zip(new.chunks(BLOCK)).enumerate() {
        if a != b && b.iter().any(|byte| *byte != 0) {
            blocks += 1;
            runs += u64::from(last.is_none_or(|last| number - last > near));
            last = Some(number);
        }
    }
    (blocks * BLOCK as u64, runs)
}

struct Flashing<'a> {
    client: &'a Client,
    target: PathBuf,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Flashing<'_> {
    fn target_old(&self) {
        let _ = std::fs::remove_file(&self.target);
        image_write(&self.target, &self.old);
    }

    fn flash(&self) -> (u64, Duration) {
        let begun = Instant::now();
        let said = self.client.json(&["flash", "me/new:0", text(&self.target), "--yes"]);
        (said["fetched_bytes"].as_u64().unwrap_or_else(|| panic!("no fetched_bytes in {said}")), begun.elapsed())
    }

    /// Kills a flash after a time, looks at the target, and flashes again.
    fn check(&self, after: Duration) -> Left {
        self.target_old();
        let running = self.client.begin(&["flash", "me/new:0", text(&self.target), "--yes"]);
        std::thread::sleep(after);
        let said = running.kill();
        let target = std::fs::read(&self.target).unwrap();
        let state = left(&target, &self.old, &self.new);
        assert!(said.code != Some(0) || state == Left::New, "a flash that said it was done left {state:?}");
        let (bytes, runs) = missing(&target, &self.new);
        let (fetched, _) = self.flash();
        assert!(std::fs::read(&self.target).unwrap() == self.new, "after {state:?} a second flash left other bytes");
        // A frame is fetched whole: at both ends of a run up to a frame more, and its header.
        let bound = bytes + bytes / 64 + runs * 2 * (257 << 10);
        assert!(fetched <= bound, "{state:?}: {bytes} bytes in {runs} runs were missing, {fetched} were fetched");
        state
    }
}

#[test]
fn flash_shot_at_any_moment() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&Place::new(folder.path()));
    let client = server.admin();
    let mut chance = Chance::new(kit::seed("flash_shot"));
    let old = image_dense(chance.next(), 64 * MIB);
    let mut new = old.clone();
    chance.fill(&mut new[..BLOCK]);
    chance.fill(&mut new[4 * MIB..40 * MIB]);
    new[48 * MIB..49 * MIB].fill(0);
    new.copy_within(50 * MIB..51 * MIB, 52 * MIB);
    let oracle = Oracle::default();
    oracle.push(&client, folder.path(), "me/new", new.clone());
    let flashing = Flashing { client: &client, target: folder.path().join("target.raw"), old, new };
    flashing.target_old();
    let (_, whole) = flashing.flash();
    let tries = if kit::all() { 100 } else { 8 };
    let mut seen = [0; 3];
    for _ in 0..tries {
        let state = flashing.check(whole.mul_f64(chance.below(1000) as f64 / 1000.0));
        seen[match state {
            Left::Old => 0,
            Left::New => 1,
            Left::Disarmed => 2,
        }] += 1;
    }
    // One try may miss the time of writing; a hundred do not.
    assert!(!kit::all() || seen[2] > 0, "no try hit a flash while it wrote: {seen:?}");
    println!(
        "a flash takes {whole:?}; shot {tries} times it left old {}, new {}, disarmed {}",
        seen[0], seen[1], seen[2]
    );
    same(&flashing.target, &kit::oracle::file_of(folder.path(), &flashing.new));
}

//! The server dies at every named point of its work; nothing that was acknowledged is lost, and nothing half is seen.
//!
//! Normally each point once, on SQLite. With `SLIPWAY_TEST_ALL=1` each of its first five passes, on SQLite and on PostgreSQL.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::base::Base;
use kit::client::{Client, Said};
use kit::database::{postgres, postgres_drop, time_pass};
use kit::image::{image_changed, image_fresh, image_write};
use kit::oracle::{Oracle, check_clean, push_begin};
use kit::server::{Place, Server};
use kit::text;
use slipway_server::rules::upload::COMMIT_CRASH_POINTS;
use slipway_store::CRASH_POINTS;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const MIB: usize = 1 << 20;
const SIGABRT: i32 = 6;
/// The n-th passes that are tried with `SLIPWAY_TEST_ALL`.
const PASSES: u64 = 5;

/// What is done until the server dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    PushNew,
    PushChanged,
    /// Further ones, so that later passes of a commit's points exist.
    PushMore(u64),
    Flash,
    Remove,
    Prune,
    Repair,
}

fn steps() -> Vec<Step> {
    let more = (1..=if kit::all() { 3 } else { 0 }).map(Step::PushMore);
    let rest = [Step::Flash, Step::Remove, Step::Prune, Step::Repair];
    [Step::PushNew, Step::PushChanged].into_iter().chain(more).chain(rest).collect()
}

/// One copy of the base with one point to die at.
struct Case<'a> {
    name: &'a str,
    folder: PathBuf,
    oracle: Oracle,
    new: Arc<Vec<u8>>,
    changed: Arc<Vec<u8>>,
    damaged: bool,
}

/// Whether the point was passed often enough.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Died { in_step: String, ready_ms: u128 },
    NeverThere,
}

impl Case<'_> {
    /// Runs a step; `None` if there is nothing to do in this case.
    fn step(&self, step: Step, client: &Client, alive: &mut dyn FnMut() -> bool) -> Option<Said> {
        let push = |image: &str, bytes: &Arc<Vec<u8>>, alive: &mut dyn FnMut() -> bool| {
            let said = ended(push_begin(client, &self.folder, image, bytes), alive);
            self.oracle.record(image, bytes, &said);
            said
        };
        let target = self.folder.join("target.raw");
        Some(match step {
            Step::PushNew => push("me/fresh", &self.new, alive),
            Step::PushChanged => push("me/keep", &self.changed, alive),
            Step::PushMore(seed) => push("me/fresh", &Arc::new(image_changed(&self.new, seed)), alive),
            Step::Flash => ended(client.begin(&["flash", "me/keep:1", text(&target), "--yes"]), alive),
            Step::Remove => {
                self.oracle.give_up("me/keep", 0);
                ended(client.begin(&["image", "rm", "me/keep:0"]), alive)
            }
            Step::Prune => ended(client.begin(&["prune", "-o", "json"]), alive),
            Step::Repair if self.damaged => ended(client.begin(&["check", "--repair", "-o", "json"]), alive),
            Step::Repair => return None,
        })
    }

    /// A repaired store says with exit code 7 what it put aside; everything else ends with success.
    fn fine(&self, step: Step, said: &Said) {
        match step {
            Step::Repair => said.expect_any(&[0, 7]),
            // The first attempt may have come through before the server died.
            Step::Remove => said.expect_any(&[0, 3]),
            _ => said.expect(0),
        };
    }
}

/// Waits for a command. One whose server has died is killed, as a person would who sees that nothing happens.
fn ended(mut running: kit::client::Running, alive: &mut dyn FnMut() -> bool) -> Said {
    while running.runs() {
        if !alive() {
            return running.kill();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    running.finish()
}

/// Runs the work until the server dies at the point, then proves what must hold.
fn check(base: &Base, point: &str, n: u64, folder: &Path) -> Outcome {
    let name = format!("{point}:{n}");
    let (place, oracle) = base.copy(folder);
    let keep = oracle.standing().into_iter().find(|ack| ack.image == "me/keep" && ack.number == 1).expect("it stands");
    let case = Case {
        name: &name,
        folder: folder.to_owned(),
        oracle,
        new: Arc::new(image_fresh(n * 1000 + 7, 3 * MIB + 12_288)),
        changed: Arc::new(image_changed(&keep.bytes, n * 1000 + 8)),
        damaged: point == "check_quarantined",
    };
    let target = folder.join("target.raw");
    image_write(&target, &image_fresh(n + 50, keep.bytes.len()));
    if case.damaged {
        damage(&place, &base.victims);
    }
    let doomed = Place { env: vec![("SLIPWAY_CRASH_AT".into(), name.clone())], ..place.clone() };
    let (died_in, place) = die(&case, &doomed, &place);
    let Some(step) = died_in else {
        return Outcome::NeverThere;
    };
    let server = Server::start_again(&place);
    println!("{name}: died in {step:?}, ready again after {} ms", server.ready_after.as_millis());
    prove(&case, &server, step, base, &keep.bytes);
    let ready_ms = server.ready_after.as_millis();
    let place = server.kill();
    if kit::all() {
        // Whatever the crash left behind goes when its grace is over, and takes nothing along.
        time_pass(&place, 48);
        let server = Server::start_again(&place);
        server.admin().ok(&["prune"]);
        check_clean(&server.admin());
        case.oracle.everything_reads(&server.admin(), folder);
        server.kill();
    }
    if let (Some(server), Some(url)) = (postgres(), &place.database) {
        postgres_drop(&server, url);
    }
    Outcome::Died { in_step: format!("{step:?}"), ready_ms }
}

/// Does step after step until the server dies; gives the step and where to start again.
fn die(case: &Case<'_>, doomed: &Place, place: &Place) -> (Option<Step>, Place) {
    let Ok(mut server) = Server::try_start(doomed) else {
        panic!("{}: the server died before it was ready", case.name);
    };
    let client = server.admin();
    let place = Place { port: server.place.port, ..place.clone() };
    for step in steps() {
        let mut status = None;
        let said = case.step(step, &client, &mut || {
            status = server.ended();
            status.is_none()
        });
        // A server that dies while it answers is gone a moment after the answer.
        for _ in 0..5 {
            status = status.or_else(|| server.ended());
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(status) = status {
            assert_eq!(status.signal(), Some(SIGABRT), "{}: {status}\n{}", case.name, server.log());
            return (Some(step), place);
        }
        if let Some(said) = said {
            case.fine(step, &said);
        }
    }
    (None, place)
}

fn prove(case: &Case<'_>, server: &Server, died_in: Step, base: &Base, flashed: &[u8]) {
    let client = server.admin();
    if case.damaged {
        // The version whose pack was damaged on purpose cannot be read; all others are proven once it is whole again.
        heal(case, &client, base);
    }
    check_clean(&client);
    let read = case.oracle.everything_reads(&client, &case.folder);
    assert!(read.acknowledged >= 4, "{}: only {read:?} were left to read", case.name);
    // The interrupted command again, and all that would have followed.
    for step in steps().into_iter().skip_while(|step| *step != died_in) {
        if let Some(said) = case.step(step, &client, &mut || true) {
            case.fine(step, &said);
        }
    }
    check_clean(&client);
    let read = case.oracle.everything_reads(&client, &case.folder);
    assert!(read.acknowledged >= 5, "{}: only {read:?} were left to read", case.name);
    let target = std::fs::read(case.folder.join("target.raw")).unwrap();
    assert!(target == flashed, "{}: the flashed target is not me/keep:1", case.name);
}

/// The repair that was interrupted, once more; then the damaged version is pushed again, which brings its bytes back.
fn heal(case: &Case<'_>, client: &Client, base: &Base) {
    case.fine(Step::Repair, &client.run(&["check", "--repair", "-o", "json"]));
    let victim = base.oracle.standing().into_iter().find(|ack| ack.image == "me/victim").expect("it stands");
    case.oracle.push(client, &case.folder, "me/victim", victim.bytes.to_vec());
}

/// Turns bits in the middle of packs.
fn damage(place: &Place, packs: &[PathBuf]) {
    assert!(!packs.is_empty(), "the victim has no pack");
    for pack in packs {
        let path = place.data().join(pack);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
        std::fs::write(&path, bytes).unwrap();
    }
}

/// Every point on one kind of database, two at a time.
fn sweep(database: Option<String>) {
    let folder = tempfile::tempdir().unwrap();
    let kind = if database.is_some() { "PostgreSQL" } else { "SQLite" };
    let base = Base::new(&folder.path().join("base"), database.clone());
    let passes = if kit::all() { PASSES } else { 1 };
    let points = CRASH_POINTS.iter().chain(&COMMIT_CRASH_POINTS);
    // On PostgreSQL a prune that was shot goes on when its lease of a minute is over.
    let slow = |point: &str, n: u64| database.is_some() && point.starts_with("prune") && n > 2;
    let cases: Vec<_> =
        points.flat_map(|point| (1..=passes).map(move |n| (*point, n))).filter(|(point, n)| !slow(point, *n)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((point, n)) = cases.get(next.fetch_add(1, Ordering::SeqCst)) {
            let place = folder.path().join(format!("{point}.{n}"));
            let outcome = check(&base, point, *n, &place);
            println!("{kind} {point}:{n}: {outcome:?}");
            // A later pass need not exist in this work; the first one must.
            assert!(*n > 1 || outcome != Outcome::NeverThere, "{point} never fires");
            let _ = std::fs::remove_dir_all(place);
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2).map(|_| scope.spawn(work)).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    if let (Some(server), Some(url)) = (&database, &base.place.database) {
        postgres_drop(server, url);
    }
}

#[test]
fn every_crash_point_on_sqlite() {
    sweep(None);
}

#[test]
#[ignore = "long"]
fn long_every_crash_point_on_postgres() {
    let server = postgres().expect("SLIPWAY_TEST_POSTGRES names a PostgreSQL; 'cargo xtask test --all' starts one");
    sweep(Some(server));
}

//! Silent faults: whatever goes wrong once, on the wire or under the target, at whatever place, either the bytes are right or somebody is told.
//!
//! Normally 300 places, with `SLIPWAY_TEST_ALL=1` 10,000. Each has a seed of its own, which is printed when it fails and repeats that one place as
//! `SLIPWAY_TEST_SEED`.

#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::image::{Chance, image_changed, image_dense, image_fresh};
use kit::noise::{Noise, Strike, Wrong};
use kit::server::{Place, Server};
use slipway_api::{Client, ClientConfig, ImageNew, ImageRef};
use slipway_disk::{Fault, Faults, TargetOptions, target_open};
use slipway_transfer::{
    Caps, Control, FlashOptions, PushOptions, RemoteContent, Source, TransferError, flash, pull_file, push,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;
/// Trials at one time; most of them wait most of the time.
const AT_ONCE: usize = 12;
/// Nothing may take so long: a wait without an end is silent too.
const HANG: Duration = Duration::from_secs(120);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deed {
    /// A flash onto what holds nothing.
    Full,
    /// A flash onto what holds the version before.
    Delta,
    /// Into a new file.
    Pull,
    /// A new image.
    Push,
}

const DEEDS: [Deed; 4] = [Deed::Full, Deed::Delta, Deed::Pull, Deed::Push];

/// How long a deed is when all goes well: bytes to the server and to the client, operations on the target.
#[derive(Clone, Copy, Debug, Default)]
struct Length {
    to_server: u64,
    to_client: u64,
    operations: u64,
}

/// What is wrong at one place.
#[derive(Clone, Copy, Debug)]
struct Trial {
    seed: u64,
    deed: Deed,
    strike: Option<Strike>,
    disk: Option<(u64, Fault)>,
}

impl Trial {
    /// The place of a seed.
    fn of(seed: u64, lengths: &BTreeMap<Deed, Length>) -> Self {
        let mut rng = Chance::new(seed);
        let deed = DEEDS[rng.below(DEEDS.len())];
        let length = lengths[&deed];
        let place = |rng: &mut Chance, end: u64| rng.next() % end.max(1);
        let on_wire = rng.below(8) < 5;
        let under = length.operations > 0 && (!on_wire || rng.below(5) == 0);
        let strike = (on_wire || !under).then(|| {
            let to_client = rng.below(4) > 0;
            let at = place(&mut rng, if to_client { length.to_client } else { length.to_server });
            Strike { wrong: Wrong::ALL[rng.below(Wrong::ALL.len())], to_client, at, len: 1 + rng.below(3000) }
        });
        let disk = under.then(|| {
            let faults = [Fault::Error, Fault::ShortWrite, Fault::NoSpace, Fault::Gone];
            (place(&mut rng, length.operations), faults[rng.below(faults.len())])
        });
        Self { seed, deed, strike, disk }
    }
}

struct Lab {
    server: Server,
    token: String,
    folder: tempfile::TempDir,
    old: Vec<u8>,
    new: Vec<u8>,
}

fn options() -> FlashOptions {
    // One connection, so that the same seed meets the same byte; small ranges, so that there are many requests.
    let caps = Caps { range: 200_000, ..Caps::default() };
    FlashOptions { connections: 1, caps, ..FlashOptions::default() }
}

impl Lab {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Each push that breaks off leaves an open upload.
        let server = Server::start(&Place::new(folder.path()).with_env("SLIPWAY_QUOTA_UPLOADS", "100000"));
        let token = std::fs::read_to_string(server.place.token_file()).unwrap().trim().to_owned();
        let old = image_dense(11, 2 * MIB);
        let mut new = image_changed(&old, 12);
        new.resize(2 * MIB + MIB / 2, 0);
        Chance::new(13).fill_structured(&mut new[2 * MIB + 8192..]);
        Self { server, token, folder, old, new }
    }

    fn client(&self, url: &str) -> Client {
        let mut config = ClientConfig::new(url);
        config.token = Some(self.token.clone());
        config.idle_timeout = Duration::from_secs(3);
        Client::new(&config).unwrap()
    }

    async fn put(&self, client: &Client, image: &str, bytes: &[u8]) -> Result<slipway_transfer::Pushed, TransferError> {
        let bytes = bytes.to_vec();
        let reading = Box::new(slipway_chunk::Stream(std::io::Cursor::new(bytes)));
        let source = Source::once("memory", None, reading);
        let image: ImageRef = image.parse().unwrap();
        let create = ImageNew { reference: image.to_string(), ..ImageNew::default() };
        let options = PushOptions { create: Some(create), workers: 1, ..PushOptions::new(image) };
        push(client, source, &options, &Control::quiet()).await
    }

    fn path(&self, seed: u64) -> PathBuf {
        self.folder.path().join(format!("target.{seed}"))
    }

    /// Does a deed once, with what goes wrong, and says what was silently wrong with it.
    async fn run(&self, trial: Trial) -> Result<Length, String> {
        let noise = Noise::new(&self.server.url, trial.strike).await;
        let client = self.client(&noise.url);
        let path = self.path(trial.seed);
        let faults = trial.disk.map_or_else(|| Faults::nth(u64::MAX, Fault::Error), |(n, fault)| Faults::nth(n, fault));
        let judged = tokio::time::timeout(HANG, async {
            match trial.deed {
                Deed::Push => self.push_judge(trial, &client).await,
                Deed::Pull => self.pull_judge(&client, &path).await,
                Deed::Full | Deed::Delta => self.flash_judge(trial, &client, &path, faults.clone()).await,
            }
        });
        let judged = judged.await.unwrap_or_else(|_| Err(format!("nothing was said for {HANG:?}")));
        let _ = std::fs::remove_file(&path);
        judged?;
        Ok(Length { to_server: noise.carried(false), to_client: noise.carried(true), operations: faults.seen() })
    }

    async fn flash_judge(&self, trial: Trial, client: &Client, path: &Path, faults: Faults) -> Result<(), String> {
        let before = match trial.deed {
            Deed::Delta => {
                let mut before = self.old.clone();
                before.resize(self.new.len(), 0);
                before
            }
            _ => vec![0; self.new.len()],
        };
        std::fs::write(path, &before).unwrap();
        let done = self.flash(client, path, faults).await;
        let now = std::fs::read(path).unwrap();
        let is_zero = |len: usize| now[..len].iter().all(|byte| *byte == 0);
        // A write that stops half-way may be the very first.
        let shut = is_zero(8192) || (is_zero(4096) && now[4096..] == before[4096..]);
        match done {
            Ok(()) if now == self.new => return Ok(()),
            Ok(()) => return Err("success was said, and the target differs".into()),
            Err(_) if now == before || now == self.new || shut => {}
            Err(why) => return Err(format!("a mixture that may boot, after: {why}")),
        }
        // The same flash again, with nothing wrong, gets there.
        if trial.seed.is_multiple_of(4) {
            let direct = self.client(&self.server.url);
            self.flash(&direct, path, Faults::none()).await.map_err(|why| format!("again: {why}"))?;
            if std::fs::read(path).unwrap() != self.new {
                return Err("after another flash the target differs".into());
            }
        }
        Ok(())
    }

    async fn flash(&self, client: &Client, path: &Path, faults: Faults) -> Result<(), TransferError> {
        let content = RemoteContent::open(client, &"me/os:1".parse().unwrap()).await?;
        let target = target_open(path, &content.shape(), &TargetOptions::default(), faults)?;
        flash(&content, target, &options(), &Control::quiet()).await.map(drop)
    }

    async fn pull_judge(&self, client: &Client, path: &Path) -> Result<(), String> {
        let pulled = async {
            let content = RemoteContent::open(client, &"me/os:1".parse().unwrap()).await?;
            pull_file(&content, path, &options(), &Control::quiet()).await
        };
        match pulled.await {
            Ok(_) if std::fs::read(path).unwrap() == self.new => Ok(()),
            Ok(_) => Err("success was said, and the file differs".into()),
            Err(why) if path.exists() => Err(format!("a file under its final name, after: {why}")),
            Err(_) => Ok(()),
        }
    }

    /// Each trial pushes bytes that the server has never seen, to an image of its own.
    async fn push_judge(&self, trial: Trial, client: &Client) -> Result<(), String> {
        let bytes = image_fresh(trial.seed, MIB / 2);
        let image = format!("me/push-{}", trial.seed);
        let said = self.put(client, &image, &bytes).await;
        let direct = self.client(&self.server.url);
        if said.is_err() {
            // Whether or not it had arrived: the push that goes well finds no half version in its way.
            self.put(&direct, &image, &bytes).await.map_err(|why| format!("again: {why}"))?;
        }
        let content =
            RemoteContent::open(&direct, &image.parse().unwrap()).await.map_err(|why| format!("look: {why}"))?;
        let path = self.path(trial.seed);
        pull_file(&content, &path, &options(), &Control::quiet()).await.map_err(|why| format!("pull: {why}"))?;
        match std::fs::read(&path).unwrap() == bytes {
            true => Ok(()),
            false => Err(format!("what is kept differs from what was pushed, which ended with {:?}", said.map(drop))),
        }
    }
}

#[test]
fn nothing_goes_wrong_silently() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let lab = Lab::new();
    let direct = lab.client(&lab.server.url);
    for bytes in [&lab.old, &lab.new] {
        runtime.block_on(lab.put(&direct, "me/os", bytes)).unwrap();
    }
    let lengths = DEEDS.map(|deed| {
        let clean = Trial { seed: 1_000_000_000 + deed as u64, deed, strike: None, disk: None };
        (deed, runtime.block_on(lab.run(clean)).unwrap())
    });
    let lengths = BTreeMap::from(lengths);
    println!("{lengths:?}");
    let one = std::env::var("SLIPWAY_TEST_SEED").ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = one.map_or(0..if kit::all() { 10_000 } else { 300 }, |seed| seed..seed + 1);
    let (count, next) = (seeds.end - seeds.start, AtomicU64::new(seeds.start));
    let found = Mutex::new((Vec::new(), Duration::ZERO));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::SeqCst);
                    if seed >= seeds.end {
                        return;
                    }
                    let (trial, begun) = (Trial::of(seed, &lengths), Instant::now());
                    let judged = runtime.block_on(lab.run(trial)).err();
                    let (silent, longest) = &mut *found.lock().unwrap();
                    *longest = (*longest).max(begun.elapsed());
                    silent.extend(judged.map(|what| format!("SLIPWAY_TEST_SEED={seed} {trial:?}: {what}")));
                }
            });
        }
    });
    let (silent, longest) = found.into_inner().unwrap();
    println!("{count} places, {} silent; the longest took {longest:?}", silent.len());
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}

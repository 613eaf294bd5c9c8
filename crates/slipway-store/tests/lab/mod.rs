//! What the tests share: images made of tiles, stores on fresh folders, an S3 server on loopback.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use slipway_chunk::{ChunkerParams, Digest, Root, Stream};
use slipway_store::{
    BlobId, BlobKind, BlobRow, BlobState, Blobs, CheckReport, CheckSpec, ContentRef, Faults, IngestSpec, Ledger,
    LedgerError, MemoryLedger, NewBlob, Prepared, Progress, PruneSpec, S3Config, SpaceId, Store, StoreConfig,
    StoreError,
};

pub const TILE: usize = 32 << 10;
pub const HOUR: i64 = 3_600_000;

/// In memory where the machine has such a folder: sweeps flush ten thousands of times.
pub fn folder() -> tempfile::TempDir {
    let fast = Path::new("/dev/shm");
    if fast.is_dir() { tempfile::tempdir_in(fast).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub fn space(name: &str) -> SpaceId {
    SpaceId::new(name).unwrap()
}

/// Bytes that follow from the seed and hardly compress.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
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

/// An image of tiles; tile 0 is a hole.
pub fn image(tiles: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(tiles.len() * TILE);
    for &tile in tiles {
        match tile {
            0 => bytes.resize(bytes.len() + TILE, 0),
            seed => bytes.extend_from_slice(&noise(u64::from(seed), TILE)),
        }
    }
    bytes
}

/// Small packs of about three frames, so that small images make several, and some are mostly dead.
pub fn config() -> StoreConfig {
    StoreConfig { workers: 1, pack_len: 600 << 10, ..StoreConfig::default() }
}

pub fn store_with(folder: &Path, faults: Faults) -> Result<Arc<Store>, StoreError> {
    let blobs = Blobs::local(&folder.join("blobs"), faults.clone())?;
    Store::open(blobs, config(), faults)
}

pub fn store(folder: &Path) -> Arc<Store> {
    store_with(folder, Faults::none()).unwrap()
}

pub fn spec(home: &SpaceId, upload: &str) -> IngestSpec {
    IngestSpec {
        space: home.clone(),
        lookup: vec![],
        sector_size: 512,
        params: ChunkerParams::default(),
        upload: upload.to_owned(),
    }
}

pub fn quiet() -> impl FnMut(Progress) {
    |_| ()
}

pub fn ingest(
    store: &Store,
    ledger: &dyn Ledger,
    home: &SpaceId,
    upload: &str,
    bytes: &[u8],
) -> Result<Prepared, StoreError> {
    store.ingest(&spec(home, upload), &mut Stream(Cursor::new(bytes)), ledger, &mut quiet())
}

/// Ingests and commits.
pub fn push(store: &Store, ledger: &MemoryLedger, home: &SpaceId, upload: &str, bytes: &[u8]) -> (Prepared, u64) {
    let prepared = ingest(store, ledger, home, upload, bytes).unwrap();
    let content = ledger.content_commit(&prepared, std::slice::from_ref(home)).unwrap();
    (prepared, content)
}

pub fn read_back(
    store: &Arc<Store>,
    ledger: &dyn Ledger,
    spaces: &[SpaceId],
    root: &Root,
) -> Result<Vec<u8>, StoreError> {
    let mut reader = store.content_open(spaces, root, ledger)?;
    let mut bytes = vec![0xee; reader.size() as usize];
    reader.read_at(0, &mut bytes)?;
    Ok(bytes)
}

pub fn check(store: &Store, ledger: &dyn Ledger) -> CheckReport {
    let spec = CheckSpec { read_data: true, repair: false };
    store.check(&spec, ledger, &mut quiet()).unwrap()
}

#[track_caller]
pub fn assert_clean(store: &Store, ledger: &dyn Ledger) {
    let report = check(store, ledger);
    assert!(report.is_clean(), "{:#?}", report.findings);
}

pub fn prune_spec(now_ms: i64) -> PruneSpec {
    PruneSpec { now_ms, grace_ms: 12 * HOUR, staged_grace_ms: 24 * HOUR, rewrite_below: 0.5 }
}

/// Plans and runs until nothing is left to do, with time passing in between.
pub fn prune_all(store: &Store, ledger: &MemoryLedger) {
    for _ in 0..8 {
        ledger.now_set(ledger.now() + 25 * HOUR);
        let plan = store.prune_plan(&prune_spec(ledger.now()), ledger, &mut quiet()).unwrap();
        if plan.is_empty() {
            return;
        }
        store.prune_run(&plan, ledger, &|| false, &mut quiet()).unwrap();
    }
    panic!("prune does not come to an end");
}

/// An S3 server on loopback, in this process, on a folder of its own.
pub struct S3Lab {
    pub runtime: tokio::runtime::Runtime,
    pub config: S3Config,
    pub folder: tempfile::TempDir,
}

pub fn s3_lab() -> S3Lab {
    let folder = folder();
    std::fs::create_dir(folder.path().join("bucket")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let files = s3s_fs::FileSystem::new(folder.path()).unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    let mut builder = s3s::service::S3ServiceBuilder::new(files);
    builder.set_auth(s3s::auth::SimpleAuth::from_single("key", "secret"));
    let service = builder.build();
    runtime.spawn(async move {
        let http = hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new());
        loop {
            let Ok((socket, _)) = listener.accept().await else { return };
            let serve = http.serve_connection(hyper_util::rt::TokioIo::new(socket), service.clone()).into_owned();
            tokio::spawn(async move {
                let _ = serve.await;
            });
        }
    });
    let config = S3Config {
        bucket: "bucket".to_owned(),
        prefix: "slipway/one".to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(format!("http://{address}")),
        allow_http: true,
        path_style: true,
        access_key_id: Some("key".to_owned()),
        secret_access_key: Some("secret".to_owned()),
    };
    S3Lab { runtime, config, folder }
}

/// A bucket of an S3 server that runs elsewhere: `endpoint bucket key secret` in `SLIPWAY_TEST_S3`, as the test command gives it.
pub fn s3_config_given() -> S3Config {
    let given = std::env::var("SLIPWAY_TEST_S3").expect("SLIPWAY_TEST_S3 is set by 'cargo xtask test --all'");
    let [endpoint, bucket, key, secret] = given.split(' ').collect::<Vec<_>>()[..] else {
        panic!("SLIPWAY_TEST_S3 is 'endpoint bucket key secret'")
    };
    S3Config {
        bucket: bucket.to_owned(),
        // Each run has a place of its own, since what it leaves would be found by the next.
        prefix: format!("slipway/{}", folder().path().file_name().unwrap().to_string_lossy().trim_start_matches('.')),
        region: "default".to_owned(),
        endpoint: Some(endpoint.to_owned()),
        allow_http: true,
        path_style: true,
        access_key_id: Some(key.to_owned()),
        secret_access_key: Some(secret.to_owned()),
    }
}

impl S3Lab {
    pub fn blobs(&self, faults: Faults) -> Blobs {
        Blobs::s3(self.config.clone(), self.runtime.handle().clone(), faults).unwrap()
    }
}

type Hook<'a> = Box<dyn Fn(&'static str) -> Result<(), LedgerError> + Send + Sync + 'a>;

/// Rows that let a test act, or fail, before and after each call.
pub struct HookedLedger<'a> {
    rows: &'a MemoryLedger,
    before: Hook<'a>,
    after: Hook<'a>,
}

impl<'a> HookedLedger<'a> {
    pub fn new(
        rows: &'a MemoryLedger,
        before: impl Fn(&'static str) -> Result<(), LedgerError> + Send + Sync + 'a,
        after: impl Fn(&'static str) -> Result<(), LedgerError> + Send + Sync + 'a,
    ) -> HookedLedger<'a> {
        HookedLedger { rows, before: Box::new(before), after: Box::new(after) }
    }

    fn call<T>(
        &self,
        name: &'static str,
        act: impl FnOnce(&MemoryLedger) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        (self.before)(name)?;
        let result = act(self.rows)?;
        (self.after)(name)?;
        Ok(result)
    }
}

impl Ledger for HookedLedger<'_> {
    fn blob_stage(&self, new: &NewBlob) -> Result<(), LedgerError> {
        self.call("blob_stage", |rows| rows.blob_stage(new))
    }
    fn blob_live(&self, id: &BlobId, len: u64, frames_len: u64, digest: &Digest) -> Result<(), LedgerError> {
        self.call("blob_live", |rows| rows.blob_live(id, len, frames_len, digest))
    }
    fn blob_forget(&self, id: &BlobId) -> Result<(), LedgerError> {
        self.call("blob_forget", |rows| rows.blob_forget(id))
    }
    fn packs_since(&self, rev: i64, limit: usize) -> Result<Vec<BlobRow>, LedgerError> {
        self.call("packs_since", |rows| rows.packs_since(rev, limit))
    }
    fn blob_find(&self, spaces: &[SpaceId], kind: BlobKind, name: &str) -> Result<Option<BlobRow>, LedgerError> {
        self.call("blob_find", |rows| rows.blob_find(spaces, kind, name))
    }
    fn blobs_find(&self, spaces: &[SpaceId], kind: BlobKind, names: &[String]) -> Result<Vec<BlobRow>, LedgerError> {
        self.call("blobs_find", |rows| rows.blobs_find(spaces, kind, names))
    }
    fn blobs_page(
        &self,
        states: &[BlobState],
        after: Option<&BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobRow>, LedgerError> {
        self.call("blobs_page", |rows| rows.blobs_page(states, after, limit))
    }
    fn blob_doom(&self, id: &BlobId, touched: i64) -> Result<bool, LedgerError> {
        self.call("blob_doom", |rows| rows.blob_doom(id, touched))
    }
    fn blob_revive(&self, id: &BlobId) -> Result<bool, LedgerError> {
        self.call("blob_revive", |rows| rows.blob_revive(id))
    }
    fn blob_gone(&self, id: &BlobId) -> Result<bool, LedgerError> {
        self.call("blob_gone", |rows| rows.blob_gone(id))
    }
    fn blob_quarantine(&self, id: &BlobId) -> Result<bool, LedgerError> {
        self.call("blob_quarantine", |rows| rows.blob_quarantine(id))
    }
    fn blob_restore(&self, id: &BlobId) -> Result<bool, LedgerError> {
        self.call("blob_restore", |rows| rows.blob_restore(id))
    }
    fn contents(&self) -> Result<Vec<ContentRef>, LedgerError> {
        self.call("contents", |rows| rows.contents())
    }
    fn uploads_open(&self) -> Result<Vec<String>, LedgerError> {
        self.call("uploads_open", |rows| rows.uploads_open())
    }
}

//! What rules and workers are given: the database, the store, the configuration, and who asks.

use crate::db::{Db, DbError};
use crate::ledger::SqlLedger;
use crate::scope::Scopes;
use crate::slowdown::SlowDown;
use slipway_api::{Retention, Role, TaskKind};
use slipway_store::Store;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::broadcast;
use uuid::Uuid;

/// A signed-in user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallerUser {
    /// The account's id.
    pub id: Uuid,
    /// The account's name.
    pub name: String,
    /// What they may do.
    pub role: Role,
}

/// A creation that shall happen once however often it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The `Idempotency-Key`.
    pub key: String,
    /// A hash over method, path and body.
    pub request_hash: String,
}

/// Who asks, with what right, in which request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The user; `None` for nobody and for the server itself.
    pub user: Option<CallerUser>,
    /// The token's id.
    pub token: Option<Uuid>,
    /// What the token may do.
    pub scopes: Scopes,
    /// Finds the request in the log; empty outside of requests.
    pub request_id: String,
    /// Given with a creation.
    pub idempotency: Option<Idempotency>,
    server: bool,
}

impl Caller {
    /// Somebody without a token.
    pub fn nobody() -> Self {
        Self {
            user: None,
            token: None,
            scopes: Scopes::none(),
            request_id: String::new(),
            idempotency: None,
            server: false,
        }
    }

    /// The server by itself: workers.
    pub fn server() -> Self {
        Self { server: true, scopes: Scopes::all(), ..Self::nobody() }
    }

    /// A user with a token.
    pub fn user(user: CallerUser, token: Option<Uuid>, scopes: Scopes) -> Self {
        Self { user: Some(user), token, scopes, ..Self::nobody() }
    }

    /// The same within a request.
    pub fn in_request(mut self, request_id: impl Into<String>, idempotency: Option<Idempotency>) -> Self {
        self.request_id = request_id.into();
        self.idempotency = idempotency;
        self
    }

    /// Whether it is the server by itself.
    pub fn is_server(&self) -> bool {
        self.server
    }

    /// The name in the journal.
    pub fn actor(&self) -> &str {
        match &self.user {
            Some(user) => &user.name,
            None if self.server => "server",
            None => "nobody",
        }
    }
}

/// Something was committed that others may wait for. A lost nudge loses nothing: who waits also looks by itself now and then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nudge {
    /// A task of this kind waits for a worker.
    Queued(TaskKind),
    /// The row of this task changed.
    Task(Uuid),
    /// An upload ended, or something went into the trash: there may be something to clear away.
    Expiry,
}

/// What an account may keep; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Bytes in packs.
    pub stored_bytes: Option<u64>,
    /// The sum of the versions' sizes.
    pub logical_bytes: Option<u64>,
    /// Images.
    pub images: Option<u64>,
    /// Versions of all images.
    pub versions: Option<u64>,
    /// Uploads that take bytes.
    pub uploads: Option<u64>,
}

/// What this process has done since its start, for the metrics.
#[derive(Debug, Default)]
pub struct Tallies {
    quota_refused: AtomicU64,
    room_refused: AtomicU64,
    retention_trashed: AtomicU64,
}

impl Tallies {
    /// Something was refused because a quota is used up.
    pub(crate) fn quota_refused(&self) {
        self.quota_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes were refused because what is free is kept for deleting.
    pub(crate) fn room_refused(&self) {
        self.room_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Rules of retention put versions into the trash.
    pub(crate) fn retention_trashed(&self, versions: u64) {
        self.retention_trashed.fetch_add(versions, Ordering::Relaxed);
    }

    /// Refused by quota, refused for room, put into the trash by rules.
    pub(crate) fn read(&self) -> [u64; 3] {
        [&self.quota_refused, &self.room_refused, &self.retention_trashed].map(|tally| tally.load(Ordering::Relaxed))
    }
}

/// Limits and times. The defaults are the product's.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Holds `spool/`.
    pub data_dir: PathBuf,
    /// How long something stays in the trash.
    pub trash_grace: Duration,
    /// How long a doomed pack stays; longer than a capability lives.
    pub doom_grace: Duration,
    /// How long a blob may be staged whose upload has ended.
    pub staged_grace: Duration,
    /// Packs with a smaller living part are written anew; 0 to 1.
    pub rewrite_below: f32,
    /// How long an upload lives after its last use.
    pub upload_lease: Duration,
    /// How long a task lives after its worker's last sign.
    pub task_lease: Duration,
    /// How often a task is begun before it has failed.
    pub task_attempts: u32,
    /// How often the server prunes by itself; `None` only when asked.
    pub prune_every: Option<Duration>,
    /// Time from the end of a pass of the scrub to the next; `None` only when asked.
    pub scrub_every: Option<Duration>,
    /// Bytes that the scrub reads in a second at most; `None` for no limit.
    pub scrub_rate: Option<u64>,
    /// Bytes that digests are computed of in a second at most; `None` for no limit.
    pub digest_rate: Option<u64>,
    /// What an account may keep whose limits nobody set.
    pub quota: QuotaLimits,
    /// Rules for images whose owner set none, neither for the image nor for all of theirs.
    pub retention: Retention,
    /// How often rules are applied unasked; `None` only when asked.
    pub retention_every: Option<Duration>,
    /// Bytes of each disk that are kept free for deleting.
    pub reserve_bytes: u64,
    /// The same in percent of each disk; the larger one counts.
    pub reserve_percent: u64,
    /// Folders on the disks that this is about.
    pub reserve_folders: Vec<PathBuf>,
    /// Raw size of an image at most.
    pub image_size_max: u64,
    /// How long the answers to creations are kept.
    pub idempotency_keep: Duration,
}

const DAY: Duration = Duration::from_secs(24 * 3600);

impl CoreConfig {
    /// The defaults over a data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        let data_dir = data_dir.into();
        Self {
            reserve_folders: vec![data_dir.clone()],
            data_dir,
            trash_grace: 7 * DAY,
            doom_grace: DAY,
            staged_grace: DAY,
            rewrite_below: 0.5,
            upload_lease: DAY,
            task_lease: Duration::from_secs(60),
            task_attempts: 5,
            prune_every: Some(DAY),
            scrub_every: Some(7 * DAY),
            scrub_rate: Some(32 << 20),
            digest_rate: Some(256 << 20),
            quota: QuotaLimits { uploads: Some(64), ..QuotaLimits::default() },
            retention: Retention::default(),
            retention_every: Some(DAY),
            reserve_bytes: 64 << 20,
            reserve_percent: 0,
            image_size_max: slipway_chunk::IMAGE_SIZE_MAX,
            idempotency_keep: 7 * DAY,
        }
    }
}

/// A duration as the database counts it.
pub(crate) fn ms(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

/// What rules and workers are given.
pub struct Core {
    /// The rows.
    pub db: Db,
    /// The bytes.
    pub store: Arc<Store>,
    /// Limits and times.
    pub config: CoreConfig,
    /// The runtime that the store's threads wait on for rows.
    pub runtime: tokio::runtime::Handle,
    /// Counts wrong sign-ins.
    pub sign_ins: SlowDown,
    /// What was done since the start.
    pub tallies: Tallies,
}

impl Core {
    /// Must be called within a tokio runtime.
    pub fn new(db: Db, store: Arc<Store>, config: CoreConfig) -> Arc<Self> {
        let poisoned = store.clone();
        db.on_flush_failed(move || poisoned.poison());
        Arc::new(Self {
            db,
            store,
            config,
            runtime: tokio::runtime::Handle::current(),
            sign_ins: SlowDown::default(),
            tallies: Tallies::default(),
        })
    }

    /// The store's view of the rows; for threads outside the runtime (`spawn_blocking`) only.
    pub fn ledger(&self) -> SqlLedger {
        SqlLedger::new(self.db.clone(), self.runtime.clone())
    }

    /// Where committed changes are announced.
    pub fn nudges(&self) -> broadcast::Receiver<Nudge> {
        self.db.nudges().subscribe()
    }

    /// The file that an upload by `PATCH` grows in.
    pub fn spool_path(&self, upload: &Uuid) -> PathBuf {
        self.spool_dir().join(upload.to_string())
    }

    /// Where those files are.
    pub fn spool_dir(&self) -> PathBuf {
        self.config.data_dir.join("spool")
    }

    /// What a start has to put right after a crash; run before the first request is answered. On SQLite this process is the only server,
    /// so nothing that is marked as running can be: tasks are free to be claimed and commits to be asked for again. On PostgreSQL another
    /// server may be at it, so leases decide.
    pub async fn recover(&self) -> Result<(), DbError> {
        crate::workers::recover(self).await
    }
}

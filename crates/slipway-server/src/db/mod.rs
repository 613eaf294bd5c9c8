//! The database: SQLite for one server, PostgreSQL for several, one SQL text.
//!
//! Every change goes through `tx!`, which runs its body again when it lost against another transaction and appends to the
//! journal before it commits.

mod dialect;
mod error;
mod faults;
pub(crate) mod inspect;
mod lock;
mod sql;
mod tx;

pub use dialect::Dialect;
pub use error::{DbError, TxError};
pub use faults::{SqlFault, SqlFaults};
pub use lock::DirLock;
pub use sql::{Row, Sql, Value, placeholders, sql, time_of, word_of};
pub(crate) use tx::tx;
pub use tx::{End, Tx};

use crate::core::{Caller, Nudge};
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AnyConnection, AnyPool, Connection, Executor};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::broadcast;

/// Where the database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DbUrl {
    /// A file, made if absent.
    Sqlite(PathBuf),
    /// `postgres://…`
    Postgres(String),
}

impl FromStr for DbUrl {
    type Err = DbError;
    fn from_str(text: &str) -> Result<Self, DbError> {
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return Ok(Self::Postgres(text.to_owned()));
        }
        match text.strip_prefix("sqlite:") {
            Some(path) if !path.is_empty() => Ok(Self::Sqlite(PathBuf::from(path))),
            // The address of another kind may hold a password, so only its scheme is shown.
            _ => Err(DbError::Address(text.split(':').next().unwrap_or_default().to_owned())),
        }
    }
}

struct Inner {
    dialect: Dialect,
    writer: AnyPool,
    reader: AnyPool,
    faults: SqlFaults,
    nudges: broadcast::Sender<Nudge>,
    flush_failed: OnceLock<Box<dyn Fn() + Send + Sync>>,
    _lock: Option<DirLock>,
}

/// The database. Clones share it.
#[derive(Clone)]
pub struct Db(Arc<Inner>);

impl Db {
    /// Opens it and brings it up to date. A SQLite file is locked: a second server is refused with the name of the first.
    pub async fn open(url: &DbUrl, faults: SqlFaults) -> Result<Self, DbError> {
        sqlx::any::install_default_drivers();
        let (dialect, writer, reader, lock) = match url {
            DbUrl::Sqlite(path) => {
                let lock = DirLock::take(path)?;
                private_file(path)?;
                let writer = sqlite_pool(path, 1, false).await?;
                migrate(&writer).await?;
                let reader = sqlite_pool(path, 4, true).await?;
                (Dialect::Sqlite, writer, reader, Some(lock))
            }
            DbUrl::Postgres(address) => {
                let pool = postgres_pool(address).await?;
                migrate(&pool).await?;
                (Dialect::Postgres, pool.clone(), pool, None)
            }
        };
        let (nudges, _) = broadcast::channel(256);
        Ok(Self(Arc::new(Inner {
            dialect,
            writer,
            reader,
            faults,
            nudges,
            flush_failed: OnceLock::new(),
            _lock: lock,
        })))
    }

    /// Which database it is.
    pub fn dialect(&self) -> Dialect {
        self.0.dialect
    }

    /// Where committed changes are announced.
    pub fn nudges(&self) -> &broadcast::Sender<Nudge> {
        &self.0.nudges
    }

    /// What to do when a commit could not be flushed to disk; only the first wish counts.
    pub fn on_flush_failed(&self, act: impl Fn() + Send + Sync + 'static) {
        let _ = self.0.flush_failed.set(Box::new(act));
    }

    /// A transaction that only reads: one consistent view on SQLite. It ends when dropped.
    pub async fn read(&self) -> Result<Tx, DbError> {
        Tx::begin(self.clone(), &self.0.reader, &Caller::nobody()).await
    }

    /// A transaction that writes; `tx!` is the way to use it.
    pub async fn begin(&self, who: &Caller) -> Result<Tx, DbError> {
        Tx::begin(self.clone(), &self.0.writer, who).await
    }

    /// The database's time in milliseconds.
    pub async fn now(&self) -> Result<i64, DbError> {
        Ok(self.read().await?.now())
    }

    /// Closes all connections, so that a SQLite file is left without a log beside it.
    pub async fn close(&self) {
        self.0.reader.close().await;
        self.0.writer.close().await;
    }
}

async fn postgres_pool(address: &str) -> Result<AnyPool, DbError> {
    let options = AnyConnectOptions::from_str(address).map_err(DbError::Open)?;
    let pool = AnyPoolOptions::new().max_connections(16).acquire_timeout(Duration::from_secs(10));
    let source = match pool.connect_with(options.clone()).await {
        Ok(pool) => return Ok(pool),
        // The pool waits for a database that is being started, and then only says that it waited; one attempt more says why.
        Err(sqlx::Error::PoolTimedOut) => {
            match tokio::time::timeout(Duration::from_secs(2), AnyConnection::connect_with(&options)).await {
                Ok(Err(source)) => source,
                Ok(Ok(_)) | Err(_) => sqlx::Error::PoolTimedOut,
            }
        }
        Err(source) => source,
    };
    Err(DbError::Reach { at: postgres_place(address), source })
}

/// Where a PostgreSQL is, without its user and password.
fn postgres_place(address: &str) -> String {
    match PgConnectOptions::from_str(address) {
        Err(_) => "an address that cannot be read".to_owned(),
        Ok(options) => match options.get_socket() {
            Some(folder) => folder.display().to_string(),
            None => format!("{}:{}", options.get_host(), options.get_port()),
        },
    }
}

/// Makes the file for its owner alone, for it holds hashes of passwords; SQLite gives the files beside it the same mode.
fn private_file(path: &Path) -> Result<(), DbError> {
    let made = std::fs::File::options().write(true).create(true).truncate(false).mode(0o600).open(path);
    made.map(drop).map_err(|source| DbError::Lock { path: path.display().to_string(), source })
}

/// What brings a database up to date, in order.
static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

async fn migrate(pool: &AnyPool) -> Result<(), DbError> {
    MIGRATIONS.run(pool).await.map_err(DbError::Migrate)
}

async fn sqlite_pool(path: &Path, connections: u32, read_only: bool) -> Result<AnyPool, DbError> {
    let mut address = String::from("sqlite://");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => address.push(char::from(*byte)),
            other => address.push_str(&format!("%{other:02X}")),
        }
    }
    address.push_str("?mode=rwc");
    let options = AnyConnectOptions::from_str(&address).map_err(DbError::Open)?;
    AnyPoolOptions::new()
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(30))
        .max_lifetime(None)
        .idle_timeout(None)
        .test_before_acquire(false)
        .after_connect(move |connection, _| {
            Box::pin(async move {
                // A committed version must survive a power cut: FULL syncs the log at each commit.
                for pragma in [
                    "PRAGMA busy_timeout = 10000",
                    "PRAGMA journal_mode = WAL",
                    "PRAGMA synchronous = FULL",
                    "PRAGMA foreign_keys = ON",
                ] {
                    connection.execute(pragma).await?;
                }
                if read_only {
                    connection.execute("PRAGMA query_only = ON").await?;
                }
                Ok(())
            })
        })
        // SQLite itself rolls back a transaction whose commit failed, for example on a full disk, and then refuses the rollback that
        // sqlx sends. sqlx goes on to believe that a transaction is open: the next ones would be savepoints in it, answered with
        // success and never committed. Such a connection is thrown away; the ping waits until the rollback was tried.
        .after_release(|connection, _| {
            Box::pin(async move {
                connection.ping().await?;
                Ok(!connection.is_in_transaction())
            })
        })
        .connect_with(options)
        .await
        .map_err(DbError::Open)
}

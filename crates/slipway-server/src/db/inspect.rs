//! A look at a database that changes nothing: no migration, no lock, no write. It may be made beside a running server.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, PgConnection, SqliteConnection};

use super::{DbError, DbUrl, MIGRATIONS, postgres_place};

/// How long a PostgreSQL may take to let us in.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How many blobs are looked at.
const SAMPLE: usize = 20;

/// An open database that is only read.
pub(crate) enum Inspect {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Where the schema stands, compared with this program's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Schema {
    /// There is no table at all.
    Empty,
    /// There are tables, but not ours.
    Foreign,
    /// The last migration, which is this program's last one.
    Current(i64),
    /// Migrations of this program that have not run.
    Older { at: i64, program: i64 },
    /// The database has migrations that this program does not know.
    Newer { at: i64, program: i64 },
    /// This migration broke off, or is another one than this program's of the same number.
    Broken(i64),
}

/// What the rows say that a doctor looks at.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// When the newest change was made, in milliseconds since 1970.
    pub(crate) newest_change: Option<i64>,
    /// The key of capabilities, in hex.
    pub(crate) capability: Option<String>,
    /// Admins who may sign in.
    pub(crate) admins: i64,
    /// Live blobs.
    pub(crate) blobs: i64,
    /// Some of them: key and length.
    pub(crate) sample: Vec<(String, u64)>,
    /// Keys of blobs that are being written, or whose writer is gone and that prune will take.
    pub(crate) staged: Vec<String>,
    /// Uploads that still take bytes.
    pub(crate) uploads: Vec<String>,
}

impl Inspect {
    /// Opens it. `alone`: no server has the SQLite file, so that it may be read without the files that a reader makes beside it.
    pub(crate) async fn open(url: &DbUrl, alone: bool) -> Result<Self, DbError> {
        match url {
            DbUrl::Sqlite(path) => {
                let log = std::fs::metadata(path.with_file_name(log_name(path))).map_or(0, |meta| meta.len());
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .read_only(true)
                    .immutable(alone && log == 0)
                    .busy_timeout(CONNECT_LIMIT);
                options.connect().await.map(Self::Sqlite).map_err(DbError::Open)
            }
            DbUrl::Postgres(address) => {
                let reach = |source| DbError::Reach { at: postgres_place(address), source };
                let options = PgConnectOptions::from_str(address).map_err(reach)?;
                match tokio::time::timeout(CONNECT_LIMIT, options.connect()).await {
                    Ok(Ok(connection)) => Ok(Self::Postgres(connection)),
                    Ok(Err(source)) => Err(reach(source)),
                    Err(_) => Err(reach(sqlx::Error::PoolTimedOut)),
                }
            }
        }
    }

    /// Where the schema stands.
    pub(crate) async fn schema(&mut self) -> Result<Schema, DbError> {
        let list = match self {
            Self::Sqlite(_) => "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
            Self::Postgres(_) => "SELECT tablename::text FROM pg_tables WHERE schemaname = current_schema()",
        };
        let tables = self.texts(list).await?;
        if !tables.iter().any(|table| table == "_sqlx_migrations") {
            return Ok(if tables.is_empty() { Schema::Empty } else { Schema::Foreign });
        }
        let program = MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0);
        let select = "SELECT version, checksum, success FROM _sqlx_migrations ORDER BY version";
        let act = |source| DbError::Sql { act: "reading which migrations have run".into(), source };
        let rows: Vec<(i64, Vec<u8>, bool)> = match self {
            Self::Sqlite(connection) => sqlx::query_as(select).fetch_all(connection).await.map_err(act)?,
            Self::Postgres(connection) => sqlx::query_as(select).fetch_all(connection).await.map_err(act)?,
        };
        let at = rows.iter().map(|row| row.0).max().unwrap_or(0);
        let same = |version: i64, checksum: &[u8]| {
            MIGRATIONS.iter().find(|ours| ours.version == version).is_none_or(|ours| *ours.checksum == *checksum)
        };
        if let Some(bad) = rows.iter().find(|(version, checksum, done)| !done || !same(*version, checksum)) {
            return Ok(Schema::Broken(bad.0));
        }
        Ok(match at.cmp(&program) {
            std::cmp::Ordering::Equal => Schema::Current(at),
            std::cmp::Ordering::Less => Schema::Older { at, program },
            std::cmp::Ordering::Greater => Schema::Newer { at, program },
        })
    }

    /// What SQLite's own quick check finds; empty when it finds nothing. PostgreSQL has no such check.
    pub(crate) async fn damage(&mut self) -> Result<Vec<String>, DbError> {
        match self {
            Self::Sqlite(_) => {
                let said = self.texts("PRAGMA quick_check(5)").await?;
                Ok(said.into_iter().filter(|line| line != "ok").collect())
            }
            Self::Postgres(_) => Ok(Vec::new()),
        }
    }

    /// One setting of PostgreSQL; `name` is one of ours.
    pub(crate) async fn setting(&mut self, name: &str) -> Result<Option<String>, DbError> {
        let act = |source| DbError::Sql { act: format!("reading the setting {name}"), source };
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(connection) => {
                let select = sqlx::query_scalar("SELECT current_setting($1, true)").bind(name.to_owned());
                select.fetch_one(connection).await.map_err(act)
            }
        }
    }

    /// The database's own time in milliseconds; `None` for SQLite, whose time is ours.
    pub(crate) async fn now(&mut self) -> Result<Option<i64>, DbError> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(_) => self.number("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint").await,
        }
    }

    /// What the rows say; the schema must be this program's.
    pub(crate) async fn facts(&mut self) -> Result<Facts, DbError> {
        let admins = "SELECT count(*) FROM account WHERE role = 'admin' AND disabled = 0 AND kind = 'user'";
        let sample = "SELECT key, len FROM blob WHERE state = 'live' ORDER BY random() LIMIT 20";
        let act = |source| DbError::Sql { act: "reading which blobs there are".into(), source };
        let sample: Vec<(String, i64)> = match self {
            Self::Sqlite(connection) => sqlx::query_as(sample).fetch_all(connection).await.map_err(act)?,
            Self::Postgres(connection) => sqlx::query_as(sample).fetch_all(connection).await.map_err(act)?,
        };
        debug_assert!(sample.len() <= SAMPLE);
        Ok(Facts {
            newest_change: self.number("SELECT max(at) FROM journal").await?,
            capability: self.texts("SELECT value FROM secret WHERE name = 'capability'").await?.pop(),
            admins: self.number(admins).await?.unwrap_or(0),
            blobs: self.number("SELECT count(*) FROM blob WHERE state = 'live'").await?.unwrap_or(0),
            sample: sample.into_iter().map(|(key, len)| (key, u64::try_from(len).unwrap_or(0))).collect(),
            staged: self.texts("SELECT key FROM blob WHERE state = 'staged'").await?,
            uploads: self.texts("SELECT id FROM upload WHERE state IN ('open', 'committing')").await?,
        })
    }

    async fn number(&mut self, text: &'static str) -> Result<Option<i64>, DbError> {
        let act = |source| DbError::Sql { act: "looking at the database".into(), source };
        match self {
            Self::Sqlite(connection) => sqlx::query_scalar(text).fetch_one(connection).await.map_err(act),
            Self::Postgres(connection) => sqlx::query_scalar(text).fetch_one(connection).await.map_err(act),
        }
    }

    async fn texts(&mut self, text: &'static str) -> Result<Vec<String>, DbError> {
        let act = |source| DbError::Sql { act: "looking at the database".into(), source };
        match self {
            Self::Sqlite(connection) => sqlx::query_scalar(text).fetch_all(connection).await.map_err(act),
            Self::Postgres(connection) => sqlx::query_scalar(text).fetch_all(connection).await.map_err(act),
        }
    }
}

fn log_name(path: &Path) -> std::ffi::OsString {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push("-wal");
    name
}

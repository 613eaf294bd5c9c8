//! What can go wrong with the database, and how it becomes a problem document.

use slipway_api::{Code, Problem};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The address is none of ours.
    #[error("database address '{0}' is neither sqlite:PATH nor postgres://…")]
    Address(String),
    /// The database could not be opened or brought up to date.
    #[error("opening the database: {0}")]
    Open(#[source] sqlx::Error),
    /// PostgreSQL did not let us in.
    #[error("reaching PostgreSQL at {at}: {source}")]
    Reach {
        /// Host and port, or the socket's folder.
        at: String,
        /// Why.
        source: sqlx::Error,
    },
    /// A migration did not run.
    #[error("bringing the database up to date: {0}")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// Another process has the directory.
    #[error("{path} is in use by {holder}")]
    Held { path: String, holder: String },
    /// The lock file could not be made.
    #[error("locking {path}: {source}")]
    Lock { path: String, source: std::io::Error },
    /// A statement failed.
    #[error("{act}: {source}")]
    Sql { act: String, source: sqlx::Error },
    /// A column does not hold what it should.
    #[error("reading column {column}: {detail}")]
    Column { column: String, detail: String },
    /// The connection broke during a commit and the database cannot be asked what became of it.
    #[error("the outcome of a commit is unknown: {0}")]
    Unknown(String),
    /// A planned fault of a test.
    #[error("planned fault at database operation {0}")]
    Planned(u64),
}

impl DbError {
    /// The transaction lost against another one and may simply be run again.
    pub fn is_retryable(&self) -> bool {
        let Self::Sql { source: sqlx::Error::Database(error), .. } = self else { return false };
        // PostgreSQL: serialization failure, deadlock. SQLite: busy, locked, and busy with a stale snapshot.
        matches!(error.code().as_deref(), Some("40001" | "40P01" | "5" | "6" | "517"))
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        let Self::Sql { source: sqlx::Error::Database(error), .. } = self else { return false };
        error.code().is_some_and(|code| codes.contains(&code.as_ref()))
    }

    /// SQLite could not flush its file or folder: the kernel may have dropped what was written, and a second flush would prove nothing.
    pub fn is_flush_failed(&self) -> bool {
        self.has_code(&["1034", "1290"])
    }

    /// The disk below the database is full; PostgreSQL: `disk_full`.
    pub fn is_no_space(&self) -> bool {
        self.has_code(&["13", "53100"])
    }
}

/// Why a transaction did not happen: the database, or a rule.
#[derive(Debug, thiserror::Error)]
pub enum TxError {
    /// The database.
    #[error(transparent)]
    Db(#[from] DbError),
    /// A rule.
    #[error("{0}")]
    Refused(Box<Problem>),
}

impl From<Problem> for TxError {
    fn from(problem: Problem) -> Self {
        Self::Refused(Box::new(problem))
    }
}

impl From<DbError> for Problem {
    /// The chain is logged here, because the problem document does not carry it.
    fn from(error: DbError) -> Self {
        tracing::error!(%error, "database");
        if error.is_no_space() {
            return Problem::new(Code::NoSpace, "no space left on the server's database disk")
                .hint("delete what is not needed, or ask the server's admin");
        }
        if error.is_flush_failed() {
            return Problem::new(
                Code::Unavailable,
                "a flush to the server's disk went wrong, so nothing more is committed",
            )
            .hint("ask the server's admin to check the disk");
        }
        match error {
            DbError::Unknown(_) => Problem::new(Code::Unavailable, "the database went away during the commit")
                .hint("ask again; the same request is never done twice"),
            DbError::Sql {
                source: sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Io(_), ..
            } => Problem::new(Code::Unavailable, "the database cannot be reached").hint("try again in a moment"),
            _ => Problem::new(Code::Internal, "the database did not do what it was asked")
                .hint("the server's log has the reason under the request id"),
        }
    }
}

impl From<TxError> for Problem {
    fn from(error: TxError) -> Self {
        match error {
            TxError::Db(error) => error.into(),
            TxError::Refused(problem) => *problem,
        }
    }
}

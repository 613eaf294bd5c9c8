//! What the two databases do not say in the same words: the time, and how a claim passes by locked rows.

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// One process, one writer.
    Sqlite,
    /// Any number of servers.
    Postgres,
}

impl Dialect {
    /// Selects the database's time as `now`, in milliseconds since 1970. It is read once, at the start of a transaction.
    pub fn now(self) -> &'static str {
        match self {
            Self::Sqlite => "SELECT CAST(ROUND((julianday('now') - 2440587.5) * 86400000) AS INTEGER) AS now",
            Self::Postgres => "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT) AS now",
        }
    }

    /// Ends the inner select of a claim, so that workers pass by rows that another one is claiming. SQLite has one writer and needs none.
    pub fn claim_suffix(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR UPDATE SKIP LOCKED",
        }
    }
}

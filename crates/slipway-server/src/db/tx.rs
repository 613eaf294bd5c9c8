//! One transaction: statements, journal, commit.

use crate::core::{Caller, Nudge};
use crate::db::{Db, DbError, Row, Sql, SqlFault, TxError, sql};
use futures_util::TryStreamExt;
use sqlx::{Any, AnyPool, Transaction};
use std::time::Duration;
use uuid::Uuid;

/// How often a transaction is run that loses against others.
const ATTEMPTS: u32 = 10;

/// A transaction. Dropped without an end, it has no effect.
pub struct Tx {
    db: Db,
    inner: Transaction<'static, Any>,
    now: i64,
    actor: String,
    token: Option<Uuid>,
    request_id: Option<String>,
    journal: Vec<(&'static str, String, serde_json::Value)>,
    nudges: Vec<Nudge>,
}

/// What became of one run of a transaction's body.
pub enum End<T> {
    /// It is over.
    Done(Result<T, TxError>),
    /// It lost against another transaction; run it again.
    Again,
}

/// Runs a body in a transaction and commits it if it answers `Ok`: `tx!(&core.db, who, |tx| { … Ok(answer) })`. The body is run again
/// when the database asks for it, so it must have no effect but on the database. It is a macro because an async closure over
/// `&mut Tx` cannot promise to be `Send`.
macro_rules! tx {
    ($db:expr, $who:expr, |$tx:ident| $body:expr) => {{
        let mut attempt = 0u32;
        loop {
            let mut opened = match $db.begin($who).await {
                Ok(opened) => opened,
                Err(error) => break Err($crate::db::TxError::from(error)),
            };
            let outcome = {
                let $tx = &mut opened;
                async { $body }.await
            };
            match opened.end(outcome, &mut attempt).await {
                $crate::db::End::Done(result) => break result,
                $crate::db::End::Again => {}
            }
        }
    }};
}
pub(crate) use tx;

impl Tx {
    pub(crate) async fn begin(db: Db, pool: &AnyPool, who: &Caller) -> Result<Self, DbError> {
        let fault = |source| DbError::Sql { act: "beginning a transaction".to_owned(), source };
        let inner = pool.begin().await.map_err(fault)?;
        let now = db.dialect().now();
        let mut tx = Self {
            db,
            inner,
            now: 0,
            actor: who.actor().to_owned(),
            token: who.token,
            request_id: (!who.request_id.is_empty()).then(|| who.request_id.clone()),
            journal: Vec::new(),
            nudges: Vec::new(),
        };
        tx.now = tx.row_must(sql(now)).await?.int("now")?;
        Ok(tx)
    }

    /// The database's time at the start of the transaction, in milliseconds.
    pub fn now(&self) -> i64 {
        self.now
    }

    /// The database it belongs to.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Runs a statement and counts the rows it changed.
    pub async fn run(&mut self, statement: Sql) -> Result<u64, DbError> {
        let act = statement.act();
        let lost = self.fault_before()?;
        let done = statement.query().execute(&mut *self.inner).await;
        let done = done.map_err(|source| DbError::Sql { act, source })?;
        match lost {
            Some(n) => Err(DbError::Planned(n)),
            None => Ok(done.rows_affected()),
        }
    }

    /// Hands over each row of a statement as it comes. For lists without a bound: a row takes some KB, which [`Self::rows`] holds for all of them at once.
    pub async fn rows_each(
        &mut self,
        statement: Sql,
        mut each: impl FnMut(Row) -> Result<(), DbError> + Send,
    ) -> Result<(), DbError> {
        let act = statement.act();
        let lost = self.fault_before()?;
        let mut rows = statement.query().fetch(&mut *self.inner);
        while let Some(row) = rows.try_next().await.map_err(|source| DbError::Sql { act: act.clone(), source })? {
            each(Row(row))?;
        }
        match lost {
            Some(n) => Err(DbError::Planned(n)),
            None => Ok(()),
        }
    }

    /// All rows of a statement.
    pub async fn rows(&mut self, statement: Sql) -> Result<Vec<Row>, DbError> {
        let act = statement.act();
        let lost = self.fault_before()?;
        let rows = statement.query().fetch_all(&mut *self.inner).await;
        let rows = rows.map_err(|source| DbError::Sql { act, source })?;
        match lost {
            Some(n) => Err(DbError::Planned(n)),
            None => Ok(rows.into_iter().map(Row).collect()),
        }
    }

    /// The first row of a statement, if any. A statement with `RETURNING` runs to its end.
    pub async fn row(&mut self, statement: Sql) -> Result<Option<Row>, DbError> {
        Ok(self.rows(statement).await?.into_iter().next())
    }

    /// The first row of a statement that always has one.
    pub async fn row_must(&mut self, statement: Sql) -> Result<Row, DbError> {
        let act = statement.act();
        self.row(statement).await?.ok_or(DbError::Sql { act, source: sqlx::Error::RowNotFound })
    }

    fn fault_before(&self) -> Result<Option<u64>, DbError> {
        match self.db.0.faults.next() {
            None => Ok(None),
            Some((n, SqlFault::Error)) => Err(DbError::Planned(n)),
            Some((n, SqlFault::Lost)) => Ok(Some(n)),
        }
    }

    /// Writes a line of the journal when the transaction commits. `detail` never holds a secret.
    pub fn journal(&mut self, verb: &'static str, object: impl Into<String>, detail: serde_json::Value) {
        self.journal.push((verb, object.into(), detail));
    }

    /// Announces something once the transaction is committed.
    pub fn nudge(&mut self, nudge: Nudge) {
        self.nudges.push(nudge);
    }

    /// Commits what went well and rolls back the rest.
    pub async fn end<T>(mut self, outcome: Result<T, TxError>, attempt: &mut u32) -> End<T> {
        let outcome = match outcome {
            Ok(answer) => match self.journal_append().await {
                Ok(mark) => {
                    let nudges = std::mem::take(&mut self.nudges);
                    let db = self.db.clone();
                    match self.commit(mark).await {
                        Ok(()) => {
                            for nudge in nudges {
                                // Nobody listening is fine: workers also look on their own.
                                let _ = db.nudges().send(nudge);
                            }
                            return End::Done(Ok(answer));
                        }
                        Err(error) => Err(TxError::Db(error)),
                    }
                }
                Err(error) => {
                    let _ = self.inner.rollback().await;
                    Err(TxError::Db(error))
                }
            },
            Err(error) => {
                let _ = self.inner.rollback().await;
                Err(error)
            }
        };
        match &outcome {
            Err(TxError::Db(error)) if error.is_retryable() && *attempt < ATTEMPTS => {
                *attempt += 1;
                let wait = u64::from(rand::random::<u8>()) * u64::from(*attempt) / 8;
                tokio::time::sleep(Duration::from_millis(wait)).await;
                End::Again
            }
            _ => End::Done(outcome),
        }
    }

    /// The number comes from a one-row counter that is taken last: its row stays locked until the commit, so that number order is commit
    /// order and nobody waits for it longer than a commit takes.
    async fn journal_append(&mut self) -> Result<Option<String>, DbError> {
        let lines = std::mem::take(&mut self.journal);
        if lines.is_empty() {
            return Ok(None);
        }
        let mark = Uuid::new_v4().to_string();
        let count = i64::try_from(lines.len()).unwrap_or(i64::MAX);
        let last = self
            .row_must(sql("UPDATE counter SET value = value + $1 WHERE name = 'journal' RETURNING value").bind(count))
            .await?
            .int("value")?;
        for (number, (verb, object, detail)) in (last - count + 1..).zip(lines) {
            let line = sql("INSERT INTO journal (number, at, actor, token, request_id, verb, object, detail, tx) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)")
            .bind(number)
            .bind(self.now)
            .bind(&self.actor)
            .bind(self.token)
            .bind(self.request_id.clone())
            .bind(verb)
            .bind(object)
            .bind(detail.to_string())
            .bind(&mark);
            self.run(line).await?;
        }
        Ok(Some(mark))
    }

    async fn commit(self, mark: Option<String>) -> Result<(), DbError> {
        let db = self.db.clone();
        let planned = db.0.faults.next();
        if let Some((n, SqlFault::Error)) = planned {
            let _ = self.inner.rollback().await;
            return Err(DbError::Planned(n));
        }
        let mut done = self.inner.commit().await;
        if planned.is_some() && done.is_ok() {
            done = Err(sqlx::Error::Io(std::io::Error::other("planned loss of the answer")));
        }
        let Err(source) = done else { return Ok(()) };
        // A database error is an answer: it was not committed. Anything else leaves the outcome unknown.
        if matches!(source, sqlx::Error::Database(_)) {
            let error = DbError::Sql { act: "committing".to_owned(), source };
            if let (true, Some(act)) = (error.is_flush_failed(), db.0.flush_failed.get()) {
                act();
            }
            return Err(error);
        }
        match commit_resolve(&db, mark).await? {
            true => Ok(()),
            false => Err(DbError::Sql { act: "committing".to_owned(), source }),
        }
    }
}

/// Whether the transaction with this mark was committed. The counter's row is locked first, which waits for a commit that is still under
/// way in the database.
async fn commit_resolve(db: &Db, mark: Option<String>) -> Result<bool, DbError> {
    let Some(mark) = mark else {
        return Err(DbError::Unknown("the connection broke".to_owned()));
    };
    for wait in [0u64, 100, 400, 1600] {
        tokio::time::sleep(Duration::from_millis(wait)).await;
        match commit_ask(db, &mark).await {
            Ok(answer) => return Ok(answer),
            Err(error) => tracing::warn!(%error, "asking what became of a commit"),
        }
    }
    Err(DbError::Unknown("the database cannot be asked what became of it".to_owned()))
}

async fn commit_ask(db: &Db, mark: &str) -> Result<bool, DbError> {
    let mut tx = db.begin(&Caller::server()).await?;
    tx.run(sql("UPDATE counter SET value = value WHERE name = 'journal'")).await?;
    let found = tx.row(sql("SELECT number FROM journal WHERE tx = $1").bind(mark)).await?;
    Ok(found.is_some())
}

//! The store's rows in SQL. Called from the store's threads, which wait for the runtime's answer.

use crate::core::{Caller, Core};
use crate::db::{Db, DbError, Row, Sql, Tx, TxError, Value, placeholders, sql, tx};
use slipway_chunk::Digest;
use slipway_store::{BlobId, BlobKind, BlobRow, BlobState, ContentRef, Ledger, LedgerError, NewBlob, SpaceId};
use std::collections::BTreeSet;
use std::future::Future;
use uuid::Uuid;

/// Values in one statement at most; SQLite takes 32,766, PostgreSQL 65,535.
pub(crate) const BATCH: usize = 500;

/// The rows of packs, segments and manifests.
#[derive(Clone)]
pub struct SqlLedger {
    db: Db,
    runtime: tokio::runtime::Handle,
    without: BTreeSet<Uuid>,
}

impl SqlLedger {
    pub(crate) fn new(db: Db, runtime: tokio::runtime::Handle) -> Self {
        Self { db, runtime, without: BTreeSet::new() }
    }

    /// The rows as they would be without these contents: for a dry run of what removes them first.
    pub(crate) fn without(mut self, contents: impl IntoIterator<Item = Uuid>) -> Self {
        self.without.extend(contents);
        self
    }

    /// The database's time in milliseconds.
    pub fn now(&self) -> Result<i64, LedgerError> {
        self.wait(async { Ok(self.db.now().await?) })
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T, TxError>>) -> Result<T, LedgerError> {
        self.runtime.block_on(work).map_err(LedgerError::rows)
    }

    /// One change of state: takes the next number of the rows, which stays locked until the commit, so that `rev` order is commit order.
    /// `$1` is that number, `$2` the id, the rest what `values` makes of the time.
    fn change(&self, text: &'static str, id: &BlobId, values: impl Fn(i64) -> Vec<Value>) -> Result<u64, LedgerError> {
        let id = id.to_string();
        let server = Caller::server();
        self.wait(async {
            tx!(self.db, &server, |tx| {
                let rev = rev_next(tx).await?;
                let statement = sql(text).bind(rev).bind(&id).bind_all(values(tx.now()));
                Ok::<u64, TxError>(tx.run(statement).await?)
            })
        })
    }
}

async fn rev_next(tx: &mut Tx) -> Result<i64, DbError> {
    tx.row_must(sql("UPDATE counter SET value = value + 1 WHERE name = 'blob' RETURNING value")).await?.int("value")
}

fn blob_row(row: &Row) -> Result<BlobRow, DbError> {
    let bad = |column: &str, text: String| DbError::Column {
        column: column.to_owned(),
        detail: format!("'{text}' is unknown"),
    };
    let kind = row.text("kind")?;
    let state = row.text("state")?;
    Ok(BlobRow {
        id: row.parsed("id")?,
        space: row.parsed("space")?,
        kind: BlobKind::parse(&kind).ok_or_else(|| bad("kind", kind))?,
        name: row.text("name")?,
        key: row.text("key")?,
        state: BlobState::parse(&state).ok_or_else(|| bad("state", state))?,
        len: row.size("len")?,
        frames_len: row.size("frames_len")?,
        digest: row.parsed_or_null("digest")?,
        upload: row.text_or_null("upload")?,
        rev: row.int("rev")?,
        touched: row.int("touched")?,
        created_at: row.int("created_at")?,
        doomed_at: row.int_or_null("doomed_at")?,
    })
}

async fn blob_rows(tx: &mut Tx, query: Sql) -> Result<Vec<BlobRow>, DbError> {
    let mut rows = Vec::new();
    tx.rows_each(query, |row| {
        rows.push(blob_row(&row)?);
        Ok(())
    })
    .await?;
    Ok(rows)
}

/// Readable blobs with ids greater than this one, in order of their ids. As in `blobs_page`, the index of states is of no use here.
pub(crate) async fn blob_rows_after(core: &Core, after: &str, limit: usize) -> Result<Vec<BlobRow>, DbError> {
    let mut tx = core.db.read().await?;
    let query = sql(
        "SELECT * FROM blob WHERE id > $1 AND COALESCE(state, '') IN ('live', 'doomed') AND digest IS NOT NULL ORDER BY id LIMIT $2",
    )
    .bind(after)
    .bind(limit as u64);
    blob_rows(&mut tx, query).await
}

impl Ledger for SqlLedger {
    fn blob_stage(&self, new: &NewBlob) -> Result<(), LedgerError> {
        let server = Caller::server();
        self.wait(async {
            tx!(self.db, &server, |tx| {
                let rev = rev_next(tx).await?;
                let insert = sql("INSERT INTO blob (id, space, kind, name, key, state, len, frames_len, upload, rev, touched, created_at) \
                     VALUES ($1, $2, $3, $4, $5, 'staged', 0, 0, $6, $7, 0, $8)")
                .bind(new.id.to_string())
                .bind(new.space.as_str())
                .bind(new.kind.as_str())
                .bind(&new.name)
                .bind(&new.key)
                .bind(new.upload.clone())
                .bind(rev)
                .bind(tx.now());
                tx.run(insert).await?;
                Ok::<(), TxError>(())
            })
        })
    }

    fn blob_live(&self, id: &BlobId, len: u64, frames_len: u64, digest: &Digest) -> Result<(), LedgerError> {
        let changed = self.change(
            "UPDATE blob SET state = 'live', rev = $1, len = $3, frames_len = $4, digest = $5 WHERE id = $2 AND state = 'staged'",
            id,
            |_| vec![len.into(), frames_len.into(), digest.to_string().into()],
        )?;
        match changed {
            1 => Ok(()),
            _ => Err(LedgerError::Gone(*id)),
        }
    }

    fn blob_forget(&self, id: &BlobId) -> Result<(), LedgerError> {
        let id = id.to_string();
        let server = Caller::server();
        self.wait(async {
            tx!(self.db, &server, |tx| {
                tx.run(sql("DELETE FROM blob WHERE id = $1 AND state = 'staged'").bind(&id)).await?;
                Ok::<(), TxError>(())
            })
        })
    }

    fn packs_since(&self, rev: i64, limit: usize) -> Result<Vec<BlobRow>, LedgerError> {
        self.wait(async {
            let mut tx = self.db.read().await?;
            let query = sql("SELECT * FROM blob WHERE kind = 'pack' AND rev > $1 ORDER BY rev LIMIT $2");
            Ok(blob_rows(&mut tx, query.bind(rev).bind(limit as u64)).await?)
        })
    }

    fn blob_find(&self, spaces: &[SpaceId], kind: BlobKind, name: &str) -> Result<Option<BlobRow>, LedgerError> {
        let mut found = self.blobs_find(spaces, kind, &[name.to_owned()])?;
        // A live one first, then the one in the space named first, so that the answer does not depend on the database's order.
        let place = |row: &BlobRow| spaces.iter().position(|space| *space == row.space);
        found.sort_by_key(|row| (row.state != BlobState::Live, place(row), row.rev));
        Ok(found.into_iter().next())
    }

    fn blobs_find(&self, spaces: &[SpaceId], kind: BlobKind, names: &[String]) -> Result<Vec<BlobRow>, LedgerError> {
        if spaces.is_empty() {
            return Ok(Vec::new());
        }
        self.wait(async {
            let mut tx = self.db.read().await?;
            let mut found = Vec::new();
            for batch in names.chunks(BATCH) {
                let text = format!(
                    "SELECT * FROM blob WHERE kind = $1 AND state IN ('live', 'doomed') AND space IN ({}) AND name IN ({})",
                    placeholders(2, spaces.len()),
                    placeholders(2 + spaces.len(), batch.len())
                );
                let query = sql(text).bind(kind.as_str()).bind_all(spaces.iter().map(SpaceId::as_str)).bind_all(batch);
                found.extend(blob_rows(&mut tx, query).await?);
            }
            Ok(found)
        })
    }

    fn blobs_page(
        &self,
        states: &[BlobState],
        after: Option<&BlobId>,
        limit: usize,
    ) -> Result<Vec<BlobRow>, LedgerError> {
        let after = after.map(BlobId::to_string).unwrap_or_default();
        self.wait(async {
            let mut tx = self.db.read().await?;
            // The index of states would give all of them, to be sorted for every page anew; an expression has no index.
            let text = format!(
                "SELECT * FROM blob WHERE id > $1 AND COALESCE(state, '') IN ({}) ORDER BY id LIMIT $2",
                placeholders(3, states.len())
            );
            let query = sql(text).bind(after).bind(limit as u64);
            Ok(blob_rows(&mut tx, query.bind_all(states.iter().map(|state| state.as_str()))).await?)
        })
    }

    fn blob_doom(&self, id: &BlobId, touched: i64) -> Result<bool, LedgerError> {
        let changed = self.change(
            "UPDATE blob SET state = 'doomed', rev = $1, doomed_at = $3 \
             WHERE id = $2 AND ((state = 'live' AND touched = $4) OR state = 'staged')",
            id,
            |now| vec![now.into(), touched.into()],
        )?;
        Ok(changed == 1)
    }

    fn blob_revive(&self, id: &BlobId) -> Result<bool, LedgerError> {
        let changed = self.change(
            "UPDATE blob SET state = 'live', rev = $1, doomed_at = NULL \
             WHERE id = $2 AND state = 'doomed' AND digest IS NOT NULL",
            id,
            |_| Vec::new(),
        )?;
        Ok(changed == 1)
    }

    fn blob_gone(&self, id: &BlobId) -> Result<bool, LedgerError> {
        let text = "UPDATE blob SET state = 'gone', rev = $1 WHERE id = $2 AND state = 'doomed'";
        Ok(self.change(text, id, |_| Vec::new())? == 1)
    }

    fn blob_quarantine(&self, id: &BlobId) -> Result<bool, LedgerError> {
        let text = "UPDATE blob SET state = 'quarantined', rev = $1 \
             WHERE id = $2 AND state IN ('live', 'doomed')";
        Ok(self.change(text, id, |_| Vec::new())? == 1)
    }

    fn blob_restore(&self, id: &BlobId) -> Result<bool, LedgerError> {
        let text = "UPDATE blob SET state = 'live', rev = $1, doomed_at = NULL \
             WHERE id = $2 AND state = 'quarantined' AND digest IS NOT NULL";
        Ok(self.change(text, id, |_| Vec::new())? == 1)
    }

    fn contents(&self) -> Result<Vec<ContentRef>, LedgerError> {
        self.wait(async {
            let mut tx = self.db.read().await?;
            let mut contents = Vec::new();
            tx.rows_each(sql("SELECT id, root, spaces FROM content ORDER BY id"), |row| {
                if !self.without.contains(&row.parsed::<Uuid>("id")?) {
                    contents.push(ContentRef { root: row.parsed("root")?, spaces: row.json("spaces")? });
                }
                Ok(())
            })
            .await?;
            Ok(contents)
        })
    }

    fn uploads_open(&self) -> Result<Vec<String>, LedgerError> {
        self.wait(async {
            let mut tx = self.db.read().await?;
            let now = tx.now();
            let open = tx
                .rows(
                    sql("SELECT id FROM upload WHERE (state = 'open' AND lease_until > $1) \
                         OR state = 'committing' \
                         UNION SELECT id FROM task WHERE kind = 'rehome' AND state IN ('queued', 'running')")
                    .bind(now),
                )
                .await?;
            Ok(open.iter().map(|row| row.text("id")).collect::<Result<_, _>>()?)
        })
    }
}

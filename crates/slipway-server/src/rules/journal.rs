//! The journal: every change, in commit order.

use crate::core::{Caller, Core};
use crate::db::{DbError, Row, sql};
use crate::policy::Action;
use crate::rules::owner::server_allowed;
use crate::rules::page::{limit_check, page_of};
use slipway_api::{JournalEntry, Page, Problem};

/// Lines after number `after`, oldest first; `next` is the number to go on after.
pub async fn journal_list(
    core: &Core,
    who: &Caller,
    after: u64,
    limit: Option<u32>,
) -> Result<Page<JournalEntry>, Problem> {
    server_allowed(who, Action::JournalRead)?;
    let limit = limit_check(limit)?;
    let mut tx = core.db.read().await?;
    let rows = tx
        .rows(
            sql("SELECT * FROM journal WHERE number > $1 ORDER BY number LIMIT $2").bind(after).bind(limit as u64 + 1),
        )
        .await?;
    let items = rows.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    Ok(page_of(items, limit, |entry| entry.number.to_string()))
}

fn entry(row: &Row) -> Result<JournalEntry, DbError> {
    Ok(JournalEntry {
        number: row.size("number")?,
        at: row.time("at")?,
        actor: row.text("actor")?,
        token: row.parsed_or_null("token")?,
        request_id: row.text_or_null("request_id")?,
        verb: row.text("verb")?,
        object: row.text("object")?,
        detail: row.json("detail")?,
    })
}

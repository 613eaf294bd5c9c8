//! Care for what is kept.

use axum::http::StatusCode;
use serde::Deserialize;
use slipway_api::{CheckRequest, PruneRequest};

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::rules;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct JournalQuery {
    after: u64,
    limit: Option<u32>,
}

pub(crate) async fn prune(mut ask: Ask) -> Answered {
    let request = ask.json_or_default::<PruneRequest>().await?;
    let task = rules::task::prune_request(ask.core(), &ask.who, request).await?;
    answer::json(StatusCode::ACCEPTED, &task)
}

pub(crate) async fn check(mut ask: Ask) -> Answered {
    let request = ask.json_or_default::<CheckRequest>().await?;
    let task = rules::task::check_request(ask.core(), &ask.who, request).await?;
    answer::json(StatusCode::ACCEPTED, &task)
}

pub(crate) async fn journal_list(ask: Ask) -> Answered {
    let query: JournalQuery = ask.query()?;
    let page = rules::journal::journal_list(ask.core(), &ask.who, query.after, query.limit).await?;
    answer::json_get(ask.headers(), &page, None)
}

//! Care for what is kept.

use axum::http::StatusCode;
use serde::Deserialize;
use slipway_api::{CheckRequest, FindingQuery, PruneRequest};

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

pub(crate) async fn finding_list(ask: Ask) -> Answered {
    let query = ask.query::<FindingQuery>()?;
    let page = rules::finding_row::finding_list(ask.core(), &ask.who, &query).await?;
    answer::json_get(ask.headers(), &page, None)
}

pub(crate) async fn scrub_get(ask: Ask) -> Answered {
    answer::json_get(ask.headers(), &rules::scrub::scrub_get(ask.core(), &ask.who).await?, None)
}

pub(crate) async fn scrub_start(ask: Ask) -> Answered {
    answer::json(StatusCode::ACCEPTED, &rules::scrub::scrub_start(ask.core(), &ask.who).await?)
}

pub(crate) async fn scrub_pause(ask: Ask) -> Answered {
    answer::json(StatusCode::OK, &rules::scrub::scrub_pause(ask.core(), &ask.who).await?)
}

pub(crate) async fn journal_list(ask: Ask) -> Answered {
    let query: JournalQuery = ask.query()?;
    let page = rules::journal::journal_list(ask.core(), &ask.who, query.after, query.limit).await?;
    answer::json_get(ask.headers(), &page, None)
}

//! Versions.

use axum::http::header::IF_MATCH;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use slipway_api::{Code, FindingReport, ImageRef, PageQuery, Problem, VersionPick};
use uuid::Uuid;

use crate::core::{Caller, Core};
use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::http::tag;
use crate::routes::images::NowQuery;
use crate::rules;

/// `If-Match` on a version compares with the tag that GET gives: a version's row has no revision of its own.
async fn match_check(
    core: &Core,
    who: &Caller,
    headers: &HeaderMap,
    image: &ImageRef,
    pick: &VersionPick,
) -> Result<(), Problem> {
    if !headers.contains_key(IF_MATCH) {
        return Ok(());
    }
    let now = rules::version::version_get(core, who, image, pick).await?;
    tag::match_text(headers, &answer::text_tag(&now)?)
}

pub(crate) async fn version_list(ask: Ask) -> Answered {
    let query = ask.query::<PageQuery>()?;
    let page = rules::version::version_list(ask.core(), &ask.who, &ask.image()?, &query).await?;
    answer::json_get(ask.headers(), &page, None)
}

pub(crate) async fn version_get(ask: Ask) -> Answered {
    let version = rules::version::version_get(ask.core(), &ask.who, &ask.image()?, &ask.pick()?).await?;
    answer::json_get(ask.headers(), &version, None)
}

pub(crate) async fn version_change(mut ask: Ask) -> Answered {
    let change = ask.json().await?;
    let (image, pick) = (ask.image()?, ask.pick()?);
    match_check(ask.core(), &ask.who, ask.headers(), &image, &pick).await?;
    let version = rules::version::version_change(ask.core(), &ask.who, &image, &pick, change).await?;
    answer::json(StatusCode::OK, &version)
}

pub(crate) async fn version_trash(ask: Ask) -> Answered {
    let (image, pick) = (ask.image()?, ask.pick()?);
    match_check(ask.core(), &ask.who, ask.headers(), &image, &pick).await?;
    match ask.query::<NowQuery>()?.now {
        true => rules::end::version_end(ask.core(), &ask.who, &image, &pick).await?,
        false => rules::trash::version_trash(ask.core(), &ask.who, &image, &pick).await?,
    }
    answer::nothing()
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RestoreQuery {
    content: Option<String>,
}

pub(crate) async fn version_restore(ask: Ask) -> Answered {
    let query: RestoreQuery = ask.query()?;
    let VersionPick::Number(number) = ask.pick()? else {
        let title = "a version in the trash is named by its number";
        return Err(Problem::new(Code::InvalidRequest, title).field("version"));
    };
    let image = ask.image()?;
    let version = match query.content.as_deref() {
        None => rules::trash::version_restore(ask.core(), &ask.who, &image, number).await?,
        Some(text) => {
            let bad =
                |_| Problem::new(Code::InvalidRequest, "content is neither an id nor 'previous'").field("content");
            let content = if text == "previous" { None } else { Some(Uuid::try_parse(text).map_err(bad)?) };
            rules::content::content_restore(ask.core(), &ask.who, &image, number, content).await?
        }
    };
    answer::json(StatusCode::OK, &version)
}

pub(crate) async fn finding_report(mut ask: Ask) -> Answered {
    let report = ask.json::<FindingReport>().await?;
    let task = rules::finding::finding_report(ask.core(), &ask.who, &ask.image()?, &ask.pick()?, report).await?;
    answer::json(StatusCode::ACCEPTED, &task)
}

pub(crate) async fn version_verify(ask: Ask) -> Answered {
    let task = rules::version_care::version_verify(ask.core(), &ask.who, &ask.image()?, &ask.pick()?).await?;
    answer::json(StatusCode::ACCEPTED, &task)
}

pub(crate) async fn version_digest(ask: Ask) -> Answered {
    let task = rules::version_care::version_digest(ask.core(), &ask.who, &ask.image()?, &ask.pick()?).await?;
    answer::json(StatusCode::ACCEPTED, &task)
}

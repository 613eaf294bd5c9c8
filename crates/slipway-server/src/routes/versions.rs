//! Versions.

use axum::http::StatusCode;
use slipway_api::{Code, FindingReport, PageQuery, Problem, VersionPick};

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::http::tag;
use crate::rules;

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
    if ask.headers().contains_key("if-match") {
        let now = rules::version::version_get(ask.core(), &ask.who, &image, &pick).await?;
        tag::match_text(ask.headers(), &answer::text_tag(&now)?)?;
    }
    let version = rules::version::version_change(ask.core(), &ask.who, &image, &pick, change).await?;
    answer::json(StatusCode::OK, &version)
}

pub(crate) async fn version_trash(ask: Ask) -> Answered {
    rules::trash::version_trash(ask.core(), &ask.who, &ask.image()?, &ask.pick()?).await?;
    answer::nothing()
}

pub(crate) async fn version_restore(ask: Ask) -> Answered {
    let VersionPick::Number(number) = ask.pick()? else {
        let title = "a version in the trash is named by its number";
        return Err(Problem::new(Code::InvalidRequest, title).field("version"));
    };
    let version = rules::trash::version_restore(ask.core(), &ask.who, &ask.image()?, number).await?;
    answer::json(StatusCode::OK, &version)
}

pub(crate) async fn finding_report(mut ask: Ask) -> Answered {
    let report = ask.json::<FindingReport>().await?;
    let task = rules::finding::finding_report(ask.core(), &ask.who, &ask.image()?, &ask.pick()?, report).await?;
    answer::json(StatusCode::ACCEPTED, &task)
}

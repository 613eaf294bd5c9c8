//! Images and who may read them.

use axum::http::StatusCode;
use serde::Deserialize;
use slipway_api::{Code, ImageQuery, PageQuery, Problem, Retention, RetentionRun};

use super::content::outcome_status;
use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::rules;

pub(crate) async fn image_list(ask: Ask) -> Answered {
    let page = rules::image::image_list(ask.core(), &ask.who, &ask.query::<PageQuery>()?).await?;
    answer::json_get(ask.headers(), &page, None)
}

pub(crate) async fn image_create(mut ask: Ask) -> Answered {
    let new = ask.json().await?;
    let image = rules::image::image_create(ask.core(), &ask.who, new).await?;
    answer::json_tagged(StatusCode::CREATED, &image, image.revision)
}

pub(crate) async fn image_get(ask: Ask) -> Answered {
    let query = ask.query::<ImageQuery>()?;
    let image = rules::image::image_get(ask.core(), &ask.who, &ask.image()?, &query).await?;
    answer::json_get(ask.headers(), &image, Some(image.revision))
}

pub(crate) async fn image_change(mut ask: Ask) -> Answered {
    let change = ask.json().await?;
    let image = rules::image::image_change(ask.core(), &ask.who, &ask.image()?, change, ask.if_match()?).await?;
    answer::json_tagged(StatusCode::OK, &image, image.revision)
}

/// Of a deletion.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct NowQuery {
    pub(crate) now: bool,
}

pub(crate) async fn image_trash(ask: Ask) -> Answered {
    let (image, if_match) = (ask.image()?, ask.if_match()?);
    match ask.query::<NowQuery>()?.now {
        true => rules::end::image_end(ask.core(), &ask.who, &image, if_match).await?,
        false => rules::trash::image_trash(ask.core(), &ask.who, &image, if_match).await?,
    }
    answer::nothing()
}

pub(crate) async fn image_restore(ask: Ask) -> Answered {
    let image = rules::trash::image_restore(ask.core(), &ask.who, &ask.image()?).await?;
    answer::json_tagged(StatusCode::OK, &image, image.revision)
}

pub(crate) async fn sharing_change(mut ask: Ask) -> Answered {
    let change = ask.json().await?;
    let image = rules::sharing::sharing_change(ask.core(), &ask.who, &ask.image()?, change, ask.if_match()?).await?;
    let status = match image.sharing.task {
        Some(_) => StatusCode::ACCEPTED,
        None => StatusCode::OK,
    };
    answer::json_tagged(status, &image, image.revision)
}

pub(crate) async fn image_rollback(mut ask: Ask) -> Answered {
    let wish = ask.json().await?;
    let committed = rules::image::image_rollback(ask.core(), &ask.who, &ask.image()?, wish).await?;
    answer::json(outcome_status(committed.outcome), &committed)
}

pub(crate) async fn retention_get(ask: Ask) -> Answered {
    let shown = rules::retention::retention_get(ask.core(), &ask.who, &ask.image()?).await?;
    answer::json_get(ask.headers(), &shown, None)
}

pub(crate) async fn retention_set(mut ask: Ask) -> Answered {
    let set = ask.json().await?;
    let shown = rules::retention::retention_set(ask.core(), &ask.who, &ask.image()?, set).await?;
    answer::json(StatusCode::OK, &shown)
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PreviewQuery {
    rules: Option<String>,
}

pub(crate) async fn retention_preview(ask: Ask) -> Answered {
    let query: PreviewQuery = ask.query()?;
    let rules = query.rules.as_deref().map(str::parse::<Retention>).transpose();
    let rules = rules.map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()).field("rules"))?;
    let plan = rules::retention::retention_preview(ask.core(), &ask.who, &ask.image()?, rules).await?;
    answer::json(StatusCode::OK, &plan)
}

pub(crate) async fn retention_run(mut ask: Ask) -> Answered {
    let run = ask.json_or_default::<RetentionRun>().await?;
    let plan = rules::retention::retention_run(ask.core(), &ask.who, &ask.image()?, run).await?;
    answer::json(StatusCode::OK, &plan)
}

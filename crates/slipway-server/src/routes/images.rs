//! Images and who may read them.

use axum::http::StatusCode;
use serde::Deserialize;
use slipway_api::PageQuery;

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::rules;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TrashQuery {
    trash: bool,
}

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
    let query: TrashQuery = ask.query()?;
    let image = rules::image::image_get(ask.core(), &ask.who, &ask.image()?, query.trash).await?;
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

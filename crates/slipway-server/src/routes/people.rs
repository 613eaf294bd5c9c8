//! Users.

use axum::http::StatusCode;
use slipway_api::PageQuery;

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::rules;

pub(crate) async fn me(ask: Ask) -> Answered {
    let me = rules::user::me(ask.core(), &ask.who).await?;
    answer::json_get(ask.headers(), &me, None)
}

pub(crate) async fn user_list(ask: Ask) -> Answered {
    let page = rules::user::user_list(ask.core(), &ask.who, &ask.query::<PageQuery>()?).await?;
    answer::json_get(ask.headers(), &page, None)
}

pub(crate) async fn user_create(mut ask: Ask) -> Answered {
    let new = ask.json().await?;
    let user = rules::user::user_create(ask.core(), &ask.who, new).await?;
    answer::json_tagged(StatusCode::CREATED, &user, user.revision)
}

pub(crate) async fn user_get(ask: Ask) -> Answered {
    let user = rules::user::user_get(ask.core(), &ask.who, ask.param("name")).await?;
    answer::json_get(ask.headers(), &user, Some(user.revision))
}

pub(crate) async fn user_change(mut ask: Ask) -> Answered {
    let change = ask.json().await?;
    let user = rules::user::user_change(ask.core(), &ask.who, ask.param("name"), change, ask.if_match()?).await?;
    answer::json_tagged(StatusCode::OK, &user, user.revision)
}

pub(crate) async fn user_delete(ask: Ask) -> Answered {
    rules::user::user_delete(ask.core(), &ask.who, ask.param("name")).await?;
    answer::nothing()
}

pub(crate) async fn password_change(mut ask: Ask) -> Answered {
    let change = ask.json().await?;
    rules::user::password_change(ask.core(), &ask.who, ask.param("name"), change).await?;
    answer::nothing()
}

pub(crate) async fn quota_get(ask: Ask) -> Answered {
    let quota = rules::quota::quota_get(ask.core(), &ask.who, ask.param("name")).await?;
    answer::json_get(ask.headers(), &quota, None)
}

pub(crate) async fn quota_change(mut ask: Ask) -> Answered {
    let change = ask.json().await?;
    let quota = rules::quota::quota_change(ask.core(), &ask.who, ask.param("name"), change).await?;
    answer::json(StatusCode::OK, &quota)
}

pub(crate) async fn account_retention_get(ask: Ask) -> Answered {
    let shown = rules::retention::account_retention_get(ask.core(), &ask.who, ask.param("name")).await?;
    answer::json_get(ask.headers(), &shown, None)
}

pub(crate) async fn account_retention_set(mut ask: Ask) -> Answered {
    let set = ask.json().await?;
    let shown = rules::retention::account_retention_set(ask.core(), &ask.who, ask.param("name"), set).await?;
    answer::json(StatusCode::OK, &shown)
}

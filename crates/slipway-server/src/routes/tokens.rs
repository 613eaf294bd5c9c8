//! Tokens.

use axum::http::StatusCode;
use slipway_api::PageQuery;

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::rules;

pub(crate) async fn token_list(ask: Ask) -> Answered {
    let page = rules::token::token_list(ask.core(), &ask.who, &ask.query::<PageQuery>()?).await?;
    answer::json_get(ask.headers(), &page, None)
}

pub(crate) async fn token_make(mut ask: Ask) -> Answered {
    let new = ask.json().await?;
    let made = rules::token::token_make(ask.core(), &ask.who, new).await?;
    answer::json(StatusCode::CREATED, &made)
}

pub(crate) async fn token_revoke(ask: Ask) -> Answered {
    let id = ask.id("token")?;
    rules::token::token_revoke(ask.core(), &ask.who, id).await?;
    answer::nothing()
}

//! Signing in.

use axum::http::StatusCode;

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::rules;

pub(crate) async fn login(mut ask: Ask) -> Answered {
    let login = ask.json().await?;
    let session = rules::login::login(ask.core(), &ask.who, Some(ask.peer.ip()), login).await?;
    answer::json(StatusCode::CREATED, &session)
}

pub(crate) async fn setup(mut ask: Ask) -> Answered {
    let setup = ask.json().await?;
    let session = rules::login::setup(ask.core(), &ask.who, Some(ask.peer.ip()), setup).await?;
    answer::json(StatusCode::CREATED, &session)
}

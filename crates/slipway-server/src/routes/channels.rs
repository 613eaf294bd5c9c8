//! Channels.

use axum::http::StatusCode;
use slipway_api::{ChannelName, Code, Problem};

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::rules;

fn name(ask: &Ask) -> Result<ChannelName, Problem> {
    ask.param("name")
        .parse::<ChannelName>()
        .map_err(|error| Problem::new(Code::InvalidName, error.to_string()).field("name"))
}

pub(crate) async fn channel_get(ask: Ask) -> Answered {
    let channel = rules::channel::channel_get(ask.core(), &ask.who, &ask.image()?, &name(&ask)?).await?;
    answer::json_get(ask.headers(), &channel, None)
}

pub(crate) async fn channel_set(mut ask: Ask) -> Answered {
    let set = ask.json().await?;
    let channel = rules::channel::channel_set(ask.core(), &ask.who, &ask.image()?, &name(&ask)?, set).await?;
    answer::json(StatusCode::OK, &channel)
}

pub(crate) async fn channel_delete(ask: Ask) -> Answered {
    rules::channel::channel_delete(ask.core(), &ask.who, &ask.image()?, &name(&ask)?).await?;
    answer::nothing()
}

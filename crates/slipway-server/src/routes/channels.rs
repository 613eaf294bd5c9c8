//! Channels.

use axum::http::header::IF_MATCH;
use axum::http::{HeaderMap, StatusCode};
use slipway_api::{ChannelName, Code, ImageRef, Problem};

use crate::core::{Caller, Core};
use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::http::tag;
use crate::rules;

fn name(ask: &Ask) -> Result<ChannelName, Problem> {
    ask.param("name")
        .parse::<ChannelName>()
        .map_err(|error| Problem::new(Code::InvalidName, error.to_string()).field("name"))
}

/// `If-Match` on a channel compares with the tag that GET gives.
async fn match_check(
    core: &Core,
    who: &Caller,
    headers: &HeaderMap,
    image: &ImageRef,
    name: &ChannelName,
) -> Result<(), Problem> {
    if !headers.contains_key(IF_MATCH) {
        return Ok(());
    }
    let now = rules::channel::channel_get(core, who, image, name).await?;
    tag::match_text(headers, &answer::text_tag(&now)?)
}

pub(crate) async fn channel_get(ask: Ask) -> Answered {
    let channel = rules::channel::channel_get(ask.core(), &ask.who, &ask.image()?, &name(&ask)?).await?;
    answer::json_get(ask.headers(), &channel, None)
}

pub(crate) async fn channel_set(mut ask: Ask) -> Answered {
    let set = ask.json().await?;
    let (image, name) = (ask.image()?, name(&ask)?);
    match_check(ask.core(), &ask.who, ask.headers(), &image, &name).await?;
    let channel = rules::channel::channel_set(ask.core(), &ask.who, &image, &name, set).await?;
    answer::json(StatusCode::OK, &channel)
}

pub(crate) async fn channel_delete(ask: Ask) -> Answered {
    let (image, name) = (ask.image()?, name(&ask)?);
    match_check(ask.core(), &ask.who, ask.headers(), &image, &name).await?;
    rules::channel::channel_delete(ask.core(), &ask.who, &image, &name).await?;
    answer::nothing()
}

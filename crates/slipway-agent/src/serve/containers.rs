//! Containers: listing, starting and stopping, removing.

use super::answer::{Answered, blocking, json};
use super::ask::{Ask, Query, required};
use axum::http::StatusCode;
use slipway_api::node::{ContainerState, ObjectId};
use slipway_node::access::Act;
use slipway_node::{Refusal, Which};
use std::time::Duration;

const STATES: &[&str] = &["created", "running", "paused", "stopping", "exited", "dead"];

/// The container that a query names; its number counts if it has both.
pub(crate) fn which(query: &Query) -> Result<Option<Which>, Refusal> {
    let by_name = || query.text("name").map(|name| Which::Name(name.to_owned()));
    Ok(query.number("id")?.map(Which::Id).or_else(by_name))
}

/// The same where it must name one.
pub(crate) fn which_needed(query: &Query) -> Result<Which, Refusal> {
    which(query)?.ok_or_else(|| Refusal::new(400, "invalid data type").hint("say which container: ?id=N or ?name=NAME"))
}

/// The number of a container that the caller may change. A name is looked up once, so that what is asked is what is changed.
pub(crate) fn change_allowed(ask: &Ask) -> Result<ObjectId, Refusal> {
    let id = ask.site.host.container(&which_needed(&ask.query)?)?.id;
    ask.allow(Act::Change(id))?;
    Ok(id)
}

pub(crate) async fn list(ask: Ask) -> Answered {
    let state = ask.query.one_of("state", STATES)?;
    let which = which(&ask.query)?;
    let host = ask.site.host.clone();
    let list = blocking(move || match which {
        Some(which) => Ok(vec![host.container(&which)?]),
        None => {
            let mut all = host.containers();
            all.retain(|one| state.is_none_or(|state| one.state.as_str() == state));
            Ok(all)
        }
    })
    .await?;
    json(StatusCode::OK, &list)
}

pub(crate) async fn set(ask: Ask) -> Answered {
    let state = required("state", ask.query.one_of("state", &["running", "exited", "paused"])?)?;
    let state = match state {
        "running" => ContainerState::Running,
        "paused" => ContainerState::Paused,
        _ => ContainerState::Exited,
    };
    let patience = ask.query.number("stop_timeout")?.map(Duration::from_secs);
    let id = change_allowed(&ask)?;
    let (site, caller) = (ask.site, ask.caller);
    let now = blocking(move || {
        let asked = state.as_str();
        let now = match patience.filter(|_| state == ContainerState::Exited) {
            Some(patience) => site.host.container_stop(&Which::Id(id), patience)?,
            None => site.host.container_set(&Which::Id(id), state)?,
        };
        tracing::info!(id, name = now.name, asked, state = now.state.as_str(), %caller, "container asked for a state");
        Ok(now)
    })
    .await?;
    json(StatusCode::OK, &now)
}

pub(crate) async fn delete(ask: Ask) -> Answered {
    let force = ask.query.flag("force");
    // Nothing refers to a container, so force takes nothing from others.
    let id = change_allowed(&ask)?;
    let (site, caller) = (ask.site, ask.caller);
    let was = blocking(move || {
        let was = site.host.container_delete(&Which::Id(id), force)?;
        tracing::info!(id, name = was.name, force, %caller, "container removed");
        Ok(was)
    })
    .await?;
    json(StatusCode::OK, &was)
}

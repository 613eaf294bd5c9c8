//! Attachments and mounts.

use super::answer::{Answered, blocking, json};
use super::ask::{Ask, required};
use super::site::{Site, now_ms};
use axum::http::StatusCode;
use slipway_api::node::{Attach, AttachKind, Mount, MountKind, ObjectId};
use slipway_node::access::Act;
use slipway_node::{Draft, Refusal, Type, attach_view, mount_view, schema};
use std::sync::Arc;

fn attach_kinds() -> Vec<&'static str> {
    AttachKind::ALL.iter().map(|kind| kind.as_str()).collect()
}

fn mount_kinds() -> Vec<&'static str> {
    MountKind::ALL.iter().map(|kind| kind.as_str()).collect()
}

fn attach_get(site: &Site, id: ObjectId) -> Result<Attach, Refusal> {
    let seen = site.node.read(|table| table.get(id).and_then(|entry| attach_view(table, entry)));
    seen.ok_or_else(|| Refusal::not_found("attach", id))
}

fn mount_get(site: &Site, id: ObjectId) -> Result<Mount, Refusal> {
    let seen = site.node.read(|table| table.get(id).and_then(|entry| mount_view(table, entry)));
    seen.ok_or_else(|| Refusal::not_found("mount", id))
}

pub(crate) async fn attach_list(ask: Ask) -> Answered {
    let kind = ask.query.one_of("kind", &attach_kinds())?;
    let list = match ask.query.number("id")? {
        Some(id) => vec![attach_get(&ask.site, id)?],
        None => ask.site.node.read(|table| {
            let all = table.iter().filter_map(|entry| attach_view(table, entry));
            all.filter(|one| kind.is_none_or(|kind| one.kind.is_some_and(|of| of.as_str() == kind))).collect()
        }),
    };
    json(StatusCode::OK, &list)
}

pub(crate) async fn attach_create(mut ask: Ask) -> Answered {
    let wanted = ask.json("attach", schema::attach_check).await?;
    let draft = Draft::attach(wanted)?;
    ask.allow(Act::Make(&draft))?;
    let (site, caller) = (ask.site, ask.caller);
    let made = blocking(move || {
        let id = site.node.create(draft, now_ms())?;
        let made = attach_get(&site, id)?;
        tracing::info!(id, kind = made.kind.map(AttachKind::as_str), device = made.device_file, %caller, "attached");
        Ok(made)
    })
    .await?;
    json(StatusCode::CREATED, &made)
}

pub(crate) async fn attach_delete(ask: Ask) -> Answered {
    let (id, force) = deletion(&ask)?;
    let site = ask.site.clone();
    let was = delete(ask, id, Type::Attach, force, move || attach_get(&site, id)).await?;
    json(StatusCode::OK, &was)
}

pub(crate) async fn mount_list(ask: Ask) -> Answered {
    let kind = ask.query.one_of("kind", &mount_kinds())?;
    let list = match ask.query.number("id")? {
        Some(id) => vec![mount_get(&ask.site, id)?],
        None => ask.site.node.read(|table| {
            let all = table.iter().filter_map(|entry| mount_view(table, entry));
            all.filter(|one| kind.is_none_or(|kind| one.kind.is_some_and(|of| of.as_str() == kind))).collect()
        }),
    };
    json(StatusCode::OK, &list)
}

pub(crate) async fn mount_create(mut ask: Ask) -> Answered {
    let wanted = ask.json("mount", schema::mount_check).await?;
    let draft = Draft::mount(wanted)?;
    ask.allow(Act::Make(&draft))?;
    let (site, caller) = (ask.site, ask.caller);
    let made = blocking(move || {
        let id = site.node.create(draft, now_ms())?;
        let made = mount_get(&site, id)?;
        tracing::info!(id, kind = made.kind.map(MountKind::as_str), at = made.mountpoint, %caller, "mounted");
        Ok(made)
    })
    .await?;
    json(StatusCode::CREATED, &made)
}

pub(crate) async fn mount_delete(ask: Ask) -> Answered {
    let (id, force) = deletion(&ask)?;
    let site = ask.site.clone();
    let was = delete(ask, id, Type::Mount, force, move || mount_get(&site, id)).await?;
    json(StatusCode::OK, &was)
}

fn deletion(ask: &Ask) -> Result<(ObjectId, bool), Refusal> {
    let id = required("id", ask.query.number("id")?)?;
    let force = ask.query.flag("force");
    ask.allow(if force { Act::Force(id) } else { Act::Change(id) })?;
    Ok((id, force))
}

async fn delete<T: Send + 'static>(
    ask: Ask,
    id: ObjectId,
    kind: Type,
    force: bool,
    see: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let (site, caller): (Arc<Site>, _) = (ask.site, ask.caller);
    blocking(move || {
        let was = see()?;
        site.node.delete(id, kind, force)?;
        tracing::info!(id, kind = kind.as_str(), force, %caller, "removed");
        Ok(was)
    })
    .await
}

//! Making any of the three types; listing and removing attachments and mounts.

use super::answer::{Answered, blocking, json};
use super::ask::{Ask, required};
use super::keys::{Key, LABEL, label_refuse};
use super::noun::{Kinded, Noun};
use axum::http::StatusCode;
use slipway_node::access::Act;

/// Makes what the body describes.
pub(crate) async fn create<T: Noun>(mut ask: Ask) -> Answered {
    let mut wanted = ask.json::<T>(T::NAME, T::check).await?;
    label_refuse(wanted.labels())?;
    wanted.settle(&ask.caller);
    let header = ask.headers.get("idempotency-key").map(|value| value.as_bytes());
    let key = Key::of(header, &ask.caller, wanted.clone().what())?;
    if let Some(key) = &key {
        wanted.labels().insert(LABEL.to_owned(), key.label());
    }
    ask.allow(Act::Make(&wanted.clone().draft()?))?;
    let (site, caller) = (ask.site, ask.caller);
    let made = blocking(move || {
        let _turn = key.as_ref().map(|key| site.keys.turn(key)).transpose()?;
        if let Some(id) = key.map(|key| site.host.read(|table| key.find(table))).transpose()?.flatten() {
            return T::get(&site.host, id);
        }
        let made = wanted.make(&site.host)?;
        made.made_log(&caller);
        Ok(made)
    })
    .await?;
    json(StatusCode::CREATED, &made)
}

/// Lists all, one, or those of a kind.
pub(crate) async fn list<T: Kinded>(ask: Ask) -> Answered {
    let kind = ask.query.one_of("kind", &T::kinds())?;
    let id = ask.query.number("id")?;
    let host = ask.site.host.clone();
    let list = match id {
        Some(id) => vec![T::get(&host, id)?],
        None => {
            let mut all = T::all(&host);
            all.retain(|one| kind.is_none_or(|kind| one.kind() == kind));
            all
        }
    };
    json(StatusCode::OK, &list)
}

/// Removes one.
pub(crate) async fn delete<T: Kinded>(ask: Ask) -> Answered {
    let id = required("id", ask.query.number("id")?)?;
    let force = ask.query.flag("force");
    ask.allow(if force { Act::Force(id) } else { Act::Change(id) })?;
    let (site, caller) = (ask.site, ask.caller);
    let was = blocking(move || {
        let was = T::delete(&site.host, id, force)?;
        tracing::info!(id, kind = T::NAME, force, %caller, "removed");
        Ok(was)
    })
    .await?;
    json(StatusCode::OK, &was)
}

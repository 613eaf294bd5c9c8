//! The server about itself.

use axum::http::StatusCode;
use slipway_api::{Code, Problem, ServerFacts};

use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::http::client::OLDEST_CLIENT;
use crate::http::failure::blocking;
use crate::metrics::Gauges;
use crate::policy::{self, Action, Object};
use crate::rules;

pub(crate) async fn server_facts(ask: Ask) -> Answered {
    let facts = ServerFacts {
        version: slipway_api::VERSION.to_owned(),
        oldest_client: OLDEST_CLIENT.to_owned(),
        time: jiff::Timestamp::now(),
        needs_setup: rules::login::setup_is_open(ask.core()).await?,
    };
    answer::json(StatusCode::OK, &facts)
}

pub(crate) async fn livez(_: Ask) -> Answered {
    Ok(answer::bytes("text/plain", "ok\n"))
}

/// Ready to take work: not stopping, not poisoned, database and blobs answer. A disk that is too full for uploads does not make it unready,
/// because then nobody behind a load balancer could delete anything; a second line says so.
pub(crate) async fn readyz(ask: Ask) -> Answered {
    let not = |why: String| Problem::new(Code::Unavailable, format!("not ready: {why}"));
    if ask.site.stop.is_cancelled() {
        return Err(not("the server is stopping".to_owned()));
    }
    ask.site.writable().map_err(|problem| not(problem.title))?;
    // Anybody may ask, so the reason is for the log alone.
    let hidden = move |what: &str, error: &dyn std::fmt::Display| {
        tracing::warn!(%error, what, "not ready");
        not(format!("{what} cannot be reached"))
    };
    ask.core().db.now().await.map_err(|error| hidden("the database", &error))?;
    let core = ask.site.core.clone();
    blocking("asking for the blobs", move || {
        core.store.index_sync(&core.ledger()).map_err(|error| hidden("the storage", &error))
    })
    .await?;
    let full = rules::room::room_get(ask.core()).filter(|room| !room.is_enough());
    let text = match full {
        None => "ready\n".to_owned(),
        Some(room) => {
            let (free, reserve) = (room.free >> 20, room.reserve >> 20);
            format!("ready\nno uploads: {free} MiB are free and {reserve} MiB are kept for deleting\n")
        }
    };
    Ok(answer::bytes("text/plain", text))
}

pub(crate) async fn metrics(ask: Ask) -> Answered {
    policy::allowed(&ask.who, Action::MetricsRead, &Object::Server)?;
    let counted = rules::counts::counts_get(ask.core()).await?;
    let gauges = Gauges {
        tasks: counted.tasks,
        blobs: counted.blobs,
        uploads_open: counted.uploads_open,
        versions: counted.versions,
        poisoned: ask.core().store.is_poisoned(),
        findings: counted.findings,
        scrub: counted.scrub,
        versions_in_trash: counted.versions_in_trash,
        room: rules::room::room_get(ask.core()),
        tallies: ask.core().tallies.read(),
    };
    Ok(answer::bytes("text/plain; version=0.0.4", ask.site.metrics.text(&gauges)))
}

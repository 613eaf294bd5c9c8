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

/// Ready to take work: not stopping, not poisoned, database and blobs answer, and there is space.
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
    ask.site.space_check().map_err(|problem| not(problem.title))?;
    let core = ask.site.core.clone();
    blocking("asking for the blobs", move || {
        core.store.index_sync(&core.ledger()).map_err(|error| hidden("the storage", &error))
    })
    .await?;
    Ok(answer::bytes("text/plain", "ready\n"))
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
        free_bytes: ask.site.free_bytes(),
        findings: counted.findings,
        scrub: counted.scrub,
    };
    Ok(answer::bytes("text/plain; version=0.0.4", ask.site.metrics.text(&gauges)))
}

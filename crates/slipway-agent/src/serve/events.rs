//! What happens on the node, as server-sent events.

use super::answer::{Answered, typed};
use super::ask::Ask;
use super::site::{Site, now_ms};
use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use slipway_api::node::NodeEvent;
use slipway_node::Refusal;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// Without an event for so long, a comment says that the connection lives.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a thread waits for an event at a time; after a client that has gone it ends by then.
const WAIT: Duration = Duration::from_secs(2);

struct Follow {
    site: Arc<Site>,
    last: u64,
    said: Instant,
    begun: bool,
    /// Nobody who comes later takes it away; a thread that still waits for a client that has gone has it too, so that clients that come and go
    /// cannot take all threads.
    seat: Arc<OwnedSemaphorePermit>,
}

pub(crate) async fn follow(ask: Ask) -> Answered {
    let header = ask.headers.get("last-event-id").map(|value| value.to_str().unwrap_or("?").trim().to_owned());
    let asked =
        match header.filter(|text| !text.is_empty()) {
            Some(text) => Some(text.parse().map_err(|_| {
                Refusal::invalid(601, format!("Last-Event-ID in header must be of type int64: {text:?}"))
            })?),
            None => ask.query.number("since")?,
        };
    let last = asked.unwrap_or_else(|| ask.site.host.events().last_id());
    let seat = Arc::new(ask.site.follower_seat()?);
    let follow = Follow { site: ask.site, last, said: Instant::now(), begun: false, seat };
    let stop = follow.site.stop.clone();
    let parts = stream::unfold(follow, step).take_until(stop.cancelled_owned());
    Ok(typed(StatusCode::OK, "text/event-stream", Body::from_stream(parts.map(Ok::<_, Infallible>))))
}

/// The next bytes of the stream; none at its end.
async fn step(mut follow: Follow) -> Option<(Bytes, Follow)> {
    if !follow.begun {
        follow.begun = true;
        return Some((Bytes::from_static(b"retry: 2000\n\n"), follow));
    }
    loop {
        let (events, last, seat) = (follow.site.host.events(), follow.last, follow.seat.clone());
        let waiting = tokio::task::spawn_blocking(move || {
            let _seat = seat;
            events.after(last, WAIT)
        });
        let batch = waiting.await.ok()?;
        let mut text = String::new();
        if batch.gap {
            let before = batch.events.first().map_or_else(|| follow.site.host.events().last_id(), |event| event.id - 1);
            let detail = serde_json::json!({ "asked": follow.last });
            let gap = NodeEvent { id: before, at_ms: now_ms(), what: "gap".into(), object: 0, name: None, detail };
            follow.last = before;
            event_write(&mut text, Some("gap"), &gap);
        }
        for event in &batch.events {
            follow.last = event.id;
            event_write(&mut text, None, event);
        }
        if text.is_empty() && follow.said.elapsed() >= HEARTBEAT {
            text.push_str(": still here\n\n");
        }
        if !text.is_empty() {
            follow.said = Instant::now();
            return Some((text.into(), follow));
        }
        if batch.closed {
            return None;
        }
    }
}

fn event_write(text: &mut String, kind: Option<&str>, event: &NodeEvent) {
    if let Some(kind) = kind {
        let _ = writeln!(text, "event: {kind}");
    }
    let _ = write!(text, "id: {}\ndata: {}\n\n", event.id, serde_json::to_string(event).unwrap_or_default());
}

//! A container's log, from its end or its beginning, and as it grows.

use super::answer::{Answered, blocking, typed};
use super::ask::Ask;
use super::containers::which_needed;
use super::site::Site;
use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use slipway_api::node::{ContainerState, ObjectId};
use slipway_node::{LogReader, Which};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;

const PIECE: usize = 64 << 10;
/// How long a thread waits for more of a log that is followed; after a client that has gone it ends by then.
const WAIT: Duration = Duration::from_millis(500);

struct Reading {
    site: Arc<Site>,
    id: ObjectId,
    log: LogReader,
    /// Of one that follows: it keeps a thread.
    seat: Option<OwnedSemaphorePermit>,
}

pub(crate) async fn read(ask: Ask) -> Answered {
    let which = which_needed(&ask.query)?;
    let tail = ask.query.number("tail")?;
    let seat = ask.query.flag("follow").then(|| ask.site.follower_seat()).transpose()?;
    let site = ask.site.clone();
    let (id, log) = blocking(move || {
        let id = site.host.container(&which)?.id;
        Ok((id, site.host.log(&Which::Id(id), tail)?))
    })
    .await?;
    let stop = ask.site.stop.clone();
    let reading = Reading { site: ask.site, id, log, seat };
    let parts = stream::unfold(reading, step).take_until(stop.cancelled_owned());
    Ok(typed(StatusCode::OK, "text/plain; charset=utf-8", Body::from_stream(parts)))
}

/// The next piece of a log; none at its end, or when the container that is followed has ended.
async fn step(mut reading: Reading) -> Option<(io::Result<Bytes>, Reading)> {
    loop {
        // Asked first: what was written before an end is read after it was seen.
        let over = reading.seat.is_none() || !is_alive(&reading.site, reading.id).await;
        let wait = if over { Duration::ZERO } else { WAIT };
        let done = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; PIECE];
            let read = reading.log.read(&mut piece, wait);
            let piece = read.map(|len| len.map(|len| Bytes::copy_from_slice(&piece[..len])));
            (piece, reading)
        });
        let (piece, back) = done.await.ok()?;
        reading = back;
        match piece.transpose()? {
            Ok(piece) if piece.is_empty() && over => return None,
            Ok(piece) if piece.is_empty() => {}
            piece => return Some((piece, reading)),
        }
    }
}

async fn is_alive(site: &Arc<Site>, id: ObjectId) -> bool {
    let host = site.host.clone();
    let state = blocking(move || Ok(host.container(&Which::Id(id))?.state)).await;
    state.is_ok_and(|state| match state {
        ContainerState::Running | ContainerState::Paused | ContainerState::Stopping => true,
        ContainerState::Created | ContainerState::Exited | ContainerState::Dead => false,
    })
}

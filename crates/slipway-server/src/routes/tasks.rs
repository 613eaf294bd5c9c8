//! Tasks, and their states as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::stream;
use slipway_api::{Code, PageQuery, Problem, Task};
use tokio::sync::broadcast::Receiver;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use uuid::Uuid;

use crate::core::{Caller, Nudge};
use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::http::json::json_write;
use crate::http::site::Site;
use crate::rules;

/// How often the row is looked at without a nudge: another server's worker may have the task.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// States that change faster than this are told together.
const PAUSE: Duration = Duration::from_millis(200);
/// Followers at one time: each asks the database every second, and one connection can carry many.
static SEATS: Semaphore = Semaphore::const_new(256);
/// A line that keeps proxies from closing a silent connection.
const BREATH_EVERY: Duration = Duration::from_secs(15);

pub(crate) async fn task_list(ask: Ask) -> Answered {
    let page = rules::task::task_list(ask.core(), &ask.who, &ask.query::<PageQuery>()?).await?;
    answer::json_get(ask.headers(), &page, None)
}

pub(crate) async fn task_get(ask: Ask) -> Answered {
    let task = rules::task::task_get(ask.core(), &ask.who, &ask.id("task")?).await?;
    answer::json_get(ask.headers(), &task, None)
}

pub(crate) async fn task_cancel(ask: Ask) -> Answered {
    let task = rules::task::task_cancel(ask.core(), &ask.who, &ask.id("task")?).await?;
    answer::json(StatusCode::OK, &task)
}

/// Every event is a whole state, so a client that missed some has missed nothing: `Last-Event-ID` only keeps it from being told what it
/// knows. A final state that is known is answered with 204, which tells a browser's EventSource not to come back.
pub(crate) async fn task_events(ask: Ask) -> Answered {
    let id = ask.id("task")?;
    let nudges = ask.core().nudges();
    let task = rules::task::task_get(ask.core(), &ask.who, &id).await?;
    let last = ask.header("last-event-id")?.map(str::to_owned);
    if task.state.is_final() && last == Some(mark(&task)?) {
        return answer::nothing();
    }
    let seat = SEATS.try_acquire().map_err(|_| {
        let title = format!("too many clients follow tasks already, so task {id} cannot be followed now");
        Problem::new(Code::SlowDown, title).hint("ask for the task itself now and then")
    })?;
    let follow = Follow {
        _seat: seat,
        site: ask.site.clone(),
        who: ask.who.clone(),
        id,
        nudges,
        last,
        told: Instant::now(),
        over: false,
        pause: false,
    };
    Ok(answer::events(stream::unfold(follow, |mut follow| async move {
        let event = follow.next().await?;
        Some((event, follow))
    })))
}

/// Stands for a state in `Last-Event-ID`.
fn mark(task: &Task) -> Result<String, Problem> {
    Ok(blake3::hash(&json_write(task)?).to_hex()[..16].to_owned())
}

struct Follow {
    _seat: SemaphorePermit<'static>,
    site: Arc<Site>,
    who: Caller,
    id: Uuid,
    nudges: Receiver<Nudge>,
    last: Option<String>,
    told: Instant,
    over: bool,
    pause: bool,
}

impl Follow {
    /// The next event, or none when the final one was told, the server stops, or the task may not be seen any more.
    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if self.pause {
            tokio::time::sleep(PAUSE).await;
        }
        self.pause = true;
        loop {
            // The right to see it is asked each time: a revoked token stops seeing.
            if !rules::token::token_lives(&self.site.core, &self.who).await.ok()? {
                return None;
            }
            let task = rules::task::task_get(&self.site.core, &self.who, &self.id).await.ok()?;
            let mark = mark(&task).ok()?;
            if self.last.as_ref() != Some(&mark) {
                self.over = task.state.is_final();
                self.told = Instant::now();
                let text = String::from_utf8(json_write(&task).ok()?).ok()?;
                let event = format!("id: {mark}\nevent: task\ndata: {text}\n\n");
                self.last = Some(mark);
                return Some(Bytes::from(event));
            }
            if task.state.is_final() {
                return None;
            }
            if self.told.elapsed() >= BREATH_EVERY {
                self.told = Instant::now();
                return Some(Bytes::from_static(b":\n\n"));
            }
            if !self.changed().await {
                return None;
            }
        }
    }

    /// Waits until the task may have changed; false when the server stops.
    async fn changed(&mut self) -> bool {
        let look = tokio::time::sleep(LOOK_EVERY);
        tokio::pin!(look);
        loop {
            tokio::select! {
                () = self.site.stop.cancelled() => return false,
                () = &mut look => return true,
                nudge = self.nudges.recv() => match nudge {
                    Ok(Nudge::Task(id)) if id == self.id => return true,
                    Ok(Nudge::Task(_) | Nudge::Queued(_) | Nudge::Expiry) => {}
                    // Some nudges were missed, or there will be none: the row is looked at.
                    Err(_) => {
                        look.as_mut().await;
                        return true;
                    }
                },
            }
        }
    }
}

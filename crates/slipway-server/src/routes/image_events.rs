//! Changes among the images that the caller may read, as server-sent events.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use slipway_api::{Code, Problem};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::core::Caller;
use crate::http::answer::{self, Answered};
use crate::http::ask::Ask;
use crate::http::site::Site;
use crate::rules::image_feed::{changes_number, images_mark};
use crate::rules::token::token_lives;

/// How often the number of the last change is looked at: one row, and another server may have made the change.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Followers at one time.
static SEATS: Semaphore = Semaphore::const_new(256);
/// A line that keeps proxies from closing a silent connection; the token is looked at as often.
const BREATH_EVERY: Duration = Duration::from_secs(15);

/// The first event comes at once, unless `Last-Event-ID` says that it is known. An event says that something changed, never what: who
/// follows lists the images again and compares revisions.
pub(crate) async fn image_events(ask: Ask) -> Answered {
    let last = ask.header("last-event-id")?.map(str::to_owned);
    // Who may not list images hears so now.
    images_mark(ask.core(), &ask.who).await?;
    let seat = SEATS.try_acquire().map_err(|_| {
        Problem::new(Code::SlowDown, "too many clients follow the images already")
            .hint("list them now and then instead")
    })?;
    let follow =
        Follow { _seat: seat, site: ask.site.clone(), who: ask.who.clone(), last, seen: None, told: Instant::now() };
    Ok(answer::events(stream::unfold(follow, |mut follow| async move {
        let event = follow.next().await?;
        Some((event, follow))
    })))
}

struct Follow {
    _seat: SemaphorePermit<'static>,
    site: Arc<Site>,
    who: Caller,
    /// The mark that was told last.
    last: Option<String>,
    /// The number of the last change that the mark was made after.
    seen: Option<u64>,
    told: Instant,
}

impl Follow {
    /// The next event; none when the server stops, or when the token does not prove any more who the caller is.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            // Read before the mark: a change in between is then seen at the next look.
            let number = changes_number(&self.site.core).await.ok()?;
            let breathe = self.told.elapsed() >= BREATH_EVERY;
            if (self.seen != Some(number) || breathe) && !token_lives(&self.site.core, &self.who).await.ok()? {
                return None;
            }
            if self.seen != Some(number) {
                self.seen = Some(number);
                let mark = images_mark(&self.site.core, &self.who).await.ok()?;
                if self.last.as_ref() != Some(&mark) {
                    self.told = Instant::now();
                    let event = format!("id: {mark}\nevent: images\ndata: {{}}\n\n");
                    self.last = Some(mark);
                    return Some(Bytes::from(event));
                }
            }
            if breathe {
                self.told = Instant::now();
                return Some(Bytes::from_static(b":\n\n"));
            }
            tokio::select! {
                () = self.site.stop.cancelled() => return None,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

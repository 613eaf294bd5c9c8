//! What a machine's console sees while a flash runs: a line now and then, no bars.

use slipway_transfer::{Event, Step};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A line at most so often.
const EVERY: Duration = Duration::from_secs(5);

/// Turns events into lines on stderr.
#[derive(Default)]
pub(crate) struct Report {
    last: Mutex<Option<(Step, Instant)>>,
}

impl Report {
    /// Says what an event means, if it is time to say something.
    pub(crate) fn event(&self, event: Event) {
        match event {
            Event::Plan { matched, moved, fetched, zeroed } => {
                eprintln!(
                    "plan: {matched} bytes in place, {moved} to copy here, {fetched} to fetch, {zeroed} to make zero"
                );
            }
            Event::Progress { step, bytes, total } => {
                if self.due(step) {
                    match total {
                        Some(total) => eprintln!("{step}: {bytes} of {total} bytes"),
                        None => eprintln!("{step}: {bytes} bytes"),
                    }
                }
            }
            Event::Note(text) => eprintln!("{}", crate::failure::clean(&text)),
            Event::Warn(text) => eprintln!("warning: {}", crate::failure::clean(&text)),
        }
    }

    fn due(&self, step: Step) -> bool {
        let Ok(mut last) = self.last.lock() else { return false };
        let due = last.is_none_or(|(before, at)| before != step || at.elapsed() >= EVERY);
        if due {
            *last = Some((step, Instant::now()));
        }
        due
    }
}

//! How far a command has come: a bar with rate and time left on a terminal, nothing in a pipe.

use crate::context::Context;
use crate::human::size;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use slipway_transfer::Event;
use std::sync::Mutex;
use std::time::Duration;

/// One line of progress whose step may change.
pub(crate) struct Progress {
    shown: bool,
    now: Mutex<Option<(String, ProgressBar)>>,
}

impl Progress {
    /// A line that is drawn only where a person looks.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { shown: cx.bars(), now: Mutex::new(None) }
    }

    /// Says where the step stands; a new name begins a new bar.
    pub(crate) fn at(&self, step: &str, done: u64, total: Option<u64>) {
        if !self.shown {
            return;
        }
        let Ok(mut now) = self.now.lock() else { return };
        if now.as_ref().is_none_or(|(name, _)| name != step) {
            if let Some((_, bar)) = now.take() {
                bar.finish_and_clear();
            }
            *now = Some((step.to_owned(), bar_new(step, total)));
        }
        if let Some((_, bar)) = now.as_ref() {
            if let (Some(total), false) = (total, bar.length() == total) {
                bar.set_style(style(true));
                bar.set_length(total);
            }
            bar.set_position(done);
        }
    }

    /// Shows what a transfer tells.
    pub(crate) fn event(&self, cx: &Context, event: Event) {
        match event {
            Event::Progress { step, bytes, total } => self.at(step.as_str(), bytes, total),
            Event::Plan { matched, moved, fetched, zeroed } => self.aside(|| {
                cx.detail(&format!(
                    "plan: {} in place, {} to copy on the target, {} to fetch, {} to make zero",
                    size(matched),
                    size(moved),
                    size(fetched),
                    size(zeroed)
                ));
            }),
            Event::Note(text) => self.aside(|| cx.detail(&text)),
            Event::Warn(text) => self.aside(|| cx.note(&format!("warning: {text}"))),
        }
    }

    /// Lets something be written where the line is drawn.
    fn aside(&self, write: impl FnOnce()) {
        match self.now.lock().ok().and_then(|now| now.as_ref().map(|(_, bar)| bar.clone())) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Takes the line away; what comes next is plain text.
    pub(crate) fn clear(&self) {
        if let Ok(mut now) = self.now.lock()
            && let Some((_, bar)) = now.take()
        {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

fn bar_new(step: &str, total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(total) => ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr()),
        None => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
    };
    bar.set_style(style(total.is_some()));
    bar.set_message(step.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// A line that the terminal would wrap cannot be taken back, so a narrow one gets less.
fn style(total_known: bool) -> ProgressStyle {
    let template = match (crate::style::columns(std::io::stderr()).unwrap_or(80), total_known) {
        (90.., true) => "{msg:12} [{bar:30}] {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
        (60.., true) => "{msg:12} {percent:>3} %  {binary_bytes}/{binary_total_bytes}  {eta} left",
        (_, true) => "{msg:12} {percent:>3} %",
        (60.., false) => "{msg:12} {spinner} {binary_bytes}  {binary_bytes_per_sec}  {elapsed}",
        (_, false) => "{msg:12} {binary_bytes}",
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

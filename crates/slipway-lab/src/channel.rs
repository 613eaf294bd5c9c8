//! What the guest says on its command channel, and waiting for it.

use crate::script::MARK;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What is known of a guest so far.
#[derive(Default)]
pub(crate) struct Heard {
    /// Its init is ready.
    pub(crate) up: bool,
    /// Exit codes of commands.
    pub(crate) done: HashMap<u64, i32>,
    /// Nothing more will come.
    pub(crate) ended: bool,
}

/// Shared between the thread that listens and those who wait.
#[derive(Default)]
pub(crate) struct Channel {
    heard: Mutex<Heard>,
    changed: Condvar,
}

/// How waiting came to an end.
pub(crate) enum Waited<T> {
    /// What was waited for.
    Found(T),
    /// The guest ended first.
    Ended,
    /// The time was over first.
    TimedOut,
}

impl Channel {
    /// Reads the guest's lines until they end.
    pub(crate) fn listen(&self, from: impl Read) {
        for line in BufReader::new(from).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            // The kernel's own words come on the same line if they do not end in a line feed.
            let Some((_, said)) = line.split_once(MARK) else { continue };
            let mut words = said.split_whitespace();
            let mut heard = self.heard();
            match (words.next(), words.next().map(str::parse), words.next().map(str::parse)) {
                (Some("up"), _, _) => heard.up = true,
                (Some("done"), Some(Ok(number)), Some(Ok(code))) => {
                    heard.done.insert(number, code);
                }
                _ => continue,
            }
            self.changed.notify_all();
        }
        self.heard().ended = true;
        self.changed.notify_all();
    }

    /// Waits until `find` finds something.
    pub(crate) fn wait<T>(&self, limit: Duration, mut find: impl FnMut(&mut Heard) -> Option<T>) -> Waited<T> {
        let until = Instant::now() + limit;
        let mut heard = self.heard();
        loop {
            if let Some(found) = find(&mut heard) {
                return Waited::Found(found);
            }
            if heard.ended {
                return Waited::Ended;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::TimedOut;
            }
            heard = self.changed.wait_timeout(heard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

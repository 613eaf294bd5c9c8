//! One thread that waits for whatever ends or is due: the shims of all containers, their first word of readiness, patience, restarts.

use crate::container::{ContainerFiles, reap};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::inotify;
use slipway_api::node::ObjectId;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// The shim of a container has ended.
    Ended(ObjectId),
    /// A time that was asked for has come.
    Due(ObjectId),
    /// A container may be ready.
    Status(ObjectId),
}

/// What is waited for.
#[derive(Debug)]
pub(super) struct Watch {
    wake: OwnedFd,
    words: OwnedFd,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    shims: Vec<(ObjectId, OwnedFd)>,
    times: BTreeSet<(Instant, ObjectId)>,
    dirs: BTreeMap<i32, ObjectId>,
    over: bool,
}

impl Watch {
    pub(super) fn new() -> std::io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let words = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        Ok(Self { wake, words, state: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // Full is awake.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Hears when this shim ends; at once if there is none.
    pub(super) fn shim(&self, id: ObjectId, shim: Option<OwnedFd>) {
        match shim {
            Some(shim) => self.lock().shims.push((id, shim)),
            None => {
                self.lock().times.insert((Instant::now(), id));
            }
        }
        self.wake();
    }

    /// Hears when it says that it is ready.
    pub(super) fn status(&self, id: ObjectId, files: &ContainerFiles) {
        match inotify::add_watch(&self.words, files.dir(), inotify::WatchFlags::MOVED_TO) {
            Ok(dir) => {
                self.lock().dirs.insert(dir, id);
            }
            Err(error) => tracing::warn!(id, %error, "waiting for a container's readiness"),
        }
    }

    /// Hears at a time.
    pub(super) fn at(&self, time: Instant, id: ObjectId) {
        self.lock().times.insert((time, id));
        self.wake();
    }

    /// Ends [`wait`](Self::wait) for good.
    pub(super) fn close(&self) {
        self.lock().over = true;
        self.wake();
    }

    /// Waits until something has happened; `None` when it is over. For one thread.
    pub(super) fn wait(&self, shims: &mut Vec<(ObjectId, OwnedFd)>) -> Option<Vec<Heard>> {
        loop {
            let next = {
                let mut state = self.lock();
                if state.over {
                    return None;
                }
                shims.append(&mut state.shims);
                state.times.first().map(|(time, _)| *time)
            };
            let left = next.map(|time| time.saturating_duration_since(Instant::now()));
            let left = left.map(|left| Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            });
            let mut waits = vec![PollFd::new(&self.wake, PollFlags::IN), PollFd::new(&self.words, PollFlags::IN)];
            waits.extend(shims.iter().map(|(_, shim)| PollFd::new(shim, PollFlags::IN)));
            // An interrupted one has heard nothing.
            let _ = poll(&mut waits, left.as_ref());
            let ended: Vec<bool> = waits[2..].iter().map(|wait| wait.revents().contains(PollFlags::IN)).collect();
            drop(waits);
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
            let mut heard = self.words_read();
            let mut ended = ended.into_iter();
            shims.retain(|(id, shim)| {
                let is_over = ended.next().unwrap_or(false);
                if is_over {
                    reap(shim);
                    heard.push(Heard::Ended(*id));
                }
                !is_over
            });
            let (now, mut state) = (Instant::now(), self.lock());
            while state.times.first().is_some_and(|(time, _)| *time <= now) {
                heard.extend(state.times.pop_first().map(|(_, id)| Heard::Due(id)));
            }
            drop(state);
            if !heard.is_empty() {
                return Some(heard);
            }
        }
    }

    fn words_read(&self) -> Vec<Heard> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.words, &mut buffer);
        let mut heard = Vec::new();
        while let Ok(event) = reader.next() {
            let mut state = self.lock();
            // The directory is gone, and its number may be another's soon.
            if event.events().contains(inotify::ReadFlags::IGNORED) {
                state.dirs.remove(&event.wd());
            } else if let Some(id) = state.dirs.get(&event.wd()) {
                heard.push(Heard::Status(*id));
            }
        }
        heard
    }
}

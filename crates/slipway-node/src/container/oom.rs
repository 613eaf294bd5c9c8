//! Hears of processes of a container that the kernel kills for want of memory, when that happens.

use super::cgroup::CgroupPlace;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd};
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Version 1 says that there is no memory before it chooses whom to kill: so long is looked whom it was, …
const LOOK: Duration = Duration::from_secs(2);
/// … and so often.
const LOOKS: Duration = Duration::from_millis(20);

/// The kernel's counts of one container, and a descriptor that says when to look at them.
pub(super) struct OomWatch {
    place: CgroupPlace,
    word: Option<Word>,
    /// The sum at the last look. Groups of programs beside the init come and go, and their counts with them.
    last: u64,
    kills: u64,
    until: Option<Instant>,
}

enum Word {
    /// `memory.events` of version 2, which says itself when it has changed.
    Two(File),
    /// Version 1 counts up a descriptor that it was told of.
    One(OwnedFd),
}

impl OomWatch {
    /// From now on. Without a control group for memory nothing is heard.
    pub(super) fn new(place: &CgroupPlace) -> Self {
        let word = match place.memory_events() {
            Some(path) => File::open(path).ok().map(Word::Two),
            None => one_open(place),
        };
        let mut watch = Self { place: place.clone(), word, last: place.oom_kills(), kills: 0, until: None };
        watch.read();
        watch
    }

    /// What to wait for.
    pub(super) fn wait(&self) -> Option<PollFd<'_>> {
        self.word.as_ref().map(|word| match word {
            Word::Two(events) => PollFd::new(events, PollFlags::PRI),
            Word::One(event) => PollFd::new(event, PollFlags::IN),
        })
    }

    /// How long to wait at most before the next look.
    pub(super) fn wait_most(&self) -> Option<Duration> {
        self.until.is_some().then_some(LOOKS)
    }

    fn read(&mut self) {
        match &self.word {
            // Read by the descriptor that is waited on, else it would stay ready.
            Some(Word::Two(events)) => drop(rustix::io::pread(events, &mut [0_u8; 512], 0)),
            Some(Word::One(event)) => drop(rustix::io::read(event, &mut [0_u8; 8])),
            None => {}
        }
    }

    /// Looks at the counts, `heard` after a word of the kernel. Gives how many were killed since [`new`](Self::new), if that has grown.
    pub(super) fn look(&mut self, heard: bool) -> Option<u64> {
        if heard {
            self.read();
            self.until = matches!(self.word, Some(Word::One(_))).then(|| Instant::now() + LOOK);
        }
        let now = self.place.oom_kills();
        let more = now.saturating_sub(self.last);
        (self.last, self.kills) = (now, self.kills + more);
        if more > 0 || self.until.is_some_and(|until| until <= Instant::now()) {
            self.until = None;
        }
        (more > 0).then_some(self.kills)
    }

    pub(super) fn kills(&self) -> u64 {
        self.kills
    }
}

fn one_open(place: &CgroupPlace) -> Option<Word> {
    let dir = place.v1_dir("memory")?;
    let control = File::open(dir.join("memory.oom_control")).ok()?;
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
    let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
    fs::write(dir.join("cgroup.event_control"), line).ok()?;
    Some(Word::One(event))
}

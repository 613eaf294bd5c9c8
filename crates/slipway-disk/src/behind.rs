//! Writes that go on while the next ones are collected. A disk that gets one at a time, from somebody who waits for each, stands still
//! between them, and so does who waits.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use crate::aligned::Aligned;
use crate::error::DiskError;
use crate::faults::Fault;
use crate::port::Port;

/// Writes under way at once.
const HANDS: usize = 2;

/// Threads that write, in turn. A write that failed is told by every later call; dropped, it waits for what is under way.
pub(crate) struct Behind {
    port: Arc<Port>,
    /// None before the first write.
    hands: Vec<Hand>,
    /// The one that writes next: it has been at work for the longest time.
    turn: usize,
    /// Memory of writes that have ended.
    spare: Vec<Aligned>,
    failed: Option<(u64, io::Error)>,
}

struct Hand {
    give: Sender<Job>,
    done: Receiver<(Aligned, io::Result<()>)>,
    under_way: Option<Range<u64>>,
    thread: JoinHandle<()>,
}

struct Job {
    at: u64,
    memory: Aligned,
    len: usize,
    fault: Option<Fault>,
}

impl Behind {
    pub(crate) fn new(port: Arc<Port>) -> Behind {
        Behind { port, hands: Vec::new(), turn: 0, spare: Vec::new(), failed: None }
    }

    /// Begins to write the first `len` bytes of `memory`; place and length are aligned, and before the end of what is written
    /// directly. Gives other memory back. Two writes of one place happen one after the other.
    pub(crate) fn write(&mut self, at: u64, memory: Aligned, len: usize) -> Result<Aligned, DiskError> {
        let range = at..at + len as u64;
        self.settle(range.clone())?;
        let n = self.turn;
        if n == self.hands.len() {
            let started = Hand::start(self.port.clone());
            self.hands.push(started.map_err(|source| self.port.io("starting a thread to write to", at, source))?);
        }
        self.wait(n);
        self.failure_check()?;
        // Counted here and not by the thread, so that a fault strikes the same operation in every run.
        let fault = self.port.write_strike();
        // That the thread has ended is seen when it is waited for.
        let _ = self.hands[n].give.send(Job { at, memory, len, fault });
        self.hands[n].under_way = Some(range);
        self.turn = (n + 1) % HANDS;
        Ok(self.spare.pop().unwrap_or(Aligned::empty()))
    }

    /// Waits for every write that touches the range.
    pub(crate) fn settle(&mut self, range: Range<u64>) -> Result<(), DiskError> {
        for n in 0..self.hands.len() {
            let written = self.hands[n].under_way.as_ref();
            if written.is_some_and(|written| written.start < range.end && range.start < written.end) {
                self.wait(n);
            }
        }
        self.failure_check()
    }

    /// Waits for all writes, whatever came of them and of those before.
    pub(crate) fn forget(&mut self) {
        (0..self.hands.len()).for_each(|n| self.wait(n));
        self.failed = None;
    }

    fn wait(&mut self, n: usize) {
        let hand = &mut self.hands[n];
        let Some(range) = hand.under_way.take() else { return };
        let result = match hand.done.recv() {
            Ok((memory, result)) => {
                self.spare.push(memory);
                result
            }
            Err(_) => Err(io::Error::other("the thread that writes has ended")),
        };
        if let Err(error) = result {
            self.failed.get_or_insert((range.start, error));
        }
    }

    fn failure_check(&self) -> Result<(), DiskError> {
        let Some((at, error)) = &self.failed else { return Ok(()) };
        let again = match error.raw_os_error() {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(error.kind(), error.to_string()),
        };
        Err(self.port.io("writing", *at, again))
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        for Hand { give, thread, .. } in self.hands.drain(..) {
            drop(give);
            let _ = thread.join();
        }
    }
}

impl Hand {
    fn start(port: Arc<Port>) -> io::Result<Hand> {
        let (give, jobs) = channel::<Job>();
        let (tell, done) = channel();
        let thread = Builder::new().name("disk-write".into()).spawn(move || {
            for Job { at, memory, len, fault } in jobs {
                let result = port.write_direct(at, &memory[..len], fault);
                // Nobody waits for it when all is dropped.
                let _ = tell.send((memory, result));
            }
        })?;
        Ok(Hand { give, done, under_way: None, thread })
    }
}

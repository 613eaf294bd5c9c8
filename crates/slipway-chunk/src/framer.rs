use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crate::frame::{EncodedFrame, RawFrame};

type Encode = Arc<dyn Fn(&RawFrame) -> EncodedFrame + Send + Sync>;
type Job = (u64, RawFrame);
type Done = (u64, thread::Result<EncodedFrame>);

/// Compresses frames on several threads and gives them back in the order in which they were submitted, so that the number of
/// workers changes nothing but the time. At most 2 × workers frames are inside (about 0.5 MiB each).
///
/// # Panics
/// A panic in a worker goes on in a `submit` or `drain`, and every later one panics too.
pub struct Framer {
    encode: Encode,
    /// `None` once it is being dropped.
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Done>,
    workers: Vec<JoinHandle<()>>,
    /// Out of turn: a frame before them is not done.
    ready: BTreeMap<u64, EncodedFrame>,
    submitted: u64,
    given: u64,
    inside_max: u64,
    /// A frame is lost, so waiting for it would never end.
    panicked: bool,
}

impl Framer {
    /// With 0 workers, or when the system gives no thread, `submit` compresses by itself.
    pub fn new(workers: usize, level: i32) -> Self {
        Self::with(workers, Arc::new(move |frame: &RawFrame| frame.encode(level)))
    }

    fn with(workers: usize, encode: Encode) -> Self {
        let inside_max = 2 * workers.max(1);
        // No channel ever holds more than is inside, so no send blocks: only `submit` waits.
        let (jobs, queue) = sync_channel::<Job>(inside_max);
        let (results, done) = sync_channel::<Done>(inside_max);
        let queue = Arc::new(Mutex::new(queue));
        let spawn = |n: usize| {
            let (queue, results, encode) = (queue.clone(), results.clone(), encode.clone());
            thread::Builder::new().name(format!("frame-{n}")).spawn(move || work(&queue, &results, &encode)).ok()
        };
        let workers = (0..workers).map_while(spawn).collect();
        Self {
            encode,
            jobs: Some(jobs),
            done,
            workers,
            ready: BTreeMap::new(),
            submitted: 0,
            given: 0,
            inside_max: inside_max as u64,
            panicked: false,
        }
    }

    /// Hands in a frame; gives back those that are finished and in turn. Blocks while 2 × workers are inside.
    pub fn submit(&mut self, frame: RawFrame) -> Vec<EncodedFrame> {
        assert!(!self.panicked, "compressing a frame panicked before");
        let mut out = Vec::new();
        let Some(jobs) = self.jobs.as_ref().filter(|_| !self.workers.is_empty()) else {
            return vec![(self.encode)(&frame)];
        };
        // Cannot fail: the queue's end lives as long as a worker, and workers outlive their panics.
        jobs.send((self.submitted, frame)).expect("a worker listens");
        self.submitted += 1;
        while let Ok(done) = self.done.try_recv() {
            self.take_in(done);
        }
        self.give(&mut out);
        while self.submitted - self.given >= self.inside_max {
            self.wait();
            self.give(&mut out);
        }
        out
    }

    /// Waits for all frames that are inside.
    pub fn drain(&mut self) -> Vec<EncodedFrame> {
        assert!(!self.panicked, "compressing a frame panicked before");
        let mut out = Vec::new();
        self.give(&mut out);
        while self.given < self.submitted {
            self.wait();
            self.give(&mut out);
        }
        out
    }

    fn wait(&mut self) {
        let done = self.done.recv().expect("a worker that has a frame answers");
        self.take_in(done);
    }

    fn take_in(&mut self, (number, result): Done) {
        match result {
            Ok(frame) => {
                self.ready.insert(number, frame);
            }
            Err(panic) => {
                self.panicked = true;
                resume_unwind(panic)
            }
        }
    }

    fn give(&mut self, out: &mut Vec<EncodedFrame>) {
        while let Some(frame) = self.ready.remove(&self.given) {
            self.given += 1;
            out.push(frame);
        }
    }
}

impl Drop for Framer {
    fn drop(&mut self) {
        self.jobs = None;
        for worker in self.workers.drain(..) {
            // A worker does not panic; and there is nobody left to tell.
            let _ = worker.join();
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>, results: &SyncSender<Done>, encode: &Encode) {
    loop {
        // One idle worker waits inside the lock, the others for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, frame)) = job else { return };
        // The frame is dropped and the compression context is reset on its next use, so nothing half-made is seen.
        let result = catch_unwind(AssertUnwindSafe(|| encode(&frame)));
        if results.send((number, result)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::ids::ChunkId;

    fn frame(number: u32) -> RawFrame {
        let raw = number.to_le_bytes().repeat(2000);
        RawFrame { chunks: vec![(ChunkId::of(&raw), raw.len() as u32)], raw }
    }

    #[test]
    fn order_is_that_of_submission_for_any_number_of_workers() {
        let want: Vec<_> = (0..40).map(|n| frame(n).encode(3)).collect();
        for workers in [0, 1, 2, 5] {
            let mut framer = Framer::new(workers, 3);
            let mut got = Vec::new();
            for n in 0..40 {
                got.extend(framer.submit(frame(n)));
                assert!(n as usize + 1 - got.len() < 2 * workers.max(1), "bounded");
            }
            got.extend(framer.drain());
            assert_eq!(got, want, "{workers} workers");
            assert!(framer.drain().is_empty());
        }
    }

    #[test]
    fn slow_frames_do_not_change_the_order() {
        let encode = |frame: &RawFrame| {
            thread::sleep(Duration::from_millis(u64::from(frame.raw[0] % 3) * 3));
            frame.encode(1)
        };
        let mut framer = Framer::with(3, Arc::new(encode));
        let mut got: Vec<_> = (0..20).flat_map(|n| framer.submit(frame(n))).collect();
        got.extend(framer.drain());
        let want: Vec<_> = (0..20).map(|n| frame(n).encode(1)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn a_panic_surfaces_and_the_threads_end() {
        let running = Arc::new(AtomicUsize::new(0));
        let seen = running.clone();
        let encode = move |frame: &RawFrame| {
            seen.fetch_add(1, Ordering::Relaxed);
            assert_ne!(frame.raw[0], 5, "frame five");
            frame.encode(1)
        };
        let mut framer = Framer::with(2, Arc::new(encode));
        let panic = catch_unwind(AssertUnwindSafe(|| {
            for n in 0..20 {
                framer.submit(frame(n));
            }
            framer.drain();
        }));
        let reason = panic.unwrap_err();
        let text = reason.downcast_ref::<String>().unwrap();
        assert!(text.contains("frame five"), "{text}");
        let again = catch_unwind(AssertUnwindSafe(|| framer.drain()));
        assert!(again.is_err(), "nobody waits for the lost frame");
        drop(framer);
        assert_eq!(Arc::strong_count(&running), 1, "all workers are gone");
    }
}

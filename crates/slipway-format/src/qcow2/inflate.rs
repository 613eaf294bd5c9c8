//! Compressed clusters, unpacked on as many threads as there are processors.

use super::header::Packing;
use flate2::{Decompress, FlushDecompress, Status};
use std::collections::VecDeque;
use std::num::NonZero;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Fewer clusters than this are not worth a thread.
const JOBS_EACH: usize = 4;
const THREADS_MAX: usize = 8;

/// One whole cluster to unpack.
pub(super) struct Job<'a> {
    /// The packed bytes in the arena; others may follow in them.
    pub(super) packed: Range<usize>,
    /// As long as a cluster.
    pub(super) out: &'a mut [u8],
    /// The place in the file, for messages.
    pub(super) at: u64,
}

/// Unpacks clusters one after the other.
enum Inflater {
    Zlib(Decompress),
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Inflater {
    fn new(packing: Packing) -> Result<Inflater, String> {
        match packing {
            Packing::Zlib => Ok(Inflater::Zlib(Decompress::new(false))),
            Packing::Zstd => zstd::bulk::Decompressor::new().map(Inflater::Zstd).map_err(|error| error.to_string()),
        }
    }

    /// Fills `out`, a whole cluster, from the front of `packed`.
    fn inflate(&mut self, packed: &[u8], out: &mut [u8]) -> Result<(), String> {
        let got = match self {
            Inflater::Zlib(zlib) => {
                zlib.reset(false);
                zlib_run(zlib, packed, out)?
            }
            Inflater::Zstd(zstd) => {
                let frame =
                    zstd::zstd_safe::find_frame_compressed_size(packed).map_err(zstd::zstd_safe::get_error_name);
                let frame = frame.map_err(str::to_owned)?;
                let packed = packed.get(..frame).ok_or("its frame is cut off")?;
                zstd.decompress_to_buffer(packed, out).map_err(|error| error.to_string())?
            }
        };
        match got == out.len() {
            true => Ok(()),
            false => Err(format!("only {got} of {} bytes came out", out.len())),
        }
    }
}

fn zlib_run(zlib: &mut Decompress, packed: &[u8], out: &mut [u8]) -> Result<usize, String> {
    let mut done = 0;
    loop {
        let read = usize::try_from(zlib.total_in()).unwrap_or(usize::MAX).min(packed.len());
        let status = zlib.decompress(&packed[read..], &mut out[done..], FlushDecompress::Finish);
        let status = status.map_err(|error| error.to_string())?;
        let (before, read_before) = (done, read);
        done = usize::try_from(zlib.total_out()).unwrap_or(usize::MAX).min(out.len());
        let moved = done > before || zlib.total_in() > read_before as u64;
        if status == Status::StreamEnd || done == out.len() || !moved {
            return Ok(done);
        }
    }
}

/// What a thread takes: which job it is, and where its packed bytes are.
struct Task {
    index: usize,
    arena: Arc<Vec<u8>>,
    packed: Range<usize>,
    len: usize,
}

type Unpacked = (usize, Result<Vec<u8>, String>);

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Tasks that threads have taken and not yet given back.
    running: usize,
    results: Vec<Unpacked>,
    closed: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    done: Condvar,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Threads that unpack, and the caller beside them: nobody waits for a thread that the system has not let run.
pub(super) struct Pool {
    packing: Packing,
    own: Option<Inflater>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    pub(super) fn new(packing: Packing) -> Pool {
        Pool { packing, own: None, shared: Arc::default(), threads: Vec::new() }
    }

    /// Unpacks all jobs out of `arena`. Threads are made as they are needed and kept.
    pub(super) fn inflate_all(&mut self, arena: &Arc<Vec<u8>>, jobs: &mut [Job<'_>]) -> Result<(), String> {
        let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = processors.min(THREADS_MAX).min(jobs.len() / JOBS_EACH).max(1) - 1;
        while self.threads.len() < threads {
            let (shared, packing) = (self.shared.clone(), self.packing);
            let thread = std::thread::Builder::new().name("inflate".into()).spawn(move || serve(&shared, packing));
            self.threads.push(thread.map_err(|error| error.to_string())?);
        }
        {
            let mut queue = self.shared.queue();
            queue.tasks.extend(jobs.iter().enumerate().map(|(index, job)| Task {
                index,
                arena: arena.clone(),
                packed: job.packed.clone(),
                len: job.out.len(),
            }));
        }
        if threads > 0 {
            self.shared.work.notify_all();
        }
        let done = self.own_share(jobs);
        let mut queue = self.shared.queue();
        while queue.running > 0 {
            queue = self.shared.done.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
        let results = std::mem::take(&mut queue.results);
        drop(queue);
        done?;
        for (index, unpacked) in results {
            let job = &mut jobs[index];
            job.out.copy_from_slice(&unpacked.map_err(|why| not_unpacked(job.at, &why))?);
        }
        Ok(())
    }

    /// Takes tasks until none is left; after a failure they are only taken away.
    fn own_share(&mut self, jobs: &mut [Job<'_>]) -> Result<(), String> {
        let mut done = Ok(());
        if self.own.is_none() {
            match Inflater::new(self.packing) {
                Ok(inflater) => self.own = Some(inflater),
                Err(why) => done = Err(why),
            }
        }
        loop {
            // The lock is not held while a task is done.
            let Some(task) = self.shared.queue().tasks.pop_front() else { return done };
            let Some(inflater) = self.own.as_mut().filter(|_| done.is_ok()) else { continue };
            let job = &mut jobs[task.index];
            done = inflater.inflate(&task.arena[task.packed], job.out).map_err(|why| not_unpacked(job.at, &why));
        }
    }
}

fn not_unpacked(at: u64, why: &str) -> String {
    format!("the cluster packed at {at} cannot be unpacked: {why}")
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.work.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// A thread: takes tasks until the pool is closed.
fn serve(shared: &Shared, packing: Packing) {
    let mut inflater = Inflater::new(packing);
    let mut queue = shared.queue();
    loop {
        let Some(Task { index, arena, packed, len }) = queue.tasks.pop_front() else {
            if queue.closed {
                return;
            }
            queue = shared.work.wait(queue).unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        queue.running += 1;
        drop(queue);
        // A panic here would leave the caller waiting for ever.
        let unpacked = catch_unwind(AssertUnwindSafe(|| match &mut inflater {
            Ok(inflater) => {
                let mut out = vec![0; len];
                inflater.inflate(&arena[packed], &mut out).map(|()| out)
            }
            Err(why) => Err(why.clone()),
        }));
        let unpacked = unpacked.unwrap_or_else(|_| Err("a thread was lost".into()));
        drop(arena);
        queue = shared.queue();
        queue.results.push((index, unpacked));
        queue.running -= 1;
        if queue.running == 0 {
            shared.done.notify_all();
        }
    }
}

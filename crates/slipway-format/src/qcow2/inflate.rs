//! Compressed clusters, unpacked on as many threads as there are processors.

use super::header::Packing;
use flate2::{Decompress, FlushDecompress, Status};
use std::num::NonZero;

/// Fewer clusters than this are not worth a thread.
const JOBS_EACH: usize = 4;
const THREADS_MAX: usize = 8;

/// One whole cluster to unpack.
pub(super) struct Job<'a> {
    /// The packed bytes; others may follow in them.
    pub(super) packed: std::ops::Range<usize>,
    /// As long as a cluster.
    pub(super) out: &'a mut [u8],
    /// The place in the file, for messages.
    pub(super) at: u64,
}

/// Unpacks clusters one after the other.
pub(super) enum Inflater {
    Zlib(Decompress),
    Zstd(zstd::bulk::Decompressor<'static>),
}

impl Inflater {
    pub(super) fn new(packing: Packing) -> Result<Inflater, String> {
        match packing {
            Packing::Zlib => Ok(Inflater::Zlib(Decompress::new(false))),
            Packing::Zstd => zstd::bulk::Decompressor::new().map(Inflater::Zstd).map_err(|error| error.to_string()),
        }
    }

    /// Fills `out`, a whole cluster, from the front of `packed`.
    pub(super) fn inflate(&mut self, packed: &[u8], out: &mut [u8]) -> Result<(), String> {
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

/// Unpacks all jobs out of `arena`. Threads of `pool` are made as they are needed and kept.
pub(super) fn inflate_all(
    pool: &mut Vec<Inflater>,
    packing: Packing,
    arena: &[u8],
    jobs: &mut [Job<'_>],
) -> Result<(), String> {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = processors.min(THREADS_MAX).min(jobs.len() / JOBS_EACH).max(1);
    while pool.len() < threads {
        pool.push(Inflater::new(packing)?);
    }
    let each = jobs.len().div_ceil(threads).max(1);
    let run = |inflater: &mut Inflater, jobs: &mut [Job<'_>]| {
        jobs.iter_mut().try_for_each(|job| {
            let done = inflater.inflate(&arena[job.packed.clone()], job.out);
            done.map_err(|why| format!("the cluster packed at {} cannot be unpacked: {why}", job.at))
        })
    };
    std::thread::scope(|scope| {
        let mut shares = jobs.chunks_mut(each).zip(pool.iter_mut());
        let own = shares.next();
        let others: Vec<_> = shares.map(|(jobs, inflater)| scope.spawn(move || run(inflater, jobs))).collect();
        let mut done = own.map_or(Ok(()), |(jobs, inflater)| run(inflater, jobs));
        for other in others {
            let result = other.join().unwrap_or_else(|_| Err("a thread was lost".into()));
            done = done.and(result);
        }
        done
    })
}

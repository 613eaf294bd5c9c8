//! A block device read once from front to back, by threads that are ahead of who uses the bytes.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use crate::aligned::ReadBuffer;
use crate::error::DiskError;
use crate::medium::Medium;

/// Bytes of one read.
const SPAN_LEN: u64 = 2 << 20;
/// Threads. Three spans are in memory: one for each of these, and the one that is used.
const READERS: u64 = 2;

/// The bytes of a device in order. The threads end when it is dropped.
pub(crate) struct DeviceStream {
    lanes: Vec<Lane>,
    /// The lane that gives the next span.
    turn: usize,
    current: ReadBuffer,
    /// So much of it was given out.
    used: usize,
}

/// A thread that reads each span whose turn is its own, and where its memory goes back to.
struct Lane {
    filled: Receiver<Result<ReadBuffer, DiskError>>,
    back: Sender<ReadBuffer>,
}

impl DeviceStream {
    /// Begins to read.
    pub(crate) fn new(medium: Medium) -> io::Result<DeviceStream> {
        let medium = Arc::new(medium);
        let lanes = (0..READERS).map(|first| Lane::new(medium.clone(), first * SPAN_LEN)).collect::<io::Result<_>>()?;
        Ok(DeviceStream { lanes, turn: 0, current: ReadBuffer::new(), used: 0 })
    }

    /// Fills the front of `buf` and tells how much; nothing at the device's end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.used == self.current.bytes().len() {
            let lane = &self.lanes[self.turn];
            let Ok(filled) = lane.filled.recv() else { return Ok(0) };
            let done = std::mem::replace(&mut self.current, filled.map_err(said)?);
            // Its thread may have ended already.
            let _ = lane.back.send(done);
            self.turn = (self.turn + 1) % self.lanes.len();
            self.used = 0;
        }
        let rest = &self.current.bytes()[self.used..];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.used += len;
        Ok(len)
    }
}

/// Who uses the bytes knows the device, but not the place.
fn said(error: DiskError) -> io::Error {
    match error {
        DiskError::Io { at, source, .. } => io::Error::new(source.kind(), format!("at byte {at}: {source}")),
        other => io::Error::other(other),
    }
}

impl Lane {
    fn new(medium: Arc<Medium>, first: u64) -> io::Result<Lane> {
        // Handed over, never queued: what waits is memory.
        let (filling, filled) = sync_channel(0);
        let (back, empty) = channel();
        thread::Builder::new().spawn(move || spans_read(&medium, first, &filling, &empty))?;
        Ok(Lane { filled, back })
    }
}

fn spans_read(
    medium: &Medium,
    first: u64,
    filling: &SyncSender<Result<ReadBuffer, DiskError>>,
    empty: &Receiver<ReadBuffer>,
) {
    for at in (first..medium.len()).step_by((READERS * SPAN_LEN) as usize) {
        let mut bytes = empty.try_recv().unwrap_or_default();
        let len = (medium.len() - at).min(SPAN_LEN) as usize;
        let filled = medium.read_into(at, len, &mut bytes).map(|()| bytes);
        let failed = filled.is_err();
        if filling.send(filled).is_err() || failed {
            return;
        }
    }
}

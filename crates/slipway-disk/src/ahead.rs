//! Places that are read in order, by threads that are ahead of who uses the bytes.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use crate::aligned::ReadBuffer;
use crate::error::DiskError;
use crate::port::Port;

/// A place: where it begins, and its length.
pub(crate) type Place = (u64, usize);

/// The bytes of places in order. Each thread has one place read, and the one that is used is in memory too. The threads have ended
/// when it is dropped.
pub struct ReadAhead {
    lanes: Vec<Lane>,
    /// The lane that gives the next place.
    turn: usize,
    current: ReadBuffer,
}

/// A thread that reads each place whose turn is its own, and where its memory goes back to.
struct Lane {
    filled: Receiver<Result<ReadBuffer, DiskError>>,
    back: Sender<ReadBuffer>,
    thread: JoinHandle<()>,
}

impl ReadAhead {
    /// Begins to read what `places` gives for 0, 1 and so on, with so many threads.
    pub(crate) fn new(
        port: &Arc<Port>,
        threads: usize,
        places: impl Fn(usize) -> Option<Place> + Clone + Send + 'static,
    ) -> io::Result<ReadAhead> {
        let start = |first| {
            let (port, places) = (port.clone(), places.clone());
            Lane::new(port, (first..).step_by(threads).map_while(places))
        };
        let lanes = (0..threads).map(start).collect::<io::Result<_>>()?;
        Ok(ReadAhead { lanes, turn: 0, current: ReadBuffer::new() })
    }

    /// Reads on; `false` at the end, and after an error.
    pub(crate) fn advance(&mut self) -> Result<bool, DiskError> {
        let lane = &self.lanes[self.turn];
        let Ok(filled) = lane.filled.recv() else { return Ok(false) };
        let done = std::mem::replace(&mut self.current, filled?);
        // Its thread may have ended already.
        let _ = lane.back.send(done);
        self.turn = (self.turn + 1) % self.lanes.len();
        Ok(true)
    }

    /// What was read last.
    pub(crate) fn bytes(&mut self) -> &mut [u8] {
        self.current.bytes_mut()
    }
}

impl Drop for ReadAhead {
    fn drop(&mut self) {
        for Lane { filled, back, thread } in self.lanes.drain(..) {
            drop((filled, back));
            let _ = thread.join();
        }
    }
}

impl Lane {
    fn new(port: Arc<Port>, places: impl Iterator<Item = Place> + Send + 'static) -> io::Result<Lane> {
        // Handed over, never queued: what waits is memory.
        let (filling, filled) = sync_channel(0);
        let (back, empty) = channel();
        let thread =
            Builder::new().name("disk-read".into()).spawn(move || places_read(&port, places, &filling, &empty))?;
        Ok(Lane { filled, back, thread })
    }
}

fn places_read(
    port: &Port,
    places: impl Iterator<Item = Place>,
    filling: &SyncSender<Result<ReadBuffer, DiskError>>,
    empty: &Receiver<ReadBuffer>,
) {
    for (at, len) in places {
        let mut bytes = empty.try_recv().unwrap_or_default();
        let filled = port.read_into(at, len, &mut bytes).map(|()| bytes);
        let failed = filled.is_err();
        if filling.send(filled).is_err() || failed {
            return;
        }
    }
}

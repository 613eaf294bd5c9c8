//! Whether the server that a version comes from is there. It is asked when a read gives reason to: one that failed, or waits for long; and from
//! then on until it answers. What comes of it lies in a file of the attachment's folder, where the service finds it.

use crate::failure::clean;
use slipway_api::{Client, VersionRef};
use slipway_node::ExportFiles;
use slipway_transfer::{Cancel, NbdSource, RemoteReader, Stretch, TransferError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A read that waits for so long gives reason to ask.
const LONG: Duration = Duration::from_secs(3);
/// Between looks at the reads.
const LOOK: Duration = Duration::from_secs(1);
/// Between questions to a server that is away.
const AGAIN: Duration = Duration::from_secs(3);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The reads of an export.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    next: u64,
    under_way: BTreeMap<u64, Instant>,
    failed: bool,
}

impl Reads {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted<T>(&self, read: impl FnOnce() -> Result<T, TransferError>) -> Result<T, TransferError> {
        let number = {
            let mut state = self.lock();
            state.next += 1;
            let number = state.next;
            state.under_way.insert(number, Instant::now());
            number
        };
        let done = read();
        let mut state = self.lock();
        state.under_way.remove(&number);
        state.failed |= done.is_err();
        done
    }

    /// Whether there is reason to ask.
    fn suspicious(&self) -> bool {
        let mut state = self.lock();
        // Numbers grow with time.
        let waits = state.under_way.first_key_value().is_some_and(|(_, begun)| begun.elapsed() > LONG);
        std::mem::take(&mut state.failed) || waits
    }
}

/// A version whose reads are noted.
pub(crate) struct Noted {
    pub(crate) reader: RemoteReader,
    pub(crate) reads: Reads,
}

impl NbdSource for Noted {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), TransferError> {
        self.reads.noted(|| self.reader.read_at(offset, buf))
    }

    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Stretch>, TransferError> {
        self.reads.noted(|| self.reader.extents(offset, len))
    }
}

/// Until the stop. The version is asked for, so that a token that was revoked is seen as well.
pub(crate) async fn watch(reads: Reads, client: Client, version: VersionRef, files: ExportFiles, stop: Cancel) {
    let mut away = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(if away { AGAIN } else { LOOK }) => {}
        }
        if !reads.suspicious() && !away {
            continue;
        }
        let asked = tokio::time::timeout(ANSWER, client.version_resolve(&version)).await;
        let trouble = match asked {
            Ok(Ok(_)) => None,
            Ok(Err(why)) => Some(clean(&crate::failure::Failure::from(TransferError::from(why)).what)),
            Err(_) => Some(format!("it gave no answer in {} s", ANSWER.as_secs())),
        };
        if trouble.is_some() || away {
            if let Err(why) = files.trouble_write(trouble.as_deref()) {
                eprintln!("writing down how the server is: {why}");
            }
            away = trouble.is_some();
        }
    }
}

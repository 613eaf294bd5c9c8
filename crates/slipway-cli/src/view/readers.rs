//! The readers of the versions that are being read; a few are kept open.

use super::catalogue::File;
use crate::failure::chain;
use slipway_api::{ApiError, Client, ImageRef, VersionPick, VersionRef};
use slipway_transfer::{FrameCache, ReaderOptions, RemoteReader, TransferError};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use uuid::Uuid;

/// Readers kept open; each holds its manifest, 32 bytes for each 256 MiB.
const OPEN_MAX: usize = 128;
/// The same file's failures are logged at most so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// Why bytes cannot be given, as the kernel hears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is not there any more, or is something else now.
    Stale,
    /// The token may not read it.
    Forbidden,
    /// Anything else; the log has the reason.
    Failed,
}

pub(crate) struct Readers {
    client: Client,
    cache: FrameCache,
    options: ReaderOptions,
    runtime: Handle,
    open: Mutex<HashMap<Uuid, Open>>,
    complained: Mutex<HashMap<u64, Instant>>,
}

struct Open {
    reader: RemoteReader,
    reference: ImageRef,
    used: Instant,
}

impl Readers {
    pub(crate) fn new(client: Client, cache: FrameCache, options: ReaderOptions) -> Self {
        let (open, complained) = (Mutex::default(), Mutex::default());
        Self { client, cache, options, runtime: Handle::current(), open, complained }
    }

    fn open(&self) -> MutexGuard<'_, HashMap<Uuid, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A reader that is open already.
    pub(crate) fn ready(&self, file: &File, reference: &ImageRef) -> Option<RemoteReader> {
        let mut open = self.open();
        let found = open.get_mut(&file.content).filter(|found| found.reference == *reference)?;
        found.used = Instant::now();
        Some(found.reader.clone())
    }

    /// A reader; asks the server for the manifest, so it wants a thread that may wait.
    pub(crate) fn get(&self, file: &File, reference: &ImageRef) -> Result<RemoteReader, Refusal> {
        if let Some(reader) = self.ready(file, reference) {
            return Ok(reader);
        }
        let version = VersionRef { image: reference.clone(), pick: VersionPick::Number(file.number), root: None };
        let opening = RemoteReader::open(&self.client, &version, &self.cache, self.options.clone());
        let limited = async {
            tokio::select! {
                () = self.options.cancel.cancelled() => Err(TransferError::Cancelled),
                opened = tokio::time::timeout(self.options.patience, opening) => opened.unwrap_or_else(|_| {
                    let reason = format!("no answer from the server in {} s", self.options.patience.as_secs());
                    Err(ApiError::Transport { act: format!("opening {version}"), reason }.into())
                }),
            }
        };
        let reader = self.runtime.block_on(limited).map_err(|why| self.refuse(file, reference, "opening", &why))?;
        // The number may have got another content between the list and now.
        if reader.content().version().content != file.content {
            return Err(Refusal::Stale);
        }
        let mut open = self.open();
        open.insert(file.content, Open { reader: reader.clone(), reference: reference.clone(), used: Instant::now() });
        if open.len() > OPEN_MAX
            && let Some(oldest) = open.iter().min_by_key(|(_, open)| open.used).map(|(content, _)| *content)
        {
            open.remove(&oldest);
        }
        Ok(reader)
    }

    /// A file is gone; so is its reader.
    pub(crate) fn end(&self, content: &Uuid) {
        self.open().remove(content);
    }

    /// Logs why something cannot be read, and says what the kernel shall hear.
    pub(crate) fn refuse(&self, file: &File, reference: &ImageRef, act: &str, why: &TransferError) -> Refusal {
        let refusal = refusal(why);
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        complained.retain(|_, at| at.elapsed() < COMPLAIN_EVERY);
        if refusal != Refusal::Stale && complained.insert(file.ino, Instant::now()).is_none() {
            tracing::warn!("{act} {reference}:{} ({}/{}): {}", file.number, file.image, file.name(), chain(why));
        }
        refusal
    }
}

fn refusal(why: &TransferError) -> Refusal {
    match why {
        TransferError::Shared(why) => refusal(why),
        TransferError::Api(ApiError::Problem(problem)) => match problem.status {
            401 | 403 => Refusal::Forbidden,
            404 | 410 => Refusal::Stale,
            _ => Refusal::Failed,
        },
        _ => Refusal::Failed,
    }
}

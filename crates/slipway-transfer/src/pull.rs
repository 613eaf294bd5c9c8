//! Pull: a version as a new sparse file, or as a stream in order.

use crate::ahead::no_place;
use crate::buffers::{Buffers, Lent};
use crate::fetch::{Arrived, Fetcher, Pools, arrived_put};
use crate::flash::{FlashOptions, Flashed, flash};
use crate::look::{Look, looks};
use crate::plan::{Job, Need, Plan};
use crate::{Control, RemoteContent, Step, TransferError};
use futures_util::stream;
use slipway_disk::{Faults, TargetOptions, target_open};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use uuid::Uuid;

/// Raw bytes of a stream that are put together before they are written.
const WINDOW_LEN: u64 = 8 << 20;
/// Zeros that are written at one time.
const ZEROS_LEN: u64 = 1 << 20;

/// Writes the version to a new sparse file beside `path`, flushes and reads it back, and then gives it the name; what was there
/// before is replaced in that moment, or stays when anything fails.
///
/// # Errors
/// Every failure of network, server and disk, by name.
pub async fn pull_file(
    content: &RemoteContent,
    path: &Path,
    options: &FlashOptions,
    control: &Control,
) -> Result<Flashed, TransferError> {
    let part = Part::beside(path)?;
    let create = TargetOptions { create: true, ..TargetOptions::default() };
    let target = target_open(&part.path, &content.shape(), &create, Faults::none())?;
    let options = FlashOptions { fix_gpt: false, ..*options };
    let done = flash(content, target, &options, control).await?;
    // The file is whole and durable; only its name is missing.
    part.keep(path)?;
    Ok(done)
}

/// A file without its name yet; removed unless kept.
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    folder: PathBuf,
}

impl Part {
    pub(crate) fn beside(path: &Path) -> Result<Self, TransferError> {
        let shown = path.display().to_string();
        let refuse = |kind: std::io::ErrorKind| TransferError::io("writing", &shown, kind.into());
        let name = path.file_name().ok_or_else(|| refuse(std::io::ErrorKind::InvalidInput))?;
        if path.is_dir() {
            return Err(refuse(std::io::ErrorKind::IsADirectory));
        }
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
            _ => PathBuf::from("."),
        };
        // Short enough for a name that has the longest length already.
        let name: String = name.to_string_lossy().chars().take(40).collect();
        let unique = Uuid::new_v4().simple().to_string();
        Ok(Self { path: folder.join(format!(".{name}.{}.part", &unique[..12])), folder })
    }

    pub(crate) fn keep(self, path: &Path) -> Result<(), TransferError> {
        let shown = path.display().to_string();
        std::fs::rename(&self.path, path).map_err(|why| TransferError::io("renaming", &shown, why))?;
        let synced = File::open(&self.folder).and_then(|folder| folder.sync_all());
        synced.map_err(|why| TransferError::io("flushing the folder of", &shown, why))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After `keep` there is nothing of this name any more.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What was written to a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Streamed {
    /// Raw bytes written: the image's size.
    pub size: u64,
    /// Bytes of packs that came over the network.
    pub fetched_bytes: u64,
    /// Requests for them.
    pub requests: u64,
}

/// What takes an image in order.
pub trait InOrder: Send {
    /// The next bytes.
    ///
    /// # Errors
    /// When they could not be written.
    fn data(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// The next bytes, at most a few MiB of them at one time, are zeros.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    fn hole(&mut self, len: u64) -> io::Result<()>;

    /// Nothing follows.
    ///
    /// # Errors
    /// As [`data`](Self::data).
    fn end(&mut self) -> io::Result<()>;
}

/// Writes holes as zeros.
struct Plain {
    out: Box<dyn Write + Send>,
    zeros: Vec<u8>,
}

impl InOrder for Plain {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)
    }

    fn hole(&mut self, len: u64) -> io::Result<()> {
        let mut left = len;
        while left > 0 {
            let part = left.min(self.zeros.len() as u64);
            self.out.write_all(&self.zeros[..part as usize])?;
            left -= part;
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes the raw image in order to `out`, holes as zeros; each chunk is verified before its bytes are written.
///
/// # Errors
/// As [`pull_file`]; what was written before is then a beginning of the image.
pub async fn pull_stream(
    content: &RemoteContent,
    out: Box<dyn Write + Send>,
    name: &str,
    options: &FlashOptions,
    control: &Control,
) -> Result<Streamed, TransferError> {
    let plain = Plain { out, zeros: vec![0; ZEROS_LEN as usize] };
    pull_in_order(content, Box::new(plain), name, options, control).await
}

/// Gives the image in order to `out`; each chunk is verified before.
///
/// # Errors
/// As [`pull_stream`].
pub(crate) async fn pull_in_order(
    content: &RemoteContent,
    out: Box<dyn InOrder>,
    name: &str,
    options: &FlashOptions,
    control: &Control,
) -> Result<Streamed, TransferError> {
    let fetcher = Fetcher {
        content: content.clone(),
        connections: options.connections,
        caps: options.caps,
        control: control.clone(),
        pools: Pools::default(),
    };
    let (ready, windows) = mpsc::channel::<Stretch>(1);
    let size = content.manifest().size;
    let (name, written_by) = (name.to_owned(), control.clone());
    let write = tokio::task::spawn_blocking(move || windows_write(windows, out, &name, size, &written_by));
    let mut done = Streamed { size, ..Streamed::default() };
    let read = windows_fetch(&fetcher, ready, &mut done).await;
    // The writer's failure ends the fetch without an error of its own.
    write.await.map_err(|_| TransferError::Panicked)??;
    read.map(|()| done)
}

/// The next bytes of the image.
enum Stretch {
    Zeros(u64),
    Data(Lent),
}

async fn windows_fetch(
    fetcher: &Fetcher,
    ready: mpsc::Sender<Stretch>,
    done: &mut Streamed,
) -> Result<(), TransferError> {
    let content = &fetcher.content;
    // Three at most: one is filled, one waits, one is written.
    let buffers = Buffers::default();
    for index in 0..content.segment_count() {
        let segment = fetcher.control.or_cancelled(content.segment_fetch(index)).await?;
        let all: Vec<Look> = looks(index, &segment).collect();
        let layout = match all.iter().any(|look| look.chunk.is_some()) {
            true => Some(fetcher.control.or_cancelled(content.layout(index)).await?),
            false => None,
        };
        let mut rest = &all[..];
        while let Some(first) = rest.first() {
            let Some(layout) = layout.as_ref().filter(|_| first.chunk.is_some()) else {
                rest = &rest[1..];
                if ready.send(Stretch::Zeros(first.len.into())).await.is_err() {
                    return Ok(());
                }
                continue;
            };
            let count = rest
                .iter()
                .take_while(|look| look.chunk.is_some() && look.at + u64::from(look.len) - first.at <= WINDOW_LEN)
                .count();
            let (window, behind) = rest.split_at(count);
            rest = behind;
            let needs: Vec<Need> =
                window.iter().filter_map(|look| Some(Need { id: look.chunk?, len: look.len, at: look.at })).collect();
            let mut plan = Plan::default();
            plan.add(&needs, layout).map_err(|chunk| no_place(content, index, chunk))?;
            let jobs = plan.jobs(&fetcher.caps);
            let len: u64 = window.iter().map(|look| u64::from(look.len)).sum();
            let mut data = buffers.lend();
            data.clear();
            data.resize(len as usize, 0);
            let data = window_fetch(fetcher, jobs, first.at, data, done).await?;
            if ready.send(Stretch::Data(data)).await.is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn window_fetch(
    fetcher: &Fetcher,
    jobs: Vec<Job>,
    at: u64,
    mut data: Lent,
    done: &mut Streamed,
) -> Result<Lent, TransferError> {
    let (arrived, mut arriving) = mpsc::channel::<Arrived>(1);
    let (runtime, verifier) = (Handle::current(), fetcher.clone());
    let fill = tokio::task::spawn_blocking(move || {
        while let Some(one) = arriving.blocking_recv() {
            arrived_put(one, &verifier, &runtime, &mut |place, chunk| {
                let from = (place - at) as usize;
                data[from..from + chunk.bytes().len()].copy_from_slice(chunk.bytes());
                Ok(())
            })?;
        }
        Ok::<_, TransferError>(data)
    });
    let fetched = fetcher.jobs_fetch(stream::iter(jobs.into_iter().map(Ok)), arrived).await;
    let data = fill.await.map_err(|_| TransferError::Panicked)??;
    let fetched = fetched?;
    done.fetched_bytes += fetched.bytes;
    done.requests += fetched.requests;
    Ok(data)
}

fn windows_write(
    mut windows: mpsc::Receiver<Stretch>,
    mut out: Box<dyn InOrder>,
    name: &str,
    size: u64,
    control: &Control,
) -> Result<(), TransferError> {
    let failed = |why| TransferError::io("writing", name, why);
    let mut meter = control.meter(Step::Fetch, Some(size));
    while let Some(stretch) = windows.blocking_recv() {
        match stretch {
            Stretch::Data(data) => {
                out.data(&data).map_err(failed)?;
                meter.add(data.len() as u64)?;
            }
            Stretch::Zeros(len) => {
                let mut left = len;
                while left > 0 {
                    let part = left.min(ZEROS_LEN);
                    out.hole(part).map_err(failed)?;
                    meter.add(part)?;
                    left -= part;
                }
            }
        }
    }
    out.end().map_err(failed)
}

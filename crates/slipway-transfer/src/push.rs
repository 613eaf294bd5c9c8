//! Push: read the source once, send only what the server lacks, commit.

use crate::send::Sender;
use crate::source::{Reading, Source};
use crate::window::{Piece, Window};
use crate::{Control, Event, Step, TransferError};
use bytes::Bytes;
use slipway_api::{ApiError, Client, Code, CommitAnswer, Committed, ImageNew, ImageRef, UploadFormat, UploadNew};
use slipway_chunk::{ChunkerParams, Digest, FrameBuilder, Framer, ImageBuilder, Manifest, RawDigest, Root, Scan};
use std::time::Duration;
use tokio::runtime::Handle;
use uuid::Uuid;

/// How often the source is read again when the server lost chunks before the commit.
const PASSES_MAX: u32 = 4;

/// What to push and how.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// The image that gets a version.
    pub image: ImageRef,
    /// Makes the image when it does not exist; `None`: that is an error.
    pub create: Option<ImageNew>,
    /// What to say of the version.
    pub message: String,
    /// The version it was made from; the newest one if not given.
    pub parent: Option<u64>,
    /// Make a version even if nothing differs from the newest one.
    pub new: bool,
    /// 512 or 4096.
    pub sector_size: u32,
    /// What was read, as shown with the version: `raw`, `raw.gz` …
    pub source_format: Option<String>,
    /// Compute the BLAKE3 of the whole raw image while it is read.
    pub digest: bool,
    /// The BLAKE3 that the whole raw image must have; checked before the commit.
    pub expect: Option<Digest>,
    /// How the image is cut.
    pub params: ChunkerParams,
    /// Level of zstd.
    pub level: i32,
    /// Threads that hash and compress.
    pub workers: usize,
}

impl PushOptions {
    /// A push of 512-byte sectors with the usual cut, zstd level 3 and as many threads as there are processors, at most 4.
    pub fn new(image: ImageRef) -> Self {
        Self {
            image,
            create: None,
            message: String::new(),
            parent: None,
            new: false,
            sector_size: 512,
            source_format: None,
            digest: false,
            expect: None,
            params: ChunkerParams::default(),
            level: 3,
            workers: std::thread::available_parallelism().map_or(1, |n| n.get().min(4)),
        }
    }
}

/// What a push came to.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Pushed {
    /// The server's answer.
    pub committed: Committed,
    /// Whether the image was made for it.
    pub image_created: bool,
    /// The root that was computed here.
    pub root: Root,
    /// The raw image's size in bytes.
    pub size: u64,
    /// Bytes of the chunks.
    pub data_bytes: u64,
    /// Bytes of chunks that the server had already.
    pub shared_bytes: u64,
    /// Chunks that were sent.
    pub sent_chunks: u64,
    /// Bytes of the frames that were sent.
    pub sent_bytes: u64,
    /// How often the source was read.
    pub passes: u32,
    /// BLAKE3 of the whole raw image, when it was asked for.
    pub digest: Option<Digest>,
}

/// Makes a version of `source`: reads it once in windows, asks which chunks are missing, sends those, commits. Memory is at most
/// about 90 MB, whatever the size of the image. A push that breaks off is simply made again.
///
/// # Errors
/// [`TransferError::Changed`] when the source changed meanwhile; [`TransferError::NotRepeatable`] when the server lost chunks
/// before the commit and the source can be read only once.
pub async fn push(
    client: &Client,
    source: Source,
    options: &PushOptions,
    control: &Control,
) -> Result<Pushed, TransferError> {
    let (upload, image_created) = control.or_cancelled(upload_begin(client, &source, options)).await?;
    let mut source = source;
    let mut total = Pass::default();
    for passes in 1.. {
        let Some(reading) = source.open()? else {
            return Err(not_repeatable(&source, "chunks"));
        };
        let name = source.name().to_owned();
        let read = {
            let (sender, options, control) =
                (Sender::new(client, upload, Handle::current(), control), options.clone(), control.clone());
            let size = source.size();
            let run = move || pass_run(reading, &name, size, sender, &options, &control);
            tokio::task::spawn_blocking(run).await.map_err(|_| TransferError::Panicked)??
        };
        let (manifest, pass) = read;
        total.add(pass);
        let root = manifest.root();
        if *total.root.get_or_insert(root) != root {
            return Err(TransferError::Changed { name: source.name().to_owned() });
        }
        if let (Some(want), Some(got)) = (options.expect, total.digest)
            && want != got
        {
            return Err(TransferError::DigestDiffers { name: source.name().to_owned(), want, got });
        }
        control.tell(Event::Progress { step: Step::Commit, bytes: 0, total: None });
        match commit(client, upload, manifest.encode().into(), control).await {
            Ok(committed) => {
                return Ok(Pushed {
                    committed,
                    image_created,
                    root,
                    size: manifest.size,
                    data_bytes: total.data_bytes,
                    shared_bytes: total.data_bytes.saturating_sub(total.sent_raw),
                    sent_chunks: total.sent_chunks,
                    sent_bytes: total.sent_bytes,
                    passes,
                    digest: total.digest,
                });
            }
            Err(TransferError::Api(why)) if is_lost(&why) && passes < PASSES_MAX => {
                if !source.is_repeatable() {
                    return Err(not_repeatable(&source, &why.to_string()));
                }
                control.tell(Event::Note(format!("{why}; sending them again")));
            }
            Err(why) => return Err(why),
        }
    }
    Err(not_repeatable(&source, "chunks"))
}

fn is_lost(why: &ApiError) -> bool {
    matches!(why.code(), Some(Code::ChunksMissing | Code::ChunksGone | Code::SegmentsMissing))
}

fn not_repeatable(source: &Source, lost: &str) -> TransferError {
    TransferError::NotRepeatable { lost: lost.to_owned(), name: source.name().to_owned() }
}

async fn upload_begin(client: &Client, source: &Source, options: &PushOptions) -> Result<(Uuid, bool), TransferError> {
    let new = UploadNew {
        image: options.image.to_string(),
        format: UploadFormat::Chunks,
        parent: options.parent,
        size: source.size(),
        sector_size: Some(options.sector_size),
        message: options.message.clone(),
        new: options.new,
        source_format: options.source_format.clone(),
        digest: options.expect,
    };
    let create = match (client.upload_create(&new).await, &options.create) {
        (Ok(upload), _) => return Ok((upload.id, false)),
        (Err(why), Some(create)) if why.code() == Some(Code::NotFound) => create,
        (Err(why), _) => return Err(why.into()),
    };
    let created = match client.image_create(create).await {
        Ok(_) => true,
        // Somebody else made it in the same moment.
        Err(why) if why.code() == Some(Code::NameTaken) => false,
        Err(why) => return Err(why.into()),
    };
    Ok((client.upload_create(&new).await?.id, created))
}

/// Asks until the commit has ended; a commit may be repeated for ever.
async fn commit(client: &Client, upload: Uuid, manifest: Bytes, control: &Control) -> Result<Committed, TransferError> {
    loop {
        match control.or_cancelled(client.upload_commit(upload, manifest.clone())).await? {
            CommitAnswer::Committed(committed) => return Ok(committed),
            CommitAnswer::Running(task) => {
                let (step, bytes) = (Step::Commit, task.bytes_done);
                control.tell(Event::Progress { step, bytes, total: task.bytes_total });
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// What one reading of the source found and sent.
#[derive(Default)]
struct Pass {
    root: Option<Root>,
    digest: Option<Digest>,
    data_bytes: u64,
    sent_raw: u64,
    sent_chunks: u64,
    sent_bytes: u64,
}

impl Pass {
    fn add(&mut self, other: Pass) {
        self.digest = other.digest.or(self.digest);
        self.data_bytes = other.data_bytes;
        self.sent_raw += other.sent_raw;
        self.sent_chunks += other.sent_chunks;
        self.sent_bytes += other.sent_bytes;
    }
}

fn pass_run(
    reading: Reading,
    name: &str,
    size: Option<u64>,
    mut sender: Sender,
    options: &PushOptions,
    control: &Control,
) -> Result<(Manifest, Pass), TransferError> {
    let mut scan = Scan::new(reading, options.params);
    let mut builder = ImageBuilder::new(options.params, options.sector_size);
    let (mut frames, mut framer) = (FrameBuilder::new(), Framer::new(options.workers, options.level));
    let mut digest = (options.digest || options.expect.is_some()).then(RawDigest::new);
    let mut meter = control.meter(Step::Push, size);
    let mut pass = Pass::default();
    let mut window = Window::default();
    while window.fill(&mut scan, options.workers).map_err(|why| TransferError::io("reading", name, why))? {
        let ids: Vec<_> = window.pieces().iter().filter_map(Piece::id).collect();
        let mut missing = sender.chunks_missing(&ids)?;
        for piece in window.pieces() {
            match *piece {
                Piece::Hole(len) => {
                    digest.iter_mut().for_each(|digest| digest.zeros(len));
                    for segment in builder.hole(len) {
                        sender.segment_add(&segment)?;
                    }
                }
                Piece::Chunk { id, from, len } => {
                    let bytes = window.bytes(from, len);
                    digest.iter_mut().for_each(|digest| digest.data(bytes));
                    pass.data_bytes += len as u64;
                    // Taken out, so that a chunk that comes twice in this window goes once.
                    if missing.remove(&id) {
                        if !frames.fits(len) {
                            sender.frames_add(framer.submit(frames.take()))?;
                        }
                        frames.push(id, bytes);
                        sender.chunk_framed(id);
                        pass.sent_chunks += 1;
                        pass.sent_raw += len as u64;
                    }
                    if let Some(segment) = builder.chunk(id, len as u32) {
                        sender.segment_add(&segment)?;
                    }
                }
            }
        }
        meter.add(window.len())?;
    }
    if size.is_some_and(|size| size != scan.position()) {
        return Err(TransferError::Changed { name: name.to_owned() });
    }
    if !frames.is_empty() {
        sender.frames_add(framer.submit(frames.take()))?;
    }
    sender.frames_add(framer.drain())?;
    let format = |source| TransferError::Format { what: format!("cutting {name}"), source };
    let (last, manifest) = builder.finish().map_err(format)?;
    if let Some(segment) = last {
        sender.segment_add(&segment)?;
    }
    sender.finish()?;
    pass.sent_bytes = sender.sent_bytes;
    pass.digest = digest.map(RawDigest::finish);
    Ok((manifest, pass))
}

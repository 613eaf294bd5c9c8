//! The bytes of an upload, whatever they are in, become chunks in the store.

use crate::core::Core;
use crate::db::{TxError, sql, tx};
use crate::rules::room::room_check;
use crate::rules::upload::UploadTarget;
use crate::rules::upload_hold::{Meter, Stoppable};
use slipway_api::{Code, Problem, UploadFormat};
use slipway_chunk::{ChunkerParams, SparseRead, Stream};
use slipway_format::{Archive, Bytes, DiskAhead, Format, Input, Limits, Opened, Said, Spool, Wrap, image_open};
use slipway_store::{IngestSpec, Prepared, Progress, StoreError};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use uuid::Uuid;

/// What a container may have beside its disk's bytes: tables, and some more for small ones.
const TABLES_MAX: u64 = 64 << 20;

/// What came out.
pub(crate) struct Ingested {
    pub(crate) prepared: Prepared,
    /// What the bytes were: `raw`, `qcow2.gz` and so on.
    pub(crate) source_format: String,
}

/// What the sender of an upload says that it is.
pub(crate) fn upload_said(format: UploadFormat) -> Said {
    match format {
        UploadFormat::Auto => Said::Auto,
        UploadFormat::Raw | UploadFormat::Chunks => Said::Disk(Format::Raw),
        UploadFormat::Gzip => Said::Wrapped(Wrap::Gzip),
        UploadFormat::Xz => Said::Wrapped(Wrap::Xz),
        UploadFormat::Zstd => Said::Wrapped(Wrap::Zstd),
        UploadFormat::Qcow2 => Said::Disk(Format::Qcow2),
        UploadFormat::Vmdk => Said::Disk(Format::Vmdk),
        UploadFormat::Vhd => Said::Disk(Format::Vhd),
        UploadFormat::Vhdx => Said::Disk(Format::Vhdx),
        UploadFormat::Vdi => Said::Disk(Format::Vdi),
        UploadFormat::Zip => Said::Archive(Archive::Zip),
        UploadFormat::Tar => Said::Archive(Archive::Tar),
    }
}

/// Opens the image in `input` and cuts it. A raw image that comes as a stream is cut as it comes; a container that comes as a stream is kept
/// meanwhile in a file without a name beside the spools, which is gone in every case when this ends. `why` ends it sooner; `progress` gets the
/// place in the image and its size, if known.
pub(crate) fn upload_ingest(
    core: &Arc<Core>,
    target: &UploadTarget,
    input: Input,
    said: Said,
    why: impl Fn() -> Option<Problem> + Clone + Send + 'static,
    progress: &mut dyn FnMut(Progress, Option<u64>),
) -> Result<Ingested, StoreError> {
    let cap = core.config.image_size_max;
    let limits = Limits { size_max: cap };
    let (watching, stops) = (core.clone(), why.clone());
    let watch = move || match stops() {
        Some(problem) => Err(io::Error::other(problem)),
        None => room_check(&watching).map_err(io::Error::other),
    };
    let mut spool =
        Spool::new(core.spool_dir(), cap.saturating_add(cap / 64).saturating_add(TABLES_MAX)).watched(watch);
    std::fs::create_dir_all(core.spool_dir()).map_err(StoreError::Source)?;
    let Opened { layers, bytes } = image_open(input, said, &mut spool, &limits).map_err(StoreError::Source)?;
    let mut sector_size = target.sector_size;
    let (mut image, size, vhd): (Box<dyn SparseRead>, _, _) = match bytes {
        Bytes::Stream(stream) => {
            let vhd = stream.was_vhd();
            (Box::new(Stream(stream)), None, Some(vhd))
        }
        Bytes::Disk(disk) => {
            sector_size = sector_size_of(layers.disk, disk.sector_size(), sector_size)?;
            let size = disk.size();
            (Box::new(DiskAhead::new(disk).map_err(StoreError::Source)?), Some(size), None)
        }
    };
    let spec = IngestSpec {
        space: target.space.clone(),
        lookup: target.lookup.clone(),
        sector_size,
        params: ChunkerParams::default(),
        upload: target.upload.clone(),
    };
    // What a spool held counts no more once it is cut, so it does not count while it is.
    let metered = core.runtime.block_on(Meter::begin(core, &target.id, target.received > 0));
    let mut meter = metered.map_err(|problem| StoreError::Source(io::Error::other(problem)))?;
    let mut source = Stoppable::new(&mut image, |passed| why().or_else(|| meter.ask(passed)));
    let prepared = core.store.ingest(&spec, &mut source, &core.ledger(), &mut |at| progress(at, size))?;
    let mut layers = layers;
    if vhd.is_some_and(|vhd| vhd.load(Ordering::Acquire)) {
        layers.disk = Some(Format::Vhd);
    }
    Ok(Ingested { prepared, source_format: layers.name() })
}

/// The sector size of a container that says one counts; only a VHDX does.
fn sector_size_of(format: Option<Format>, found: u32, wanted: u32) -> Result<u32, StoreError> {
    match (format, found, wanted) {
        (Some(Format::Vhdx), 512, 4096) => {
            let title = "the VHDX has sectors of 512 bytes, not of 4096";
            let problem = Problem::new(Code::BadImage, title).field("sector_size");
            Err(StoreError::Source(io::Error::other(problem)))
        }
        (Some(Format::Vhdx), found, _) => Ok(found),
        (_, _, wanted) => Ok(wanted),
    }
}

/// Writes down what was found in the bytes, unless the sender named it, and the sector size that the image got.
pub(crate) async fn source_note(core: &Core, id: &Uuid, format: &str, sector_size: u32) -> Result<(), Problem> {
    let server = crate::core::Caller::server();
    let done: Result<u64, TxError> = tx!(&core.db, &server, |tx| {
        let update =
            sql("UPDATE upload SET source_format = COALESCE(source_format, $1), sector_size = $2 WHERE id = $3")
                .bind(format)
                .bind(sector_size)
                .bind(id);
        Ok(tx.run(update).await?)
    });
    done?;
    Ok(())
}

//! Pull into a file of another format: written in order, read back through the format's own reader, and only then given its name.

use crate::look::looks;
use crate::pull::{Part, pull_in_order};
use crate::{Control, FlashOptions, InOrder, RemoteContent, Step, Streamed, TransferError};
use slipway_chunk::{FRAME_RAW_MAX, Fill};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes of the image at a place of what was written, as `slipway_format::Disk::fill_at` gives them.
pub type ReadBack = Box<dyn FnMut(u64, &mut [u8]) -> io::Result<Fill> + Send>;

/// How a format is written and read back.
pub struct Maker {
    /// Begins to write an image of so many bytes to an empty file. Its end leaves the file complete and durable.
    pub write: Box<dyn FnOnce(File, u64) -> Box<dyn InOrder> + Send>,
    /// Opens what was written.
    pub read: Box<dyn FnOnce(File) -> io::Result<ReadBack> + Send>,
}

/// Writes the version in another format to a new file beside `path`, reads it back unless the options forbid it, and then gives it the name;
/// what was there before is replaced in that moment, or stays when anything fails.
///
/// # Errors
/// As [`pull_file`](crate::pull_file).
pub async fn pull_file_as(
    content: &RemoteContent,
    path: &Path,
    maker: Maker,
    options: &FlashOptions,
    control: &Control,
) -> Result<Streamed, TransferError> {
    let shown = path.display().to_string();
    let failed = |act| {
        let shown = shown.clone();
        move |why| TransferError::io(act, shown, why)
    };
    let part = Part::beside(path)?;
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o666).open(&part.path);
    let file = file.map_err(failed("writing"))?;
    let back = file.try_clone().map_err(failed("writing"))?;
    let out = (maker.write)(file, content.manifest().size);
    let done = pull_in_order(content, out, &shown, options, control).await?;
    if options.verify {
        let read = (maker.read)(back).map_err(failed("reading back"))?;
        read_back(content, &shown, read, control).await?;
    }
    // The file is whole and durable; only its name is missing.
    part.keep(path)?;
    Ok(done)
}

/// Compares every chunk and hole of the version with what was written.
async fn read_back(
    content: &RemoteContent,
    name: &str,
    read: ReadBack,
    control: &Control,
) -> Result<(), TransferError> {
    let read = Arc::new(Mutex::new(read));
    let mut meter = control.meter(Step::Verify, Some(content.manifest().size));
    for index in 0..content.segment_count() {
        let segment = control.or_cancelled(content.segment(index)).await?;
        let (read, name) = (read.clone(), name.to_owned());
        let len = segment.len();
        let compared = tokio::task::spawn_blocking(move || {
            let mut read = read.lock().unwrap_or_else(PoisonError::into_inner);
            let mut buf = vec![0; FRAME_RAW_MAX];
            looks(index, &segment).try_for_each(|look| {
                let bytes = &mut buf[..look.len as usize];
                let bytes = exact_read(&mut read, look.at, bytes);
                let bytes = bytes.map_err(|why| TransferError::io("reading back", &name, why))?;
                match look.is_same(bytes) {
                    true => Ok(()),
                    false => Err(TransferError::ReadBack { name: name.clone(), at: look.at }),
                }
            })
        });
        compared.await.map_err(|_| TransferError::Panicked)??;
        meter.add(len)?;
    }
    Ok(())
}

/// All of `buf`, or none if it is one hole.
fn exact_read<'a>(read: &mut ReadBack, at: u64, buf: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    let mut done = 0;
    while done < buf.len() {
        done += match read(at + done as u64, &mut buf[done..])? {
            Fill::Data(len) => len,
            Fill::Hole(len) if done == 0 && len >= buf.len() as u64 => return Ok(None),
            Fill::Hole(len) => {
                let end = buf.len().min(done + usize::try_from(len).unwrap_or(buf.len()));
                buf[done..end].fill(0);
                end - done
            }
            Fill::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
    }
    Ok(Some(buf))
}

//! Uploads by `PATCH`: bytes appended to a file, durable before their offset is answered.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use axum::http::header::HeaderName;
use bytes::Bytes;
use slipway_api::{Code, Problem, UploadFormat};
use slipway_store::StoreError;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::core::Core;
use crate::http::answer::{self, Answered, header_set};
use crate::http::ask::Ask;
use crate::http::failure::blocking;
use crate::http::repr::ReprCheck;
use crate::http::stream::{SPACE_EVERY, body_seat};
use crate::rules;
use crate::rules::store_problem::store_problem;

/// Pieces in flight between the socket and the file.
const PIECES: usize = 16;
/// Uploads that a request of this process is writing to: two writers of one file would mix their bytes.
static WRITING: Mutex<Option<HashSet<Uuid>>> = Mutex::new(None);

struct Writing(Uuid);

impl Writing {
    fn begin(id: Uuid) -> Result<Self, Problem> {
        let mut writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        match writing.get_or_insert_default().insert(id) {
            true => Ok(Self(id)),
            false => {
                let title = format!("another request is sending bytes for upload {id}");
                Err(Problem::new(Code::Conflict, title).hint("wait for it to end, then ask for Upload-Offset"))
            }
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
        writing.get_or_insert_default().remove(&self.0);
    }
}

pub(crate) async fn upload_append(mut ask: Ask) -> Answered {
    let id = ask.id("upload")?;
    let from = offset_wanted(&ask)?;
    let target = rules::upload::upload_target(ask.core(), &ask.who, &id).await?;
    if target.format == UploadFormat::Chunks {
        let title = format!("upload {id} is filled with chunks, not by PATCH");
        return Err(Problem::new(Code::Conflict, title).hint("begin an upload with format auto"));
    }
    let writing = Writing::begin(id)?;
    if target.received != from {
        let mut problem =
            Problem::new(Code::OffsetMismatch, format!("upload {id} stands at {}, not at {from}", target.received))
                .hint("go on where `Upload-Offset` says");
        problem.offset = Some(target.received);
        return Err(problem);
    }
    let mut check = ReprCheck::from_headers(ask.headers())?;
    ask.site.space_check()?;
    let left = rules::quota::quota_left(ask.core(), &id, false).await?;
    let raw = target.format == UploadFormat::Raw;
    let announced = ask.body.announced().unwrap_or(0);
    // A raw image is as long as what is sent of it; what a compressed one unpacks to is seen when it is cut.
    let quota = move |core: &Core, received: u64| {
        left.stored_check(core, received)?;
        if raw { left.logical_check(core, from.saturating_add(received)) } else { Ok(()) }
    };
    quota(ask.core(), announced)?;
    let core = ask.site.core.clone();
    let _seat = body_seat()?;
    let (pieces, mut from_socket) = mpsc::channel::<Bytes>(PIECES);
    let act = format!("keeping bytes of upload {id}");
    let name = act.clone();
    let appending = blocking(&name, move || {
        let flush = |file: &File, folder: &Path| core.store.file_flush(file, folder);
        let written = spool_append(&target.spool, from, &mut || from_socket.blocking_recv(), &flush);
        drop(writing);
        written.map_err(|error| match error {
            Unkept::Flush(error) => store_problem(&act, error),
            Unkept::Io(error) => match error.kind() {
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                    Problem::new(Code::NoSpace, format!("{act}: no space is left on the server"))
                }
                _ => Problem::new(Code::Internal, format!("{act}: {error}")),
            },
        })
    });
    let (written, came) = tokio::join!(appending, pieces_send(&mut ask, &mut check, pieces, from, &quota));
    let written = written?;
    // What came before a body broke off is durable too, and is counted: the client goes on from there. But where the client named a digest,
    // only bytes that have it count; the next request writes over all others.
    let (to, came) = match came {
        Ok(()) => match check.finish() {
            Ok(()) => (written, Ok(())),
            Err(problem) => (from, Err(problem)),
        },
        Err(problem) if check.is_asked() => (from, Err(problem)),
        Err(problem) => (written, Err(problem)),
    };
    let upload = match to > from {
        true => rules::upload::upload_offset_set(ask.core(), &ask.who, &id, from, to).await?,
        false => rules::upload::upload_get(ask.core(), &ask.who, &id).await?,
    };
    came.map_err(|mut problem| {
        problem.offset = Some(upload.offset);
        problem
    })?;
    let mut answer = answer::nothing()?;
    header_set(&mut answer, HeaderName::from_static("upload-offset"), upload.offset.to_string());
    Ok(answer)
}

fn offset_wanted(ask: &Ask) -> Result<u64, Problem> {
    let bad = || {
        let title = "the header Upload-Offset says at which byte of the upload the body begins";
        Problem::new(Code::InvalidRequest, title).field("upload-offset")
    };
    let text = ask.header("upload-offset")?.ok_or_else(bad)?;
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().map_err(|_| bad()),
        false => Err(bad()),
    }
}

async fn pieces_send(
    ask: &mut Ask,
    check: &mut ReprCheck,
    pieces: mpsc::Sender<Bytes>,
    from: u64,
    quota: &(dyn Fn(&Core, u64) -> Result<(), Problem> + Sync),
) -> Result<(), Problem> {
    let (mut checked, max) = (0, ask.core().config.image_size_max);
    while let Some(piece) = ask.body.next().await? {
        let received = ask.body.received();
        if from + received > max {
            return Err(Problem::new(Code::TooLarge, format!("the upload is larger than the {max} bytes allowed")));
        }
        quota(ask.core(), received)?;
        if received - checked >= SPACE_EVERY {
            checked = received;
            ask.site.space_check()?;
        }
        check.update(&piece);
        if pieces.send(piece).await.is_err() {
            // The writer is gone and says why.
            return Ok(());
        }
    }
    Ok(())
}

/// Why bytes were not kept. After a flush that went wrong nothing more is written at all.
#[derive(Debug)]
enum Unkept {
    Io(std::io::Error),
    Flush(StoreError),
}

impl From<std::io::Error> for Unkept {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

/// Writes the pieces behind `from` and gives the durable length. Bytes beyond `from` that an earlier crash left are cut off first.
fn spool_append(
    path: &Path,
    from: u64,
    next: &mut dyn FnMut() -> Option<Bytes>,
    flush: &dyn Fn(&File, &Path) -> Result<(), StoreError>,
) -> Result<u64, Unkept> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    let len = file.metadata()?.len();
    if len < from {
        let why = format!("the file has {len} bytes although {from} were answered as durable");
        return Err(std::io::Error::other(why).into());
    }
    file.set_len(from)?;
    file.seek(SeekFrom::Start(from))?;
    let mut at = from;
    while let Some(piece) = next() {
        file.write_all(&piece)?;
        at += piece.len() as u64;
    }
    // The file's name must be durable too before an offset in it is answered.
    flush(&file, folder).map_err(Unkept::Flush)?;
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::{Bytes, StoreError, Unkept, Uuid, Writing, spool_append};

    #[test]
    fn what_is_appended_is_kept_from_the_offset_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("spool/x");
        let append = |from, parts: &[&'static str]| {
            let mut parts = parts.iter().map(|part| Bytes::from_static(part.as_bytes()));
            spool_append(&path, from, &mut || parts.next(), &|_, _| Ok(()))
        };
        assert_eq!(append(0, &["abc", "def"]).unwrap(), 6);
        assert_eq!(append(4, &["X"]).unwrap(), 5, "what was not answered as durable is cut off");
        assert_eq!(std::fs::read(&path).unwrap(), b"abcdX");
        assert_eq!(append(5, &[]).unwrap(), 5);
        assert!(append(6, &["y"]).is_err(), "a hole would be taken for data");
        let unflushed = spool_append(&path, 5, &mut || None, &|_, _| Err(StoreError::Poisoned));
        assert!(matches!(unflushed, Err(Unkept::Flush(StoreError::Poisoned))));
    }

    #[test]
    fn one_writer_at_a_time() {
        let id = Uuid::new_v4();
        let first = Writing::begin(id).unwrap();
        assert_eq!(Writing::begin(id).err().unwrap().status, 409);
        drop(first);
        assert!(Writing::begin(id).is_ok());
    }
}

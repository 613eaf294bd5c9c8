//! A container's log, from its end or its beginning, and as it grows.

use super::answer::{Answered, blocking, typed};
use super::ask::Ask;
use super::containers::which_needed;
use super::site::Site;
use axum::body::Body;
use axum::http::StatusCode;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use slipway_api::node::{ContainerState, ObjectId};
use slipway_node::{Refusal, Which};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const PIECE: usize = 64 << 10;
/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// The files of a log, the older one first, and what is still to be sent of them.
struct Log {
    path: PathBuf,
    files: Vec<File>,
}

struct Follow {
    site: Arc<Site>,
    id: ObjectId,
    log: Log,
    follow: bool,
}

pub(crate) async fn read(ask: Ask) -> Answered {
    let which = which_needed(&ask.query)?;
    let tail = ask.query.number("tail")?;
    let follow = ask.query.flag("follow");
    let site = ask.site.clone();
    let (id, log) = blocking(move || {
        let container = site.host.container(&which)?;
        let log = Log::open(Path::new(&container.logfile), tail).map_err(|why| {
            tracing::error!(id = container.id, %why, "reading a container's log");
            Refusal::new(500, "operation failed").hint(format!("reading the log of container {}: {why}", container.id))
        })?;
        Ok((container.id, log))
    })
    .await?;
    let stop = ask.site.stop.clone();
    let reading = Follow { site: ask.site, id, log, follow };
    let parts = stream::unfold(reading, step).take_until(stop.cancelled_owned());
    Ok(typed(StatusCode::OK, "text/plain; charset=utf-8", Body::from_stream(parts)))
}

/// The next piece of a log; none at its end, or when the container that is followed has ended.
async fn step(mut reading: Follow) -> Option<(io::Result<Bytes>, Follow)> {
    loop {
        // Asked first: what was written before an end is read after it was seen.
        let over = !reading.follow || !is_alive(&reading.site, reading.id).await;
        let done = tokio::task::spawn_blocking(move || {
            let piece = reading.log.next();
            (piece, reading)
        });
        let (piece, back) = done.await.ok()?;
        reading = back;
        match piece {
            Ok(piece) if piece.is_empty() && over => return None,
            Ok(piece) if piece.is_empty() => tokio::time::sleep(LOOK).await,
            piece => return Some((piece, reading)),
        }
    }
}

async fn is_alive(site: &Arc<Site>, id: ObjectId) -> bool {
    let host = site.host.clone();
    let state = blocking(move || Ok(host.container(&Which::Id(id))?.state)).await;
    state.is_ok_and(|state| match state {
        ContainerState::Running | ContainerState::Paused | ContainerState::Stopping => true,
        ContainerState::Created | ContainerState::Exited | ContainerState::Dead => false,
    })
}

impl Log {
    fn open(path: &Path, tail: Option<u64>) -> io::Result<Self> {
        let mut older = path.as_os_str().to_owned();
        older.push(".1");
        let mut files = Vec::new();
        for path in [Path::new(&older), path] {
            match File::open(path) {
                Ok(file) => files.push(file),
                // It was never started, or its log is not yet full.
                Err(why) if why.kind() == ErrorKind::NotFound => {}
                Err(why) => return Err(why),
            }
        }
        if let Some(lines) = tail {
            tail_seek(&mut files, lines)?;
        }
        Ok(Self { path: path.to_owned(), files })
    }

    /// The next bytes; empty if there are none now.
    fn next(&mut self) -> io::Result<Bytes> {
        let mut piece = vec![0; PIECE];
        loop {
            let others = self.files.len() > 1;
            let Some(file) = self.files.first_mut() else {
                match File::open(&self.path) {
                    Ok(file) => self.files.push(file),
                    Err(why) if why.kind() == ErrorKind::NotFound => return Ok(Bytes::new()),
                    Err(why) => return Err(why),
                }
                continue;
            };
            let len = file.read(&mut piece)?;
            if len > 0 {
                piece.truncate(len);
                return Ok(piece.into());
            }
            // At the end of a file: the next one, or one that has taken its place.
            let inode = file.metadata()?.ino();
            let replaced = others || std::fs::metadata(&self.path).is_ok_and(|now| now.ino() != inode);
            if !replaced {
                return Ok(Bytes::new());
            }
            // What came between the last look and the renaming.
            let len = file.read(&mut piece)?;
            if len > 0 {
                piece.truncate(len);
                return Ok(piece.into());
            }
            self.files.remove(0);
        }
    }
}

/// Puts the files to where the last lines begin, reading from the end only as far as needed.
fn tail_seek(files: &mut Vec<File>, lines: u64) -> io::Result<()> {
    let mut left = lines;
    let mut at_end = true;
    for n in (0..files.len()).rev() {
        let file = &mut files[n];
        let mut end = file.metadata()?.len();
        let mut piece = vec![0; PIECE];
        while end > 0 {
            let begin = end.saturating_sub(PIECE as u64);
            let part = &mut piece[..(end - begin) as usize];
            file.seek(SeekFrom::Start(begin))?;
            file.read_exact(part)?;
            for at in (0..part.len()).rev() {
                // The newline at the very end ends the last line and begins none.
                let ends_line = part[at] == b'\n' && !at_end;
                at_end = false;
                if lines == 0 || (ends_line && left == 1) {
                    let after = if lines == 0 { file.metadata()?.len() } else { begin + at as u64 + 1 };
                    file.seek(SeekFrom::Start(after))?;
                    files.drain(..n);
                    return Ok(());
                }
                left -= u64::from(ends_line);
            }
            end = begin;
        }
        file.rewind()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Log;
    use std::io::Write;

    fn rest(log: &mut Log) -> String {
        let mut text = String::new();
        loop {
            let piece = log.next().unwrap();
            if piece.is_empty() {
                return text;
            }
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
    }

    #[test]
    fn the_last_lines_are_found_over_both_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        std::fs::write(folder.path().join("log.1"), "a\nb\nc").unwrap();
        std::fs::write(&path, "d\ne\nf\n").unwrap();
        for (tail, wanted) in [
            (None, "a\nb\ncd\ne\nf\n"),
            (Some(0), ""),
            (Some(1), "f\n"),
            (Some(2), "e\nf\n"),
            (Some(3), "cd\ne\nf\n"),
            (Some(4), "b\ncd\ne\nf\n"),
            (Some(5), "a\nb\ncd\ne\nf\n"),
            (Some(99), "a\nb\ncd\ne\nf\n"),
        ] {
            assert_eq!(rest(&mut Log::open(&path, tail).unwrap()), wanted, "{tail:?}");
        }
        let long = format!("{}\nlast", "x".repeat(200_000));
        std::fs::write(&path, &long).unwrap();
        assert_eq!(rest(&mut Log::open(&path, Some(1)).unwrap()), "last");
        assert_eq!(rest(&mut Log::open(&path, Some(2)).unwrap()), format!("c{long}"));
    }

    #[test]
    fn a_log_that_grows_and_is_put_aside_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = Log::open(&path, None).unwrap();
        assert_eq!(rest(&mut log), "");
        let mut file = std::fs::File::create(&path).unwrap();
        file.write_all(b"one\n").unwrap();
        assert_eq!(rest(&mut log), "one\n");
        file.write_all(b"two\n").unwrap();
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        std::fs::write(&path, "three\n").unwrap();
        assert_eq!(rest(&mut log), "two\nthree\n");
    }
}

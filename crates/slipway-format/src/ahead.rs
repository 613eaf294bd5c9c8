//! A disk read once from front to back, by a thread that is a few pieces ahead of its reader.

use slipway_chunk::{Fill, SparseRead};
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::Disk;

/// Bytes of one piece, and how many of them there are.
const PIECE: usize = 4 << 20;
const PIECES: usize = 3;

/// Reads ahead, so that unpacking and whatever is done with the bytes go on at the same time. Memory: 12 MiB. Dropping it
/// waits for the piece that is being read.
pub struct DiskAhead {
    filled: Option<Receiver<io::Result<Piece>>>,
    empty: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<()>>,
    /// Data that was not yet handed out: bytes `.1.0..1.1` of a piece.
    current: Option<(Vec<u8>, std::ops::Range<usize>)>,
    ended: bool,
}

struct Piece {
    buf: Vec<u8>,
    fill: Fill,
}

impl DiskAhead {
    /// Begins to read.
    ///
    /// # Errors
    /// When no thread can be had.
    pub fn new(disk: impl Disk + 'static) -> io::Result<Self> {
        let (empty, bufs) = sync_channel::<Vec<u8>>(PIECES);
        let (pieces, filled) = sync_channel::<io::Result<Piece>>(PIECES);
        for _ in 0..PIECES {
            // The channel holds them all.
            let _ = empty.send(vec![0; PIECE]);
        }
        let thread = std::thread::Builder::new().name("disk-ahead".into()).spawn(move || read(disk, &bufs, &pieces))?;
        Ok(Self { filled: Some(filled), empty: Some(empty), thread: Some(thread), current: None, ended: false })
    }

    fn give_back(&self, buf: Vec<u8>) {
        if let Some(empty) = &self.empty {
            // Nobody takes it when the thread has come to the end.
            let _ = empty.send(buf);
        }
    }
}

/// The thread: ends with the disk, with an error, or when nobody listens any more.
fn read(mut disk: impl Disk, bufs: &Receiver<Vec<u8>>, pieces: &SyncSender<io::Result<Piece>>) {
    let mut at = 0;
    while let Ok(mut buf) = bufs.recv() {
        let fill = if at >= disk.size() { Ok(Fill::End) } else { disk.fill_at(at, &mut buf) };
        at += match fill {
            Ok(Fill::Data(len)) => len as u64,
            Ok(Fill::Hole(len)) => len,
            Ok(Fill::End) | Err(_) => 0,
        };
        let last = matches!(fill, Ok(Fill::End) | Err(_));
        if pieces.send(fill.map(|fill| Piece { buf, fill })).is_err() || last {
            return;
        }
    }
}

impl SparseRead for DiskAhead {
    fn fill(&mut self, buf: &mut [u8]) -> io::Result<Fill> {
        if self.ended {
            return Ok(Fill::End);
        }
        if self.current.is_none() {
            let lost = || io::Error::other("the thread that reads the disk was lost");
            let piece = self.filled.as_ref().ok_or_else(lost)?.recv().map_err(|_| lost())??;
            match piece.fill {
                Fill::Data(len) => self.current = Some((piece.buf, 0..len)),
                Fill::Hole(len) => {
                    self.give_back(piece.buf);
                    return Ok(Fill::Hole(len));
                }
                Fill::End => {
                    self.ended = true;
                    return Ok(Fill::End);
                }
            }
        }
        let Some((piece, left)) = &mut self.current else { return Ok(Fill::End) };
        let len = buf.len().min(left.len());
        buf[..len].copy_from_slice(&piece[left.start..left.start + len]);
        left.start += len;
        if left.start == left.end
            && let Some((piece, _)) = self.current.take()
        {
            self.give_back(piece);
        }
        Ok(Fill::Data(len))
    }
}

impl Drop for DiskAhead {
    fn drop(&mut self) {
        // Without its channels the thread has nothing to do.
        (self.filled, self.empty) = (None, None);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

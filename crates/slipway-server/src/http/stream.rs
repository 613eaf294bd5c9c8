//! Bytes between the async skin and the blocking core, through bounded channels.

use std::io::{self, Read};

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use slipway_api::{Code, Problem};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc};

use super::failure::blocking;
use super::inbound::Inbound;
use super::repr::ReprCheck;
use super::site::Site;
use crate::rules::quota::QuotaLeft;
use crate::rules::upload::Cut;

/// Pieces in flight between a socket and the thread that stores them; hyper's pieces have at most 64 KiB or a frame.
const PIECES: usize = 16;
/// After so many bytes the free space is looked at again. All bodies that may be stored at one time together bring less than the reserve meanwhile.
pub(crate) const SPACE_EVERY: u64 = 1 << 20;

/// Bodies that are stored at one time. Each holds a thread while its client is slow, and half of the runtime's 512 must stay for all else.
static SEATS: Semaphore = Semaphore::const_new(256);

/// The right to hold a thread for a body; to be kept until it is stored.
pub(crate) fn body_seat() -> Result<SemaphorePermit<'static>, Problem> {
    SEATS.try_acquire().map_err(|_| {
        Problem::new(Code::SlowDown, "too many uploads are sending bytes at this moment").hint("try again in a moment")
    })
}

/// What goes through the channel. Only `End` is an end: a channel that closes without it was cut off.
enum Piece {
    Bytes(Bytes),
    End,
    Broken(Problem),
}

/// The reading end, for a blocking thread.
pub(crate) struct BodyReader {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    ended: bool,
    check: ReprCheck,
}

/// The sending end, for the async side.
pub(crate) struct BodyPump {
    pieces: mpsc::Sender<Piece>,
    ended: bool,
    cut: Cut,
}

/// A channel from a request's body to a blocking thread. What is read passes `check`, which has the last word at the end.
pub(crate) fn body_channel(check: ReprCheck) -> (BodyPump, BodyReader) {
    let (sender, receiver) = mpsc::channel(PIECES);
    let pump = BodyPump { pieces: sender, ended: false, cut: Cut::default() };
    (pump, BodyReader { pieces: receiver, current: Bytes::new(), ended: false, check })
}

impl Drop for BodyPump {
    /// A client that hung up before the end takes the pump with it.
    fn drop(&mut self) {
        if !self.ended {
            self.cut.cut(cut_off());
        }
    }
}

fn cut_off() -> Problem {
    Problem::new(Code::InvalidRequest, "reading the request body: it was cut off")
}

/// Where the pieces of a body come from: the request itself, or a part of it.
pub(crate) trait Inflow: Send {
    /// The length that was announced, if it was.
    fn announced(&self) -> Option<u64>;
    /// Bytes so far.
    fn received(&self) -> u64;
    /// The next piece, or none at the end. What is cut off is an error, never an end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Bytes>, Problem>> + Send;
}

impl Inflow for Inbound {
    fn announced(&self) -> Option<u64> {
        Inbound::announced(self)
    }

    fn received(&self) -> u64 {
        Inbound::received(self)
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        Inbound::next(self).await
    }
}

impl BodyPump {
    /// Is cut when the body ends before its end, at once and not only when all that came before has been read.
    pub(crate) fn cut(&self) -> Cut {
        self.cut.clone()
    }

    /// Sends a whole body, at most `max` bytes of it and what the quota leaves. Ends early when the reader is gone: then it knows why.
    pub(crate) async fn run(mut self, mut body: impl Inflow, max: u64, left: Option<QuotaLeft>, site: &Site) {
        let quota = |received| left.as_ref().map_or(Ok(()), |left| left.stored_check(&site.core, received));
        if body.announced().is_some_and(|len| len > max) {
            self.cut.cut(too_large(max));
            let _ = self.pieces.send(Piece::Broken(too_large(max))).await;
            return;
        }
        let mut checked = 0;
        loop {
            let piece = match body.next().await {
                Ok(Some(_)) if body.received() > max => Piece::Broken(too_large(max)),
                Ok(Some(bytes)) if body.received() - checked >= SPACE_EVERY => {
                    checked = body.received();
                    let checked = site.space_check().and_then(|()| quota(body.received()));
                    checked.map_or_else(Piece::Broken, |()| Piece::Bytes(bytes))
                }
                Ok(Some(bytes)) => quota(body.received()).map_or_else(Piece::Broken, |()| Piece::Bytes(bytes)),
                Ok(None) => Piece::End,
                Err(problem) => Piece::Broken(problem),
            };
            let last = !matches!(piece, Piece::Bytes(_));
            match &piece {
                Piece::Bytes(_) => {}
                Piece::End => self.ended = true,
                Piece::Broken(problem) => self.cut.cut(problem.clone()),
            }
            if self.pieces.send(piece).await.is_err() || last {
                return;
            }
        }
    }
}

fn too_large(max: u64) -> Problem {
    Problem::new(Code::TooLarge, format!("the body is larger than the {max} bytes allowed here"))
}

impl Read for BodyReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        while self.current.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => {
                    self.check.update(&bytes);
                    self.current = bytes;
                }
                Some(Piece::End) => {
                    std::mem::take(&mut self.check).finish().map_err(io::Error::other)?;
                    self.ended = true;
                }
                Some(Piece::Broken(problem)) => return Err(io::Error::other(problem)),
                None => return Err(io::Error::other(cut_off())),
            }
        }
        let len = buf.len().min(self.current.len());
        buf[..len].copy_from_slice(&self.current.split_to(len));
        Ok(len)
    }
}

/// A source of an answer's body: blocking work that gives the next piece, or none at the end.
pub(crate) trait Pieces: Send + 'static {
    fn next(&mut self) -> Result<Option<Bytes>, Problem>;

    /// The next piece where it takes no waiting. None says nothing: then `next` is asked, on a thread.
    fn ready(&mut self) -> Option<Bytes> {
        None
    }
}

/// A body that asks its source only when the client has taken the piece before. No thread is held meanwhile, and none is gone to for what is in memory.
pub(crate) fn body_of(pieces: impl Pieces, act: &'static str) -> Body {
    Body::from_stream(stream::unfold(Some(pieces), move |pieces| async move {
        let mut pieces = pieces?;
        if let Some(bytes) = pieces.ready() {
            return Some((Ok(bytes), Some(pieces)));
        }
        let step = blocking(act, move || {
            let next = pieces.next();
            Ok((next, pieces))
        })
        .await;
        match step {
            Ok((Ok(Some(bytes)), pieces)) => Some((Ok(bytes), Some(pieces))),
            Ok((Ok(None), _)) => None,
            // The connection ends without the announced length, so that the client cannot take it for the whole.
            Ok((Err(problem), _)) | Err(problem) => Some((Err(io::Error::other(problem)), None)),
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::{Bytes, Piece, Read, ReprCheck, body_channel};

    #[test]
    fn only_an_end_is_an_end() {
        for (pieces, fine) in [
            (vec![Piece::Bytes(Bytes::from_static(b"ab")), Piece::Bytes(Bytes::from_static(b"c")), Piece::End], true),
            (vec![Piece::Bytes(Bytes::from_static(b"abc"))], false),
            (vec![], false),
        ] {
            let (pump, mut reader) = body_channel(ReprCheck::default());
            for piece in pieces {
                pump.pieces.try_send(piece).unwrap();
            }
            let cut = pump.cut();
            assert!(cut.why().is_none());
            drop(pump);
            assert!(cut.why().is_some(), "no end of the body went through the pump");
            let mut all = Vec::new();
            assert_eq!(reader.read_to_end(&mut all).is_ok(), fine);
            assert!(!fine || all == b"abc");
        }
    }
}

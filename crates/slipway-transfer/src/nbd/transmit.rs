//! The transmission phase: requests in, replies out, many at once and in any order.

use super::command::{HEADER, Request, Work, work_plan};
use super::exports::NbdSource;
use super::handshake::{Agreed, Terms, broken};
use super::reply::{self, PIECE};
use super::serve::{NbdEvent, NbdLimits, Tell, words};
use super::wire::{Errno, PAYLOAD_MAX, command};
use crate::{Cancel, TransferError};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, WriteHalf};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

/// A request's share of the memory is counted in these.
const UNIT: u32 = 64 << 10;

/// What the requests of a connection share.
struct Line<S> {
    source: Arc<dyn NbdSource>,
    terms: Terms,
    out: Mutex<WriteHalf<S>>,
    stall: Duration,
    /// Nothing more can be written, and why.
    dead: Cancel,
    why: std::sync::Mutex<Option<io::Error>>,
    tell: Tell,
    peer: String,
    sent: Arc<AtomicU64>,
}

/// Answers requests until the client goes, breaks the protocol, or the server is to stop.
///
/// # Errors
/// When the client breaks the protocol or the connection.
pub(super) async fn transmit<S>(
    stream: S,
    agreed: Agreed,
    limits: &NbdLimits,
    stop: &Cancel,
    (tell, peer, sent): (Tell, String, Arc<AtomicU64>),
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (reader, writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(4096, reader);
    let size = agreed.export.source.size();
    let line = Arc::new(Line {
        source: agreed.export.source,
        terms: agreed.terms,
        out: Mutex::new(writer),
        stall: limits.stall,
        dead: Cancel::new(),
        why: std::sync::Mutex::default(),
        tell,
        peer,
        sent,
    });
    let places = Arc::new(Semaphore::new(limits.in_flight));
    let memory =
        Arc::new(Semaphore::new((limits.in_flight_bytes / u64::from(UNIT)).max(u64::from(PIECE / UNIT)) as usize));
    let mut running = JoinSet::new();
    let ended = loop {
        let next = async {
            let request = request_next(&mut reader, limits.stall).await?;
            let Some(request) = request else { return Ok(None) };
            // Without a place the next request is not even read: what a client can have under way is bounded.
            let units = request.len.min(PIECE).div_ceil(UNIT).max(1);
            let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
            let share = memory.clone().acquire_many_owned(units).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(Some((request, place, share)))
        };
        let taken = tokio::select! {
            biased;
            () = stop.cancelled() => break Ok(()),
            () = line.dead.cancelled() => break Err(line.dead_why()),
            taken = next => taken,
        };
        match taken {
            Ok(None) => break Ok(()),
            Err(why) => break Err(why),
            Ok(Some((request, place, share))) => {
                let line = line.clone();
                let plan = work_plan(&request, size, line.terms);
                running.spawn(async move {
                    let done = match plan {
                        Ok(work) => line.work(&request, work).await,
                        Err((errno, why)) => line.say(&line.error(&request, errno, why)).await,
                    };
                    if let Err(why) = done {
                        line.die(why);
                    }
                    drop((place, share));
                });
            }
        }
        while running.try_join_next().is_some() {}
    };
    // Who said goodbye in good order gets the answers that are still under way.
    if ended.is_ok() {
        while running.join_next().await.is_some() {}
    }
    let mut out = line.out.lock().await;
    let _ = tokio::time::timeout(limits.stall, out.shutdown()).await;
    ended
}

/// The next request, with what follows its header taken off the wire; none at a goodbye. A client may be silent as long as it likes
/// between two requests, but not in the middle of one.
async fn request_next<R: AsyncRead + Unpin>(reader: &mut R, stall: Duration) -> io::Result<Option<Request>> {
    let mut header = [0; HEADER];
    if reader.read(&mut header[..1]).await? == 0 {
        return Ok(None);
    }
    in_time(stall, reader.read_exact(&mut header[1..])).await?;
    let request = Request::read(&header).ok_or_else(|| broken("a request does not begin as one"))?;
    if request.kind == command::DISCONNECT {
        return Ok(None);
    }
    if request.payload() > PAYLOAD_MAX {
        return Err(broken("it wants to write more than 32 MiB at once, to a disk that it cannot write to"));
    }
    let mut left = request.payload() as usize;
    let mut scrap = [0; 4096];
    while left > 0 {
        let most = left.min(scrap.len());
        match in_time(stall, reader.read(&mut scrap[..most])).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left -= n,
        }
    }
    Ok(Some(request))
}

impl<S: AsyncRead + AsyncWrite + Send + 'static> Line<S> {
    async fn work(self: &Arc<Self>, request: &Request, work: Work) -> io::Result<()> {
        let structured = self.terms.structured;
        match work {
            Work::Nothing => self.say(&reply::done(request, structured)).await,
            Work::Read { .. } if request.len == 0 => self.say(&reply::done(request, structured)).await,
            Work::Read { whole: true } if request.len > PIECE => {
                self.say(&self.error(request, Errno::Overflow, "more than 1 MiB unfragmented")).await
            }
            Work::Read { whole } if structured => self.read_structured(request, whole).await,
            Work::Read { .. } => self.read_simple(request).await,
            Work::Status { one } => {
                let asked = *request;
                match self.ask(move |source| reply::status(source, &asked, one)).await {
                    Ok(bytes) => self.say(&bytes).await,
                    Err(why) => self.fail(request, &why).await,
                }
            }
            Work::Cache => self.cache(request).await,
        }
    }

    async fn read_structured(self: &Arc<Self>, request: &Request, whole: bool) -> io::Result<()> {
        let parts = if whole { 0 } else { request.len };
        let parts = whole.then_some((request.offset, request.len)).into_iter().chain(pieces(request, parts));
        for (offset, len) in parts {
            let asked = *request;
            let made = self.ask(move |source| match whole {
                true => reply::read_whole(source, &asked),
                false => reply::read_chunks(source, &asked, offset, len),
            });
            let mut bytes = match made.await {
                Ok(bytes) => bytes,
                Err(why) => return self.fail(request, &why).await,
            };
            if offset + u64::from(len) == request.offset + u64::from(request.len) {
                bytes.extend(reply::done(request, true));
            }
            self.say(&bytes).await?;
            self.sent.fetch_add(len.into(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// A simple reply has its error in front and then all of its data in a row: an error behind the first piece can only be an end.
    async fn read_simple(self: &Arc<Self>, request: &Request) -> io::Result<()> {
        let mut out = None;
        for (offset, len) in pieces(request, request.len) {
            let mut bytes = if out.is_none() { reply::simple_head(request, 0) } else { Vec::new() };
            let made = self.ask(move |source| {
                reply::data_append(source, offset, len, &mut bytes)?;
                Ok(bytes)
            });
            let bytes = match made.await {
                Ok(bytes) => bytes,
                Err(why) if out.is_none() => return self.fail(request, &why).await,
                Err(why) => {
                    self.tell_failed(request, &why);
                    return Err(broken("the source failed in the middle of a simple reply"));
                }
            };
            let out = match &mut out {
                Some(out) => out,
                none => none.insert(self.out.lock().await),
            };
            self.write(out, &bytes).await?;
            self.sent.fetch_add(len.into(), Ordering::Relaxed);
        }
        Ok(())
    }

    async fn cache(self: &Arc<Self>, request: &Request) -> io::Result<()> {
        // A wish for more than can be read at once is heard as far as that.
        for (offset, len) in pieces(request, request.len.min(PAYLOAD_MAX)) {
            let made = self.ask(move |source| reply::data_append(source, offset, len, &mut Vec::new()));
            if let Err(why) = made.await {
                return self.fail(request, &why).await;
            }
        }
        self.say(&reply::done(request, self.terms.structured)).await
    }

    /// Asks the source on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&dyn NbdSource) -> Result<T, TransferError> + Send + 'static,
    ) -> Result<T, TransferError> {
        let source = self.source.clone();
        let asked = tokio::task::spawn_blocking(move || question(&*source));
        asked.await.map_err(|_| TransferError::Panicked)?
    }

    fn die(&self, why: io::Error) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.dead.cancel();
    }

    fn dead_why(&self) -> io::Error {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).take();
        why.unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    fn error(&self, request: &Request, errno: Errno, words: &str) -> Vec<u8> {
        reply::error(request, self.terms.structured, errno, words)
    }

    async fn fail(&self, request: &Request, why: &TransferError) -> io::Result<()> {
        let said = self.tell_failed(request, why);
        self.say(&self.error(request, Errno::Io, &said)).await
    }

    fn tell_failed(&self, request: &Request, why: &TransferError) -> String {
        let why = words(why);
        let (offset, len) = (request.offset, request.len);
        (self.tell)(NbdEvent::Failed { peer: self.peer.clone(), offset, len, why: why.clone() });
        why
    }

    async fn say(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = self.out.lock().await;
        self.write(&mut out, bytes).await
    }

    /// Writes all of it; a client that takes nothing for a while is cut off.
    async fn write(&self, out: &mut WriteHalf<S>, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match in_time(self.stall, out.write(bytes)).await? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => bytes = &bytes[n..],
            }
        }
        in_time(self.stall, out.flush()).await
    }
}

/// The range of a request in pieces that end on borders of a piece.
fn pieces(request: &Request, len: u32) -> impl Iterator<Item = (u64, u32)> + use<> {
    let end = request.offset + u64::from(len);
    let mut at = request.offset;
    std::iter::from_fn(move || {
        let next = (at / u64::from(PIECE) + 1) * u64::from(PIECE);
        let piece = (at, (next.min(end) - at) as u32);
        at += u64::from(piece.1);
        (piece.1 > 0).then_some(piece)
    })
}

async fn in_time<T>(limit: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, work).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

//! What one connection is doing, so that slow headers, idle connections and readers that do not read can be ended.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How long a connection may take for what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From a request's first byte to the end of its header; also for a TLS handshake.
    pub(crate) header: Duration,
    /// Between two requests.
    pub(crate) idle: Duration,
    /// Between two pieces of a body.
    pub(crate) body: Duration,
    /// Without the client reading any of our answer.
    pub(crate) write: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            body: super::inbound::Inbound::idle_default(),
            // A client may be writing to a slow disk, and it stops reading while that is busy.
            write: Duration::from_secs(300),
        }
    }
}

/// Shared by a connection's stream, its requests and its watcher. Times are milliseconds since the connection began,
/// 0 = not so.
#[derive(Debug)]
pub(crate) struct Pulse {
    born: Instant,
    running: AtomicUsize,
    header_since: AtomicU64,
    idle_since: AtomicU64,
    blocked_since: AtomicU64,
    /// Bodies that gave a piece and were not asked for more since: (since when, which).
    unasked: Mutex<BTreeSet<(u64, u64)>>,
    bodies: AtomicU64,
}

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            born: Instant::now(),
            running: AtomicUsize::new(0),
            // A new connection owes a header from its first moment.
            header_since: AtomicU64::new(1),
            idle_since: AtomicU64::new(1),
            blocked_since: AtomicU64::new(0),
            unasked: Mutex::default(),
            bodies: AtomicU64::new(0),
        })
    }

    fn now(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// A request's header is complete; the guard lives until its answer is sent.
    pub(crate) fn request(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.header_since.store(0, Ordering::Relaxed);
        self.idle_since.store(0, Ordering::Relaxed);
        Running { pulse: self.clone(), body: self.bodies.fetch_add(1, Ordering::Relaxed), unasked: None }
    }

    /// Why this connection should end now, if it should.
    pub(crate) fn overdue(&self, patience: &Patience) -> Option<&'static str> {
        let now = self.now();
        let longer = |since: &AtomicU64, limit: Duration| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && u128::from(now.saturating_sub(since)) > limit.as_millis()
        };
        if longer(&self.blocked_since, patience.write) {
            return Some("the client does not read the answer");
        }
        // With HTTP/2 the socket goes on while one answer's window stays shut.
        let oldest = self.unasked.lock().unwrap_or_else(PoisonError::into_inner).first().copied();
        if oldest.is_some_and(|(since, _)| u128::from(now.saturating_sub(since)) > patience.write.as_millis()) {
            return Some("the client does not read one of its answers");
        }
        if self.running.load(Ordering::Relaxed) > 0 {
            return None;
        }
        if longer(&self.header_since, patience.header) {
            return Some("no complete request header came in time");
        }
        longer(&self.idle_since, patience.idle).then_some("the connection was idle")
    }
}

/// A request in work.
#[derive(Debug)]
pub(crate) struct Running {
    pulse: Arc<Pulse>,
    body: u64,
    unasked: Option<u64>,
}

impl Running {
    /// The answer's body was asked for its next piece.
    pub(crate) fn asked(&mut self) {
        if let Some(since) = self.unasked.take() {
            self.pulse.unasked.lock().unwrap_or_else(PoisonError::into_inner).remove(&(since, self.body));
        }
    }

    /// The answer's body gave a piece.
    pub(crate) fn gave(&mut self) {
        let now = self.pulse.now();
        self.unasked = Some(now);
        self.pulse.unasked.lock().unwrap_or_else(PoisonError::into_inner).insert((now, self.body));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.asked();
        if self.pulse.running.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.pulse.idle_since.store(self.pulse.now(), Ordering::Relaxed);
        }
    }
}

/// A stream that notes when bytes come and when they cannot go.
pub(crate) struct Watched<T> {
    inner: T,
    pulse: Arc<Pulse>,
    /// HTTP/2 also reads pings and window updates between requests, which are no beginning of a header.
    between: bool,
}

impl<T> Watched<T> {
    pub(crate) fn new(inner: T, pulse: Arc<Pulse>) -> Self {
        Self { inner, pulse, between: true }
    }

    /// For a connection that speaks HTTP/2: only its first header has a limit here, hyper's own pings do the rest.
    pub(crate) fn first_header_only(mut self) -> Self {
        self.between = false;
        self
    }

    fn wrote(&self, blocked: bool) {
        match blocked {
            false => self.pulse.blocked_since.store(0, Ordering::Relaxed),
            true => {
                let now = self.pulse.now();
                let _ = self.pulse.blocked_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        let came = buf.filled().len() > before;
        if came && self.between && self.pulse.running.load(Ordering::Relaxed) == 0 {
            let now = self.pulse.now();
            let _ = self.pulse.header_since.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(polled.is_pending());
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(polled.is_pending());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, Patience, Pulse};

    #[test]
    fn a_connection_is_overdue_only_while_it_owes_something() {
        let short = Duration::from_millis(20);
        let long = Duration::from_secs(60);
        let patience = |header, idle| Patience { header, idle, body: long, write: long };
        let pulse = Pulse::new();
        assert_eq!(pulse.overdue(&patience(short, short)), None);
        std::thread::sleep(short * 2);
        assert!(pulse.overdue(&patience(short, long)).unwrap().contains("header"));
        let running = pulse.request();
        assert_eq!(pulse.overdue(&patience(short, short)), None, "a request in work is no reason to end");
        let mut running = running;
        let reads = Patience { write: short, ..patience(long, long) };
        running.gave();
        std::thread::sleep(short * 2);
        assert!(pulse.overdue(&reads).unwrap().contains("does not read"));
        running.asked();
        assert_eq!(pulse.overdue(&reads), None);
        running.gave();
        drop(running);
        assert_eq!(pulse.overdue(&reads), None, "an answer that is done is not waited for");
        std::thread::sleep(short * 2);
        assert_eq!(pulse.overdue(&patience(short, long)), None, "between requests no header is owed");
        assert!(pulse.overdue(&patience(long, short)).unwrap().contains("idle"));
    }
}

//! A request's body as it comes in: counted, bounded, and never waited for without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use slipway_api::{Code, Problem};
use tokio::time::Instant;

/// How long a body may stand still.
const IDLE: Duration = Duration::from_secs(30);
/// The window over which a body must bring [`WINDOW_BYTES`].
const WINDOW: Duration = Duration::from_secs(60);
/// 16 KiB a second, counted only while we wait for the client.
const WINDOW_BYTES: u64 = 60 * (16 << 10);
/// What is still read of a body that nobody wants, so that the client can send on until it reads our answer.
const DRAIN_BYTES: u64 = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// A body that is read piece by piece. Dropping it before its end reads a little more in the background: closing the
/// connection at once would reset it, and the client would see that instead of the answer.
pub(crate) struct Inbound {
    body: Option<Body>,
    received: Arc<AtomicU64>,
    waited: Duration,
    window_bytes: u64,
    idle: Duration,
    window: Duration,
    waits: bool,
}

impl Inbound {
    /// The body of a request, which may stand still for at most `idle`. What comes is counted in `received`.
    pub(crate) fn new(body: Body, idle: Duration, received: Arc<AtomicU64>) -> Self {
        Self { body: Some(body), received, waited: Duration::ZERO, window_bytes: 0, idle, window: WINDOW, waits: false }
    }

    /// The client asked with `Expect` whether it shall send at all.
    pub(crate) fn expected(mut self, waits: bool) -> Self {
        self.waits = waits;
        self
    }

    /// The limit that production uses.
    pub(crate) fn idle_default() -> Duration {
        IDLE
    }

    /// Bytes so far.
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// The length that the client announced, if it did.
    pub(crate) fn announced(&self) -> Option<u64> {
        self.body.as_ref().and_then(|body| axum::body::HttpBody::size_hint(body).exact())
    }

    /// The next piece, or none at the end. A cut-off body is an error, never an end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let Some(body) = self.body.as_mut() else { return Ok(None) };
        loop {
            let since = Instant::now();
            let frame = tokio::time::timeout(self.idle, body.frame()).await;
            self.waited += since.elapsed();
            let data = match frame {
                Err(_) => {
                    self.body = None;
                    return Err(Problem::new(
                        Code::TimedOut,
                        format!("reading the request body: nothing came for {} s", self.idle.as_secs()),
                    ));
                }
                Ok(None) => {
                    self.body = None;
                    return Ok(None);
                }
                Ok(Some(Err(error))) => {
                    self.body = None;
                    let received = self.received();
                    return Err(Problem::new(
                        Code::InvalidRequest,
                        format!("reading the request body: it was cut off after {received} bytes ({error})"),
                    )
                    .hint("send it again"));
                }
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => data,
                    // Trailers carry nothing that we use.
                    Err(_) => continue,
                },
            };
            self.received.fetch_add(data.len() as u64, Ordering::Relaxed);
            self.window_bytes += data.len() as u64;
            if self.waited > self.window {
                if self.window_bytes < WINDOW_BYTES {
                    self.body = None;
                    return Err(Problem::new(
                        Code::TimedOut,
                        "reading the request body: less than 16 KiB a second came over a minute",
                    ));
                }
                self.waited = Duration::ZERO;
                self.window_bytes = 0;
            }
            if !data.is_empty() {
                return Ok(Some(data));
            }
        }
    }

    /// The whole body, at most `max` bytes of it.
    pub(crate) async fn collect(&mut self, max: u64) -> Result<Bytes, Problem> {
        let too_large = || Problem::new(Code::TooLarge, format!("the request body is larger than {max} bytes"));
        if self.announced().is_some_and(|len| len > max) {
            return Err(too_large());
        }
        let mut all = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if all.len() as u64 + piece.len() as u64 > max {
                return Err(too_large());
            }
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }
}

impl Drop for Inbound {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        // A client that waits for "100 Continue" sends nothing before it has our answer; reading would invite it to.
        if axum::body::HttpBody::is_end_stream(&body) || (self.waits && self.received() == 0) {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let drained = async {
                let mut left = DRAIN_BYTES;
                while let Some(Ok(frame)) = body.frame().await {
                    left = left.saturating_sub(frame.data_ref().map_or(0, |data| data.len() as u64));
                    if left == 0 {
                        break;
                    }
                }
            };
            // Whether it ended, was too long or took too long: the connection is hyper's to close from here.
            let _ = tokio::time::timeout(DRAIN_TIME, drained).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Arc, Body, Bytes, Code, Duration, Inbound};
    use futures_util::stream;

    fn body(parts: Vec<Result<&'static [u8], std::io::Error>>) -> Inbound {
        let parts = parts.into_iter().map(|part| part.map(Bytes::from_static));
        Inbound::new(Body::from_stream(stream::iter(parts)), Duration::from_secs(1), Arc::default())
    }

    #[tokio::test]
    async fn a_body_is_whole_or_an_error() {
        assert_eq!(body(vec![Ok(b"ab"), Ok(b""), Ok(b"c")]).collect(3).await.unwrap(), "abc");
        assert_eq!(body(vec![Ok(b"ab"), Ok(b"cd")]).collect(3).await.unwrap_err().code, Code::TooLarge);
        let cut = body(vec![Ok(b"ab"), Err(std::io::ErrorKind::UnexpectedEof.into())]).collect(9).await.unwrap_err();
        assert_eq!(cut.code, Code::InvalidRequest);
        assert!(cut.title.contains("cut off after 2 bytes"), "{cut}");
    }

    #[tokio::test]
    async fn a_body_that_stands_still_times_out() {
        let stalled = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let mut inbound = Inbound::new(stalled, Duration::from_millis(30), Arc::default());
        assert_eq!(inbound.next().await.unwrap_err().code, Code::TimedOut);
        assert!(inbound.next().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_body_that_trickles_times_out() {
        let trickle = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        let mut inbound = Inbound::new(Body::from_stream(trickle), Duration::from_secs(30), Arc::default());
        inbound.window = Duration::from_millis(60);
        let got = inbound.collect(1 << 20).await;
        assert_eq!(got.unwrap_err().code, Code::TimedOut);
        assert!(inbound.received() < 20);
    }
}

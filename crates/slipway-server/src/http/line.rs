//! The one log line of a request, written when the last byte of its answer is gone.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::{Body, HttpBody};
use axum::http::Method;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};

use super::site::Site;
use super::watch::Running;

/// What will be logged. The query and the headers are left out: they may hold capabilities and tokens.
pub(crate) struct Line {
    pub(crate) site: Arc<Site>,
    pub(crate) operation: &'static str,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) status: u16,
    pub(crate) began: Instant,
    pub(crate) received: Arc<AtomicU64>,
    pub(crate) sent: u64,
    pub(crate) user: String,
    pub(crate) request_id: String,
    pub(crate) problem: Option<String>,
    pub(crate) cut: bool,
    pub(crate) running: Running,
}

impl Drop for Line {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let received = self.received.load(Ordering::Relaxed);
        self.site.metrics.ended(self.operation, self.status, took, received, self.sent);
        let problem = self.problem.as_deref().unwrap_or_default();
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    target: "slipway::request",
                    method = %self.method, path = %self.path, status = self.status, ms = took.as_millis() as u64,
                    received, sent = self.sent, user = %self.user, id = %self.request_id, cut = self.cut, problem,
                    "request"
                )
            };
        }
        match self.status {
            500.. => line!(error),
            _ => line!(info),
        }
    }
}

/// An answer's body that counts what goes out and then lets the line be written.
pub(crate) struct Logged {
    body: Body,
    len: Option<u64>,
    line: Line,
}

impl Logged {
    /// `len` is what `Content-Length` announces: nobody asks a body for more once so many bytes went out.
    pub(crate) fn new(body: Body, len: Option<u64>, mut line: Line) -> Self {
        // Until the body says that it ended, it counts as cut.
        line.cut = !body.is_end_stream();
        Self { body, len, line }
    }
}

impl HttpBody for Logged {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.line.running.asked();
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.line.running.gave();
                self.line.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.body.is_end_stream() || self.len.is_some_and(|len| self.line.sent >= len) {
                    self.line.cut = false;
                }
            }
            Poll::Ready(Some(Err(error))) => self.line.problem = Some(error.to_string()),
            Poll::Ready(None) => self.line.cut = false,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

use super::error::transport;
use super::{ApiError, Client};
use crate::{CLIENT_HEADER, Code, Problem, VERSION};
use bytes::{Bytes, BytesMut};
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::atomic::Ordering;
use std::time::Duration;
use uuid::Uuid;

/// The longest JSON answer that is read.
pub(super) const JSON_MAX: usize = 64 << 20;
/// A sender slower than this many bytes in a second is taken for stuck.
const SLOWEST: u64 = 16 << 10;
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(4);
const RETRY_AFTER_MAX: u64 = 30;

/// One call, as it can be made more than once.
pub(super) struct Ask {
    pub(super) act: String,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    again: bool,
    token: bool,
    idle: Duration,
}

/// What came of one attempt.
enum Tried {
    Again { why: ApiError, wished: Option<Duration>, acted: Acted },
    Final(ApiError),
}

/// Whether the server may have done what an attempt asked for, although no answer says so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Acted {
    No,
    Perhaps,
}

impl Tried {
    fn acted(&self) -> Acted {
        match self {
            Self::Again { acted, .. } => *acted,
            Self::Final(_) => Acted::No,
        }
    }
}

impl Ask {
    pub(super) fn query(mut self, name: &str, value: impl ToString) -> Self {
        self.url.query_pairs_mut().append_pair(name, &value.to_string());
        self
    }

    pub(super) fn query_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(name, value),
            None => self,
        }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    pub(super) fn if_match(self, revision: Option<u64>) -> Self {
        match revision {
            Some(revision) => self.header("if-match", format!("\"{revision}\"")),
            None => self,
        }
    }

    pub(super) fn json(mut self, body: &impl Serialize) -> Self {
        self.body = serde_json::to_vec(body).expect("wire types have string keys and no failing serializer").into();
        self.header("content-type", "application/json")
    }

    pub(super) fn bytes(mut self, media: &'static str, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self.header("content-type", media)
    }

    /// Lets a creating call be repeated: the server answers the second one as it did the first.
    pub(super) fn keyed(self) -> Self {
        self.header("idempotency-key", Uuid::new_v4()).repeatable()
    }

    pub(super) fn repeatable(mut self) -> Self {
        self.again = true;
        self
    }

    pub(super) fn once(mut self) -> Self {
        self.again = false;
        self
    }

    /// Waits longer for the answer than usual.
    pub(super) fn patient(mut self, idle: Duration) -> Self {
        self.idle = self.idle.max(idle);
        self
    }

    fn send_limit(&self) -> Duration {
        self.idle + Duration::from_secs(self.body.len() as u64 / SLOWEST)
    }
}

impl Client {
    /// A call below `/api/v1`; each part is one path segment, encoded as needed.
    pub(super) fn ask(&self, method: Method, act: impl Into<String>, path: &[&str]) -> Ask {
        let mut url = self.inner.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(["api", "v1"]).extend(path);
        }
        let again = matches!(method, Method::GET | Method::HEAD | Method::PUT | Method::DELETE);
        self.ask_url(method, act, url, again, true)
    }

    pub(super) fn ask_url(&self, method: Method, act: impl Into<String>, url: Url, again: bool, token: bool) -> Ask {
        Ask {
            act: act.into(),
            method,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            again,
            token,
            idle: self.inner.idle,
        }
    }

    pub(super) fn base_join(&self, path: &str) -> Result<Url, ApiError> {
        let text = format!("{}/{}", self.server(), path.trim_start_matches('/'));
        Url::parse(&text).map_err(|_| ApiError::protocol("reading a layout", "it names an address that is no URL"))
    }

    /// Makes the call and reads the whole answer, again if that is allowed and may help.
    pub(super) async fn fetch(&self, ask: Ask, max: usize) -> Result<(StatusCode, HeaderMap, Bytes), ApiError> {
        let (mut made, mut acted) = (0, Acted::No);
        loop {
            made += 1;
            match self.attempt_whole(&ask, max).await {
                Ok(answer) => return Ok(answer),
                Err(tried) if acted == Acted::Perhaps && gone_by_us(&ask, &tried) => {
                    return Ok((StatusCode::NO_CONTENT, HeaderMap::new(), Bytes::new()));
                }
                Err(tried) => {
                    if tried.acted() == Acted::Perhaps {
                        acted = Acted::Perhaps;
                    }
                    tokio::time::sleep(self.pause_before_next(&ask, made, tried)?).await;
                }
            }
        }
    }

    /// Makes the call and gives the answer with its body still to be read.
    pub(super) async fn open(&self, ask: Ask) -> Result<Response, ApiError> {
        let mut made = 0;
        loop {
            made += 1;
            match self.attempt(&ask).await {
                Ok(answer) => return Ok(answer),
                Err(tried) => tokio::time::sleep(self.pause_before_next(&ask, made, tried)?).await,
            }
        }
    }

    async fn attempt_whole(&self, ask: &Ask, max: usize) -> Result<(StatusCode, HeaderMap, Bytes), Tried> {
        let response = self.attempt(ask).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        match body_read(&ask.act, response, max, ask.idle).await {
            Ok(body) => Ok((status, headers, body)),
            Err(why @ ApiError::Transport { .. }) => Err(Tried::Again { why, wished: None, acted: Acted::Perhaps }),
            Err(why) => Err(Tried::Final(why)),
        }
    }

    /// How long to wait before attempt `made + 1`, or the error when there shall be none.
    fn pause_before_next(&self, ask: &Ask, made: u32, tried: Tried) -> Result<Duration, ApiError> {
        let (why, wished) = match tried {
            Tried::Final(why) => return Err(why),
            Tried::Again { why, wished, .. } => (why, wished),
        };
        let most = match self.inner.reached.load(Ordering::Relaxed) {
            true => self.inner.attempts,
            false => self.inner.attempts.min(3),
        };
        match ask.again && made < most {
            true => Ok(wished.unwrap_or_else(|| pause(made))),
            false => Err(why),
        }
    }

    pub(super) async fn fetch_json<T: DeserializeOwned>(&self, ask: Ask) -> Result<T, ApiError> {
        let act = ask.act.clone();
        let (_, _, body) = self.fetch(ask, JSON_MAX).await?;
        json_read(&act, &body)
    }

    pub(super) async fn fetch_nothing(&self, ask: Ask) -> Result<(), ApiError> {
        self.fetch(ask, JSON_MAX).await.map(drop)
    }

    /// Makes the call once with a body that comes as it goes; the source sets the pace, so no limit is set.
    pub(super) async fn open_streaming<S>(&self, ask: Ask, body: S) -> Result<Response, ApiError>
    where
        S: futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let sent = self.request(&ask).body(reqwest::Body::wrap_stream(body)).send().await;
        let response = sent.map_err(|why| ApiError::Transport { act: ask.act.clone(), reason: transport(&why) })?;
        match response.status().is_success() {
            true => Ok(response),
            false => Err(match refused(&ask, response).await {
                Tried::Again { why, .. } | Tried::Final(why) => why,
            }),
        }
    }

    fn request(&self, ask: &Ask) -> reqwest::RequestBuilder {
        let mut request = self.inner.http.request(ask.method.clone(), ask.url.clone()).headers(ask.headers.clone());
        request = request.header(CLIENT_HEADER, VERSION);
        if let (true, Some(token)) = (ask.token, &self.inner.token) {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .expect("Client::new takes only tokens of visible ASCII characters");
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request
    }

    async fn attempt(&self, ask: &Ask) -> Result<Response, Tried> {
        let mut request = self.request(ask);
        if ask.headers.contains_key(CONTENT_TYPE) {
            request = request.body(ask.body.clone());
        }
        let gone = |reason: String, acted: Acted| {
            let why = ApiError::Transport { act: ask.act.clone(), reason };
            Tried::Again { why, wished: None, acted }
        };
        let response = match tokio::time::timeout(ask.send_limit(), request.send()).await {
            Err(_) => return Err(gone(format!("no answer from {} in time", self.server()), Acted::Perhaps)),
            Ok(Err(why)) if why.is_connect() => {
                return Err(gone(format!("{} ({})", transport(&why), self.server()), Acted::No));
            }
            Ok(Err(why)) => return Err(gone(transport(&why), Acted::Perhaps)),
            Ok(Ok(response)) => response,
        };
        self.inner.reached.store(true, Ordering::Relaxed);
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refused(ask, response).await)
    }
}

/// Doubles with each attempt; half of it is by chance, so that many clients do not come back together.
fn pause(made: u32) -> Duration {
    let full = PAUSE_FIRST.saturating_mul(1 << (made - 1).min(10)).min(PAUSE_MAX);
    full.mul_f64(rand::random_range(0.5..1.0))
}

async fn refused(ask: &Ask, response: Response) -> Tried {
    let status = response.status();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let body = body_read(&ask.act, response, 256 << 10, ask.idle).await.unwrap_or_default();
    let problem = serde_json::from_slice::<Problem>(&body).unwrap_or_else(|_| problem_guess(&ask.act, status));
    let error = ApiError::from(problem);
    // A proxy that lost the server, and a server that lost its database, do not know what came of it.
    let acted = if status.is_server_error() { Acted::Perhaps } else { Acted::No };
    match (status.as_u16(), retry_after) {
        // Somebody who waits in front of a terminal is told rather than kept for minutes.
        (429 | 502..=504, Some(seconds)) if seconds > RETRY_AFTER_MAX => Tried::Final(error),
        (429 | 502..=504, seconds) => Tried::Again { why: error, wished: seconds.map(Duration::from_secs), acted },
        _ => Tried::Final(error),
    }
}

/// Whether this answer to a repeated deletion means that an earlier attempt, whose answer was lost, did it.
fn gone_by_us(ask: &Ask, tried: &Tried) -> bool {
    let Tried::Final(why) = tried else { return false };
    ask.method == Method::DELETE && why.code() == Some(Code::NotFound)
}

/// A proxy in front, or a program that is no Slipway server, answers without a problem document.
fn problem_guess(act: &str, status: StatusCode) -> Problem {
    let code = match status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::Forbidden,
        404 => Code::NotFound,
        410 => Code::Gone,
        413 => Code::TooLarge,
        416 => Code::RangeNotSatisfiable,
        429 => Code::SlowDown,
        502..=504 => Code::Unavailable,
        507 => Code::NoSpace,
        _ => Code::Unknown,
    };
    let mut problem = Problem::new(code, format!("{act}: the server answered {status}"));
    problem.status = status.as_u16();
    problem
}

pub(super) fn json_read<T: DeserializeOwned>(act: &str, body: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(body).map_err(|why| ApiError::protocol(act, format!("the answer cannot be read: {why}")))
}

/// Reads at most `max` bytes; more, or a body that stops, is an error.
async fn body_read(act: &str, mut response: Response, max: usize, idle: Duration) -> Result<Bytes, ApiError> {
    let announced = response.content_length();
    if announced.is_some_and(|len| len > max as u64) {
        return Err(ApiError::protocol(act, format!("the answer has more than {max} bytes")));
    }
    let mut body = BytesMut::with_capacity(announced.unwrap_or(0) as usize);
    while let Some(part) = part_read(act, &mut response, idle).await? {
        if body.len() + part.len() > max {
            return Err(ApiError::protocol(act, format!("the answer has more than {max} bytes")));
        }
        body.extend_from_slice(&part);
    }
    Ok(body.freeze())
}

/// The next bytes of a body; a connection on which nothing comes is given up.
pub(super) async fn part_read(act: &str, response: &mut Response, idle: Duration) -> Result<Option<Bytes>, ApiError> {
    let reason = match tokio::time::timeout(idle, response.chunk()).await {
        Ok(Ok(part)) => return Ok(part),
        Ok(Err(why)) => transport(&why),
        Err(_) => format!("nothing came for {} s", idle.as_secs()),
    };
    Err(ApiError::Transport { act: act.to_owned(), reason })
}

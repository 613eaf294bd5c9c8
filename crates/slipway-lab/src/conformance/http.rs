//! As much of HTTP/1.1 as it takes to ask a service anything, well-formed or not: each request on a connection of its own.

use serde_json::Value;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

/// How long an answer may take: longer than the deadline that a service has for its kernel.
const PATIENCE: Duration = Duration::from_secs(90);
/// What an answer may be at most.
const ANSWER_MAX: u64 = 64 << 20;
/// The API's own part of a URL.
const BASE: &str = "/imageapi/v1";

/// Where a service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Unix(PathBuf),
    Tcp(String),
}

/// A service.
#[derive(Clone, Debug)]
pub struct Client {
    place: Place,
    base: String,
    token: Option<String>,
}

/// What came back.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// What was asked, for messages.
    asked: String,
    pub(super) status: u16,
    /// Names in small letters.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

impl Client {
    /// From `unix:/path` or `http://host:port[/imageapi/v1]`. A token is sent with each request.
    ///
    /// # Errors
    /// When it is neither.
    pub fn new(url: &str, token: Option<String>) -> Result<Self, String> {
        let bare = |rest: &str| rest.trim_end_matches('/').to_owned();
        let (place, base) = match (url.strip_prefix("unix:"), url.strip_prefix("http://")) {
            (Some(path), _) if path.starts_with('/') => (Place::Unix(path.into()), BASE.to_owned()),
            (_, Some(rest)) => match rest.split_once('/') {
                Some((host, path)) if !bare(path).is_empty() => (Place::Tcp(host.into()), format!("/{}", bare(path))),
                _ => (Place::Tcp(bare(rest)), BASE.to_owned()),
            },
            _ => return Err(format!("'{url}' is neither unix:/path nor http://host:port/imageapi/v1")),
        };
        Ok(Self { place, base, token })
    }

    /// The process that listens, where the kernel tells: on a unix socket.
    pub(super) fn server(&self) -> Option<u32> {
        let Place::Unix(path) = &self.place else { return None };
        let stream = UnixStream::connect(path).ok()?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).ok()
    }

    /// The same without its token.
    pub(super) fn without_token(&self) -> Self {
        Self { token: None, ..self.clone() }
    }

    /// A path below the API's base path, in full.
    pub(super) fn path(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn connect(&self) -> io::Result<Box<dyn Stream>> {
        match &self.place {
            Place::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
            Place::Tcp(host) => {
                let stream = TcpStream::connect(host)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Box::new(stream))
            }
        }
    }

    /// Asks below the API's base path and gives status and body, for who measures a service.
    ///
    /// # Errors
    /// When no answer comes.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value), String> {
        self.ask(method, path, body).map(|answer| (answer.status, answer.json()))
    }

    /// Asks below the API's base path, with a body in JSON if there is one.
    pub(super) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, String> {
        let text = body.map(|body| body.to_string().into_bytes());
        let headers: &[(&str, &str)] = if text.is_some() { &[("Content-Type", "application/json")] } else { &[] };
        self.ask_raw(method, &self.path(path), headers, text.as_deref())
    }

    /// Asks for a whole path with these headers and bytes.
    pub(super) fn ask_raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> Result<Answer, String> {
        let length = body.map(|body| body.len() as u64);
        let parts = body.map(|body| body.to_vec());
        self.ask_streamed(method, path, headers, length, parts.into_iter())
    }

    /// Announces a body, sends a part of it and hangs up.
    pub(super) fn hang_up(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: u64,
        part: &[u8],
    ) -> Result<(), String> {
        let head = self.head(method, path, headers, Some(length));
        let sent = self.connect().and_then(|mut stream| {
            stream.write_all(head.as_bytes())?;
            stream.write_all(part)
        });
        sent.map_err(|why| format!("{method} {path}: {why}"))
    }

    fn head(&self, method: &str, path: &str, headers: &[(&str, &str)], length: Option<u64>) -> String {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n");
        if let Some(token) = &self.token {
            head.push_str(&format!("Authorization: Bearer {token}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(length) = length {
            head.push_str(&format!("Content-Length: {length}\r\n"));
        }
        head.push_str("\r\n");
        head
    }

    /// Announces a body of some length and sends these parts of it; that the service stops listening on the way is no error.
    pub(super) fn ask_streamed(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        length: Option<u64>,
        parts: impl Iterator<Item = Vec<u8>>,
    ) -> Result<Answer, String> {
        let asked = format!("{method} {path}");
        let wrong = |what: &str, why: io::Error| format!("{asked}: {what}: {why}");
        let mut stream = self.connect().map_err(|why| wrong("connecting", why))?;
        let head = self.head(method, path, headers, length);
        stream.write_all(head.as_bytes()).map_err(|why| wrong("sending", why))?;
        for part in parts {
            if stream.write_all(&part).is_err() {
                break;
            }
        }
        let mut bytes = Vec::new();
        // A connection that is reset behind an answer has given the answer.
        let read = stream.take(ANSWER_MAX).read_to_end(&mut bytes);
        match (Answer::parse(asked.clone(), &bytes), read) {
            (Some(answer), _) => Ok(answer),
            (None, Err(why)) => Err(wrong("waiting for an answer", why)),
            (None, Ok(_)) => Err(format!("{asked}: the connection ended without an answer")),
        }
    }
}

impl Answer {
    fn parse(asked: String, bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let rest = &bytes[end + 4..];
        let is_chunked = headers.iter().any(|(name, value)| name == "transfer-encoding" && value == "chunked");
        let body = if is_chunked { unchunked(rest)? } else { rest.to_vec() };
        Some(Self { asked, status, headers, body })
    }

    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    /// The body in JSON; null if it is none.
    pub(super) fn json(&self) -> Value {
        let mut reader = serde_json::Deserializer::from_slice(&self.body);
        // An answer shows 64 levels of objects, each of which is several of JSON.
        reader.disable_recursion_limit();
        serde::Deserialize::deserialize(&mut reader).unwrap_or_default()
    }

    /// The body, if the status is this one.
    pub(super) fn is(&self, status: u16) -> Result<Value, String> {
        match self.status == status {
            true => Ok(self.json()),
            false => Err(format!("{}: expected {status}, got {self}", self.asked)),
        }
    }

    /// An error of the API with this status and code, whose message has these words.
    pub(super) fn refused(&self, status: u16, code: u16, words: &str) -> Result<Value, String> {
        let body = self.is(status)?;
        let message = body["message"].as_str();
        let fits = body["code"] == code && message.is_some_and(|message| message.contains(words));
        match fits && self.header("content-type").starts_with("application/json") {
            true => Ok(body),
            false => {
                Err(format!("{}: expected JSON with code {code} and a message with '{words}', got {self}", self.asked))
            }
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text: String = String::from_utf8_lossy(&self.body).chars().take(600).collect();
        write!(f, "{} {}", self.status, text.trim())
    }
}

fn unchunked(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&rest[..end]).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        rest = &rest[end + 2..];
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(rest.get(..size)?);
        rest = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Client, Place};

    #[test]
    fn answers_are_read_whole_and_in_pieces() {
        let plain = Answer::parse(
            "x".into(),
            b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\r\n{\"code\":404,\"message\":\"not found\"}",
        )
        .unwrap();
        assert!(plain.refused(404, 404, "not found").is_ok() && plain.is(200).is_err());
        let chunked = Answer::parse(
            "x".into(),
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[1\r\n2;x=y\r\n,2\r\n1\r\n]\r\n0\r\n\r\n",
        )
        .unwrap();
        assert_eq!(chunked.is(200).unwrap(), serde_json::json!([1, 2]));
    }

    #[test]
    fn urls_of_both_kinds() {
        let of = |url: &str| Client::new(url, None).map(|client| (client.place, client.base));
        assert_eq!(of("unix:/run/s").unwrap(), (Place::Unix("/run/s".into()), "/imageapi/v1".into()));
        assert_eq!(of("http://h:1/").unwrap(), (Place::Tcp("h:1".into()), "/imageapi/v1".into()));
        assert_eq!(of("http://h:1/other/").unwrap(), (Place::Tcp("h:1".into()), "/other".into()));
        assert!(of("https://h").is_err() && of("unix:x").is_err());
    }
}

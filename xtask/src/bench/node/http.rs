//! Requests over a unix socket, one connection each, as `curl --unix-socket` makes them.

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const BASE: &str = "/imageapi/v1";

/// A call below the base path; its status and its JSON.
pub(super) fn call(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
    let (status, text) = raw(socket, method, &format!("{BASE}{path}"), body)?;
    let json = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
    Ok((status, json))
}

/// The same, which must succeed.
pub(super) fn ok(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
    let (status, json) = call(socket, method, path, body)?;
    if !(200..300).contains(&status) {
        bail!("{method} {path}: {status} {json}");
    }
    Ok(json)
}

/// A call of any path.
pub(super) fn raw(socket: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket).with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(120)))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let kind = if body.is_empty() { "" } else { "Content-Type: application/json\r\n" };
    let len = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}Content-Length: {len}\r\n\r\n{body}"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("reading an answer")?;
    let (head, rest) = text.split_once("\r\n\r\n").context("an answer without a head")?;
    let status =
        head.split_whitespace().nth(1).and_then(|word| word.parse().ok()).context("an answer without a status")?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if is_chunked { chunks_join(rest) } else { rest.to_owned() }))
}

fn chunks_join(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((len, rest)) = text.split_once("\r\n") {
        let len = usize::from_str_radix(len.trim(), 16).unwrap_or(0);
        if len == 0 || len > rest.len() {
            break;
        }
        whole.push_str(&rest[..len]);
        text = rest[len..].trim_start_matches("\r\n");
    }
    whole
}

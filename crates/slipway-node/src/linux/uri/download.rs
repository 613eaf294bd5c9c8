//! The bytes of an address as a reader, with a limit of bytes and of time, and what they sum up to.

use crate::refusal::DriverError;
use blake3::Hasher as Blake3;
use bytes::{Buf, Bytes};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use slipway_api::{Fetch, FetchError};
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// The longest silence of a server.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// What the bytes must sum up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Checksum {
    Sha256([u8; 32]),
    Blake3([u8; 32]),
}

impl Checksum {
    /// `sha256:HEX` or `blake3:HEX`; none if empty.
    pub(super) fn of(text: &str) -> Result<Option<Self>, String> {
        if text.is_empty() {
            return Ok(None);
        }
        let made = text.split_once(':').and_then(|(method, hex)| {
            let sum = bytes_of(hex)?;
            match method {
                "sha256" => Some(Self::Sha256(sum)),
                "blake3" => Some(Self::Blake3(sum)),
                _ => None,
            }
        });
        let wrong = || "uri.checksum is not sha256: or blake3: with 64 hexadecimal digits".to_owned();
        made.map(Some).ok_or_else(wrong)
    }
}

fn bytes_of(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let mut sum = [0; 32];
    for (at, byte) in sum.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(sum)
}

/// What the bytes summed up to so far; shared with who reads them.
#[derive(Clone, Default)]
pub(super) struct Sums(Arc<Mutex<(Sha256, Blake3)>>);

impl Sums {
    fn add(&self, bytes: &[u8]) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sums.0.update(bytes);
        sums.1.update(bytes);
    }

    /// Compares, when all has been read.
    pub(super) fn check(&self, wanted: Option<&Checksum>) -> Result<(), DriverError> {
        let sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (wanted, found, method) = match wanted {
            None => return Ok(()),
            Some(Checksum::Sha256(wanted)) => (wanted, sums.0.clone().finalize().into(), "sha256"),
            Some(Checksum::Blake3(wanted)) => (wanted, *sums.1.finalize().as_bytes(), "blake3"),
        };
        if *wanted == found {
            return Ok(());
        }
        let hex: String = found.iter().map(|byte| format!("{byte:02x}")).collect();
        Err(DriverError::request("checksum", format!("what is there has {method}:{hex}, not what uri.checksum says")))
    }
}

/// A download under way, with a runtime of its own on the thread that reads.
pub(super) struct Download {
    runtime: Option<Runtime>,
    fetch: Fetch,
    part: Bytes,
    sums: Sums,
    max: u64,
    left: u64,
    limit: Duration,
    until: Instant,
    /// For what is said of it.
    server: String,
}

impl Download {
    /// Asks for an address; at most `max` bytes, within `limit`.
    pub(super) fn begin(uri: &str, max: u64, limit: Duration) -> Result<Self, DriverError> {
        let until = Instant::now() + limit;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| DriverError::other("download", error.to_string()))?;
        let begun = runtime.block_on(async { tokio::time::timeout(limit, Fetch::begin(uri, SILENCE_MAX)).await });
        let fetch = match begun {
            Ok(Ok(fetch)) => fetch,
            failed => {
                runtime.shutdown_background();
                let why = failed.ok().and_then(Result::err);
                return Err(why.map_or_else(|| overdue(limit), |why| refused(&server_of(uri), why)));
            }
        };
        let download = Self {
            runtime: Some(runtime),
            fetch,
            part: Bytes::new(),
            sums: Sums::default(),
            max,
            left: max,
            limit,
            until,
            server: server_of(uri),
        };
        match download.fetch.length() {
            Some(length) if length > max => Err(download.too_large()),
            _ => Ok(download),
        }
    }

    pub(super) fn sums(&self) -> Sums {
        self.sums.clone()
    }

    fn too_large(&self) -> DriverError {
        let text = format!("there are more than {} bytes; uri.size_limit allows no more", self.max);
        DriverError::request("download", text)
    }

    fn part_next(&mut self) -> Result<Option<Bytes>, DriverError> {
        let Some(runtime) = &self.runtime else { return Ok(None) };
        let (fetch, until) = (&mut self.fetch, tokio::time::Instant::from_std(self.until));
        match runtime.block_on(async { tokio::time::timeout_at(until, fetch.part_next()).await }) {
            Ok(part) => part.map_err(|why| refused(&self.server, why)),
            Err(_) => Err(overdue(self.limit)),
        }
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.part.is_empty() {
            let Some(part) = self.part_next().map_err(io::Error::other)? else { return Ok(0) };
            let len = part.len() as u64;
            if len > self.left {
                return Err(io::Error::other(self.too_large()));
            }
            self.left -= len;
            self.sums.add(&part);
            self.part = part;
        }
        let len = buffer.len().min(self.part.len());
        self.part.copy_to_slice(&mut buffer[..len]);
        Ok(len)
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A resolver that nobody answers is not waited for.
            runtime.shutdown_background();
        }
    }
}

fn overdue(limit: Duration) -> DriverError {
    DriverError::system("download", Errno::TIMEDOUT, format!("not all has come within the {limit:?} of uri.timeout"))
}

/// Host and port. What stands behind them may be nobody else's business.
fn server_of(uri: &str) -> String {
    uri.split('/').nth(2).unwrap_or_default().to_owned()
}

fn refused(server: &str, error: FetchError) -> DriverError {
    match &error {
        FetchError::Address(_) => DriverError::request("uri", format!("uri.uri: {error}")),
        FetchError::Host { .. } => DriverError::request("resolve", format!("uri.uri: {error}")),
        // It is there for others, or not there: what was asked for is wrong. Else the server failed.
        FetchError::Answer { status: 300..500 } => DriverError::request("download", format!("{server}: {error}")),
        FetchError::Answer { .. } | FetchError::Broken(_) => {
            DriverError::other("download", format!("{server}: {error}"))
        }
    }
}

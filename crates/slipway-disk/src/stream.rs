//! A block device read once from front to back, ahead of who uses the bytes.

use std::io;
use std::sync::Arc;

use crate::ahead::ReadAhead;
use crate::error::DiskError;
use crate::port::Port;

/// Bytes of one read.
const SPAN_LEN: u64 = 2 << 20;
/// Threads. Three spans are in memory: one for each of these, and the one that is used.
const READERS: usize = 2;

/// The bytes of a device in order.
pub(crate) struct DeviceStream {
    ahead: ReadAhead,
    /// So much of the current span was given out.
    used: usize,
}

impl DeviceStream {
    /// Begins to read.
    pub(crate) fn new(port: Port) -> io::Result<DeviceStream> {
        let size = port.len();
        let span = move |n: usize| {
            let at = n as u64 * SPAN_LEN;
            (at < size).then(|| (at, (size - at).min(SPAN_LEN) as usize))
        };
        Ok(DeviceStream { ahead: ReadAhead::new(&Arc::new(port), READERS, span)?, used: 0 })
    }

    /// Fills the front of `buf` and tells how much; nothing at the device's end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.used == self.ahead.bytes().len() {
            if !self.ahead.advance().map_err(said)? {
                return Ok(0);
            }
            self.used = 0;
        }
        let rest = &self.ahead.bytes()[self.used..];
        let len = rest.len().min(buf.len());
        buf[..len].copy_from_slice(&rest[..len]);
        self.used += len;
        Ok(len)
    }
}

/// Who uses the bytes knows the device, but not the place.
fn said(error: DiskError) -> io::Error {
    match error {
        DiskError::Io { at, source, .. } => io::Error::new(source.kind(), format!("at byte {at}: {source}")),
        other => io::Error::other(other),
    }
}

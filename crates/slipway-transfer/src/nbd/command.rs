//! Requests: read off the wire, and found right or wrong before anything is done.

use super::handshake::Terms;
use super::wire::{Errno, Fields, PAYLOAD_MAX, REQUEST, command, command_flag};

/// Bytes of a request's header.
pub(super) const HEADER: usize = 28;

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) flags: u16,
    pub(super) kind: u16,
    /// The client's name for it.
    pub(super) cookie: u64,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Request {
    /// Reads a header; `None` if it does not begin as one.
    pub(super) fn read(header: &[u8; HEADER]) -> Option<Self> {
        let mut fields = Fields(header);
        (fields.u32()? == REQUEST).then_some(())?;
        Some(Self {
            flags: fields.u16()?,
            kind: fields.u16()?,
            cookie: fields.u64()?,
            offset: fields.u64()?,
            len: fields.u32()?,
        })
    }

    /// Bytes that follow its header, whether it is right or wrong.
    pub(super) fn payload(&self) -> u32 {
        if self.kind == command::WRITE { self.len } else { 0 }
    }
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Give the bytes, in one chunk if `whole`.
    Read { whole: bool },
    /// Say what is a hole; only the first extent if `one`.
    Status { one: bool },
    /// Fetch the bytes, so that a READ finds them here.
    Cache,
    /// Nothing: a disk that is never written to is always flushed.
    Nothing,
}

/// A refused request: what to answer, and in words.
pub(super) type Refusal = (Errno, &'static str);

/// Finds out what a request wants of an export of `size` bytes.
///
/// # Errors
/// What to answer instead.
pub(super) fn work_plan(request: &Request, size: u64, terms: Terms) -> Result<Work, Refusal> {
    let inside = request.offset.checked_add(request.len.into()).is_some_and(|end| end <= size);
    let (known, work) = match request.kind {
        command::WRITE | command::TRIM | command::WRITE_ZEROES => return Err((Errno::Perm, "this disk is read-only")),
        command::READ => {
            let whole = request.flags & command_flag::DF != 0;
            (if terms.structured { command_flag::DF } else { 0 }, Work::Read { whole })
        }
        command::BLOCK_STATUS if terms.allocation => {
            (command_flag::REQ_ONE, Work::Status { one: request.flags & command_flag::REQ_ONE != 0 })
        }
        command::BLOCK_STATUS => return Err((Errno::Inval, "no context was chosen in the handshake")),
        command::CACHE => (0, Work::Cache),
        command::FLUSH => (0, Work::Nothing),
        _ => return Err((Errno::Inval, "this server does not know the request")),
    };
    match work {
        _ if request.flags & !known != 0 => Err((Errno::Inval, "this flag does not belong to the request")),
        Work::Nothing => Ok(work),
        Work::Read { .. } if request.len > PAYLOAD_MAX => Err((Errno::Overflow, "more than 32 MiB at once")),
        Work::Status { .. } if request.len == 0 => Err((Errno::Inval, "of no bytes there is no status")),
        _ if !inside => Err((Errno::Inval, "the disk ends before that")),
        Work::Read { .. } | Work::Status { .. } | Work::Cache => Ok(work),
    }
}

#[cfg(test)]
mod tests {
    use super::{HEADER, Request, Work, work_plan};
    use crate::nbd::handshake::Terms;
    use crate::nbd::wire::Errno;

    #[test]
    fn headers_begin_as_headers() {
        let mut header = [0; HEADER];
        assert_eq!(Request::read(&header), None);
        header[..4].copy_from_slice(&0x2560_9513_u32.to_be_bytes());
        header[5] = 4;
        header[7] = 7;
        header[15] = 9;
        header[23] = 8;
        header[27] = 5;
        let request = Request { flags: 4, kind: 7, cookie: 9, offset: 8, len: 5 };
        assert_eq!(Request::read(&header), Some(request));
    }

    #[test]
    fn every_request_has_its_answer() {
        const SIZE: u64 = 1 << 30;
        let full = Terms { structured: true, allocation: true };
        let plain = Terms::default();
        let read = Ok(Work::Read { whole: false });
        for (kind, flags, offset, len, terms, wanted) in [
            (0, 0, 0, 1, plain, read),
            (0, 0, SIZE - 1, 1, full, read),
            (0, 4, 0, 4096, full, Ok(Work::Read { whole: true })),
            (0, 0, SIZE, 0, plain, read),
            (0, 4, 0, 4096, plain, Err(Errno::Inval)),
            (0, 1, 0, 4096, full, Err(Errno::Inval)),
            (0, 0, SIZE, 1, full, Err(Errno::Inval)),
            (0, 0, SIZE - 1, 2, full, Err(Errno::Inval)),
            (0, 0, u64::MAX, 1, full, Err(Errno::Inval)),
            (0, 0, 0, (32 << 20) + 1, full, Err(Errno::Overflow)),
            (1, 0, 0, 512, full, Err(Errno::Perm)),
            (1, 1, u64::MAX, u32::MAX, full, Err(Errno::Perm)),
            (4, 0, 0, 512, full, Err(Errno::Perm)),
            (6, 0, 0, 512, plain, Err(Errno::Perm)),
            (3, 0, 0, 0, plain, Ok(Work::Nothing)),
            (3, 1, 0, 0, plain, Err(Errno::Inval)),
            (5, 0, 0, 64 << 20, plain, Ok(Work::Cache)),
            (5, 0, SIZE, 1, plain, Err(Errno::Inval)),
            (7, 0, 0, 64 << 20, full, Ok(Work::Status { one: false })),
            (7, 8, 0, 4096, full, Ok(Work::Status { one: true })),
            (7, 0, 0, 0, full, Err(Errno::Inval)),
            (7, 0, 1, SIZE as u32, full, Err(Errno::Inval)),
            (7, 0, 0, 4096, Terms { structured: true, allocation: false }, Err(Errno::Inval)),
            (8, 0, 0, 0, full, Err(Errno::Inval)),
            (65535, 65535, 0, 0, plain, Err(Errno::Inval)),
        ] {
            let request = Request { flags, kind, cookie: 1, offset, len };
            let plan = work_plan(&request, SIZE, terms).map_err(|(errno, _)| errno);
            assert_eq!(plan, wanted, "{request:?} {terms:?}");
        }
    }
}

//! The numbers of the protocol, as its document names them. Everything on the wire is big-endian.

/// "NBDMAGIC": what a server begins with.
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT": the newstyle, and what each option begins with.
pub(super) const OPTION: u64 = 0x4948_4156_454f_5054;
/// What each reply to an option begins with.
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
/// What each request begins with.
pub(super) const REQUEST: u32 = 0x2560_9513;
/// What a simple reply begins with.
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
/// What each chunk of a structured reply begins with.
pub(super) const CHUNK_REPLY: u32 = 0x668e_33ef;

/// Flags of the handshake, of the server and of the client.
pub(super) mod handshake_flag {
    pub(in crate::nbd) const FIXED_NEWSTYLE: u16 = 1;
    pub(in crate::nbd) const NO_ZEROES: u16 = 2;
}

/// Options.
pub(super) mod option {
    pub(in crate::nbd) const EXPORT_NAME: u32 = 1;
    pub(in crate::nbd) const ABORT: u32 = 2;
    pub(in crate::nbd) const LIST: u32 = 3;
    pub(in crate::nbd) const STARTTLS: u32 = 5;
    pub(in crate::nbd) const INFO: u32 = 6;
    pub(in crate::nbd) const GO: u32 = 7;
    pub(in crate::nbd) const STRUCTURED_REPLY: u32 = 8;
    pub(in crate::nbd) const LIST_META_CONTEXT: u32 = 9;
    pub(in crate::nbd) const SET_META_CONTEXT: u32 = 10;
}

/// Replies to options.
pub(super) mod answer {
    pub(in crate::nbd) const ACK: u32 = 1;
    pub(in crate::nbd) const SERVER: u32 = 2;
    pub(in crate::nbd) const INFO: u32 = 3;
    pub(in crate::nbd) const META_CONTEXT: u32 = 4;
    pub(in crate::nbd) const ERR_UNSUP: u32 = 0x8000_0001;
    pub(in crate::nbd) const ERR_INVALID: u32 = 0x8000_0003;
    pub(in crate::nbd) const ERR_UNKNOWN: u32 = 0x8000_0006;
    pub(in crate::nbd) const ERR_TOO_BIG: u32 = 0x8000_0009;
}

/// Kinds of information about an export.
pub(super) mod info {
    pub(in crate::nbd) const EXPORT: u16 = 0;
    pub(in crate::nbd) const NAME: u16 = 1;
    pub(in crate::nbd) const DESCRIPTION: u16 = 2;
    pub(in crate::nbd) const BLOCK_SIZE: u16 = 3;
}

/// What an export can do.
pub(super) mod export_flag {
    pub(in crate::nbd) const HAS_FLAGS: u16 = 1;
    pub(in crate::nbd) const READ_ONLY: u16 = 1 << 1;
    pub(in crate::nbd) const SEND_FLUSH: u16 = 1 << 2;
    pub(in crate::nbd) const SEND_DF: u16 = 1 << 7;
    pub(in crate::nbd) const CAN_MULTI_CONN: u16 = 1 << 8;
    pub(in crate::nbd) const SEND_CACHE: u16 = 1 << 10;
}

/// Requests.
pub(super) mod command {
    pub(in crate::nbd) const READ: u16 = 0;
    pub(in crate::nbd) const WRITE: u16 = 1;
    pub(in crate::nbd) const DISCONNECT: u16 = 2;
    pub(in crate::nbd) const FLUSH: u16 = 3;
    pub(in crate::nbd) const TRIM: u16 = 4;
    pub(in crate::nbd) const CACHE: u16 = 5;
    pub(in crate::nbd) const WRITE_ZEROES: u16 = 6;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 7;
}

/// Flags of requests.
pub(super) mod command_flag {
    /// Do not fragment: one chunk with all of the data.
    pub(in crate::nbd) const DF: u16 = 1 << 2;
    /// One extent is enough.
    pub(in crate::nbd) const REQ_ONE: u16 = 1 << 3;
}

/// Kinds of chunks.
pub(super) mod chunk {
    pub(in crate::nbd) const NONE: u16 = 0;
    pub(in crate::nbd) const OFFSET_DATA: u16 = 1;
    pub(in crate::nbd) const OFFSET_HOLE: u16 = 2;
    pub(in crate::nbd) const BLOCK_STATUS: u16 = 5;
    pub(in crate::nbd) const ERROR: u16 = 0x8001;
    /// The flag of a reply's last chunk.
    pub(in crate::nbd) const DONE: u16 = 1;
}

/// The errors that the protocol knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Errno {
    Perm = 1,
    Io = 5,
    Inval = 22,
    Overflow = 75,
}

/// The flags of `base:allocation`: a hole that reads as zeros. Data has none.
pub(super) const STATE_HOLE_ZERO: u32 = 0b11;
/// The one context that there is.
pub(super) const ALLOCATION: &str = "base:allocation";
/// Its number in block status replies.
pub(super) const ALLOCATION_ID: u32 = 1;

/// The longest string that the protocol allows.
pub(super) const STRING_MAX: usize = 4096;
/// The longest READ, as the document proposes it.
pub(super) const PAYLOAD_MAX: u32 = 32 << 20;
/// What reads should be aligned to: the blocks that holes are made of.
pub(super) const PREFERRED_BLOCK: u32 = 4096;

/// Reads big-endian numbers and strings off the front of a message; `None` once it is too short.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.bytes(2)?.try_into().ok().map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.bytes(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.bytes(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    /// A string with its length in front.
    pub(super) fn string(&mut self) -> Option<&'a str> {
        let len = self.u32()? as usize;
        let bytes = self.bytes(len)?;
        string_checked(bytes)
    }
}

/// Bytes as a string that the protocol allows: UTF-8, not longer than 4096 bytes, without NUL.
pub(super) fn string_checked(bytes: &[u8]) -> Option<&str> {
    let fine = bytes.len() <= STRING_MAX && !bytes.contains(&0);
    std::str::from_utf8(bytes).ok().filter(|_| fine)
}

/// The longest beginning of a text that is at most so many bytes.
pub(super) fn text_cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

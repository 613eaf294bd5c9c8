//! The handshake of a client, up to the point from which the kernel speaks: the fixed newstyle with `NBD_OPT_GO`, and `NBD_OPT_EXPORT_NAME` for
//! servers that do not know that. Structured replies are not asked for: the kernel's client does not read them.

use super::wire::{
    GREETING, OLDSTYLE, OPTION, OPTION_REPLY, STRING_MAX, answer, export_flag, handshake_flag, info, option,
};
use crate::refusal::DriverError;
use std::io::{self, Read, Write};

/// A server that goes on and on with information means no good.
const REPLIES_MAX: usize = 64;
/// Data of a reply that is longer than a name and a text.
const REPLY_MAX: u32 = 64 << 10;
/// What `NBD_OPT_EXPORT_NAME` is padded with unless that was agreed to be left out.
const ZEROES: usize = 124;
/// As much of a server's own words as a person reads.
const WORDS_MAX: usize = 400;

/// What a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Bytes.
    pub(super) size: u64,
    /// What it can do.
    pub(super) flags: u16,
    /// The smallest request, in bytes; 512 if the server did not say, as the protocol has it.
    pub(super) block_min: u32,
    /// The largest request, if the server said.
    pub(super) block_max: Option<u32>,
}

impl Export {
    pub(super) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }
}

const STEP: &str = "nbd_negotiate";

fn broken(what: &str) -> DriverError {
    DriverError::other(STEP, format!("the server does not speak NBD as it should: {what}"))
}

fn lost(error: &io::Error) -> DriverError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            DriverError::other(STEP, "the server ended the connection")
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            DriverError::other(STEP, "the server took the connection and said nothing in time")
        }
        _ => DriverError::other(STEP, format!("talking to the server: {error}")),
    }
}

fn bytes<const LEN: usize>(stream: &mut impl Read) -> Result<[u8; LEN], DriverError> {
    let mut bytes = [0; LEN];
    stream.read_exact(&mut bytes).map_err(|error| lost(&error))?;
    Ok(bytes)
}

fn u16_read(stream: &mut impl Read) -> Result<u16, DriverError> {
    bytes(stream).map(u16::from_be_bytes)
}

fn u32_read(stream: &mut impl Read) -> Result<u32, DriverError> {
    bytes(stream).map(u32::from_be_bytes)
}

fn u64_read(stream: &mut impl Read) -> Result<u64, DriverError> {
    bytes(stream).map(u64::from_be_bytes)
}

/// Chooses an export.
///
/// # Errors
/// 400 when the server has none of that name or does not give it to us, else what it said or did not say.
pub(super) fn negotiate(stream: &mut (impl Read + Write), export: &str) -> Result<Export, DriverError> {
    let no_zeroes = greet(stream)?;
    choose(stream, export, no_zeroes)
}

/// Up to the options; says whether padding was agreed to be left out.
fn greet(stream: &mut (impl Read + Write)) -> Result<bool, DriverError> {
    if u64_read(stream)? != GREETING {
        return Err(broken("it does not begin as an NBD server"));
    }
    match u64_read(stream)? {
        OPTION => {}
        OLDSTYLE => return Err(broken("it has the old style, which knows no exports by name; use a newer server")),
        _ => return Err(broken("its greeting is of no known style")),
    }
    let theirs = u16_read(stream)?;
    if theirs & handshake_flag::FIXED_NEWSTYLE == 0 {
        return Err(broken("it lacks the fixed newstyle; use a newer server"));
    }
    let ours = theirs & (handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES);
    send(stream, &u32::from(ours).to_be_bytes())?;
    Ok(ours & handshake_flag::NO_ZEROES != 0)
}

/// The options, on a connection that has greeted.
pub(super) fn choose(stream: &mut (impl Read + Write), export: &str, no_zeroes: bool) -> Result<Export, DriverError> {
    match go(stream, export)? {
        Some(found) => Ok(found),
        None => export_name(stream, export, no_zeroes),
    }
}

/// Up to the point at which TLS begins; as [`greet`]. Nothing that is said before is used after, but that.
///
/// # Errors
/// 400 when the server has no TLS: then nothing else is tried.
pub(super) fn starttls(stream: &mut (impl Read + Write)) -> Result<bool, DriverError> {
    let no_zeroes = greet(stream)?;
    option_send(stream, option::STARTTLS, &[])?;
    match reply_read(stream, option::STARTTLS)?.0 {
        answer::ACK => Ok(no_zeroes),
        answer::ERR_UNSUP | answer::ERR_POLICY | answer::ERR_INVALID => {
            let text = "the server has no TLS, and nbd.tls does not go without";
            Err(DriverError::request(STEP, text))
        }
        other => Err(broken(&format!("it answers the wish for TLS with {other:#x}"))),
    }
}

/// Asks for facts of an export, and changes nothing. With TLS of version 1.3 a server's word on the client's certificate comes only with the
/// first answer.
pub fn nbd_info_request(export: &str) -> Vec<u8> {
    let name = export.as_bytes();
    option_bytes(option::INFO, &[&(name.len() as u32).to_be_bytes()[..], name, &[0, 0]].concat())
}

/// Bytes at the beginning of each reply to an option.
pub const NBD_REPLY_HEAD: usize = 20;

/// Of the beginning of a reply to [`nbd_info_request`]: how many bytes follow, and whether it is the last one.
///
/// # Errors
/// When it is no such reply.
pub fn nbd_info_reply(head: [u8; NBD_REPLY_HEAD]) -> Result<(u32, bool), DriverError> {
    let (kind, len) = reply_head(&mut &head[..], option::INFO)?;
    Ok((len, kind == answer::ACK || kind & answer::ERROR != 0))
}

fn send(stream: &mut impl Write, bytes: &[u8]) -> Result<(), DriverError> {
    stream.write_all(bytes).and_then(|()| stream.flush()).map_err(|error| lost(&error))
}

fn option_send(stream: &mut impl Write, kind: u32, data: &[u8]) -> Result<(), DriverError> {
    send(stream, &option_bytes(kind, data))
}

fn option_bytes(kind: u32, data: &[u8]) -> Vec<u8> {
    [&OPTION.to_be_bytes()[..], &kind.to_be_bytes(), &(data.len() as u32).to_be_bytes(), data].concat()
}

/// The kind of a reply, and how long its data is.
fn reply_head(stream: &mut impl Read, of: u32) -> Result<(u32, u32), DriverError> {
    if u64_read(stream)? != OPTION_REPLY {
        return Err(broken("a reply does not begin as one"));
    }
    let (to, kind, len) = (u32_read(stream)?, u32_read(stream)?, u32_read(stream)?);
    if to != of || len > REPLY_MAX {
        return Err(broken("a reply is to something else, or too long"));
    }
    Ok((kind, len))
}

fn reply_read(stream: &mut impl Read, of: u32) -> Result<(u32, Vec<u8>), DriverError> {
    let (kind, len) = reply_head(stream, of)?;
    let mut data = vec![0; len as usize];
    stream.read_exact(&mut data).map_err(|error| lost(&error))?;
    Ok((kind, data))
}

/// `None` when the server does not know the option.
fn go(stream: &mut (impl Read + Write), export: &str) -> Result<Option<Export>, DriverError> {
    let name = export.as_bytes();
    let asked = [&(name.len() as u32).to_be_bytes()[..], name, &1_u16.to_be_bytes(), &info::BLOCK_SIZE.to_be_bytes()];
    option_send(stream, option::GO, &asked.concat())?;
    let mut found: Option<(u64, u16)> = None;
    let mut blocks: Option<(u32, u32)> = None;
    for _ in 0..REPLIES_MAX {
        let (kind, data) = reply_read(stream, option::GO)?;
        match kind {
            answer::ACK => {
                let (size, flags) = found.ok_or_else(|| broken("it gave an export without its size"))?;
                let (block_min, block_max) = blocks.map_or((512, None), |(min, max)| (min, Some(max)));
                return Ok(Some(Export { size, flags, block_min, block_max }));
            }
            answer::INFO => match (data.split_first_chunk(), &data[..]) {
                (Some((kind, rest)), _) if u16::from_be_bytes(*kind) == info::EXPORT => {
                    let (size, flags) = rest.split_at_checked(8).ok_or_else(|| broken("a short reply"))?;
                    let numbers = size.try_into().ok().map(u64::from_be_bytes);
                    found = numbers.zip(flags.try_into().ok().map(u16::from_be_bytes));
                }
                (Some((kind, rest)), _) if u16::from_be_bytes(*kind) == info::BLOCK_SIZE => {
                    let numbers: Vec<u32> = rest.as_chunks().0.iter().copied().map(u32::from_be_bytes).collect();
                    let [min, _, max] = numbers[..] else { return Err(broken("a short reply")) };
                    blocks = Some((min, max));
                }
                // What else it may tell is not of use here.
                _ => {}
            },
            answer::ERR_UNSUP => return Ok(None),
            kind if kind & answer::ERROR != 0 => return Err(refused(kind, export, &data)),
            _ => {}
        }
    }
    Err(broken("it answers without end"))
}

/// What a server's refusal means, and its own words.
fn refused(kind: u32, export: &str, data: &[u8]) -> DriverError {
    let named = if export.is_empty() { "its default export".to_owned() } else { format!("the export '{export}'") };
    let meaning = match kind {
        answer::ERR_UNKNOWN => format!("the server has not {named}"),
        answer::ERR_POLICY => format!("the server does not let this node have {named}"),
        answer::ERR_TLS_REQD => {
            format!("the server gives {named} only with TLS; name its CA in nbd.tls.ca_ref")
        }
        answer::ERR_SHUTDOWN => "the server is shutting down".to_owned(),
        answer::ERR_BLOCK_SIZE_REQD => format!("the server gives {named} only to clients that heed its block size"),
        other => format!("the server refused {named} with error {:#x}", other & !answer::ERROR),
    };
    let words: String = String::from_utf8_lossy(data).chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
    let text = if words.trim().is_empty() { meaning } else { format!("{meaning}: {}", words.trim()) };
    match kind {
        answer::ERR_UNKNOWN | answer::ERR_POLICY | answer::ERR_TLS_REQD => DriverError::request(STEP, text),
        _ => DriverError::other(STEP, text),
    }
}

/// The option of older servers, which answer no error but hang up.
fn export_name(stream: &mut (impl Read + Write), export: &str, no_zeroes: bool) -> Result<Export, DriverError> {
    option_send(stream, option::EXPORT_NAME, export.as_bytes())?;
    let size = u64_read(stream).map_err(|error| match error.error.text.contains("ended the connection") {
        true => DriverError::request(STEP, format!("the server hung up when asked for the export '{export}'")),
        false => error,
    })?;
    let flags = u16_read(stream)?;
    if !no_zeroes {
        bytes::<ZEROES>(stream)?;
    }
    Ok(Export { size, flags, block_min: 512, block_max: None })
}

/// Whether the protocol takes this as a name.
pub(super) fn name_check(export: &str) -> Result<(), DriverError> {
    match export.len() <= STRING_MAX && !export.contains('\0') {
        true => Ok(()),
        false => Err(DriverError::request(STEP, format!("nbd.export is longer than {STRING_MAX} bytes, or has a NUL"))),
    }
}

/// The bytes of the kernel's blocks for an export of a server: its smallest request, and at least a sector.
///
/// # Errors
/// When no kernel can have such blocks, or the size is not one of a device.
pub(super) fn block_size(export: &Export) -> Result<u32, DriverError> {
    let block = export.block_min.max(512);
    if !block.is_power_of_two() || block > 4096 {
        let text = format!("the server takes requests of at least {block} bytes; the kernel's blocks have 512 to 4096");
        return Err(DriverError::other(STEP, text));
    }
    if export.size == 0 || !export.size.is_multiple_of(u64::from(block)) || i64::try_from(export.size).is_err() {
        let text = format!(
            "the export has {} bytes, which is no number of whole blocks of {block}; let the server round it up",
            export.size
        );
        return Err(DriverError::other(STEP, text));
    }
    if !export.has(export_flag::HAS_FLAGS) {
        return Err(broken("it has no flags for the export"));
    }
    Ok(block)
}

#[cfg(test)]
mod tests;

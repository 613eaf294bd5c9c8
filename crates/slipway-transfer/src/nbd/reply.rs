//! Replies: made whole on a thread that may wait for the source, then written in one go.

use super::command::Request;
use super::exports::NbdSource;
use super::wire::{ALLOCATION_ID, CHUNK_REPLY, Errno, SIMPLE_REPLY, STATE_HOLE_ZERO, STRING_MAX, chunk, text_cut};
use crate::{Stretch, TransferError};

/// So many bytes of an image are read and sent at a time: what a request costs in memory.
pub(super) const PIECE: u32 = 1 << 20;
/// A longer list of extents is cut, which a client must expect.
const EXTENTS_MAX: usize = 2048;
/// So far is looked for extents at a time.
const LOOK: u64 = 1 << 30;

/// A request that is done and has nothing to say.
pub(super) fn done(request: &Request, structured: bool) -> Vec<u8> {
    match structured {
        true => chunk_head(request, chunk::DONE, chunk::NONE, 0),
        false => simple_head(request, 0),
    }
}

/// A request that is not done.
pub(super) fn error(request: &Request, structured: bool, errno: Errno, words: &str) -> Vec<u8> {
    if !structured {
        return simple_head(request, errno as u32);
    }
    let words = text_cut(words, STRING_MAX).as_bytes();
    let mut out = chunk_head(request, chunk::DONE, chunk::ERROR, 6 + words.len() as u32);
    out.extend_from_slice(&(errno as u32).to_be_bytes());
    out.extend_from_slice(&(words.len() as u16).to_be_bytes());
    out.extend_from_slice(words);
    out
}

/// `len` bytes from `offset` on as chunks of data and of holes; the reply goes on.
pub(super) fn read_chunks(
    source: &dyn NbdSource,
    request: &Request,
    offset: u64,
    len: u32,
) -> Result<Vec<u8>, TransferError> {
    let mut out = Vec::new();
    for part in source.extents(offset, len.into())? {
        // The source gives no more than was asked for.
        let part_len = part.len as u32;
        match part.hole {
            true => {
                out.extend(chunk_head(request, 0, chunk::OFFSET_HOLE, 12));
                out.extend_from_slice(&part.offset.to_be_bytes());
                out.extend_from_slice(&part_len.to_be_bytes());
            }
            false => data_chunk(source, request, part.offset, part_len, &mut out)?,
        }
    }
    Ok(out)
}

/// The same as one chunk of data, whatever is a hole in it.
pub(super) fn read_whole(source: &dyn NbdSource, request: &Request) -> Result<Vec<u8>, TransferError> {
    let mut out = Vec::new();
    data_chunk(source, request, request.offset, request.len, &mut out)?;
    Ok(out)
}

fn data_chunk(
    source: &dyn NbdSource,
    request: &Request,
    offset: u64,
    len: u32,
    out: &mut Vec<u8>,
) -> Result<(), TransferError> {
    out.extend(chunk_head(request, 0, chunk::OFFSET_DATA, 8 + len));
    out.extend_from_slice(&offset.to_be_bytes());
    data_append(source, offset, len, out)
}

/// The bytes alone.
pub(super) fn data_append(
    source: &dyn NbdSource,
    offset: u64,
    len: u32,
    out: &mut Vec<u8>,
) -> Result<(), TransferError> {
    let at = out.len();
    out.resize(at + len as usize, 0);
    source.read_at(offset, &mut out[at..])
}

/// The header of a simple reply; without error, the data follows.
pub(super) fn simple_head(request: &Request, errno: u32) -> Vec<u8> {
    [&SIMPLE_REPLY.to_be_bytes()[..], &errno.to_be_bytes(), &request.cookie.to_be_bytes()].concat()
}

/// What is a hole in the request's range, as far as the list goes.
pub(super) fn status(source: &dyn NbdSource, request: &Request, one: bool) -> Result<Vec<u8>, TransferError> {
    let extents = status_find(source, request, if one { 1 } else { EXTENTS_MAX })?;
    let mut out = chunk_head(request, chunk::DONE, chunk::BLOCK_STATUS, 4 + 8 * extents.len() as u32);
    out.extend_from_slice(&ALLOCATION_ID.to_be_bytes());
    for extent in extents {
        out.extend_from_slice(&(extent.len as u32).to_be_bytes());
        out.extend_from_slice(&(if extent.hole { STATE_HOLE_ZERO } else { 0 }).to_be_bytes());
    }
    Ok(out)
}

/// At least one extent, at most `most`.
fn status_find(source: &dyn NbdSource, request: &Request, most: usize) -> Result<Vec<Stretch>, TransferError> {
    let end = request.offset + u64::from(request.len);
    let mut found: Vec<Stretch> = Vec::new();
    let mut at = request.offset;
    while at < end && found.len() <= most {
        let len = LOOK.min(end - at);
        let next = match source.extents(at, len) {
            Ok(next) => next,
            // What is known already is an answer.
            Err(_) if !found.is_empty() => break,
            Err(why) => return Err(why),
        };
        for stretch in next {
            match found.last_mut().filter(|last| last.hole == stretch.hole) {
                Some(last) => last.len += stretch.len,
                None => found.push(stretch),
            }
        }
        at += len;
    }
    found.truncate(most);
    Ok(found)
}

fn chunk_head(request: &Request, flags: u16, kind: u16, len: u32) -> Vec<u8> {
    let head = [&CHUNK_REPLY.to_be_bytes()[..], &flags.to_be_bytes(), &kind.to_be_bytes()].concat();
    [&head[..], &request.cookie.to_be_bytes(), &len.to_be_bytes()].concat()
}

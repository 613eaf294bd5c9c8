//! The handshake: from the greeting to an export, or to the end.

use super::exports::{NbdExport, NbdExports};
use super::option::{Choice, choice_read, contexts_read};
use super::serve::NbdLimits;
use super::wire::{
    ALLOCATION, ALLOCATION_ID, GREETING, OPTION, OPTION_REPLY, PAYLOAD_MAX, PREFERRED_BLOCK, STRING_MAX, answer,
    export_flag, handshake_flag, info, option, string_checked, text_cut,
};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longer data of an option is nobody's who means well: a name and a few queries.
const OPTION_MAX: u32 = 64 << 10;

/// What was agreed on.
pub(super) struct Agreed {
    pub(super) export: NbdExport,
    pub(super) terms: Terms,
}

/// How the two ends talk from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terms {
    /// Replies are structured: holes can be told, and errors have words.
    pub(super) structured: bool,
    /// BLOCK_STATUS may be asked for.
    pub(super) allocation: bool,
}

/// What the client has asked for so far.
#[derive(Default)]
struct Asked {
    structured: bool,
    /// The export for which it wants `base:allocation`.
    context_of: Option<String>,
    no_zeroes: bool,
}

enum Step {
    Next,
    Chosen(Agreed),
    Bye,
}

/// Talks until the client has chosen an export; `None` when it went in good order.
///
/// # Errors
/// When the client breaks the protocol or the connection.
pub(super) async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exports: &NbdExports,
    limits: &NbdLimits,
) -> io::Result<Option<Agreed>> {
    let ours = handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES;
    let greeting = [&GREETING.to_be_bytes()[..], &OPTION.to_be_bytes(), &ours.to_be_bytes()].concat();
    stream.write_all(&greeting).await?;
    let theirs = stream.read_u32().await?;
    if theirs & !u32::from(ours) != 0 {
        return Err(broken("it has flags that were not offered"));
    }
    let no_zeroes = theirs & u32::from(handshake_flag::NO_ZEROES) != 0;
    let mut asked = Asked { no_zeroes, ..Asked::default() };
    for _ in 0..limits.options {
        if stream.read_u64().await? != OPTION {
            return Err(broken("an option does not begin as one"));
        }
        let kind = stream.read_u32().await?;
        let len = stream.read_u32().await?;
        if len > OPTION_MAX {
            // Its data cannot be stepped over without reading it all, so this is the end.
            reply(stream, kind, answer::ERR_TOO_BIG, b"the option is too long").await?;
            return Err(broken("an option is too long"));
        }
        let mut data = vec![0; len as usize];
        stream.read_exact(&mut data).await?;
        match option_take(stream, exports, &mut asked, kind, &data).await? {
            Step::Next => {}
            Step::Chosen(agreed) => return Ok(Some(agreed)),
            Step::Bye => return Ok(None),
        }
    }
    Err(broken("it asked for too many options"))
}

async fn option_take<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    exports: &NbdExports,
    asked: &mut Asked,
    kind: u32,
    data: &[u8],
) -> io::Result<Step> {
    match kind {
        option::EXPORT_NAME => return export_name(stream, exports, asked, data).await,
        option::ABORT => {
            reply(stream, kind, answer::ACK, &[]).await?;
            return Ok(Step::Bye);
        }
        option::LIST | option::STRUCTURED_REPLY | option::STARTTLS if !data.is_empty() => {
            reply(stream, kind, answer::ERR_INVALID, b"this option has no data").await?;
        }
        option::LIST => {
            for name in exports.names() {
                let name = text_cut(name, STRING_MAX);
                let data = [&(name.len() as u32).to_be_bytes(), name.as_bytes()].concat();
                reply(stream, kind, answer::SERVER, &data).await?;
            }
            reply(stream, kind, answer::ACK, &[]).await?;
        }
        option::STRUCTURED_REPLY => {
            asked.structured = true;
            reply(stream, kind, answer::ACK, &[]).await?;
        }
        option::STARTTLS => {
            let words = b"this server has no TLS; use its unix socket or a tunnel";
            reply(stream, kind, answer::ERR_UNSUP, words).await?;
        }
        option::INFO | option::GO => return export_choose(stream, exports, asked, kind, data).await,
        option::LIST_META_CONTEXT | option::SET_META_CONTEXT => {
            contexts_choose(stream, exports, asked, kind, data).await?;
        }
        _ => reply(stream, kind, answer::ERR_UNSUP, b"this server does not know the option").await?,
    }
    Ok(Step::Next)
}

/// The oldest way to choose: it has no error but the end.
async fn export_name<S: AsyncWrite + Unpin>(
    stream: &mut S,
    exports: &NbdExports,
    asked: &Asked,
    data: &[u8],
) -> io::Result<Step> {
    let name = string_checked(data).ok_or_else(|| broken("an export's name is no text"))?;
    let export = exports.find(name).ok_or_else(|| broken("it asked for an export that is not there"))?;
    let mut said = export_facts(export, asked.structured);
    if !asked.no_zeroes {
        said.resize(said.len() + 124, 0);
    }
    stream.write_all(&said).await?;
    Ok(Step::Chosen(agreed(export, asked, name)))
}

async fn export_choose<S: AsyncWrite + Unpin>(
    stream: &mut S,
    exports: &NbdExports,
    asked: &Asked,
    kind: u32,
    data: &[u8],
) -> io::Result<Step> {
    let Some(Choice { name, wanted }) = choice_read(data) else {
        reply(stream, kind, answer::ERR_INVALID, b"the option's data is not what it should be").await?;
        return Ok(Step::Next);
    };
    let Some(export) = exports.find(name) else {
        reply(stream, kind, answer::ERR_UNKNOWN, b"there is no export of this name").await?;
        return Ok(Step::Next);
    };
    let about = |what: u16, data: &[u8]| [&what.to_be_bytes(), data].concat();
    reply(stream, kind, answer::INFO, &about(info::EXPORT, &export_facts(export, asked.structured))).await?;
    // Each once, whatever the client repeats.
    if wanted.contains(&info::NAME)
        && let Some(name) = export.names.first()
    {
        reply(stream, kind, answer::INFO, &about(info::NAME, text_cut(name, STRING_MAX).as_bytes())).await?;
    }
    if wanted.contains(&info::DESCRIPTION) {
        let text = text_cut(&export.description, STRING_MAX);
        reply(stream, kind, answer::INFO, &about(info::DESCRIPTION, text.as_bytes())).await?;
    }
    if wanted.contains(&info::BLOCK_SIZE) {
        let sizes = [1, PREFERRED_BLOCK, PAYLOAD_MAX].map(u32::to_be_bytes).concat();
        reply(stream, kind, answer::INFO, &about(info::BLOCK_SIZE, &sizes)).await?;
    }
    reply(stream, kind, answer::ACK, &[]).await?;
    match kind {
        option::GO => Ok(Step::Chosen(agreed(export, asked, name))),
        _ => Ok(Step::Next),
    }
}

async fn contexts_choose<S: AsyncWrite + Unpin>(
    stream: &mut S,
    exports: &NbdExports,
    asked: &mut Asked,
    kind: u32,
    data: &[u8],
) -> io::Result<()> {
    let setting = kind == option::SET_META_CONTEXT;
    if setting {
        // A failed choice leaves none.
        asked.context_of = None;
    }
    if !asked.structured {
        return reply(stream, kind, answer::ERR_INVALID, b"structured replies come first").await;
    }
    let Some(contexts) = contexts_read(data) else {
        return reply(stream, kind, answer::ERR_INVALID, b"the option's data is not what it should be").await;
    };
    if exports.find(contexts.name).is_none() {
        return reply(stream, kind, answer::ERR_UNKNOWN, b"there is no export of this name").await;
    }
    let listed = !setting && (contexts.none || contexts.namespace);
    if contexts.allocation || listed {
        let id = if setting { ALLOCATION_ID } else { 0 };
        let data = [&id.to_be_bytes(), ALLOCATION.as_bytes()].concat();
        reply(stream, kind, answer::META_CONTEXT, &data).await?;
    }
    if setting && contexts.allocation {
        asked.context_of = Some(contexts.name.to_owned());
    }
    reply(stream, kind, answer::ACK, &[]).await
}

/// A context belongs to the export that it was chosen for.
fn agreed(export: &NbdExport, asked: &Asked, name: &str) -> Agreed {
    let allocation = asked.context_of.as_deref() == Some(name);
    Agreed { export: export.clone(), terms: Terms { structured: asked.structured, allocation } }
}

/// Size and flags.
fn export_facts(export: &NbdExport, structured: bool) -> Vec<u8> {
    let mut flags = export_flag::HAS_FLAGS
        | export_flag::READ_ONLY
        | export_flag::SEND_FLUSH
        | export_flag::CAN_MULTI_CONN
        | export_flag::SEND_CACHE;
    if structured {
        flags |= export_flag::SEND_DF;
    }
    [&export.source.size().to_be_bytes()[..], &flags.to_be_bytes()].concat()
}

async fn reply<S: AsyncWrite + Unpin>(stream: &mut S, kind: u32, answer: u32, data: &[u8]) -> io::Result<()> {
    let head = [&OPTION_REPLY.to_be_bytes()[..], &kind.to_be_bytes(), &answer.to_be_bytes()].concat();
    stream.write_all(&[&head[..], &(data.len() as u32).to_be_bytes(), data].concat()).await
}

/// The client does not keep to the protocol.
pub(super) fn broken(how: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, how.to_owned())
}

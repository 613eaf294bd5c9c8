//! A command in a container: to its end with a JSON answer, or over the connection, frame by frame.

use super::answer::{Answered, blocking, json};
use super::ask::Ask;
use super::containers::change_allowed;
use super::peer::Line;
use super::site::Site;
use axum::body::Body;
use axum::http::header::{CONNECTION, UPGRADE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustix::fs::OFlags;
use serde_json::{Value, json};
use slipway_api::node::{
    EXEC_PROTOCOL, ExecNew, ExecRequest, Exit, FRAME_HEAD, FrameKind, ObjectId, TerminalSize, frame_head,
    frame_head_read,
};
use slipway_node::{Exec, Refusal, Which};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Bytes of each output that a JSON answer has at most.
const ANSWER_MAX: usize = 1 << 20;
/// Bytes of output in one frame.
const PIECE: usize = 32 << 10;
/// What ends the input of a terminal, typed by a person.
const END_OF_INPUT: u8 = 4;

/// A program that ends when whoever asked for it has gone.
struct Running(Arc<Exec>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// The near ends of a program's streams.
struct Streams {
    input: Option<OwnedFd>,
    outputs: Vec<(FrameKind, OwnedFd)>,
    is_terminal: bool,
}

fn check(body: &Value) -> Result<(), Refusal> {
    match body {
        Value::Object(fields) if fields.contains_key("command") => Ok(()),
        Value::Object(_) => Err(Refusal::invalid(602, "command in body is required")),
        _ => Err(Refusal::invalid(601, "exec in body must be of type object")),
    }
}

pub(crate) async fn run(mut ask: Ask) -> Answered {
    let wanted: ExecNew = ask.json("exec", check).await?;
    let id = change_allowed(&ask)?;
    let wants_upgrade = upgrade_wanted(&ask.headers);
    let upgrade = ask.upgrade.take().filter(|_| wants_upgrade);
    let seat = ask.site.exec_seat()?;
    let (site, caller) = (ask.site.clone(), ask.caller.clone());
    let (exec, streams) = blocking(move || begin(&site, id, wanted, &caller)).await?;
    let running = Running(Arc::new(exec));
    match upgrade {
        None => {
            let exec = running.0.clone();
            // Ends at the latest when `running` is dropped with this request.
            let answer = blocking(move || Ok(to_end(&exec, streams))).await?;
            drop((running, seat));
            json(StatusCode::OK, &answer)
        }
        Some(upgrade) => {
            let (site, line) = (ask.site.clone(), ask.line);
            ask.site.works.spawn(async move {
                let _seat = seat;
                carry(upgrade, running, streams, line, &site).await;
            });
            let mut answer = Response::new(Body::empty());
            *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            answer.headers_mut().insert(UPGRADE, HeaderValue::from_static(EXEC_PROTOCOL));
            Ok(answer)
        }
    }
}

fn upgrade_wanted(headers: &HeaderMap) -> bool {
    let has = |name, word: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, EXEC_PROTOCOL)
}

fn begin(
    site: &Site,
    id: ObjectId,
    wanted: ExecNew,
    caller: &slipway_node::access::Caller,
) -> Result<(Exec, Streams), Refusal> {
    let program = wanted.command.first().cloned().unwrap_or_default();
    let request = ExecRequest {
        argv: wanted.command,
        env: wanted.env,
        cwd: wanted.cwd,
        user: wanted.user,
        tty: wanted.tty,
        rows: wanted.size.map(|size| size.rows),
        cols: wanted.size.map(|size| size.columns),
        ..ExecRequest::default()
    };
    let mut exec = site.host.exec_spawn(&Which::Id(id), request)?;
    // Arguments may be secrets; the program's name is none.
    tracing::info!(id, program, pid = exec.pid, %caller, "command begun in a container");
    let mut outputs = Vec::new();
    outputs.extend(exec.stdout.take().map(|fd| (FrameKind::Stdout, fd)));
    outputs.extend(exec.stderr.take().map(|fd| (FrameKind::Stderr, fd)));
    let terminal = exec.terminal.as_ref().map(OwnedFd::try_clone).transpose().and_then(|near| {
        let far = exec.terminal.as_ref().map(OwnedFd::try_clone).transpose()?;
        Ok(near.zip(far))
    });
    let terminal =
        terminal.map_err(|why| Refusal::new(500, "operation failed").hint(format!("its terminal: {why}")))?;
    let is_terminal = terminal.is_some();
    let mut input = exec.stdin.take();
    if let Some((reads, writes)) = terminal {
        outputs.push((FrameKind::Stdout, reads));
        input = Some(writes);
    }
    Ok((exec, Streams { input, outputs, is_terminal }))
}

/// Reads all that it says, keeps some of it, and waits for its end.
fn to_end(exec: &Exec, streams: Streams) -> Value {
    drop(streams.input);
    let reading: Vec<_> = streams
        .outputs
        .into_iter()
        .map(|(kind, fd)| std::thread::spawn(move || (kind, output_read(&mut File::from(fd)))))
        .collect();
    let exit = exec.wait();
    let mut answer = json!({ "exit": exit, "stdout": "", "stderr": "", "truncated": false });
    for (kind, (text, truncated)) in reading.into_iter().filter_map(|thread| thread.join().ok()) {
        let name = if kind == FrameKind::Stderr { "stderr" } else { "stdout" };
        answer[name] = text.into();
        answer["truncated"] = (truncated || answer["truncated"] == true).into();
    }
    answer
}

/// The beginning of an output, and whether there was more, which is thrown away.
fn output_read(output: &mut File) -> (String, bool) {
    let (mut kept, mut piece, mut truncated) = (Vec::new(), vec![0; PIECE], false);
    // A terminal that nobody has any more ends with an error.
    while let Ok(len @ 1..) = output.read(&mut piece) {
        let room = len.min(ANSWER_MAX - kept.len());
        kept.extend_from_slice(&piece[..room]);
        truncated |= room < len;
    }
    (String::from_utf8_lossy(&kept).into_owned(), truncated)
}

/// Carries frames until the program has ended, the client has gone or the service stops.
async fn carry(upgrade: OnUpgrade, running: Running, streams: Streams, line: Option<Line>, site: &Site) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "handing a connection over"),
    };
    let (from_client, mut to_client) = tokio::io::split(upgraded);
    let (frames, mut to_send) = channel::<Vec<u8>>(8);
    let ending = {
        let exec = running.0.clone();
        tokio::task::spawn_blocking(move || exec.wait())
    };
    let outputs: Vec<_> =
        streams.outputs.into_iter().map(|(kind, fd)| tokio::spawn(output_carry(kind, fd, frames.clone()))).collect();
    drop(frames);
    let exec = running.0.clone();
    let (stop, is_terminal, input) = (site.stop.clone(), streams.is_terminal, streams.input);
    let hearing = tokio::spawn(async move {
        tokio::select! {
            _ = input_carry(from_client, input, is_terminal, &exec) => {}
            // While the command reads nothing, what the client has sent stands before its end.
            () = hung_up(line) => {}
            () = stop.cancelled() => {}
        }
        exec.kill();
    });
    let sent = send_all(&mut to_client, &mut to_send).await;
    if sent.is_err() {
        // Nobody listens any more.
        running.0.kill();
    }
    for output in outputs {
        output.abort();
    }
    let exit = ending.await.unwrap_or_else(|_| Exit::default());
    hearing.abort();
    if sent.is_ok() {
        let frame = frame_of(FrameKind::Exit, &serde_json::to_vec(&exit).unwrap_or_default());
        // A client that has gone meanwhile does not want to know.
        let _ = to_client.write_all(&frame).await;
        let _ = to_client.shutdown().await;
    }
}

async fn hung_up(line: Option<Line>) {
    match line {
        Some(line) => line.hung_up().await,
        None => std::future::pending().await,
    }
}

fn frame_of(kind: FrameKind, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame_head(kind, u32::try_from(bytes.len()).unwrap_or(u32::MAX)).to_vec();
    frame.extend_from_slice(bytes);
    frame
}

async fn send_all(to: &mut (impl AsyncWrite + Unpin), frames: &mut Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(frame) = frames.recv().await {
        to.write_all(&frame).await?;
        to.flush().await?;
    }
    Ok(())
}

/// Waits for a descriptor without a thread.
#[allow(
    deprecated,
    reason = "its successor is unsafe for types that may swap their descriptor, which an OwnedFd does not"
)]
fn asynchronous(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
    AsyncFd::new(fd)
}

async fn output_carry(kind: FrameKind, fd: OwnedFd, frames: Sender<Vec<u8>>) {
    let fd = match asynchronous(fd) {
        Ok(fd) => fd,
        Err(error) => return tracing::warn!(%error, "reading the output of a command"),
    };
    let mut piece = vec![0; PIECE];
    loop {
        let Ok(mut ready) = fd.readable().await else { return };
        match ready.try_io(|fd| rustix::io::read(fd, &mut piece).map_err(io::Error::from)) {
            Ok(Ok(len @ 1..)) => {
                if frames.send(frame_of(kind, &piece[..len])).await.is_err() {
                    return;
                }
            }
            // Its end; of a terminal that is an error.
            Ok(_) => return,
            Err(_) => {}
        }
    }
}

/// Carries what the client sends, until it goes away or sends what is no frame.
async fn input_carry(
    mut from: impl AsyncRead + Unpin,
    input: Option<OwnedFd>,
    is_terminal: bool,
    exec: &Exec,
) -> io::Result<()> {
    let mut input = input.map(asynchronous).transpose()?;
    loop {
        let mut head = [0; FRAME_HEAD];
        from.read_exact(&mut head).await?;
        let Some((kind, len)) = frame_head_read(head) else { return Ok(()) };
        let mut bytes = vec![0; len];
        from.read_exact(&mut bytes).await?;
        match kind {
            FrameKind::Stdin if bytes.is_empty() && is_terminal => {
                input_write(&input, &[END_OF_INPUT]).await;
            }
            FrameKind::Stdin if bytes.is_empty() => input = None,
            FrameKind::Stdin => {
                if !input_write(&input, &bytes).await {
                    // It reads no more, and may go on all the same.
                    input = None;
                }
            }
            FrameKind::Resize => {
                if let Ok(size) = serde_json::from_slice::<TerminalSize>(&bytes) {
                    exec.resize(size.rows, size.columns);
                }
            }
            // These go the other way.
            FrameKind::Stdout | FrameKind::Stderr | FrameKind::Exit => return Ok(()),
        }
    }
}

/// False when nobody reads any more.
async fn input_write(input: &Option<AsyncFd<OwnedFd>>, mut bytes: &[u8]) -> bool {
    let Some(fd) = input else { return true };
    while !bytes.is_empty() {
        let Ok(mut ready) = fd.writable().await else { return false };
        match ready.try_io(|fd| rustix::io::write(fd, bytes).map_err(io::Error::from)) {
            Ok(Ok(len)) => bytes = &bytes[len..],
            Ok(Err(_)) => return false,
            Err(_) => {}
        }
    }
    true
}

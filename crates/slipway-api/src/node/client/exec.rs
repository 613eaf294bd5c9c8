use super::{ContainerKey, NodeClient, NodeError};
use crate::node::Exit;
use crate::node::exec::{
    EXEC_PROTOCOL, ExecNew, FRAME_HEAD, FRAME_MAX, FrameKind, TerminalSize, frame_head, frame_head_read,
};
use reqwest::header::{CONNECTION, UPGRADE};
use reqwest::{Method, StatusCode, Upgraded};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

/// What a command in a container says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecFrame {
    /// Its output; of a terminal everything.
    Stdout(Vec<u8>),
    /// Its other output.
    Stderr(Vec<u8>),
    /// It has ended. Nothing follows.
    Exit(Exit),
}

/// What comes from a command in a container.
#[derive(Debug)]
pub struct ExecReader {
    act: String,
    half: ReadHalf<Upgraded>,
}

/// What goes to a command in a container.
#[derive(Debug)]
pub struct ExecWriter {
    act: String,
    half: WriteHalf<Upgraded>,
}

/// More input than this goes in several frames, so that a resize need not wait behind it.
const INPUT_MAX: usize = 32 << 10;

impl NodeClient {
    /// Runs a command in a container that runs. It ends when both halves are dropped, if it has not ended by itself.
    ///
    /// # Errors
    /// When the container does not run, the command cannot be started, or the service cannot be reached.
    pub async fn container_exec(
        &self,
        key: &ContainerKey,
        what: &ExecNew,
    ) -> Result<(ExecReader, ExecWriter), NodeError> {
        let act = format!("running '{}' in container {key}", what.command.first().map_or("", String::as_str));
        let request = self.request(Method::POST, "container/exec", &[key.pair()]);
        let request = request.header(CONNECTION, "Upgrade").header(UPGRADE, EXEC_PROTOCOL).json(what);
        let response = self.open(&act, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(NodeError::protocol(&act, format!("{} does not hand the connection over", self.address())));
        }
        let upgraded = response.upgrade().await.map_err(|why| self.unreached(&act, &why))?;
        let (reader, writer) = tokio::io::split(upgraded);
        Ok((ExecReader { act: act.clone(), half: reader }, ExecWriter { act, half: writer }))
    }
}

impl ExecReader {
    /// The next frame. The connection does not end before the last frame, so its end is an error.
    pub async fn next(&mut self) -> Result<ExecFrame, NodeError> {
        loop {
            let mut head = [0; FRAME_HEAD];
            self.half.read_exact(&mut head).await.map_err(|why| broke(&self.act, &why))?;
            let (kind, len) = frame_head_read(head).ok_or_else(|| {
                NodeError::protocol(&self.act, format!("a frame is of no known kind, or longer than {FRAME_MAX} bytes"))
            })?;
            let mut bytes = vec![0; len];
            self.half.read_exact(&mut bytes).await.map_err(|why| broke(&self.act, &why))?;
            return Ok(match kind {
                FrameKind::Stdout => ExecFrame::Stdout(bytes),
                FrameKind::Stderr => ExecFrame::Stderr(bytes),
                FrameKind::Exit => ExecFrame::Exit(
                    serde_json::from_slice(&bytes)
                        .map_err(|why| NodeError::protocol(&self.act, format!("the exit cannot be read: {why}")))?,
                ),
                // These go the other way.
                FrameKind::Stdin | FrameKind::Resize => continue,
            });
        }
    }
}

impl ExecWriter {
    /// Input for the command. None of no bytes: that is [`ExecWriter::input_end`].
    pub async fn input(&mut self, bytes: &[u8]) -> Result<(), NodeError> {
        for part in bytes.chunks(INPUT_MAX) {
            self.frame(FrameKind::Stdin, part).await?;
        }
        Ok(())
    }

    /// No more input comes.
    pub async fn input_end(&mut self) -> Result<(), NodeError> {
        self.frame(FrameKind::Stdin, &[]).await
    }

    /// The terminal has another size.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), NodeError> {
        let text = serde_json::to_vec(&size).map_err(|why| NodeError::protocol(&self.act, why.to_string()))?;
        self.frame(FrameKind::Resize, &text).await
    }

    async fn frame(&mut self, kind: FrameKind, bytes: &[u8]) -> Result<(), NodeError> {
        let mut frame = frame_head(kind, u32::try_from(bytes.len()).unwrap_or(u32::MAX)).to_vec();
        frame.extend_from_slice(bytes);
        let sent = self.half.write_all(&frame).await;
        sent.map_err(|why| broke(&self.act, &why))?;
        self.half.flush().await.map_err(|why| broke(&self.act, &why))
    }
}

fn broke(act: &str, why: &std::io::Error) -> NodeError {
    let reason = match why.kind() {
        std::io::ErrorKind::UnexpectedEof => "the node service went away before the command had ended".to_owned(),
        _ => format!("the connection to the node service broke: {why}"),
    };
    NodeError::Unreached { act: act.to_owned(), reason, why: super::Unreached::Broke }
}

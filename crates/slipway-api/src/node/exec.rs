//! A command in a container that runs: what is asked for, and the frames that carry its input and output.
//!
//! The connection is an HTTP/1.1 one that `POST container/exec` has upgraded to [`EXEC_PROTOCOL`]. Each frame is one byte of
//! [`FrameKind`], four bytes of length (big-endian) and as many bytes.

use super::is_false;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the `Upgrade` header says.
pub const EXEC_PROTOCOL: &str = "slipway-exec";
/// The most bytes that one frame carries.
pub const FRAME_MAX: usize = 1 << 20;
/// Bytes before a frame's own.
pub const FRAME_HEAD: usize = 5;

/// The body of `POST container/exec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExecNew {
    /// The program and its arguments, as they are: nothing is split and no shell sees them.
    pub command: Vec<String>,
    /// Beside the environment of the container's init.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Its directory; that of the container's init if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cwd: String,
    /// `uid[:gid]` or a name of the container's own passwd; the init's if absent.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// On a terminal of its own; all output is then one stream.
    #[serde(skip_serializing_if = "is_false")]
    pub tty: bool,
    /// The terminal's size at first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<TerminalSize>,
}

/// The size of a terminal in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Input, to the command; an empty one is its end.
    Stdin,
    /// Output.
    Stdout,
    /// What it says on the other stream.
    Stderr,
    /// The last one: an [`Exit`](super::Exit) as JSON.
    Exit,
    /// A [`TerminalSize`] as JSON, to the command's terminal.
    Resize,
}

impl FrameKind {
    /// Its byte.
    pub fn byte(self) -> u8 {
        match self {
            Self::Stdin => 0,
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Exit => 3,
            Self::Resize => 4,
        }
    }

    /// What a byte stands for.
    pub fn read(byte: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr, Self::Exit, Self::Resize].into_iter().find(|kind| kind.byte() == byte)
    }
}

/// The head of a frame of so many bytes.
pub fn frame_head(kind: FrameKind, len: u32) -> [u8; FRAME_HEAD] {
    let [a, b, c, d] = len.to_be_bytes();
    [kind.byte(), a, b, c, d]
}

/// Reads a head: the kind and the bytes that follow. `None` for a kind that there is not, or more than [`FRAME_MAX`] bytes.
pub fn frame_head_read(head: [u8; FRAME_HEAD]) -> Option<(FrameKind, usize)> {
    let [kind, a, b, c, d] = head;
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    Some((FrameKind::read(kind)?, len)).filter(|(_, len)| *len <= FRAME_MAX)
}

#[cfg(test)]
mod tests {
    use super::{FrameKind, frame_head, frame_head_read};

    #[test]
    fn heads_come_back() {
        for (kind, len, head) in [
            (FrameKind::Stdin, 0, [0, 0, 0, 0, 0]),
            (FrameKind::Stdout, 5, [1, 0, 0, 0, 5]),
            (FrameKind::Stderr, 1 << 20, [2, 0, 16, 0, 0]),
            (FrameKind::Exit, 258, [3, 0, 0, 1, 2]),
            (FrameKind::Resize, 1, [4, 0, 0, 0, 1]),
        ] {
            assert_eq!(frame_head(kind, len), head);
            assert_eq!(frame_head_read(head), Some((kind, len as usize)));
        }
        assert_eq!(frame_head_read([5, 0, 0, 0, 0]), None);
        assert_eq!(frame_head_read([1, 0, 16, 0, 1]), None);
    }
}

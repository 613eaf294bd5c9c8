//! What to fetch or send, in which order, over how many connections.
//!
//! [`push()`] makes a version of a [`Source`]. [`RemoteContent`] finds a version; [`flash()`] makes a target hold it, [`target_verify`]
//! compares, [`pull_file`] and [`pull_stream`] bring it here; [`RemoteReader`] reads it at any place, and
//! [`nbd_serve`] lets others do so. Threads read, hash and write; tasks wait for the network; bounded
//! channels lie between them. Every future here wants a Tokio runtime with its timers and blocking threads.

mod ahead;
mod blank;
mod buffers;
mod caps;
mod compare;
mod control;
mod error;
mod fetch;
mod flash;
mod frames;
mod index;
mod known;
mod look;
mod marks;
mod moves;
mod nbd;
mod plan;
mod pull;
mod pull_as;
mod push;
mod reader;
mod relocate;
mod remote;
mod send;
mod source;
mod verify;
mod window;

pub use caps::Caps;
pub use compare::Range;
pub use control::{Cancel, Control, Event, Step};
pub use error::TransferError;
pub use flash::{FlashOptions, Flashed, flash};
pub use frames::{CacheUsage, FolderOptions, FrameCache};
pub use nbd::{
    NbdEvent, NbdExport, NbdExports, NbdLimits, NbdListener, NbdServed, NbdSocket, NbdSource, nbd_serve, nbd_tcp_uri,
    nbd_unix_uri,
};
pub use pull::{InOrder, Streamed, pull_file, pull_stream};
pub use pull_as::{Maker, ReadBack, pull_file_as};
pub use push::{PushOptions, Pushed, push};
pub use reader::{ReaderOptions, RemoteReader, Stretch};
pub use remote::RemoteContent;
pub use source::{Reading, Source};
pub use verify::{Checked, target_verify};

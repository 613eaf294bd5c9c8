//! What to fetch or send, in which order, over how many connections.

mod control;
mod error;
mod push;
mod remote;
mod send;
mod source;
mod window;

pub use control::{Cancel, Control, Event, Step};
pub use error::TransferError;
pub use push::{PushOptions, Pushed, push};
pub use remote::RemoteContent;
pub use source::{Reading, Source};

//! NBD: a version as a network block device, read-only, for kernels, qemu and whoever else speaks it.
//!
//! The fixed newstyle handshake and the transmission phase of the protocol as its document has them
//! (<https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md>). [`nbd_serve`] takes connections from an [`NbdListener`] and
//! gives them the [`NbdExports`]; each export reads from an [`NbdSource`], in practice a [`RemoteReader`](crate::RemoteReader).
//!
//! Whoever connects is a stranger: every length is bounded before anything is allocated, a handshake has a time limit, an answer that
//! nobody takes ends the connection, and a broken message gets the protocol's error or an end, never a wait.

mod command;
mod exports;
mod handshake;
mod listen;
mod option;
mod reply;
mod serve;
mod transmit;
mod wire;

pub use exports::{NbdExport, NbdExports, NbdSource};
pub use listen::{NbdListener, NbdSocket, nbd_tcp_uri, nbd_unix_uri};
pub use serve::{NbdEvent, NbdLimits, NbdServed, nbd_serve};

#[cfg(test)]
mod nbd_test;

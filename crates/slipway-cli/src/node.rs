//! What the commands of a node share: how its service is found, how its objects are named and shown.

pub(crate) mod apply;
pub(crate) mod connection;
pub(crate) mod definition;
pub(crate) mod differences;
pub(crate) mod failure;
pub(crate) mod find;
pub(crate) mod foreground;
pub(crate) mod secret;
pub(crate) mod show;
pub(crate) mod sieve;
pub(crate) mod source;
pub(crate) mod strict;
pub(crate) mod terminal;
pub(crate) mod variables;

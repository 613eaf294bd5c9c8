//! HTTP: connections, limits, strict reading, and the one way from a request to its handler.

pub(crate) mod accept;
pub(crate) mod answer;
pub(crate) mod ask;
pub(crate) mod buffer;
pub(crate) mod client;
pub(crate) mod encode;
pub(crate) mod failure;
pub(crate) mod inbound;
pub(crate) mod json;
mod line;
pub(crate) mod multipart;
pub(crate) mod path;
pub(crate) mod range;
pub(crate) mod repr;
pub(crate) mod site;
pub(crate) mod stream;
pub(crate) mod tag;
pub(crate) mod tls;
pub(crate) mod watch;

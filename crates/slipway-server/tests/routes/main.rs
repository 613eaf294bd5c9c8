//! The routes of a running server: who may call what, what hostile and broken requests come to, and that nobody reads what is not his.

#![allow(clippy::unwrap_used)]

mod abuse;
mod baas;
mod bytes;
mod feed;
mod kit;
mod life;
mod log;
mod matrix;
mod quota;
mod sharing;
mod uploads;

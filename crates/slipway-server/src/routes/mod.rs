//! The routes: shape in, rules, shape out. Only here and in `http` is anything known of HTTP.

pub(crate) mod baas;
mod blobs;
mod channels;
mod content;
mod diff;
mod docs;
mod download;
mod download_qcow2;
mod facts;
mod image_events;
mod images;
mod parts;
mod people;
mod sessions;
pub(crate) mod shape;
mod spool;
mod store;
pub(crate) mod table;
mod tasks;
mod tokens;
mod uploads;
mod versions;

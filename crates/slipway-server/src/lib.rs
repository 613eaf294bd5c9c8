//! Catalogue, people, tasks, routes; the only SQL

mod address;
mod capability;
mod config;
pub mod core;
pub mod db;
pub mod doctor;
mod http;
pub mod ledger;
mod metrics;
mod openapi;
pub mod policy;
mod routes;
pub mod rules;
pub mod scope;
pub mod secret;
mod serve;
pub mod slowdown;
pub mod workers;

pub use address::address_has_password;
pub use config::{
    Origin, SERVE_NAMES, SERVE_VARIABLES, ServeOptions, ServeSettings, Setting, serve_options_merge,
    serve_settings_read,
};
pub use openapi::openapi_text;
pub use serve::{ExitReason, ServeTrial, Server, serve};

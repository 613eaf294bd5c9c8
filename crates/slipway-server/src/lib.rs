//! Catalogue, people, tasks, routes; the only SQL

mod capability;
mod config;
mod http;
mod metrics;
mod openapi;
mod routes;
pub mod scope;
pub mod secret;
mod serve;
pub mod slowdown;
pub mod core;
pub mod db;
pub mod ledger;
pub mod policy;
pub mod rules;
pub mod workers;

pub use config::{Origin, SERVE_VARIABLES, ServeOptions, ServeSettings, Setting, serve_options_merge, serve_settings_read};
pub use openapi::openapi_text;
pub use serve::{ExitReason, ServeTrial, Server, serve};

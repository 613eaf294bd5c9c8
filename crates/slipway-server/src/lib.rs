//! Catalogue, people, tasks, routes; the only SQL

pub mod scope;
pub mod secret;
pub mod slowdown;
pub mod core;
pub mod db;
pub mod ledger;
pub mod policy;
pub mod rules;
pub mod workers;

//! Catalogue, people, tasks, routes; the only SQL

pub mod scope;
pub mod secret;

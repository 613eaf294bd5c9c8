//! Catalogue, people, tasks, routes; the only SQL

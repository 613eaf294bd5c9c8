//! The server's rows, from behind: private databases, and time that passes at once.

use super::server::Place;
use sqlx::{AnyConnection, AssertSqlSafe, Connection, Executor};
use std::sync::atomic::{AtomicU64, Ordering};

/// Runs statements; the server must not be running on SQLite.
pub fn execute(url: &str, statements: &[String]) {
    sqlx::any::install_default_drivers();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = AnyConnection::connect(url).await.unwrap_or_else(|why| panic!("opening {url}: {why}"));
        for statement in statements {
            connection
                .execute(AssertSqlSafe(statement.clone()))
                .await
                .unwrap_or_else(|why| panic!("{statement}: {why}"));
        }
        connection.close().await.unwrap();
    });
}

/// The PostgreSQL that the test command started, if it did.
pub fn postgres() -> Option<String> {
    std::env::var("SLIPWAY_TEST_POSTGRES").ok().filter(|url| !url.is_empty())
}

fn name_new() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("whole_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn url_of(server: &str, name: &str) -> String {
    let (before, _) = server.rsplit_once('/').expect("a database address has a path");
    format!("{before}/{name}")
}

/// An empty database of the tests' PostgreSQL.
pub fn postgres_new(server: &str) -> String {
    let name = name_new();
    execute(server, &[format!("CREATE DATABASE {name}")]);
    url_of(server, &name)
}

/// A copy of a database that nobody uses at the moment.
pub fn postgres_copy(server: &str, url: &str) -> String {
    let (_, from) = url.rsplit_once('/').expect("a database address has a path");
    let name = name_new();
    let ends = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{from}'");
    execute(server, &[ends, format!("CREATE DATABASE {name} TEMPLATE {from}")]);
    url_of(server, &name)
}

/// Removes a database.
pub fn postgres_drop(server: &str, url: &str) {
    let (_, name) = url.rsplit_once('/').expect("a database address has a path");
    execute(server, &[format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")]);
}

/// The address of the place's database.
pub fn database_url(place: &Place) -> String {
    if let Some(url) = &place.database {
        return url.clone();
    }
    let found = std::fs::read_dir(place.data())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| std::fs::read(path).is_ok_and(|bytes| bytes.starts_with(b"SQLite format 3")))
        .expect("the data folder has a database");
    format!("sqlite:{}", found.display())
}

/// Lets hours pass for everything that waits for its end: trash, doomed and staged blobs, leases. The server must be down.
pub fn time_pass(place: &Place, hours: u64) {
    let columns = [
        ("blob", &["created_at", "doomed_at"][..]),
        ("version", &["trashed_at"]),
        ("image", &["trashed_at", "created_at", "retained_at"]),
        ("upload", &["lease_until", "created_at"]),
    ];
    times_shift(place, &columns, -(hours.cast_signed()));
}

/// Sets the clock back: everything that was ever written lies that much further in the future. The server must be down.
pub fn clock_back(place: &Place, hours: u64) {
    let columns = [
        ("blob", &["created_at", "doomed_at"][..]),
        ("version", &["created_at", "trashed_at"]),
        ("image", &["created_at", "updated_at", "trashed_at"]),
        ("content", &["created_at"]),
        ("upload", &["lease_until", "commit_until", "created_at"]),
        ("token", &["created_at", "expires_at", "last_used_at"]),
        ("task", &["lease_until", "not_before", "created_at", "started_at", "finished_at"]),
        ("journal", &["at"]),
        ("channel", &["updated_at"]),
        ("idempotency", &["created_at"]),
    ];
    times_shift(place, &columns, hours.cast_signed());
}

fn times_shift(place: &Place, columns: &[(&str, &[&str])], hours: i64) {
    let ms = hours * 3_600_000;
    let statements: Vec<_> = columns
        .iter()
        .flat_map(|(table, columns)| columns.iter().map(move |column| (table, column)))
        .map(|(table, column)| format!("UPDATE {table} SET {column} = {column} + ({ms}) WHERE {column} IS NOT NULL"))
        .collect();
    execute(&database_url(place), &statements);
}

/// How many rows a query counts.
pub fn count(place: &Place, from: &str) -> i64 {
    sqlx::any::install_default_drivers();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut connection = AnyConnection::connect(&database_url(place)).await.unwrap();
        let query = AssertSqlSafe(format!("SELECT COUNT(*) FROM {from}"));
        let count: i64 = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        count
    })
}

//! What is well and what is not: each check says what it saw and, unless that is as it should be, what to do next. Nothing is changed but
//! for small files and blobs that are written to be read back and are removed again; all of it may run beside a running server.

mod blobs;
mod certificate;
mod database;
mod folder;
mod place;

pub use certificate::{Certificate, certificate_read};

use serde::Serialize;

use crate::config::ServeOptions;
use crate::db::DbUrl;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, but not for ever or not as well as it could.
    Warn,
    /// It does not work.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// A stable short name, for scripts.
    pub name: &'static str,
    /// How it is.
    pub verdict: Verdict,
    /// What was seen, on what, and why that matters.
    pub what: String,
    /// What to do; there is always something unless all is well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Probe {
    /// All is well.
    pub fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, what: numberless(&what.into()), next: None }
    }

    /// It works, but something should be done.
    pub fn warn(name: &'static str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, what: numberless(&what.into()), next: Some(next.into()) }
    }

    /// It does not work until something is done.
    pub fn fail(name: &'static str, what: impl Into<String>, next: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, what: numberless(&what.into()), next: Some(next.into()) }
    }
}

/// Looks at everything that a server with these options needs.
pub async fn server_examine(options: &ServeOptions) -> Vec<Probe> {
    // Whoever was first has chosen the provider for the whole process; it is the same one everywhere.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let database = match &options.database {
        None => Ok(DbUrl::Sqlite(options.data.join("slipway.sqlite"))),
        Some(text) => text.parse::<DbUrl>(),
    };
    let mut report = folder::folder_examine(options);
    let lock = database.as_ref().ok().and_then(place::lock_look);
    report.extend(place::place_examine(options, lock.as_ref()).await);
    report.extend(certificate::tls_examine(options));
    let alone = matches!(lock, Some(place::Lock::Free));
    let facts = match &database {
        Ok(url) => database::database_examine(url, alone, &mut report).await,
        Err(why) => {
            report.push(Probe::fail(
                "database",
                why.to_string(),
                "write it like sqlite:PATH or postgres://USER@HOST/NAME",
            ));
            None
        }
    };
    report.extend(blobs::blobs_examine(options, facts.as_ref()).await);
    report.extend(folder::spool_examine(&options.data.join("spool"), facts.as_ref()));
    report
}

/// `1.4 GiB`; the exact number helps nobody here.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut value = bytes as f64;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", UNITS[unit]),
    }
}

/// Milliseconds as the largest unit that says something.
fn span(ms: i64) -> String {
    let seconds = ms.unsigned_abs() / 1000;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Takes Rust's `(os error N)` out, wherever it is: the words before it say the same.
fn numberless(text: &str) -> String {
    let mut parts = text.split(" (os error ");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once(')').map_or("", |(_, rest)| rest))
}

//! The database: whether it can be reached, is whole, is of this program's version, and keeps what it is told.

use std::time::Duration;

use super::{Probe, now_ms, span};
use crate::db::inspect::{Facts, Inspect, Schema};
use crate::db::{DbError, DbUrl};

/// A check of a large file that takes longer is left to somebody with more time.
const CHECK_LIMIT: Duration = Duration::from_secs(60);
/// Clocks that differ by more make leases and tokens end at the wrong time.
const SKEW_MS: i64 = 5_000;
/// Connections that one server opens at most.
const CONNECTIONS: i64 = 16;

/// Looks at the database, and gives what its rows say if they can be read.
pub(super) async fn database_examine(url: &DbUrl, alone: bool, report: &mut Vec<Probe>) -> Option<Facts> {
    if let DbUrl::Sqlite(path) = url
        && !path.exists()
    {
        report.push(Probe::ok("database", format!("{} is not there; the first start makes it", path.display())));
        return None;
    }
    let mut inspect = match Inspect::open(url, alone).await {
        Ok(inspect) => inspect,
        Err(why) => {
            report.push(Probe::fail("database", why.to_string(), reach_next(url)));
            return None;
        }
    };
    match looked_at(&mut inspect, url, report).await {
        Ok(facts) => facts,
        Err(why) => {
            report.push(Probe::fail("database", why.to_string(), damaged_next(url)));
            None
        }
    }
}

fn reach_next(url: &DbUrl) -> String {
    match url {
        DbUrl::Sqlite(path) => format!("check who owns the file with 'ls -l {}'", path.display()),
        DbUrl::Postgres(_) => {
            "check that PostgreSQL runs ('pg_isready -h HOST'), that the user and database exist, and PGPASSWORD or ~/.pgpass".into()
        }
    }
}

fn damaged_next(url: &DbUrl) -> String {
    match url {
        DbUrl::Sqlite(path) => format!(
            "stop the server, keep a copy of {0} and {0}-wal, and restore the last backup; 'sqlite3 {0} .recover' saves what can be read",
            path.display()
        ),
        DbUrl::Postgres(_) => {
            "look at PostgreSQL's log, and restore the last backup if it says that data is damaged".into()
        }
    }
}

async fn looked_at(inspect: &mut Inspect, url: &DbUrl, report: &mut Vec<Probe>) -> Result<Option<Facts>, DbError> {
    let whole = match tokio::time::timeout(CHECK_LIMIT, inspect.damage()).await {
        Ok(found) => found?,
        Err(_) => {
            let next = "run \"sqlite3 FILE 'PRAGMA quick_check'\" on a copy when there is time";
            report.push(Probe::warn(
                "database",
                format!("the quick check took more than {} s and was left", CHECK_LIMIT.as_secs()),
                next,
            ));
            Vec::new()
        }
    };
    if let Some(first) = whole.first() {
        report.push(Probe::fail("database", format!("the database file is damaged: {first}"), damaged_next(url)));
        return Ok(None);
    }
    if matches!(url, DbUrl::Postgres(_)) {
        postgres_settings(inspect, report).await?;
    }
    let schema = inspect.schema().await?;
    let known = matches!(schema, Schema::Current(_));
    report.push(schema_said(&schema));
    if !known {
        return Ok(None);
    }
    let facts = inspect.facts().await?;
    clock(inspect.now().await?, &facts, report);
    capability(&facts, report);
    report.push(match facts.admins {
        0 => Probe::warn(
            "admin",
            "nobody can administrate this server: it has no admin who may sign in",
            "start the server without --admin-token-file: it prints a code for 'slipway login URL --setup'",
        ),
        1 => Probe::ok("admin", "1 admin"),
        admins => Probe::ok("admin", format!("{admins} admins")),
    });
    Ok(Some(facts))
}

fn schema_said(schema: &Schema) -> Probe {
    match schema {
        Schema::Empty => Probe::ok("database", "the database is empty; the first start fills it"),
        Schema::Current(at) => Probe::ok("database", format!("whole, and of this program's version ({at})")),
        Schema::Foreign => Probe::fail(
            "database",
            "the database holds tables of another program",
            "name another database with --database; Slipway wants one of its own",
        ),
        Schema::Older { at, program } => Probe::warn(
            "database",
            format!("the database is of version {at}, this program of {program}: the next start changes it for good"),
            "make a backup first; older programs cannot read it afterwards",
        ),
        Schema::Newer { at, program } => Probe::fail(
            "database",
            format!("the database is of version {at}, which this program ({program}) does not know"),
            "install the newer slipway that wrote it, or restore the backup that was made before",
        ),
        Schema::Broken(at) => Probe::fail(
            "database",
            format!("change {at} of the database broke off, or was made by another program"),
            "restore the last backup; the rows of '_sqlx_migrations' say what has run",
        ),
    }
}

async fn postgres_settings(inspect: &mut Inspect, report: &mut Vec<Probe>) -> Result<(), DbError> {
    let set = "in postgresql.conf, then 'pg_ctl reload'";
    for (name, so) in [
        ("fsync", "a power cut may damage the database"),
        ("full_page_writes", "a power cut may damage the database"),
        ("synchronous_commit", "a power cut loses versions that were answered with success"),
    ] {
        let value = inspect.setting(name).await?.unwrap_or_default();
        report.push(match value.as_str() {
            "off" => Probe::fail("postgresql", format!("{name} is off: {so}"), format!("set '{name} = on' {set}")),
            _ => Probe::ok("postgresql", format!("{name} is {value}")),
        });
    }
    if inspect.setting("transaction_read_only").await?.as_deref() == Some("on") {
        let next = "name the primary in --database; a standby takes no writes";
        report.push(Probe::fail(
            "postgresql",
            "the database takes no writes: it is a standby, or set to read only",
            next,
        ));
    }
    let encoding = inspect.setting("server_encoding").await?.unwrap_or_default();
    if encoding != "UTF8" {
        let next = "make a database with \"CREATE DATABASE slipway ENCODING 'UTF8' TEMPLATE template0\"";
        report.push(Probe::fail(
            "postgresql",
            format!("the database's encoding is {encoding}, which cannot hold every name"),
            next,
        ));
    }
    let most = inspect.setting("max_connections").await?.and_then(|text| text.parse::<i64>().ok()).unwrap_or(0);
    if most < CONNECTIONS + 10 {
        let what = format!("max_connections is {most}; each server may open {CONNECTIONS}");
        report.push(Probe::warn(
            "postgresql",
            what,
            "raise 'max_connections' in postgresql.conf and restart PostgreSQL",
        ));
    }
    Ok(())
}

fn clock(database: Option<i64>, facts: &Facts, report: &mut Vec<Probe>) {
    let now = now_ms();
    let set = "'timedatectl' shows the clock, 'timedatectl set-ntp true' keeps it right";
    if let Some(skew) = database.map(|at| at - now).filter(|skew| skew.abs() > SKEW_MS) {
        let what = format!(
            "the clock of PostgreSQL is {} {} this machine's",
            span(skew),
            if skew > 0 { "ahead of" } else { "behind" }
        );
        report.push(Probe::warn("clock", what, set));
        return;
    }
    // The newest change was made by this clock or by the database's; it cannot lie ahead of it.
    match facts.newest_change.map(|at| at - database.unwrap_or(now)).filter(|ahead| *ahead > SKEW_MS) {
        Some(ahead) => report.push(Probe::fail(
            "clock",
            format!("the clock is {} behind the newest change in the database: it was set back", span(ahead)),
            format!("{set}; until then tokens live too long and leases do not end"),
        )),
        None => report.push(Probe::ok("clock", "not behind the newest change in the database")),
    }
}

fn capability(facts: &Facts, report: &mut Vec<Probe>) {
    let well = |key: &String| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    report.push(match &facts.capability {
        Some(key) if well(key) => Probe::ok("capability-key", "there, and of the right length"),
        Some(_) => Probe::fail(
            "capability-key",
            "the key of capabilities in the database is not 32 bytes in hex, so the server does not start",
            "delete the row 'capability' of the table 'secret': the next start makes a new key, and pulls that run ask again",
        ),
        None => Probe::warn("capability-key", "there is none yet", "the next start makes it"),
    });
}

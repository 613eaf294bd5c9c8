//! Tokens for those who reach the node service over the network. The service reads the same file at each request, so what is changed here holds at once.

use crate::args::{Format, RoleName, TokenCommand, TokenPlace};
use crate::failure::Failure;
use crate::serve::STATE_DIR;
use slipway_node::access::{Role, TokenFile, TokenRow};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

pub(crate) fn run(command: TokenCommand) -> Result<(), Failure> {
    match command {
        TokenCommand::Add { name, role, days, place } => {
            let (dir, file) = open(&place)?;
            let role = match role {
                RoleName::Read => Role::Read,
                RoleName::Run => Role::Run,
                RoleName::Admin => Role::Admin,
            };
            let token = file.add(&name, role, days, now_ms()).map_err(|why| failed(&dir, &why))?;
            eprintln!("token '{name}', role {}, {days} days; it is shown this once:", role.as_str());
            println!("{}", token.reveal());
        }
        TokenCommand::List { output, place } => {
            let (dir, file) = open(&place)?;
            let rows = file.rows().map_err(|why| failed(&dir, &why))?;
            match output {
                Format::Text => rows.iter().for_each(|row| println!("{}", line(row, now_ms()))),
                Format::Json => println!("{}", json(&rows)),
            }
        }
        TokenCommand::Remove { name, place } => {
            let (dir, file) = open(&place)?;
            if !file.remove(&name).map_err(|why| failed(&dir, &why))? {
                let next = "'slipway-agent token list' shows those that there are";
                return Err(Failure::new(3, format!("there is no token '{name}' in {}", dir.display()), next));
            }
        }
    }
    Ok(())
}

fn state_dir(place: &TokenPlace) -> PathBuf {
    let env = || std::env::var_os("SLIPWAY_NODE_STATE_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    place.state_dir.clone().or_else(env).unwrap_or_else(|| STATE_DIR.into())
}

fn open(place: &TokenPlace) -> Result<(PathBuf, TokenFile), Failure> {
    let dir = state_dir(place);
    if !dir.is_dir() {
        let next = "start 'slipway-agent serve' once, or name its --state-dir";
        return Err(Failure::new(3, format!("there is no state directory {}", dir.display()), next));
    }
    let file = TokenFile::new(&dir);
    Ok((dir, file))
}

fn failed(dir: &Path, why: &io::Error) -> Failure {
    match why.kind() {
        io::ErrorKind::InvalidInput => Failure::new(2, why.to_string(), "see 'slipway-agent token add --help'"),
        io::ErrorKind::PermissionDenied => {
            Failure::new(4, format!("tokens in {}: {why}", dir.display()), "run it as root")
        }
        _ => Failure::new(1, format!("tokens in {}: {why}", dir.display()), "look at that directory and its disk"),
    }
}

fn line(row: &TokenRow, now_ms: i64) -> String {
    let days = (row.expires_at_ms - now_ms) / DAY_MS;
    let ends = if row.expires_at_ms <= now_ms { "expired".to_owned() } else { format!("{days} days left") };
    format!("{:<32} {:<6} {ends}", row.name, row.role.as_str())
}

/// What is known of each, without its hash.
fn json(rows: &[TokenRow]) -> serde_json::Value {
    let shown =
        |row: &TokenRow| serde_json::json!({"name": row.name, "role": row.role, "expires_at_ms": row.expires_at_ms});
    rows.iter().map(shown).collect()
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

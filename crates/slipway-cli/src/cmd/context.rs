//! `slipway context`: the servers that are kept, each under a name, and which one is used.

use crate::context::{Context, client_new};
use crate::credentials::{self, Credentials, Kept};
use crate::failure::{Failure, exit};
use crate::human::time_or_dash;
use crate::output::{Output, Table};
use serde::Serialize;

/// Several servers: list, use, add, remove, rename, current
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
A context is a server's address with its token and CA, kept under a name in ~/.config/slipway/credentials.toml, \
which only you can read. 'slipway login URL' makes one. --context NAME and SLIPWAY_CONTEXT choose another one \
for one command or one shell.

Examples:
  slipway context ls
  slipway context use lab
  slipway --context lab image ls")]
pub(crate) enum Command {
    Ls(Ls),
    Use(Use),
    Add(Add),
    Rm(Rm),
    Rename(Rename),
    Current(Current),
}

/// List the servers that are kept
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway context ls
  slipway context ls -o json")]
pub(crate) struct Ls {
    #[command(flatten)]
    output: Output,
}

/// Use another server from now on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway context use lab
  SLIPWAY_CONTEXT=lab slipway image ls    # only here")]
pub(crate) struct Use {
    #[arg(value_name = "CONTEXT", help = "A name that 'slipway context ls' lists")]
    name: String,
}

/// Keep a server without logging in to it yet
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The CA of --ca is kept with it. The first context that is added is used from then on.

Examples:
  slipway context add lab https://slip.lab
  slipway context add home https://10.0.0.5:8440 --ca ca.pem --use
  slipway login --context lab")]
pub(crate) struct Add {
    /// How it shall be called
    name: String,
    /// The server's address
    address: String,
    /// Use it from now on
    #[arg(long = "use")]
    use_now: bool,
}

/// Forget a server and the token that is kept for it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The token stays valid on the server until it ends; 'slipway logout --context NAME' ends it first.

Examples:
  slipway context rm lab
  slipway logout --context lab")]
pub(crate) struct Rm {
    #[arg(value_name = "CONTEXT", help = "A name that 'slipway context ls' lists")]
    name: String,
}

/// Give a kept server another name
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway context rename 10.0.0.5 lab
  slipway context rename lab old-lab")]
pub(crate) struct Rename {
    #[arg(value_name = "CONTEXT", help = "A name that 'slipway context ls' lists")]
    name: String,
    /// How it shall be called from now on
    new: String,
}

/// Say which server is used when nobody names one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway context current
  slipway context current -o json")]
pub(crate) struct Current {
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Row {
    name: String,
    current: bool,
    url: String,
    user: Option<String>,
    /// `kept`, `expired` or `none`; never the token itself.
    token: &'static str,
    expires_at: Option<jiff::Timestamp>,
    ca: bool,
}

fn row(name: &str, kept: &Credentials, current: bool) -> Row {
    let expired = kept.expires_at.is_some_and(|at| at <= jiff::Timestamp::now());
    let token = match (&kept.token, expired) {
        (None, _) => "none",
        (Some(_), true) => "expired",
        (Some(_), false) => "kept",
    };
    Row {
        name: name.to_owned(),
        current,
        url: kept.url.clone(),
        user: kept.user.clone(),
        token,
        expires_at: kept.expires_at,
        ca: kept.ca.is_some(),
    }
}

pub(crate) fn run(command: Command, cx: &Context) -> Result<(), Failure> {
    let path = credentials::path_must()?;
    match command {
        Command::Ls(args) => {
            let kept = credentials::read(&path)?;
            let used = crate::settings::context_named(&cx.flags(), &kept).value;
            let rows: Vec<Row> =
                kept.contexts.iter().map(|(name, entry)| row(name, entry, used.as_ref() == Some(name))).collect();
            if rows.is_empty() {
                cx.note("No server is kept here: 'slipway login URL' keeps one.");
            }
            args.output.list(&rows, table)
        }
        Command::Current(args) => {
            let kept = credentials::read(&path)?;
            let Some(name) = crate::settings::context_named(&cx.flags(), &kept).value else {
                return Err(Failure::new(exit::NOT_FOUND, "no context is used")
                    .next("'slipway context use NAME' chooses one, 'slipway context ls' lists them"));
            };
            args.output.one(&row(&name, kept.named(&name)?, true), |row| format!("{}\n", row.name))
        }
        Command::Use(args) => {
            let url = credentials::change(&path, |kept| {
                let url = kept.named(&args.name)?.url.clone();
                kept.current = Some(args.name.clone());
                Ok(url)
            })?;
            cx.note(&format!("Using {}: {url}.", args.name));
            Ok(())
        }
        Command::Add(args) => add(&args, cx),
        Command::Rm(args) => {
            let gone = credentials::change(&path, |kept| {
                let gone = kept.named(&args.name)?.clone();
                kept.contexts.remove(&args.name);
                kept.current.take_if(|current| *current == args.name);
                Ok(gone)
            })?;
            let ended = gone.token.is_some() && row(&args.name, &gone, false).token == "kept";
            let rest = if ended { " Its token stays valid on the server until it ends." } else { "" };
            cx.note(&format!("Forgot {} ({}).{rest}", args.name, gone.url));
            Ok(())
        }
        Command::Rename(args) => {
            credentials::name_check(&args.new)?;
            credentials::change(&path, |kept| {
                kept.named(&args.name)?;
                name_free(kept, &args.new)?;
                if let Some(entry) = kept.contexts.remove(&args.name) {
                    kept.contexts.insert(args.new.clone(), entry);
                }
                if kept.current.as_deref() == Some(&args.name) {
                    kept.current = Some(args.new.clone());
                }
                Ok(())
            })?;
            cx.note(&format!("{} is called {} now.", args.name, args.new));
            Ok(())
        }
    }
}

fn add(args: &Add, cx: &Context) -> Result<(), Failure> {
    credentials::name_check(&args.name)?;
    let ca = cx.flags().ca.map(|path| crate::settings::Ca::Path(path).pem_text()).transpose()?;
    // An address or CA that no client can be made of is refused now and not at the first use.
    client_new(&args.address, None, ca.clone().map(String::into_bytes))?;
    let url = args.address.trim_end_matches('/').to_owned();
    let used = credentials::change(&credentials::path_must()?, |kept| {
        name_free(kept, &args.name)?;
        let entry = Credentials { url: url.clone(), user: None, token: None, expires_at: None, ca };
        kept.contexts.insert(args.name.clone(), entry);
        if args.use_now || kept.current.is_none() {
            kept.current = Some(args.name.clone());
        }
        Ok(kept.current.as_deref() == Some(&args.name))
    })?;
    let used = if used { ", which is used from now on" } else { "" };
    cx.note(&format!("Kept {} ({url}){used}; 'slipway login --context {}' logs in.", args.name, args.name));
    Ok(())
}

fn name_free(kept: &Kept, name: &str) -> Result<(), Failure> {
    match kept.contexts.get(name) {
        None => Ok(()),
        Some(entry) => {
            Err(Failure::new(exit::CONFLICT, format!("there is a context '{name}' already, for {}", entry.url))
                .next(format!("choose another name, or 'slipway context rm {name}' first")))
        }
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&["CONTEXT", "USED", "SERVER", "USER", "TOKEN", "ENDS"]);
    for row in rows {
        table.row(vec![
            row.name.clone(),
            if row.current { "*" } else { "" }.into(),
            row.url.clone(),
            row.user.clone().unwrap_or_else(|| "-".into()),
            row.token.into(),
            time_or_dash(row.expires_at),
        ]);
    }
    table
}

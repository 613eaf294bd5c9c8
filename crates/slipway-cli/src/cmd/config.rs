//! `slipway config show`: which server, token and CA a command would use, and why.

use crate::context::Context;
use crate::credentials;
use crate::failure::Failure;
use crate::output::{Output, Table};
use crate::settings::{Ca, Origin, Settings};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Show the settings in force
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  slipway config show --origin
  slipway config show --server -o json")]
pub(crate) enum Command {
    Show(Show),
}

/// Show which server, token and CA are used; never the token itself
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Settings come from a flag, else from the environment (SLIPWAY_URL, SLIPWAY_TOKEN, SLIPWAY_CA), else from \
~/.config/slipway/credentials.toml, which 'slipway login' writes.

Examples:
  slipway config show --origin
  slipway config show --server --config /etc/slipway/slipway.toml
  SLIPWAY_URL=https://slip.lab slipway config show -o json")]
pub(crate) struct Show {
    /// Also say where each value comes from
    #[arg(long)]
    origin: bool,
    /// Show the settings of 'slipway serve' instead
    #[arg(long)]
    server: bool,
    /// With --server: the file with its settings
    #[arg(long, value_name = "FILE", requires = "server")]
    config: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
}

pub(crate) fn run(command: Command, cx: &Context) -> Result<(), Failure> {
    let Command::Show(args) = command;
    let rows = match args.server {
        true => server_rows(args.config.as_deref())?,
        false => rows(&cx.settings()?),
    };
    let rows: Vec<Row> = rows
        .into_iter()
        .map(|(name, value, origin)| Row { name, value, origin: args.origin.then_some(origin) })
        .collect();
    args.output.list(&rows, |rows| {
        let mut table = match args.origin {
            true => Table::new(&["SETTING", "VALUE", "ORIGIN"]),
            false => Table::new(&["SETTING", "VALUE"]),
        };
        for row in rows {
            let mut cells = vec![row.name.to_owned(), row.value.clone().unwrap_or_else(|| "not set".into())];
            cells.extend(row.origin.clone());
            table.row(cells);
        }
        table
    })
}

type Rows = Vec<(&'static str, Option<String>, String)>;

fn server_rows(config: Option<&Path>) -> Result<Rows, Failure> {
    let (_, lines) = super::serve::options_decide(slipway_server::ServeSettings::default(), config)?;
    Ok(lines
        .into_iter()
        .map(|line| (line.name, Some(line.value).filter(|value| !value.is_empty()), line.origin.to_string()))
        .collect())
}

fn rows(settings: &Settings) -> Rows {
    let ca = settings.ca.value.as_ref().map(|ca| match ca {
        Ca::Path(path) => path.display().to_string(),
        Ca::Pem(_) => "kept with the credentials".to_owned(),
    });
    let token = settings.token.value.as_ref().map(|_| "set (not shown)".to_owned());
    let path = credentials::path().map(|path| path.display().to_string());
    vec![
        ("url", settings.url.value.clone(), settings.url.origin.to_string()),
        ("token", token, settings.token.origin.to_string()),
        ("user", settings.user.clone(), settings.token.origin.to_string()),
        ("ca", ca, settings.ca.origin.to_string()),
        ("credentials", path, Origin::Default.to_string()),
    ]
}

//! `slipway config`: which settings a command or server would use and why, and what is wrong with them.

use super::serve::{ServeFlags, Subject};
use crate::context::Context;
use crate::credentials;
use crate::failure::Failure;
use crate::output::{Output, Table};
use crate::settings::{Ca, Origin, Settings};
use serde::Serialize;
use slipway_server::Origin as ServeOrigin;

/// Settings: show which are in force and where each comes from, check them
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  slipway config show --origin
  slipway config check --server --config /etc/slipway/slipway.toml")]
pub(crate) enum Command {
    Show(Show),
    Check(Check),
}

/// Show which server, token and CA are used; never the token itself
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Settings come from a flag, else from the environment (SLIPWAY_URL, SLIPWAY_TOKEN, SLIPWAY_CA, SLIPWAY_CONTEXT), \
else from a context in ~/.config/slipway/credentials.toml, which 'slipway login' and 'slipway context' write. \
With --server every option of 'slipway serve' is taken too.

Examples:
  slipway config show --origin
  slipway config show --server --origin --config /etc/slipway/slipway.toml
  SLIPWAY_URL=https://slip.lab slipway config show -o json")]
pub(crate) struct Show {
    /// Also say where each value comes from
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    output: Output,
}

/// Check the settings without using them: names, values, what cannot go together
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Says which settings and SLIPWAY_ variables nobody knows, and which one was probably meant. Exit code 1 if \
something is wrong. 'slipway doctor' also tries the server, the disk and the database.

Examples:
  slipway config check
  slipway config check --server --config /etc/slipway/slipway.toml
  SLIPWAY_STOP_SECONDS=soon slipway config check --server")]
pub(crate) struct Check {
    #[command(flatten)]
    subject: Subject,
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
    match command {
        Command::Show(args) => show(&args, cx),
        Command::Check(args) => {
            let mut report = match args.subject.server() {
                Some(flags) => crate::doctor::server_settings(flags),
                None => crate::doctor::client_settings(cx),
            };
            report.extend(crate::doctor::variables_unknown());
            super::doctor::report_print(&report, &args.output, cx)
        }
    }
}

fn show(args: &Show, cx: &Context) -> Result<(), Failure> {
    let rows = match args.subject.server() {
        Some(flags) => server_rows(flags)?,
        None => rows(&cx.settings()?),
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

fn server_rows(serve: &ServeFlags) -> Result<Rows, Failure> {
    let (_, lines) = serve.decide()?;
    let file = serve.config().map(crate::failure::path_shown).unwrap_or_default();
    let rows = lines.into_iter().map(|line| {
        let origin = match line.origin {
            ServeOrigin::Flag => format!("flag --{}", line.name.replace('_', "-")),
            ServeOrigin::Env => format!("environment SLIPWAY_{}", line.name.to_uppercase()),
            ServeOrigin::File => format!("file {file}"),
            ServeOrigin::Default => line.origin.to_string(),
        };
        (line.name, Some(line.value).filter(|value| !value.is_empty()), origin)
    });
    Ok(rows.collect())
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
        ("context", settings.context.value.clone(), context_origin(settings)),
        ("credentials", path, Origin::Default.to_string()),
    ]
}

/// A context that nobody named is the one that 'slipway context use' chose, or the one whose server was named.
fn context_origin(settings: &Settings) -> String {
    match (&settings.context.value, &settings.context.origin) {
        (Some(_), Origin::Default) => "the file of credentials".into(),
        (_, origin) => origin.to_string(),
    }
}

//! `slipway token`: what programs log in with.

use crate::context::Context;
use crate::failure::Failure;
use crate::human::{time, time_or_dash};
use crate::output::{Output, Table};
use crate::pages::{PAGE_ROWS, pages_all};
use slipway_api::{AccountName, PageQuery, Scope, TokenNew};
use uuid::Uuid;

/// Tokens, for programs to log in with: list, new, remove
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  slipway token new ci --scope image:write:me/os --ttl 30d
  slipway token ls")]
pub(crate) enum Command {
    Ls(Ls),
    New(New),
    Rm(Rm),
}

/// List tokens, without their secrets
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway token ls
  slipway token ls --user jan -o json")]
pub(crate) struct Ls {
    /// Whose; yours if not given (admins only for others)
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Make a token; its secret is printed once, alone on stdout
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Scopes: *, image:read, image:write, image:delete, image:share, people, store; the image ones take a pattern.

Examples:
  slipway token new ci --scope image:write:me/os --ttl 30d
  SLIPWAY_TOKEN=$(slipway token new once --ttl 1h) slipway image ls")]
pub(crate) struct New {
    /// What to call it
    name: String,
    /// What it may do, once for each; everything you may if not given
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// How long it lives, 60s to 90d [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = crate::human::duration_read)]
    ttl: Option<u64>,
    /// Whose it is; yours if not given (admins only for others)
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// End a token at once
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway token rm 0198c0de-0000-7000-8000-000000000000
  slipway token ls")]
pub(crate) struct Rm {
    /// The token's id
    id: Uuid,
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => ls(args, cx).await,
        Command::New(args) => new(args, cx).await,
        Command::Rm(args) => {
            cx.client()?.token_revoke(args.id).await?;
            cx.note(&format!("Token {} has ended.", args.id));
            Ok(())
        }
    }
}

async fn ls(args: Ls, cx: &Context) -> Result<(), Failure> {
    let owner = args.user.as_deref().map(str::parse::<AccountName>).transpose()?.map(String::from);
    let client = cx.client()?;
    let tokens = pages_all(None, |cursor| {
        let query = PageQuery { cursor, limit: Some(PAGE_ROWS), owner: owner.clone(), ..PageQuery::default() };
        let client = &client;
        async move { client.token_list(&query).await }
    })
    .await?;
    args.output.list(&tokens, |tokens| {
        let mut table = Table::new(&["ID", "NAME", "USER", "SCOPES", "ENDS", "LAST USED"]);
        for token in tokens {
            let scopes: Vec<&str> = token.scopes.iter().map(|scope| scope.0.as_str()).collect();
            table.row(vec![
                token.id.to_string(),
                token.name.clone(),
                token.user.to_string(),
                scopes.join(" "),
                time(token.expires_at),
                time_or_dash(token.last_used_at),
            ]);
        }
        table
    })
}

async fn new(args: New, cx: &Context) -> Result<(), Failure> {
    let user = args.user.as_deref().map(str::parse::<AccountName>).transpose()?;
    let scopes = (!args.scope.is_empty()).then(|| args.scope.into_iter().map(Scope).collect());
    let made = cx.client()?.token_make(&TokenNew { name: args.name, user, scopes, ttl_seconds: args.ttl }).await?;
    if !args.output.for_programs() {
        cx.note(&format!(
            "Token {} of {}, until {}; keep the secret now, it is not shown again:",
            made.token.id,
            made.token.user,
            time(made.token.expires_at)
        ));
    }
    args.output.one(&made, |made| format!("{}\n", made.secret))
}

//! `slipway login`: makes a token and keeps it.

use crate::ask::Secrets;
use crate::context::{Context, client_new};
use crate::credentials::{self, Credentials};
use crate::failure::Failure;
use crate::settings::Ca;
use slipway_api::{AccountName, Client, Login, Setup};

/// Log in to a server and keep its address and a token
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The token is kept in ~/.config/slipway/credentials.toml, which only you can read, under the name of --context, \
else of the host; see 'slipway context'. Secrets are asked for or read from stdin, never taken from the command line.

Examples:
  slipway login https://slip.lab --user jan
  slipway login https://slip.lab --context lab
  slipway login http://127.0.0.1:8440 --setup
  pass slipway | slipway login https://slip.lab --user jan --password-stdin
  slipway login https://slip.lab --ca ca.pem --token-stdin < token")]
pub(crate) struct Args {
    /// The server's address
    #[arg(value_name = "URL")]
    address: Option<String>,
    /// The account's name [default: the name you have here; with --setup: admin]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Redeem the one-time code that a new server printed and make its first admin
    #[arg(long, conflicts_with = "token_stdin")]
    setup: bool,
    /// Keep a token that exists already; read it from stdin
    #[arg(long, conflicts_with_all = ["password_stdin", "user", "ttl"])]
    token_stdin: bool,
    /// Read the password from stdin; with --setup first the code, then the password
    #[arg(long)]
    password_stdin: bool,
    /// How long the token lives, like 12h or 30d [default: 24h]
    #[arg(long, value_name = "TIME", value_parser = crate::human::duration_read, conflicts_with = "setup")]
    ttl: Option<u64>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let path = credentials::path_must()?;
    let mut flags = cx.flags();
    let named = flags.context.clone();
    if args.address.is_some() {
        // The context is where the token will be kept; the address says which server, and may be a new one of that name.
        flags.url = args.address.clone();
        flags.context = None;
    }
    named.as_deref().map(credentials::name_check).transpose()?;
    let settings = crate::settings::Settings::load(&flags)?;
    let url = settings.url()?.trim_end_matches('/').to_owned();
    let ca_text = settings.ca.value.as_ref().map(Ca::pem_text).transpose()?;
    let ca = ca_text.clone().map(String::into_bytes);
    let client = client_new(&url, None, ca.clone())?;
    if !loopback_or_tls(&url) {
        cx.note(&format!("Note: {url} is not encrypted; who can listen on the way can read passwords and tokens."));
    }
    let secrets = Secrets { cx, stdin: args.password_stdin, option: "--password-stdin" };
    let (token, expires_at) = match (args.setup, args.token_stdin) {
        (true, _) => setup(&args, &client, &secrets).await?,
        (false, true) => {
            let option = "--token-stdin";
            (Secrets { cx, stdin: true, option }.known("token")?.trim().to_owned(), None)
        }
        (false, false) => password(&args, &client, &secrets).await?,
    };
    // The token is tried before it is kept, so that a wrong one never replaces a good one.
    let me = client_new(&url, Some(token.clone()), ca)?.me().await?;
    let entry = Credentials {
        url: url.clone(),
        user: Some(me.user.name.to_string()),
        token: Some(token),
        expires_at: expires_at.or(Some(me.expires_at)),
        ca: ca_text,
    };
    let (name, several) = credentials::change(&path, |kept| {
        let name = named.or(settings.context.value).unwrap_or_else(|| kept.name_for(&url));
        kept.contexts.insert(name.clone(), entry);
        kept.current = Some(name.clone());
        Ok((name, kept.contexts.len() > 1))
    })?;
    cx.note(&format!("Logged in to {url} as {} until {}.", me.user.name, crate::human::time(me.expires_at)));
    if several {
        cx.note(&format!("The context '{name}' is used from now on; 'slipway context use NAME' chooses another."));
    }
    if settings.token.origin == crate::settings::Origin::Env("SLIPWAY_TOKEN") {
        cx.note("Note: SLIPWAY_TOKEN is set and goes before what was kept now.");
    }
    Ok(())
}

type Made = (String, Option<jiff::Timestamp>);

async fn setup(args: &Args, client: &Client, secrets: &Secrets<'_>) -> Result<Made, Failure> {
    let name = args.user.as_deref().map(str::parse::<AccountName>).transpose()?;
    let code = secrets.known("one-time code")?.trim().to_owned();
    let password = secrets.new_one("new password")?;
    let session = client.setup(&Setup { code, name, password }).await?;
    Ok((session.token, Some(session.expires_at)))
}

async fn password(args: &Args, client: &Client, secrets: &Secrets<'_>) -> Result<Made, Failure> {
    let user = args.user.clone().or_else(|| std::env::var("USER").ok()).filter(|user| !user.is_empty());
    let user = user.ok_or_else(|| Failure::usage("no account is named").next("add --user NAME"))?;
    let user = user.parse::<AccountName>()?.to_string();
    let password = secrets.known(&format!("password of {user}"))?;
    let session = client.login(&Login { user, password, ttl_seconds: args.ttl }).await?;
    Ok((session.token, Some(session.expires_at)))
}

fn loopback_or_tls(url: &str) -> bool {
    let host = url.trim_start_matches("http://");
    url.starts_with("https://") || ["127.", "localhost", "[::1]"].iter().any(|local| host.starts_with(local))
}

//! `slipway user`: people.

use crate::ask::Secrets;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::time;
use crate::output::{Output, Table, facts};
use crate::pages::{PAGE_ROWS, pages_all};
use crate::words::role;
use slipway_api::{AccountName, PageQuery, PasswordChange, Role, User, UserChange, UserNew};

/// People: list, add, show, set, remove, password, quota
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  slipway user add jan --password
  slipway user ls")]
pub(crate) enum Command {
    Ls(Ls),
    Add(Add),
    Show(Show),
    Set(Set),
    Rm(Rm),
    Passwd(Passwd),
    Quota(crate::cmd::quota::SetArgs),
}

/// List users (moderators and admins)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway user ls
  slipway user ls -o json")]
pub(crate) struct Ls {
    #[command(flatten)]
    output: Output,
}

/// Add a user (admins)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without a password the user works with tokens only: 'slipway token new NAME --user USER' makes one.

Examples:
  slipway user add jan --full-name \"Jan Novak\" --password
  pwgen 20 1 | slipway user add eva --role moderator --password-stdin")]
pub(crate) struct Add {
    /// The account's name
    name: String,
    /// The person's name
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    full_name: String,
    /// Where to write to them
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// user, moderator or admin
    #[arg(long, value_parser = role(), hide_possible_values = true)]
    role: Option<Role>,
    /// Ask for a password
    #[arg(long)]
    password: bool,
    /// Read the password from stdin
    #[arg(long, conflicts_with = "password")]
    password_stdin: bool,
    #[command(flatten)]
    output: Output,
}

/// Show a user; yourself if no name is given
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway user show
  slipway user show jan -o json")]
pub(crate) struct Show {
    /// The account's name
    name: Option<String>,
    #[command(flatten)]
    output: Output,
}

/// Change a user; what is not named stays
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway user set jan --role moderator
  slipway user set jan --disabled true")]
pub(crate) struct Set {
    /// The account's name
    name: String,
    /// The person's name
    #[arg(long, value_name = "TEXT")]
    full_name: Option<String>,
    /// Where to write to them
    #[arg(long, value_name = "ADDRESS")]
    email: Option<String>,
    /// user, moderator or admin (admins only)
    #[arg(long, value_parser = role(), hide_possible_values = true)]
    role: Option<Role>,
    /// true: cannot sign in and no token works; false: can again (admins only)
    #[arg(long, value_name = "BOOL", hide_possible_values = true)]
    disabled: Option<bool>,
    #[command(flatten)]
    output: Output,
}

/// Remove a user who owns no images any more (admins)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway user rm jan
  slipway user rm jan --yes")]
pub(crate) struct Rm {
    /// The account's name
    name: String,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Set a password: yours, or as an admin somebody's
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway user passwd
  slipway user passwd jan
  printf '%s\\n%s\\n' OLD NEW | slipway user passwd --password-stdin")]
pub(crate) struct Passwd {
    /// The account's name; yours if not given
    name: Option<String>,
    /// Read from stdin: for yourself the old one, then the new one; for others the new one
    #[arg(long)]
    password_stdin: bool,
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => ls(args, cx).await,
        Command::Add(args) => add(args, cx).await,
        Command::Show(args) => {
            let user = match args.name {
                Some(name) => {
                    let name = name.parse::<AccountName>()?;
                    cx.client()?.user_get(name.as_str()).await?
                }
                None => cx.client()?.me().await?.user,
            };
            args.output.one(&user, text)
        }
        Command::Set(args) => {
            let name = args.name.parse::<AccountName>()?;
            let change =
                UserChange { full_name: args.full_name, email: args.email, role: args.role, disabled: args.disabled };
            args.output.one(&cx.client()?.user_change(name.as_str(), &change, None).await?, text)
        }
        Command::Rm(args) => rm(args, cx).await,
        Command::Passwd(args) => passwd(args, cx).await,
        Command::Quota(args) => crate::cmd::quota::set(args, cx).await,
    }
}

async fn ls(args: Ls, cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    let users = pages_all(None, |cursor| {
        let query = PageQuery { cursor, limit: Some(PAGE_ROWS), ..PageQuery::default() };
        let client = &client;
        async move { client.user_list(&query).await }
    })
    .await?;
    args.output.list(&users, |users| {
        let mut table = Table::new(&["NAME", "ROLE", "STATE", "SINCE", "FULL NAME", "EMAIL"]);
        for user in users {
            table.row(vec![
                user.name.to_string(),
                crate::words::text(&user.role),
                state(user).into(),
                time(user.created_at),
                user.full_name.clone(),
                user.email.clone().unwrap_or_default(),
            ]);
        }
        table
    })
}

async fn add(args: Add, cx: &Context) -> Result<(), Failure> {
    let name = args.name.parse::<AccountName>()?;
    let client = cx.client()?;
    let secrets = Secrets { cx, stdin: args.password_stdin, option: "--password-stdin" };
    let password = match args.password || args.password_stdin {
        true => Some(secrets.new_one(&format!("password of {name}"))?),
        false => None,
    };
    let tokens_only = password.is_none();
    let user = client
        .user_create(&UserNew { name, full_name: args.full_name, email: args.email, role: args.role, password })
        .await?;
    args.output.one(&user, text)?;
    if tokens_only {
        cx.note(&format!(
            "No password: 'slipway token new NAME --user {0}' or 'slipway user passwd {0}' lets them in.",
            user.name
        ));
    }
    Ok(())
}

async fn rm(args: Rm, cx: &Context) -> Result<(), Failure> {
    let name = args.name.parse::<AccountName>()?;
    let client = cx.client()?;
    if !args.yes {
        let user = client.user_get(name.as_str()).await?;
        if !cx.can_ask() {
            return Err(Failure::usage(format!("removing user {name} ends all of their tokens and cannot be undone"))
                .next(format!("'slipway user rm {name} --yes'")));
        }
        eprint!("{}", text(&user));
        if !crate::ask::confirm("Remove this user and end all of their tokens?").await? {
            return Err(Failure::new(crate::failure::exit::INTERRUPTED, "nothing was changed")
                .alone("the person has just said no"));
        }
    }
    client.user_delete(name.as_str()).await?;
    cx.note(&format!("User {name} is gone."));
    Ok(())
}

async fn passwd(args: Passwd, cx: &Context) -> Result<(), Failure> {
    let named = args.name.as_deref().map(str::parse::<AccountName>).transpose()?;
    let client = cx.client()?;
    let me = client.me().await?.user.name;
    let name = named.unwrap_or_else(|| me.clone());
    let secrets = Secrets { cx, stdin: args.password_stdin, option: "--password-stdin" };
    // An admin who sets somebody's password does not know the old one; whoever changes their own proves that they do.
    let old = match name == me {
        true => Some(secrets.known("old password")?),
        false => None,
    };
    let new = secrets.new_one(&format!("new password of {name}"))?;
    client.user_password(name.as_str(), &PasswordChange { old, new }).await?;
    cx.note(&format!("The password of {name} is changed."));
    Ok(())
}

fn state(user: &User) -> &'static str {
    if user.disabled { "disabled" } else { "active" }
}

fn text(user: &User) -> String {
    facts(&[
        ("User", user.name.to_string()),
        ("Full name", user.full_name.clone()),
        ("Email", user.email.clone().unwrap_or_default()),
        ("Role", crate::words::text(&user.role)),
        ("State", state(user).into()),
        ("Since", time(user.created_at)),
    ])
}

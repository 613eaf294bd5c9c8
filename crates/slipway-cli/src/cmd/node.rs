//! `slipway node`: devices, mounts and containers of a machine.

mod apply;
mod attach;
mod events;
mod exec;
mod inspect;
mod logs;
mod ls;
mod mount;
mod ps;
mod rm;
mod run;
mod state;

use crate::context::Context;
use crate::failure::Failure;
use crate::node::connection::Place;

pub(crate) use state::{not_started, stopped};

/// Devices, mounts and containers of a machine
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
Without --node it is the service of this machine: unix:/run/slipway/node.sock ('slipway-agent serve').
      --node ADDRESS    unix:/PATH, https://HOST:PORT or a context   (SLIPWAY_NODE)
      --token-file FILE The token for it                             (SLIPWAY_NODE_TOKEN: itself)
      --ca FILE         Trust these certificates                     (SLIPWAY_NODE_CA)
      --cert, --key     Files of our certificate and its key         (SLIPWAY_NODE_CERT, …_KEY)

Examples:
  slipway node run --rm rescue.sqfs /bin/sh -c \"echo hello\"
  slipway node ps -a
  slipway node --node https://n17.lab:8450 --ca ca.pem ps"
)]
pub(crate) struct Args {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Ps(ps::Args),
    Logs(logs::Args),
    Exec(exec::Args),
    Start(state::Start),
    Stop(state::Stop),
    Pause(state::Pause),
    Rm(rm::Args),
    Inspect(inspect::Args),
    Ls(ls::Args),
    #[command(subcommand)]
    Attach(attach::Command),
    #[command(subcommand)]
    Mount(mount::Command),
    Apply(apply::Args),
    Events(events::Args),
}

impl Args {
    /// Whether the command itself decides what Ctrl-C and SIGTERM mean.
    pub(crate) fn hears_signals(&self) -> bool {
        match &self.command {
            Command::Run(args) => args.is_foreground(),
            Command::Exec(_) | Command::Apply(_) => true,
            _ => false,
        }
    }
}

/// Runs it. The number is the exit code: that of a process in a container, where there is one to pass on.
pub(crate) async fn run(args: Args, cx: &Context) -> Result<u8, Failure> {
    let client = args.place.client(cx)?;
    let done = match args.command {
        Command::Run(args) => return run::run(*args, cx, &client).await,
        Command::Exec(args) => return exec::run(args, cx, &client).await,
        Command::Ps(args) => ps::run(args, cx, &client).await,
        Command::Logs(args) => logs::run(args, cx, &client).await,
        Command::Start(args) => state::start(args, cx, &client).await,
        Command::Stop(args) => state::stop(args, cx, &client).await,
        Command::Pause(args) => state::pause(args, cx, &client).await,
        Command::Rm(args) => rm::run(args, cx, &client).await,
        Command::Inspect(args) => inspect::run(args, &client).await,
        Command::Ls(args) => ls::run(args, &client).await,
        Command::Attach(command) => attach::run(command, cx, &client).await,
        Command::Mount(command) => mount::run(command, cx, &client).await,
        Command::Apply(args) => apply::run(args, cx, &client).await,
        Command::Events(args) => events::run(args, &client).await,
    };
    done.map(|()| 0)
}

/// `name=value` of an option that is given once for each.
fn pair_read(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write it like NAME=VALUE".into()),
    }
}

/// Does the same to several objects. All are tried; the first failure is the command's, the others are said at once.
async fn each<F: Future<Output = Result<(), Failure>>>(
    cx: &Context,
    names: &[String],
    mut act: impl FnMut(String) -> F,
) -> Result<(), Failure> {
    let mut failed = None;
    for name in names {
        if let Err(failure) = act(name.clone()).await {
            match failed {
                None => failed = Some(failure),
                Some(_) => failure.print(cx.paint_err()),
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

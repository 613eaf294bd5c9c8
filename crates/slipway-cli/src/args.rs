//! The command line as clap reads it; one arm for each verb.

use crate::cmd;
use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Keeps every version of a disk image and puts them onto machines.
#[derive(Debug, Parser)]
#[command(
    name = "slipway",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    help_template = "{about}\n\n{usage-heading} {usage}\n\nCommands:\n{subcommands}{after-help}",
    after_help = "\
Options of every command:
      --url URL   The server (else SLIPWAY_URL, else what 'slipway login' kept)
      --ca FILE   Trust these certificates (else SLIPWAY_CA, else what login kept)
  -q, --quiet     Only data and errors       -v, --verbose  Say more; twice: say everything
      --no-input  Never ask, fail instead    -h, --help, -V, --version
The token comes from SLIPWAY_TOKEN, else from what login kept; never from the command line.

Examples:
  slipway push disk.raw me/os -m \"6.9 kernel\"
  slipway flash me/os:1 /dev/sdb
  slipway image show me/os -o json"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command. They are hidden in each command's help, which must fit on one screen; `slipway --help` shows them.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Global {
    /// The server
    #[arg(long, global = true, hide = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// Trust these certificates
    #[arg(long, global = true, hide = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Only data and errors
    #[arg(short, long, global = true, hide = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more; twice: say everything
    #[arg(short, long, global = true, hide = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Never ask, fail instead
    #[arg(long, global = true, hide = true)]
    pub(crate) no_input: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Push(cmd::push::Args),
    Pull(cmd::pull::Args),
    Flash(cmd::flash::Args),
    Verify(cmd::verify::Args),
    #[command(subcommand)]
    Image(cmd::image::Command),
    #[command(subcommand)]
    Channel(cmd::channel::Command),
    Login(cmd::login::Args),
    Logout(cmd::logout::Args),
    #[command(subcommand)]
    User(cmd::user::Command),
    #[command(subcommand)]
    Token(cmd::token::Command),
    #[command(subcommand)]
    Task(cmd::task::Command),
    Prune(cmd::prune::Args),
    Check(cmd::check::Args),
    Journal(cmd::journal::Args),
    Serve(Box<cmd::serve::Args>),
    #[command(subcommand)]
    Config(cmd::config::Command),
    Completions(cmd::completions::Args),
}

#[cfg(test)]
mod tests {
    use super::Cli;
    use clap::CommandFactory;

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }
}

//! `slipway completions`: what a shell needs to complete commands and options.

use crate::args::Cli;
use crate::failure::Failure;
use clap::CommandFactory;

/// Print the completions for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway completions bash > ~/.local/share/bash-completion/completions/slipway
  slipway completions fish > ~/.config/fish/completions/slipway.fish")]
pub(crate) struct Args {
    /// bash, zsh, fish, elvish or powershell
    #[arg(value_enum, hide_possible_values = true)]
    shell: clap_complete::Shell,
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "slipway", &mut text);
    crate::output::print(&String::from_utf8_lossy(&text))
}

//! `slipway man`: the manual pages, made from the same tree as the command line itself.

use crate::args::Cli;
use crate::context::Context;
use crate::failure::Failure;
use clap::CommandFactory;
use std::path::{Path, PathBuf};

/// Write the manual pages of all commands into a folder
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One page for each command, like slipway-image-ls.1.

Examples:
  slipway man ~/.local/share/man/man1 && man slipway-push
  slipway man ./man")]
pub(crate) struct Args {
    /// A folder; it is made if it is not there
    folder: PathBuf,
}

pub(crate) fn run(args: &Args, cx: &Context) -> Result<(), Failure> {
    std::fs::create_dir_all(&args.folder).map_err(|why| Failure::io("making", &args.folder, &why))?;
    let mut command = shown(Cli::command().disable_help_subcommand(true));
    command.build();
    let pages = pages_write(&command, &args.folder)?;
    cx.note(&format!("Wrote {}.", crate::human::count(pages, "page")));
    Ok(())
}

/// A page has room for what would fill the screen of `--help`.
fn shown(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|arg| if arg.get_help().is_some() { arg.hide(false) } else { arg });
    command.mut_subcommands(shown)
}

fn pages_write(command: &clap::Command, folder: &Path) -> Result<u64, Failure> {
    let below = command.get_subcommands().filter(|below| !below.is_hide_set());
    let mut pages = 1;
    for below in below {
        pages += pages_write(below, folder)?;
    }
    let manual = format!("Slipway {}", slipway_api::VERSION);
    let page = clap_mangen::Man::new(command.clone()).manual(manual);
    page.generate_to(folder).map_err(|why| Failure::io("writing a page in", folder, &why))?;
    Ok(pages)
}

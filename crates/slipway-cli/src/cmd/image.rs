//! `slipway image`: images and their versions.

mod create;
mod diff;
mod digest;
mod log;
mod ls;
mod protect;
mod rename;
mod retention;
mod rm;
mod rollback;
mod set;
mod share;
mod show;
mod verify;

use crate::context::Context;
use crate::failure::Failure;

/// Images and their versions: list, show, share, protect, delete, roll back …
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  slipway image ls --owner me
  slipway image show me/os -o json")]
pub(crate) enum Command {
    Ls(ls::Args),
    Show(show::Args),
    Log(log::Args),
    Diff(diff::Args),
    Verify(verify::Args),
    Digest(digest::Args),
    Create(create::Args),
    Set(set::Args),
    Rename(rename::Args),
    Share(share::Args),
    Protect(protect::Args),
    Rm(rm::Rm),
    Restore(rm::Restore),
    Rollback(rollback::Args),
    #[command(subcommand)]
    Retention(retention::Command),
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => ls::run(args, cx).await,
        Command::Show(args) => show::run(args, cx).await,
        Command::Log(args) => log::run(args, cx).await,
        Command::Diff(args) => diff::run(args, cx).await,
        Command::Verify(args) => verify::run(args, cx).await,
        Command::Digest(args) => digest::run(args, cx).await,
        Command::Create(args) => create::run(args, cx).await,
        Command::Set(args) => set::run(args, cx).await,
        Command::Rename(args) => rename::run(args, cx).await,
        Command::Share(args) => share::run(args, cx).await,
        Command::Protect(args) => protect::run(args, cx).await,
        Command::Rm(args) => rm::rm(args, cx).await,
        Command::Restore(args) => rm::restore(args, cx).await,
        Command::Rollback(args) => rollback::run(args, cx).await,
        Command::Retention(command) => retention::run(command, cx).await,
    }
}

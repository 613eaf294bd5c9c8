//! The command line as clap reads it. It depends on nothing else, because the manual page is made from it too (`cargo xtask man`).

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// Puts versions of disk images onto the disks of this machine.
#[derive(Debug, Parser)]
#[command(
    name = "slipway-agent",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "\
The environment says which server: SLIPWAY_URL, SLIPWAY_TOKEN, and SLIPWAY_CA for a file with its own CA. \
SLIPWAY_LOG filters the log, like slipway_transfer=debug.

Examples:
  slipway-agent flash jan/os:3 /dev/nvme0n1
  slipway-agent flash jan/os:stable /dev/disk/by-id/wwn-0x5000c500 --fix-gpt"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Flash(FlashArgs),
}

/// How the result is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    Text,
    Json,
}

/// Flash a version onto a disk or file of this machine; never asks
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A target that is mounted, in use, the system's own disk, too small or of another sector size is refused (exit \
code 10). An interrupted target cannot boot; the same command goes on where it stopped.

Examples:
  slipway-agent flash jan/os:3 /dev/nvme0n1
  slipway-agent flash jan/os /dev/disk/by-id/wwn-0x5000c500 -o json")]
pub(crate) struct FlashArgs {
    #[arg(help = "owner/name[:N|:channel][@root]")]
    pub(crate) reference: String,
    /// A block device, or a file, which is made if it does not exist
    pub(crate) target: PathBuf,
    /// Accepted so that a line for 'slipway flash' works here too
    #[arg(long, hide = true)]
    pub(crate) yes: bool,
    /// Do not read back what was written
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Write a new backup partition table at the end of a larger disk
    #[arg(long)]
    pub(crate) fix_gpt: bool,
    /// text or json
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        hide_default_value = true,
        hide_possible_values = true
    )]
    pub(crate) output: Format,
}

//! `slipway channel`: movable names for versions.

use crate::context::Context;
use crate::failure::Failure;
use crate::human;
use crate::output::{Output, Table};
use crate::refs::{image_ref, version_ref};
use slipway_api::ChannelName;

/// Movable names for versions: list, set, remove
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  slipway channel set me/os:3 stable
  slipway channel ls me/os")]
pub(crate) enum Command {
    Ls(Ls),
    Set(Set),
    Rm(Rm),
}

/// List the channels of an image
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway channel ls me/os
  slipway channel ls me/os -o json")]
pub(crate) struct Ls {
    /// owner/name
    image: String,
    #[command(flatten)]
    output: Output,
}

/// Make a channel name a version; it is moved if it exists
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway channel set me/os:3 stable
  slipway channel set me/os:stable previous
  slipway flash me/os:stable /dev/sdb")]
pub(crate) struct Set {
    /// owner/name:N; another channel or nothing after the name means the version it names now
    version: String,
    /// The channel's name; 'latest' is reserved
    channel: String,
    #[command(flatten)]
    output: Output,
}

/// Remove a channel; the version stays
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway channel rm me/os stable
  slipway channel ls me/os")]
pub(crate) struct Rm {
    /// owner/name
    image: String,
    /// The channel's name
    channel: String,
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<(), Failure> {
    match command {
        Command::Ls(args) => {
            let name = image_ref(&args.image)?;
            let image = cx.client()?.image_get(&name).await?;
            args.output.list(&image.channels, |channels| {
                let mut table = Table::new(&["CHANNEL", ">VERSION", "MOVED"]);
                for channel in channels {
                    table.row(vec![
                        channel.name.to_string(),
                        channel.version.to_string(),
                        human::time(channel.updated_at),
                    ]);
                }
                table
            })
        }
        Command::Set(args) => {
            let wanted = version_ref(&args.version)?;
            let name = args.channel.parse::<ChannelName>()?;
            let client = cx.client()?;
            let version = client.version_resolve(&wanted).await?.number;
            let channel = client.channel_set(&wanted.image, &name, version).await?;
            args.output
                .one(&channel, |channel| format!("{}:{} is version {}\n", wanted.image, channel.name, channel.version))
        }
        Command::Rm(args) => {
            let image = image_ref(&args.image)?;
            let name = args.channel.parse::<ChannelName>()?;
            cx.client()?.channel_delete(&image, &name).await?;
            cx.note(&format!("Channel {name} of {image} is gone; its version stays."));
            Ok(())
        }
    }
}

use crate::context::Context;
use crate::failure::Failure;
use crate::human::clean;
use crate::output::Output;
use crate::refs::image_ref;
use slipway_api::{Committed, Outcome, Rollback};

/// Make a new version with the content of an old one
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Numbers are never used again: the new version stands on top, the ones between stay, and no byte is stored. \
When the newest version has that content already, none is made, unless --new.

Examples:
  slipway image rollback me/os --to 2
  slipway image rollback me/os --to 2 -m \"6.9 does not boot\"")]
pub(crate) struct Args {
    /// owner/name
    image: String,
    /// The number of the version whose content shall come back
    #[arg(long, value_name = "N")]
    to: u64,
    /// What to say of the new version
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Make a version even if the newest has that content
    #[arg(long)]
    new: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let image = image_ref(&args.image)?;
    let wish = Rollback { to: args.to, message: args.message, new: args.new };
    let committed = cx.client()?.image_rollback(&image, &wish).await?;
    args.output.one(&committed, |committed| text(committed, args.to))
}

fn text(committed: &Committed, to: u64) -> String {
    let name = clean(&committed.reference);
    match committed.outcome {
        Outcome::Created => format!("{name} has the content of version {to}\n"),
        Outcome::Unchanged => format!("unchanged: {name} has the content of version {to} already\n"),
    }
}

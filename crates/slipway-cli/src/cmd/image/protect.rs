use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::refs::{Object, object};
use slipway_api::{ImageChange, VersionChange, VersionPick};

/// Forbid deleting an image or a version, or allow it again
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway image protect me/os:3
  slipway image protect me/os --off")]
pub(crate) struct Args {
    /// owner/name, or owner/name:N for one version
    reference: String,
    /// Take the protection off
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let protected = Some(!args.off);
    let said = format!(
        "{} {}\n",
        crate::human::clean(&args.reference),
        if args.off { "can be deleted" } else { "is protected" }
    );
    match object(&args.reference)? {
        Object::Image(name) => {
            let change = ImageChange { protected, ..ImageChange::default() };
            args.output.one(&cx.client()?.image_change(&name, &change, None).await?, |_| said)
        }
        Object::Version(name, number) => {
            let change = VersionChange { protected, ..VersionChange::default() };
            let changed = cx.client()?.version_change(&name, &VersionPick::Number(number), &change, None).await?;
            args.output.one(&changed, |_| said)
        }
    }
}

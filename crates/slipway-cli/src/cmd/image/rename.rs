use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::refs::image_ref;
use slipway_api::{ImageChange, Slug};

/// Give an image another name; its owner stays
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway image rename me/os debian-13
  slipway image rename jan/old new -o json")]
pub(crate) struct Args {
    /// owner/name
    image: String,
    /// The new name, without the owner
    new: String,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let name = image_ref(&args.image)?;
    let same_owner = args.new.strip_prefix(&format!("{}/", name.owner)).unwrap_or(&args.new);
    let slug = same_owner.parse::<Slug>()?;
    let change = ImageChange { slug: Some(slug), ..ImageChange::default() };
    let image = cx.client()?.image_change(&name, &change, None).await?;
    args.output.one(&image, |image| format!("{name} is now {}\n", image.reference))
}

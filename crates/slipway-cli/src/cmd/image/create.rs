use super::set::Fields;
use super::show::image_text;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::refs::image_ref;
use slipway_api::ImageNew;

/// Make an image without versions ('push' makes one by itself)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway image create me/os --title \"Debian 13\" --type base --file-system ext4
  slipway image create me/home --type user --label team=lab -o json")]
pub(crate) struct Args {
    /// owner/name
    image: String,
    #[command(flatten)]
    fields: Fields,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let fields = args.fields;
    let new = ImageNew {
        reference: image_ref(&args.image)?.to_string(),
        labels: fields.labels(),
        title: fields.title,
        image_type: fields.image_type,
        file_system: fields.file_system,
        compression: fields.compression,
        target_location: fields.target_location,
        associated: fields.associated,
        description: fields.description.unwrap_or_default(),
        ..ImageNew::default()
    };
    args.output.one(&cx.client()?.image_create(&new).await?, image_text)
}

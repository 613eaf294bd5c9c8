use crate::context::Context;
use crate::failure::Failure;
use crate::human::{short, size, time};
use crate::output::{Output, Table};
use crate::pages::{PAGE_ROWS, pages_all};
use slipway_api::{Image, PageQuery};

/// List the images that you may read
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway image ls
  slipway image ls debian --owner me
  slipway image ls --trash -o json")]
pub(crate) struct Args {
    /// Only those whose name or title contains this text
    text: Option<String>,
    /// Only those of this owner; 'me' for your own
    #[arg(long, value_name = "NAME")]
    owner: Option<String>,
    /// Show what is in the trash instead
    #[arg(long)]
    trash: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    let images = pages_all(None, |cursor| {
        let (owner, q) = (args.owner.clone(), args.text.clone());
        let query = PageQuery { limit: Some(PAGE_ROWS), cursor, owner, q, trash: args.trash };
        let client = &client;
        async move { client.image_list(&query).await }
    })
    .await?;
    args.output.list(&images, table)?;
    if images.is_empty() && !args.output.for_programs() {
        let all = args.text.is_none() && args.owner.is_none() && !args.trash;
        cx.note(if all {
            "No images yet: 'slipway push disk.raw me/NAME' makes one."
        } else {
            "No image is like that."
        });
    }
    Ok(())
}

fn table(images: &[Image]) -> Table {
    let mut table = Table::new(&["IMAGE", ">LATEST", ">VERSIONS", ">STORED", "READERS", "CHANGED", "TITLE"]);
    for image in images {
        table.row(vec![
            image.reference.clone(),
            image.latest.map_or_else(|| "-".into(), |number| number.to_string()),
            image.version_count.to_string(),
            size(image.new_bytes),
            readers(image),
            time(image.updated_at),
            short(&image.title, 40),
        ]);
    }
    table
}

/// Who may read an image besides its owner, in a word.
pub(super) fn readers(image: &Image) -> String {
    match (image.sharing.public, image.sharing.readers.len()) {
        (true, _) => "everyone".into(),
        (false, 0) => "owner".into(),
        (false, more) => format!("owner +{more}"),
    }
}

use crate::context::Context;
use crate::failure::Failure;
use crate::human::{short, size, time};
use crate::output::{Output, Table};
use crate::pages::{PAGE_ROWS, pages_all};
use crate::refs::image_ref;
use slipway_api::{PageQuery, Version};

/// List the versions of an image, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SIZE is the raw image, DATA its blocks that are not zero, NEW what the version added to the store.

Examples:
  slipway image log me/os
  slipway image log me/os --limit 5 -o jsonl")]
pub(crate) struct Args {
    /// owner/name
    image: String,
    /// At most so many versions
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Show the versions in the trash instead
    #[arg(long)]
    trash: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let image = image_ref(&args.image)?;
    let client = cx.client()?;
    let versions = pages_all(args.limit, |cursor| {
        let query = PageQuery { cursor, limit: Some(PAGE_ROWS), trash: args.trash, ..PageQuery::default() };
        let (client, image) = (&client, &image);
        async move { client.version_list(image, &query).await }
    })
    .await?;
    args.output.list(&versions, table)
}

/// Versions as a table, also for `show`.
pub(super) fn table(versions: &[Version]) -> Table {
    let mut table = Table::new(&[">VERSION", "WHEN", "WHO", ">SIZE", ">DATA", ">NEW", "MARKS", "MESSAGE"]);
    for version in versions {
        let mut marks = version.channels.clone();
        marks.extend(version.protected.then(|| "protected".into()));
        marks.extend(version.trashed_at.map(|_| "trash".into()));
        table.row(vec![
            version.number.to_string(),
            time(version.created_at),
            version.created_by.to_string(),
            size(version.size),
            size(version.data_bytes),
            size(version.new_bytes),
            marks.join(","),
            short(&version.message, 50),
        ]);
    }
    table
}

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::follow::{task_follow, task_result};
use crate::human::{clean, count, size};
use crate::output::{Output, print};
use crate::pages::{PAGE_ROWS, pages_all};
use crate::refs::{image_ref, version_ref};
use slipway_api::{Client, ImageRef, PageQuery, VerifyResult, VersionPick};

/// Have the server read every byte of a version, or of all; exit code 7 if one is damaged
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Every chunk is read from where it is stored, past all caches, and held against its digest; then the digests of the whole \
image. What cannot be read is named by its place in the raw image.

Examples:
  slipway image verify me/os:1
  slipway image verify me/os -o json")]
pub(crate) struct Args {
    /// owner/name:N (or :channel) for one version, owner/name for all of them
    reference: String,
    /// Print the tasks and do not wait for their ends
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    let (image, picks) = picks(&client, &args.reference).await?;
    if args.no_wait {
        let mut tasks = Vec::new();
        for pick in &picks {
            tasks.push(client.version_verify(&image, pick).await?);
        }
        return args.output.list(&tasks, |tasks| {
            let mut table = crate::output::Table::new(&["TASK", "OBJECT"]);
            tasks.iter().for_each(|task| table.row(vec![task.id.to_string(), task.object.clone()]));
            table
        });
    }
    let mut results = Vec::new();
    for pick in &picks {
        // One after the other, as the server does them: so that Ctrl-C leaves at most one behind.
        let task = client.version_verify(&image, pick).await?;
        let task = task_follow(cx, &client, task.id, None).await?;
        let result = task_result::<VerifyResult>(&task)?;
        if !args.output.for_programs() {
            print(&text(&result))?;
        }
        results.push(result);
    }
    if args.output.for_programs() {
        match (results.as_slice(), args.reference.contains([':', '@'])) {
            ([one], true) => args.output.one(one, |_| String::new())?,
            (all, _) => args.output.list(all, |_| crate::output::Table::new(&[]))?,
        }
    }
    let bad: Vec<&VerifyResult> = results.iter().filter(|result| !result.whole).collect();
    match bad.first() {
        None => Ok(()),
        Some(first) => {
            let what = match bad.len() {
                1 => format!("{} is damaged", clean(&first.reference)),
                many => format!("{many} of {} are damaged", count(results.len() as u64, "version")),
            };
            Err(Failure::new(exit::VERIFY, what).next(
                "push the image again from a good copy; if a blob is missing, 'slipway check --repair' gives it up first",
            ))
        }
    }
}

/// The versions that are meant; one by the number that it has now.
async fn picks(client: &Client, reference: &str) -> Result<(ImageRef, Vec<VersionPick>), Failure> {
    if reference.contains([':', '@']) {
        let wanted = version_ref(reference)?;
        let version = client.version_resolve(&wanted).await?;
        return Ok((wanted.image, vec![VersionPick::Number(version.number)]));
    }
    let image = image_ref(reference)?;
    let versions = pages_all(None, |cursor| {
        let query = PageQuery { cursor, limit: Some(PAGE_ROWS), ..PageQuery::default() };
        let image = &image;
        async move { client.version_list(image, &query).await }
    })
    .await?;
    let picks: Vec<VersionPick> = versions.iter().map(|version| VersionPick::Number(version.number)).collect();
    match picks.is_empty() {
        true => Err(Failure::new(exit::NOT_FOUND, format!("image {image} has no version"))
            .next(format!("'slipway push FILE {image}' makes one"))),
        false => Ok((image, picks)),
    }
}

fn text(result: &VerifyResult) -> String {
    let name = clean(&result.reference);
    if result.whole {
        let hashes = if result.digest.is_some() { "" } else { " (nearly all holes: without the digests of the whole)" };
        return format!("{name} is whole: {} of data in {} read{hashes}\n", size(result.read_bytes), size(result.size));
    }
    let mut out = format!("{name} is damaged: {} of {} cannot be read\n", size(result.bad_bytes), size(result.size));
    for bad in &result.bad {
        out.push_str(&format!("  {} bytes at {}: {}\n", bad.length, bad.offset, clean(&bad.detail)));
    }
    if result.bad_more {
        out.push_str("  and more behind\n");
    }
    for wrong in &result.mismatches {
        out.push_str(&format!("  {}\n", clean(wrong)));
    }
    out
}

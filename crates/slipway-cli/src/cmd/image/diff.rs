mod exact;
mod files;
mod show;

use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::progress::Progress;
use crate::refs::version_ref;
use files::FileSystemDiff;
use slipway_api::{Client, DiffExtent, DiffQuery, VersionDiff, VersionPick, VersionRef};
use slipway_transfer::{FrameCache, ReaderOptions, RemoteContent, RemoteReader};
use std::sync::Arc;
use std::time::Duration;

/// Memory for what is read of both versions.
const CACHE_BYTES: u64 = 96 << 20;
/// Parts asked for at a time.
const PAGE: u32 = 5000;

/// Show what differs between two versions: parts of the image, bytes, and the files of ext4
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The parts are told from lists of chunks, so each may be up to a chunk longer than what differs; --exact reads them and \
tells 4 KiB blocks apart. Files are compared in ext2, ext3 and ext4, also within partitions; only what may differ is read.
A added, D deleted, M changed, m only owner, mode, times or attributes, R renamed, ? too much to read.

Examples:
  slipway image diff me/os:1..2
  slipway image diff me/os:1 eva/data:7 --no-files
  slipway image diff me/os:stable..latest -o json")]
pub(crate) struct Args {
    /// The older version, or both as owner/name:OLD..NEW
    from: String,
    /// The newer version, if the first names only the older one
    to: Option<String>,
    /// Read what may differ, and tell 4 KiB blocks apart
    #[arg(long)]
    exact: bool,
    /// Do not look into file systems
    #[arg(long)]
    no_files: bool,
    /// List all parts that differ, not only the first ones
    #[arg(long)]
    extents: bool,
    /// Give up comparing files after this time
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = crate::human::duration_read)]
    timeout: u64,
    #[command(flatten)]
    output: Output,
}

/// What differs, for programs.
#[derive(serde::Serialize)]
struct Answer {
    #[serde(flatten)]
    diff: VersionDiff,
    /// Parts are exact to the 4 KiB block.
    exact: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_systems: Option<Vec<FileSystemDiff>>,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let (from, to) = sides(&args.from, args.to.as_deref())?;
    let client = cx.client()?;
    // Numbers from here on: a channel may move.
    let (from, to) = (pinned(&client, from).await?, pinned(&client, to).await?);
    let mut diff = diff_all(&client, &from, &to).await?;
    let progress = Arc::new(Progress::new(cx));
    let needs_reading = !diff.same && (args.exact || !args.no_files);
    let mut file_systems = None;
    if needs_reading {
        cx.on_interrupt("nothing was changed");
        let cache = FrameCache::memory(CACHE_BYTES);
        let patient = cx.client_patient()?;
        let options = ReaderOptions { cancel: cx.control(|_| ()).cancel, ..ReaderOptions::default() };
        let one = RemoteReader::new(RemoteContent::open(&patient, &from).await?, &cache, options.clone());
        let two = RemoteReader::new(RemoteContent::open(&patient, &to).await?, &cache, options);
        if args.exact {
            let (one, two, extents, at) = (one.clone(), two.clone(), diff.extents.clone(), progress.clone());
            let exact = tokio::task::spawn_blocking(move || exact::extents_exact(&one, &two, &extents, &at));
            diff.extents = exact.await.map_err(|_| lost_thread())??;
            exact::bytes_exact(&mut diff);
        }
        if !args.no_files {
            let (ranges, at) = (files::ranges(&diff.extents), progress.clone());
            let limit = Duration::from_secs(args.timeout);
            let compare = move || files::file_systems_compare(&one, &two, &ranges, limit, &at);
            file_systems = Some(tokio::task::spawn_blocking(compare).await.map_err(|_| lost_thread())??);
        }
    }
    progress.clear();
    let answer = Answer { diff, exact: args.exact, file_systems };
    args.output.one(&answer, |answer| show::text(answer, args.extents))
}

fn lost_thread() -> Failure {
    Failure::new(crate::failure::exit::FAILED, "comparing: a thread of work was lost").next("run the command again")
}

/// What is compared: `owner/name:1..2`, or two references.
fn sides(from: &str, to: Option<&str>) -> Result<(VersionRef, VersionRef), Failure> {
    let name_end = from.find(':').unwrap_or(from.len());
    let range = from[name_end..].split_once("..");
    match (range, to) {
        (None, Some(to)) => Ok((version_ref(from)?, version_ref(to)?)),
        (Some((old, new)), None) => {
            let from = version_ref(&format!("{}{old}", &from[..name_end]))?;
            let pick = version_ref(&format!("{}:{new}", from.image))?.pick;
            Ok((from.clone(), VersionRef { pick, root: None, ..from }))
        }
        (Some(_), Some(_)) => Err(Failure::usage(format!("'{from}' names both versions already"))
            .next("leave out the second reference, or the part behind '..'")),
        (None, None) => Err(Failure::usage(format!("'{from}' is only one version"))
            .next(format!("name the other one too: 'slipway image diff {}:1..2'", &from[..name_end]))),
    }
}

async fn pinned(client: &Client, wanted: VersionRef) -> Result<VersionRef, Failure> {
    let version = client.version_resolve(&wanted).await?;
    Ok(VersionRef { pick: VersionPick::Number(version.number), root: None, ..wanted })
}

/// All parts, page by page.
async fn diff_all(client: &Client, from: &VersionRef, to: &VersionRef) -> Result<VersionDiff, Failure> {
    let mut query = DiffQuery { from: format!("{}:{}", from.image, from.pick), at: 0, limit: Some(PAGE) };
    let mut diff = client.version_diff(&to.image, &to.pick, &query).await?;
    while let Some(next) = diff.next {
        query.at = next;
        let page = client.version_diff(&to.image, &to.pick, &query).await?;
        if page.next.is_some_and(|after| after <= next) {
            let what = format!("the list of parts goes back from {next}");
            return Err(Failure::new(crate::failure::exit::FAILED, what)
                .next("client and server may be of different versions: 'slipway --version'"));
        }
        extents_append(&mut diff.extents, page.extents);
        diff.next = page.next;
    }
    Ok(diff)
}

/// Joins what was cut between two pages.
fn extents_append(all: &mut Vec<DiffExtent>, page: Vec<DiffExtent>) {
    for extent in page {
        match all.last_mut() {
            Some(last) if last.kind == extent.kind && last.offset + last.length == extent.offset => {
                last.length += extent.length;
            }
            _ => all.push(extent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::sides;

    #[test]
    fn both_versions_are_named() {
        for (from, to, want) in [
            ("me/os:1..2", None, "me/os:1 me/os:2"),
            ("me/os:stable..latest", None, "me/os:stable me/os"),
            ("me/o..s:1..2", None, "me/o..s:1 me/o..s:2"),
            ("me/os:1", Some("eva/data:7"), "me/os:1 eva/data:7"),
            ("me/os", Some("me/os:1"), "me/os me/os:1"),
        ] {
            let (from, to) = sides(from, to).unwrap();
            assert_eq!(format!("{from} {to}"), want);
        }
        for (from, to) in [
            ("me/os:1", None),
            ("me/os", None),
            ("me/os:1..2", Some("me/os:3")),
            ("me/os:..2", None),
            ("me/os:1..", None),
            ("os:1..2", None),
        ] {
            assert_eq!(sides(from, to).unwrap_err().exit, 2, "{from}");
        }
    }
}

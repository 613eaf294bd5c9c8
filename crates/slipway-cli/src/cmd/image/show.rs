use super::ls::readers;
use crate::context::Context;
use crate::failure::Failure;
use crate::human::{clean, size, time, time_or_dash};
use crate::output::{Output, facts};
use crate::refs::{image_ref, version_ref};
use crate::words::text as word;
use slipway_api::{Image, ImageQuery, Version};

/// Show an image with its newest versions, or one version
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Of more than 100 versions the newest 100 are shown, and -o json has 'versions_next' beside them;
'version_count' says how many there are. With --all they are all shown.

Examples:
  slipway image show me/os
  slipway image show me/os --all -o json | jq '.versions | length'
  slipway image show me/os:stable
  slipway image show me/os -o json | jq '.versions[0].digest'")]
pub(crate) struct Args {
    /// owner/name, or owner/name:N for one version
    reference: String,
    /// Also show versions in the trash
    #[arg(long)]
    trash: bool,
    /// Show all versions, however many
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    if args.reference.contains([':', '@']) {
        let wanted = version_ref(&args.reference)?;
        let version = cx.client()?.version_resolve(&wanted).await?;
        return args.output.one(&version, |version| version_text(&wanted.image.to_string(), version));
    }
    let name = image_ref(&args.reference)?;
    let client = cx.client()?;
    let image = match args.all {
        true => client.image_whole(&name, args.trash).await?,
        false => client.image_page(&name, &ImageQuery { trash: args.trash, ..ImageQuery::default() }).await?,
    };
    args.output.one(&image, image_text)
}

/// An image for people; `set`, `create` and others print it too.
pub(super) fn image_text(image: &Image) -> String {
    let labels: Vec<String> = image.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let names: Vec<&str> = image.sharing.readers.iter().map(|name| name.as_str()).collect();
    let readers = match names.is_empty() {
        true => readers(image),
        false => format!("{} ({})", readers(image), names.join(", ")),
    };
    let channels: Vec<String> =
        image.channels.iter().map(|channel| format!("{} → {}", channel.name, channel.version)).collect();
    let mut out = facts(&[
        ("Image", image.reference.clone()),
        ("Title", image.title.clone()),
        ("Type", word(&image.image_type)),
        ("File system", image.file_system.as_ref().map(word).unwrap_or_default()),
        ("Belongs on", image.target_location.clone().unwrap_or_default()),
        ("Goes with", image.associated.join(", ")),
        ("Description", image.description.clone()),
        ("Labels", labels.join(", ")),
        ("Readers", readers),
        (
            "Moving",
            image.sharing.task.map(|task| format!("content moves to its new readers, task {task}")).unwrap_or_default(),
        ),
        ("Protected", if image.protected { "yes".into() } else { String::new() }),
        ("Stored", format!("{} in {}", size(image.new_bytes), crate::human::count(image.version_count, "version"))),
        ("Made", time(image.created_at)),
        ("Changed", time(image.updated_at)),
        ("In trash", image.trashed_at.map(time).unwrap_or_default()),
        ("Channels", channels.join(", ")),
    ]);
    if let Some(versions) = image.versions.as_ref().filter(|versions| !versions.is_empty()) {
        out.push('\n');
        out.push_str(&super::log::table(versions).render());
        if image.versions_next.is_some() {
            out.push_str("Older versions are left out; --all shows them, and 'slipway image log' lists all.\n");
        }
    }
    out
}

/// Of images with more holes the server computes digests only when asked.
const HOLES_MAX: u64 = 64 << 30;

/// One version for people.
pub(super) fn version_text(image: &str, version: &Version) -> String {
    let name = format!("{}:{}", clean(image), version.number);
    let later = |known: Option<String>| match known {
        Some(known) => known,
        None if version.size - version.data_bytes.min(version.size) > HOLES_MAX => {
            format!("not computed of so many holes: 'slipway image digest {name}' does it")
        }
        None => "being computed".into(),
    };
    facts(&[
        ("Version", name.clone()),
        ("Message", version.message.clone()),
        ("Made", format!("{} by {}", time(version.created_at), version.created_by)),
        ("From", version.parent.map(|parent| format!("version {parent}")).unwrap_or_default()),
        ("Size", format!("{} ({} bytes, sectors of {})", size(version.size), version.size, version.sector_size)),
        ("Data", size(version.data_bytes)),
        (
            "Stored",
            format!("{}, of which {} new with this version", size(version.stored_bytes), size(version.new_bytes)),
        ),
        ("Sent as", version.source_format.clone()),
        ("Root", version.root.to_string()),
        ("BLAKE3", later(version.digest.as_ref().map(ToString::to_string))),
        ("SHA-256", later(version.sha256.clone())),
        ("Channels", version.channels.join(", ")),
        ("Protected", if version.protected { "yes".into() } else { String::new() }),
        ("In trash", version.trashed_at.map(|at| time_or_dash(Some(at))).unwrap_or_default()),
    ])
}

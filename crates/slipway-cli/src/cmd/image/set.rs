use super::show::image_text;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::Output;
use crate::refs::image_ref;
use crate::words;
use slipway_api::{FileSystem, ImageChange, ImageType};
use std::collections::BTreeMap;

/// Change what is said of an image; what is not named stays
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway image set me/os --title \"Debian 13\" --description \"the lab's base\"
  slipway image set me/os --label team=lab --label os=")]
pub(crate) struct Args {
    /// owner/name
    image: String,
    #[command(flatten)]
    fields: Fields,
    /// Only if the image still has this revision (see -o json)
    #[arg(long, value_name = "NUMBER")]
    if_revision: Option<u64>,
    #[command(flatten)]
    output: Output,
}

/// What can be said of an image.
#[derive(Debug, clap::Args)]
pub(super) struct Fields {
    /// A title for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) title: Option<String>,
    /// More text for people
    #[arg(long, value_name = "TEXT")]
    pub(crate) description: Option<String>,
    /// base, boot, system, user, temporal, init or machine
    #[arg(long = "type", value_name = "TYPE", value_parser = words::image_type(), hide_possible_values = true)]
    pub(crate) image_type: Option<ImageType>,
    /// ext4, xfs, btrfs, fat32, squashfs, erofs, swap, disk or raw
    #[arg(long, value_name = "NAME", value_parser = words::file_system(), hide_possible_values = true)]
    pub(crate) file_system: Option<FileSystem>,
    /// Compression for downloads: none, gzip or zstd
    #[arg(long, value_name = "NAME", value_parser = ["none", "gzip", "zstd"], hide_possible_values = true)]
    pub(crate) compression: Option<String>,
    /// The disk it belongs on: a path, serial, WWN or rule
    #[arg(long = "target", value_name = "TEXT")]
    pub(crate) target_location: Option<String>,
    /// An image it goes with; once for each
    #[arg(long = "with", value_name = "REF")]
    pub(crate) associated: Vec<String>,
    /// A label; once for each; an empty value takes it off
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label_read)]
    pub(crate) label: Vec<(String, String)>,
}

fn label_read(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it like team=lab".into()),
    }
}

impl Fields {
    /// The labels that have a value.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        self.label.iter().filter(|(_, value)| !value.is_empty()).cloned().collect()
    }
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let name = image_ref(&args.image)?;
    let client = cx.client()?;
    let mut if_match = args.if_revision;
    let labels = match args.fields.label.is_empty() {
        true => None,
        false => {
            // Labels are replaced as a whole, so what is there now is read first and the change holds only for that.
            let now = client.image_get(&name).await?;
            if_match = if_match.or(Some(now.revision));
            let mut labels = now.labels;
            for (key, value) in &args.fields.label {
                labels.remove(key);
                if !value.is_empty() {
                    labels.insert(key.clone(), value.clone());
                }
            }
            Some(labels)
        }
    };
    let fields = args.fields;
    let change = ImageChange {
        title: fields.title,
        description: fields.description,
        image_type: fields.image_type,
        file_system: fields.file_system,
        compression: fields.compression,
        target_location: fields.target_location,
        associated: (!fields.associated.is_empty()).then_some(fields.associated),
        labels,
        ..ImageChange::default()
    };
    if change == ImageChange::default() {
        return Err(Failure::usage(format!("nothing to change on {name} was named"))
            .next("'slipway image set --help' lists what can be set"));
    }
    args.output.one(&client.image_change(&name, &change, if_match).await?, image_text)
}

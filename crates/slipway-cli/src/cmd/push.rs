//! `slipway push`: makes a version of a disk image, sending only what the server lacks.

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::human::{clean, duration, rate, size};
use crate::output::Output;
use crate::progress::Progress;
use crate::refs::image_ref;
use crate::source::{Looked, SourceOptions, source_look};
use slipway_api::{ChannelName, Committed, ImageNew, Outcome};
use slipway_chunk::Digest;
use slipway_format::Said;
use slipway_transfer::{Event, PushOptions, Pushed, push};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Push a disk image: make a version of it, sending only what the server lacks
#[derive(Debug, clap::Args)]
#[command(after_help = "\
SOURCE is a raw or sparse file, a block device, '-' for stdin, or a disk image as qcow2, VMDK, VHD, VHDX or VDI; \
gzip, xz and zstd around it, and a zip archive, tar or OVA that holds it, are found by content. A push that broke \
off is run again: what has arrived is not sent twice.

Examples:
  slipway push disk.raw me/os -m \"6.9 kernel\"
  slipway push debian.qcow2.xz me/debian --channel stable
  ssh lab cat /dev/vg/snap | slipway push - me/lab -o json")]
pub(crate) struct Args {
    /// The image file, block device, or '-' for stdin
    source: PathBuf,
    /// owner/name; made if it does not exist
    image: String,
    /// What to say of the version
    #[arg(short, long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    message: String,
    /// Let this channel name the new version
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// The version it was made from [default: the newest]
    #[arg(long, value_name = "N")]
    parent: Option<u64>,
    /// Make a version even if nothing changed
    #[arg(long)]
    new: bool,
    /// Fail if the image does not exist
    #[arg(long)]
    no_create: bool,
    /// What SOURCE is: auto, raw, qcow2, vmdk, vhd, vhdx, vdi, zip, tar, gzip, xz or zstd
    #[arg(long, value_name = "FORMAT", default_value = "auto", hide_default_value = true, value_parser = said_read)]
    format: Said,
    /// Sectors of the disk it is for: 512 or 4096 [default: what it looks like]
    #[arg(long, value_name = "BYTES", value_parser = sector_size_read)]
    sector_size: Option<u32>,
    /// Fail unless the raw image has this BLAKE3
    #[arg(long, value_name = "HEX")]
    digest: Option<Digest>,
    /// Read a device, or a file behind a loop device, although it is mounted
    #[arg(long)]
    mounted: bool,
    #[command(flatten)]
    output: Output,
}

fn said_read(text: &str) -> Result<Said, String> {
    text.parse().map_err(|()| format!("known are {}", Said::WORDS))
}

fn sector_size_read(text: &str) -> Result<u32, String> {
    match text {
        "512" => Ok(512),
        "4096" => Ok(4096),
        _ => Err("sectors have 512 or 4096 bytes".into()),
    }
}

/// What a push came to, for programs.
#[derive(serde::Serialize)]
struct Answer<'a> {
    #[serde(flatten)]
    committed: &'a Committed,
    image_created: bool,
    data_bytes: u64,
    shared_bytes: u64,
    sent_bytes: u64,
    seconds: f64,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let image = image_ref(&args.image)?;
    let channel = args.channel.as_deref().map(str::parse::<ChannelName>).transpose()?;
    let options = SourceOptions { format: args.format, mounted: args.mounted, sector_size: args.sector_size };
    let client = cx.client_patient()?;
    let looked = source_look(&args.source, &options)?;
    // A server or token that is not there is said before a long reading begins, and soon.
    cx.client()?.me().await?;
    cx.on_interrupt("run the same push again: what has arrived is not sent twice");
    let found = match looked {
        Looked::Ready(found) => found,
        Looked::Packed(packed) => {
            cx.note(&packed.said());
            let opening = tokio::task::spawn_blocking(move || packed.open());
            let lost = |_| {
                Failure::new(exit::FAILED, "a fault in this program stopped the unpacking")
                    .next("please report this, with what -vv prints")
            };
            opening.await.map_err(lost)??
        }
    };
    cx.note(&found.said);
    let options = PushOptions {
        create: (!args.no_create).then(|| ImageNew { reference: image.to_string(), ..ImageNew::default() }),
        message: args.message,
        parent: args.parent,
        new: args.new,
        sector_size: found.sector_size,
        source_format: Some(found.format.clone()),
        expect: args.digest,
        ..PushOptions::new(image.clone())
    };
    let progress = Arc::new(Progress::new(cx));
    let control = {
        let (cx, progress, meter) = (cx.clone(), progress.clone(), found.meter.clone());
        cx.clone().control(move |event| match (event, &meter) {
            // The place in a compressed input says more than the place in an image of unknown length.
            (Event::Progress { step, bytes: _, total: None }, Some(meter)) => {
                progress.at(step.as_str(), meter.done.load(Ordering::Relaxed), meter.total);
            }
            (event, _) => progress.event(&cx, event),
        })
    };
    let begun = Instant::now();
    let pushed = push(&client, found.into_source(), &options, &control).await?;
    progress.clear();
    if let Some(name) = channel {
        client.channel_set(&image, &name, pushed.committed.version.number).await?;
    }
    let took = begun.elapsed();
    let answer = Answer {
        committed: &pushed.committed,
        image_created: pushed.image_created,
        data_bytes: pushed.data_bytes,
        shared_bytes: pushed.shared_bytes,
        sent_bytes: pushed.sent_bytes,
        seconds: took.as_secs_f64(),
    };
    args.output.one(&answer, |_| text(&pushed, took))
}

fn text(pushed: &Pushed, took: Duration) -> String {
    let version = &pushed.committed.version;
    let reference = clean(&pushed.committed.reference);
    let read = format!("{} read in {} ({})", size(pushed.size), duration(took), rate(pushed.size, took));
    match pushed.committed.outcome {
        Outcome::Unchanged => {
            format!("{reference} is the same already, no version was made (--new makes one all the same)\n{read}\n")
        }
        Outcome::Created => format!(
            "{reference} {}\n{} new in the store ({} sent), {} shared of {} data\n{read}\n",
            if pushed.image_created { "made, with its image" } else { "made" },
            size(version.new_bytes),
            size(pushed.sent_bytes),
            size(pushed.shared_bytes),
            size(pushed.data_bytes),
        ),
    }
}

//! `slipway flash`: makes a file or block device hold exactly a version.

use crate::context::Context;
use crate::failure::{Failure, path_shown};
use crate::human::{clean, duration, rate, size};
use crate::output::Output;
use crate::progress::Progress;
use crate::refs::version_ref;
use crate::target;
use slipway_transfer::{FlashOptions, Flashed, RemoteContent, flash};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Flash a version onto a block device or file, fetching and writing only what differs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows what will be overwritten and asks. A target that is mounted, in use, the system's own disk, too small or \
of another sector size is refused (exit code 10). A flash that was interrupted leaves a target that cannot boot; \
the same command goes on where it stopped.

Examples:
  slipway flash me/os:1 /dev/disk/by-id/usb-SanDisk_4C530001
  slipway flash me/os:stable target.raw --yes
  slipway flash me/os /dev/sdb --yes --fix-gpt -o json")]
pub(crate) struct Args {
    #[arg(help = "owner/name[:N|:channel][@root]")]
    reference: String,
    /// A block device, or a file, which is made if it does not exist
    target: PathBuf,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Do not read back what was written
    #[arg(long)]
    no_verify: bool,
    /// Write a new backup partition table at the end of a larger disk
    #[arg(long)]
    fix_gpt: bool,
    /// Requests at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32))]
    connections: Option<u8>,
    #[command(flatten)]
    output: Output,
}

/// What a flash came to, for programs.
#[derive(serde::Serialize)]
struct Answer<'a> {
    #[serde(rename = "ref")]
    reference: String,
    target: String,
    #[serde(flatten)]
    flashed: &'a Flashed,
    seconds: f64,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let wanted = version_ref(&args.reference)?;
    // A server or version that is not there is soon said; only the transfer itself is patient.
    cx.client()?.version_resolve(&wanted).await?;
    let content = RemoteContent::open(&cx.client_patient()?, &wanted).await?;
    let name = content.name();
    let mut target = target::open(&args.target, &content.shape(), true)?;
    target::confirm(cx, &mut target, &name, args.yes).await?;

    let shown = path_shown(&args.target);
    cx.on_interrupt_tidy(format!(
        "{shown} holds no image now, or is untouched; the same command goes on where it stopped"
    ));
    let mut options = FlashOptions { verify: !args.no_verify, fix_gpt: args.fix_gpt, ..FlashOptions::default() };
    if let Some(connections) = args.connections {
        options.connections = usize::from(connections);
    }
    let progress = Arc::new(Progress::new(cx));
    let control = {
        let (cx, progress) = (cx.clone(), progress.clone());
        cx.clone().control(move |event| progress.event(&cx, event))
    };
    let begun = Instant::now();
    let flashed = flash(&content, target, &options, &control).await?;
    progress.clear();
    let took = begun.elapsed();
    if let Some(why) = &flashed.reread {
        cx.note(&format!(
            "The kernel still uses the old partition table of {shown} ({why}); 'partprobe' or a restart helps."
        ));
    }
    let answer =
        Answer { reference: name.clone(), target: shown.clone(), flashed: &flashed, seconds: took.as_secs_f64() };
    args.output.one(&answer, |_| text(&name, &shown, &flashed, took))
}

fn text(name: &str, target: &str, flashed: &Flashed, took: Duration) -> String {
    let name = clean(name);
    if flashed.unchanged {
        return format!(
            "{target} held {name} already: {} compared in {}, nothing written\n",
            size(flashed.size),
            duration(took)
        );
    }
    let mut out =
        format!("{target} holds {name}{}\n", if flashed.resumed { " (an interrupted flash was finished)" } else { "" });
    out.push_str(&format!(
        "{} in place, {} copied on the target, {} fetched\n{} written, {} made zero, {} read back\n",
        size(flashed.matched_bytes),
        size(flashed.moved_bytes),
        size(flashed.fetched_bytes),
        size(flashed.written_bytes),
        size(flashed.zeroed_bytes),
        size(flashed.verified_bytes),
    ));
    if flashed.tail_bytes > 0 {
        let gpt = if flashed.gpt_fixed { ", a new backup partition table at its end" } else { "" };
        out.push_str(&format!("{} behind the image left as they were{gpt}\n", size(flashed.tail_bytes)));
    }
    out.push_str(&format!("{} in {} ({})\n", size(flashed.size), duration(took), rate(flashed.size, took)));
    out
}

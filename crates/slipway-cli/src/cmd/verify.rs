//! `slipway verify`: compares a file or block device with a version and changes nothing.

use crate::context::Context;
use crate::failure::{Failure, exit, path_shown};
use crate::human::{clean, duration, size};
use crate::output::{Output, Table};
use crate::progress::Progress;
use crate::refs::version_ref;
use crate::target;
use slipway_transfer::{Checked, RemoteContent, target_verify};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Compare a block device or file with a version; exit code 7 if it differs
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Reads the whole target past the page cache and names the ranges that differ. What lies behind the image on a \
larger target is not looked at. The target is opened read-only, so it may be write-protected; one that is mounted \
is compared too, with a warning that it may change meanwhile.

Examples:
  slipway verify me/os:1 /dev/sdb
  slipway verify me/os:stable target.raw -o json")]
pub(crate) struct Args {
    #[arg(help = "owner/name[:N|:channel][@root]")]
    reference: String,
    /// A block device or file
    target: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// What a comparison came to, for programs.
#[derive(serde::Serialize)]
struct Answer<'a> {
    #[serde(rename = "ref")]
    reference: String,
    target: String,
    #[serde(flatten)]
    checked: &'a Checked,
    seconds: f64,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let wanted = version_ref(&args.reference)?;
    cx.client()?.version_resolve(&wanted).await?;
    let content = RemoteContent::open(&cx.client_patient()?, &wanted).await?;
    let (name, shown) = (clean(&content.name()), path_shown(&args.target));
    let target = target::open_to_verify(cx, &args.target, &content.shape(), &name)?;
    cx.on_interrupt("nothing was changed");
    let progress = Arc::new(Progress::new(cx));
    let control = {
        let (cx, progress) = (cx.clone(), progress.clone());
        cx.clone().control(move |event| progress.event(&cx, event))
    };
    let begun = Instant::now();
    let checked = target_verify(&content, target, &control).await?;
    progress.clear();
    let took = begun.elapsed();
    let answer =
        Answer { reference: name.clone(), target: shown.clone(), checked: &checked, seconds: took.as_secs_f64() };
    args.output.one(&answer, |_| text(&name, &shown, &checked, took))?;
    match checked.same {
        true => Ok(()),
        false => Err(differs(&name, &shown, &checked)),
    }
}

fn text(name: &str, target: &str, checked: &Checked, took: Duration) -> String {
    if checked.same {
        return format!("{target} holds {name}: {} compared in {}\n", size(checked.size), duration(took));
    }
    let mut table = Table::new(&[">DIFFERS AT BYTE", ">LENGTH"]);
    for range in &checked.ranges {
        table.row(vec![range.at.to_string(), range.len.to_string()]);
    }
    let mut out = table.render();
    if checked.ranges_more {
        out.push_str("and more behind\n");
    }
    out
}

fn differs(name: &str, target: &str, checked: &Checked) -> Failure {
    let first = checked.ranges.first().map_or_else(String::new, |range| format!(", first at byte {}", range.at));
    Failure::new(exit::VERIFY, format!("{target} differs from {name} in {}{first}", size(checked.differing_bytes)))
        .next(format!("'slipway flash {name} {target}' writes only what differs"))
}

//! `slipway pull`: writes a version to a file or to stdout.

use crate::context::Context;
use crate::failure::{Failure, exit, path_shown};
use crate::human::{clean, duration, rate, size};
use crate::output::{Format, Output};
use crate::progress::Progress;
use crate::refs::version_ref;
use slipway_transfer::{FlashOptions, RemoteContent, pull_file, pull_stream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Pull a version: write it to a sparse file, or to stdout
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file appears when it is whole and verified; what had its name before is replaced in that moment. '-o' names \
the file here; '--output json' says what was done in another form.

Examples:
  slipway pull me/os:1 -o out.raw
  slipway pull me/os:stable -o - | zstd > os.raw.zst
  slipway pull me/os -o os.raw --output json")]
pub(crate) struct Args {
    #[arg(help = "owner/name[:N|:channel][@root]")]
    reference: String,
    /// Where to: a file, or '-' for stdout
    #[arg(short = 'o', long = "file", value_name = "FILE")]
    file: PathBuf,
    /// Do not read back what was written
    #[arg(long)]
    no_verify: bool,
    /// table, json, yaml or jsonl
    #[arg(
        long = "output",
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        hide_default_value = true,
        hide_possible_values = true
    )]
    format: Format,
}

/// What a pull came to, for programs.
#[derive(serde::Serialize)]
struct Answer {
    #[serde(rename = "ref")]
    reference: String,
    file: String,
    size: u64,
    fetched_bytes: u64,
    written_bytes: u64,
    seconds: f64,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let wanted = version_ref(&args.reference)?;
    file_check(&args.file)?;
    cx.client()?.version_resolve(&wanted).await?;
    let content = RemoteContent::open(&cx.client_patient()?, &wanted).await?;
    let progress = Arc::new(Progress::new(cx));
    let control = {
        let (cx, progress) = (cx.clone(), progress.clone());
        cx.clone().control(move |event| progress.event(&cx, event))
    };
    let options = FlashOptions { verify: !args.no_verify, ..FlashOptions::default() };
    let begun = Instant::now();
    let name = clean(&content.name());
    if args.file.as_os_str() == "-" {
        let done = pull_stream(&content, Box::new(std::io::stdout()), "stdout", &options, &control).await?;
        progress.clear();
        let took = begun.elapsed();
        cx.note(&format!("{name}: {} in {} ({})", size(done.size), duration(took), rate(done.size, took)));
        return Ok(());
    }
    cx.on_interrupt_tidy("nothing was left behind; run the same command again");
    let done = pull_file(&content, &args.file, &options, &control).await?;
    progress.clear();
    let took = begun.elapsed();
    let answer = Answer {
        reference: name,
        file: path_shown(&args.file),
        size: done.size,
        fetched_bytes: done.fetched_bytes,
        written_bytes: done.written_bytes,
        seconds: took.as_secs_f64(),
    };
    Output { format: args.format }.one(&answer, |answer| {
        format!(
            "{} holds {}\n{} fetched, {} in {} ({})\n",
            answer.file,
            answer.reference,
            size(answer.fetched_bytes),
            size(answer.size),
            duration(took),
            rate(answer.size, took)
        )
    })
}

/// A file of this name is written beside it and then renamed, which must not replace a device or a folder.
fn file_check(file: &Path) -> Result<(), Failure> {
    if ["json", "yaml", "jsonl", "table"].iter().any(|word| file.as_os_str() == *word) {
        let word = file.display();
        return Err(Failure::usage(format!("'-o {word}' names a file here"))
            .next(format!("write '-o FILE --output {word}', or '-o ./{word}' for a file of that name")));
    }
    let Ok(meta) = std::fs::metadata(file) else { return Ok(()) };
    if meta.is_dir() {
        return Err(Failure::usage(format!("{} is a directory", path_shown(file))).next("name a file in it"));
    }
    match meta.is_file() {
        true => Ok(()),
        false => Err(Failure::new(exit::TARGET, format!("{} is not a regular file", path_shown(file)))
            .next("'slipway flash REF TARGET' writes to devices; '-o -' writes to stdout")),
    }
}

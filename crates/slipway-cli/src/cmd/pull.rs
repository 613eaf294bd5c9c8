//! `slipway pull`: writes a version to a file, raw or as a qcow2, or to stdout.

use crate::context::Context;
use crate::failure::{Failure, exit, path_shown};
use crate::human::{clean, duration, rate, size};
use crate::output::{Format, Output};
use crate::progress::Progress;
use crate::refs::version_ref;
use slipway_chunk::IMAGE_SIZE_MAX;
use slipway_format::{Disk, FileAt, Limits, Qcow2, Qcow2Writer};
use slipway_transfer::{FlashOptions, InOrder, Maker, RemoteContent, pull_file, pull_file_as, pull_stream};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Pull a version: write it to a sparse file, or to stdout
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The file appears when it is whole and verified; what had its name before is replaced in that moment. '-o' names \
the file here; '--output json' says what was done in another form. A qcow2 is sparse and compressed with zstd.

Examples:
  slipway pull me/os:1 -o out.raw
  slipway pull me/os:stable -o - | zstd > os.raw.zst
  slipway pull me/os -o os.qcow2 --format qcow2
  slipway pull me/os -o os.raw --output json")]
pub(crate) struct Args {
    #[arg(help = "owner/name[:N|:channel][@root]")]
    reference: String,
    /// Where to: a file, or '-' for stdout
    #[arg(short = 'o', long = "file", value_name = "FILE")]
    file: PathBuf,
    /// What the file shall be: raw or qcow2
    #[arg(
        long = "format",
        value_enum,
        value_name = "FORMAT",
        default_value = "raw",
        hide_default_value = true,
        hide_possible_values = true
    )]
    form: Form,
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

/// What a version is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    Raw,
    Qcow2,
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
    if args.form == Form::Qcow2 && args.file.as_os_str() == "-" {
        return Err(Failure::usage("a qcow2 is not written from front to back, as stdout needs")
            .next("name a file with '-o FILE', or fetch '…/content?format=qcow2' from the server with curl"));
    }
    cx.client()?.version_resolve(&wanted).await?;
    let content = RemoteContent::open(&cx.client_patient()?, &wanted).await?;
    let progress = Arc::new(Progress::new(cx));
    let control = {
        let (cx, progress) = (cx.clone(), progress.clone());
        cx.clone().control(move |event| progress.event(&cx, event))
    };
    if args.form == Form::Raw && args.file.extension().is_some_and(|ending| ending == "qcow2") {
        cx.note(&format!("{} will hold the raw image; --format qcow2 makes a qcow2", path_shown(&args.file)));
    }
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
    let (size_read, fetched_bytes, written_bytes) = match args.form {
        Form::Raw => {
            let done = pull_file(&content, &args.file, &options, &control).await?;
            (done.size, done.fetched_bytes, done.written_bytes)
        }
        Form::Qcow2 => {
            let done = pull_file_as(&content, &args.file, qcow2_maker(), &options, &control).await?;
            let written = std::fs::metadata(&args.file).map_or(0, |meta| meta.len());
            (done.size, done.fetched_bytes, written)
        }
    };
    progress.clear();
    let took = begun.elapsed();
    let answer = Answer {
        reference: name,
        file: path_shown(&args.file),
        size: size_read,
        fetched_bytes,
        written_bytes,
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

/// A qcow2 that is written in order, and flushed at its end.
struct Qcow2Made(Option<Qcow2Writer>);

impl Qcow2Made {
    fn writer(&mut self) -> io::Result<&mut Qcow2Writer> {
        self.0.as_mut().ok_or_else(|| io::Error::other("the image has ended"))
    }
}

impl InOrder for Qcow2Made {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writer()?.data(bytes)
    }

    fn hole(&mut self, len: u64) -> io::Result<()> {
        self.writer()?.hole(len)
    }

    fn end(&mut self) -> io::Result<()> {
        match self.0.take() {
            Some(writer) => writer.finish()?.sync_all(),
            None => Ok(()),
        }
    }
}

fn qcow2_maker() -> Maker {
    Maker {
        write: Box::new(|file, size| Box::new(Qcow2Made(Some(Qcow2Writer::new(file, size))))),
        read: Box::new(|file| {
            let limits = Limits { size_max: IMAGE_SIZE_MAX };
            let mut disk = Qcow2::open(Box::new(FileAt::new(file)?), &limits)?;
            Ok(Box::new(move |at, buf| disk.fill_at(at, buf)))
        }),
    }
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

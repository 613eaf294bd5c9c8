//! `slipway scrub`: the server reads everything that it keeps now and then; what is wrong is listed here.

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::follow::task_follow;
use crate::human::{clean, count, size, time};
use crate::output::{Output, facts};
use crate::pages::{PAGE_ROWS, pages_all};
use crate::words::text as word;
use slipway_api::{Client, FindingQuery, KnownFinding, ScrubPass, ScrubState, ScrubStatus};

/// Read all that is stored, slowly and again and again, and list what is wrong
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
A pass reads every pack, segment and manifest from where it is stored and holds it against its digests. It goes on where \
it was after a restart, deletes nothing, and puts damaged packs aside after saving what is good of them.

Examples:
  slipway scrub status
  slipway scrub findings -o json")]
pub(crate) enum Command {
    Status(Status),
    Start(Start),
    Pause(Pause),
    Findings(Findings),
}

/// Show where the scrub stands (admins)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway scrub status
  slipway scrub status -o json | jq .last.ended_at")]
pub(crate) struct Status {
    #[command(flatten)]
    output: Output,
}

/// Begin a pass now, or let a paused one go on (admins)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
With --wait the exit code is 7 if anything is wrong at its end.

Examples:
  slipway scrub start
  slipway scrub start --wait")]
pub(crate) struct Start {
    /// Wait for the end of the pass
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    output: Output,
}

/// Pause the scrub until it is started again; where it is stays known (admins)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway scrub pause
  slipway scrub start")]
pub(crate) struct Pause {
    #[command(flatten)]
    output: Output,
}

/// List what is known to be wrong, whoever found it; without role admin, what hurts your versions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Findings of scrub, check, verify and of readers are one list. A finding is over when its blob was put aside and no version \
lacks anything, or when it was read again and is whole.

Examples:
  slipway scrub findings
  slipway scrub findings --all -o jsonl")]
pub(crate) struct Findings {
    /// Also what is over
    #[arg(long)]
    all: bool,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    match command {
        Command::Status(args) => args.output.one(&client.scrub_get().await?, text),
        Command::Start(args) => start(args, cx, &client).await,
        Command::Pause(args) => args.output.one(&client.scrub_pause().await?, text),
        Command::Findings(args) => findings(args, &client).await,
    }
}

async fn start(args: Start, cx: &Context, client: &Client) -> Result<(), Failure> {
    let mut status = client.scrub_start().await?;
    if let Some(task) = status.task.filter(|_| args.wait) {
        task_follow(cx, client, task, None).await?;
        status = client.scrub_get().await?;
    }
    args.output.one(&status, text)?;
    if args.wait && status.findings_open > 0 {
        let what = format!("{} open", count(status.findings_open, "finding"));
        return Err(Failure::new(exit::VERIFY, what).next("'slipway scrub findings' lists what is wrong"));
    }
    Ok(())
}

fn text(status: &ScrubStatus) -> String {
    let pass = |pass: &ScrubPass| {
        format!("{}, {}, {}", size(pass.bytes), count(pass.blobs, "blob"), count(pass.findings, "finding"))
    };
    let now = status.pass.as_ref().map(|now| {
        let share = (now.bytes as f64 / status.bytes_total.max(1) as f64 * 100.0).min(100.0);
        format!(
            "{}, begun {}, {share:.0} % ({} of {})",
            now.number,
            time(now.begun_at),
            pass(now),
            size(status.bytes_total)
        )
    });
    let last = status.last.as_ref().map(|last| {
        let ended = last.ended_at.map(time).unwrap_or_default();
        format!("{}, ended {ended} ({})", last.number, pass(last))
    });
    facts(&[
        ("State", word(&status.state)),
        ("This pass", now.unwrap_or_default()),
        ("Last pass", last.unwrap_or_else(|| "none yet".into())),
        ("Next pass", next(status)),
        ("Rate", status.bytes_per_second.map_or_else(|| "no limit".into(), |rate| format!("{}/s at most", size(rate)))),
        ("Findings", format!("{} open", status.findings_open)),
        ("Task", status.task.map(|id| id.to_string()).unwrap_or_default()),
    ])
}

fn next(status: &ScrubStatus) -> String {
    match (status.state, status.due_at) {
        (ScrubState::Paused, _) => "when 'slipway scrub start' is said".into(),
        (ScrubState::Idle, Some(due)) => time(due),
        (ScrubState::Idle, None) => "only when asked".into(),
        (ScrubState::Waiting | ScrubState::Running, _) => String::new(),
    }
}

async fn findings(args: Findings, client: &Client) -> Result<(), Failure> {
    let found = pages_all(args.limit, |cursor| {
        let query = FindingQuery { cursor, limit: Some(PAGE_ROWS), all: args.all };
        async move { client.finding_list(&query).await }
    })
    .await?;
    if args.output.for_programs() {
        return args.output.list(&found, |_| crate::output::Table::new(&[]));
    }
    crate::output::print(&found_text(&found))
}

/// Details are sentences, too long for a column.
fn found_text(found: &[KnownFinding]) -> String {
    let mut out = String::new();
    for finding in found {
        let seen = format!("found by {} {}", finding.source, time(finding.found_at));
        out.push_str(&format!(
            "{} {} ({})\n  {}\n",
            clean(&finding.kind),
            clean(&finding.object),
            clean(&seen),
            clean(&finding.detail)
        ));
        if let Some(repaired) = &finding.repaired {
            out.push_str(&format!("  done: {}\n", clean(repaired)));
        }
        if let Some(closed) = finding.closed_at {
            out.push_str(&format!("  over since {}\n", time(closed)));
        }
        for version in &finding.versions {
            out.push_str(&format!("  not whole: {}\n", clean(version)));
        }
    }
    if out.is_empty() {
        out.push_str("Nothing is known to be wrong.\n");
    }
    out
}

//! `slipway prune`: frees what nothing refers to.

use crate::context::Context;
use crate::failure::Failure;
use crate::follow::{task_follow, task_result};
use crate::human::{count, size};
use crate::output::Output;
use slipway_api::{PruneRequest, PruneResult};

/// Free what nothing refers to any more (admins)
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What was deleted stays restorable for the grace time; only then a prune takes it. --dry-run prints the plan \
that a real prune would carry out now.

Examples:
  slipway prune --dry-run
  slipway prune
  slipway prune --no-wait -o json")]
pub(crate) struct Args {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print the task and do not wait for its end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    let task = client.prune(&PruneRequest { dry_run: args.dry_run }).await?;
    if args.no_wait {
        return args.output.one(&task, |task| format!("{}\n", task.id));
    }
    let task = task_follow(cx, &client, task.id, None).await?;
    args.output.one(&task_result::<PruneResult>(&task)?, text)
}

fn text(result: &PruneResult) -> String {
    let mut out: String = result.lines.iter().map(|line| format!("{}\n", crate::human::clean(line))).collect();
    let (frees, will) = match result.dry_run {
        true => ("Would free", "would be"),
        false => ("Freed", "will be"),
    };
    out.push_str(&format!(
        "{frees} {} now ({}, {}); {} more in {} {will} free when the grace is over.\n",
        size(result.bytes_freed),
        count(result.packs_deleted, "pack"),
        count(result.documents_deleted, "document"),
        size(result.bytes_doomed),
        count(result.packs_doomed, "pack"),
    ));
    if result.packs_rewritten > 0 {
        out.push_str(&format!("Packs mostly dead, their living part written anew: {}.\n", result.packs_rewritten));
    }
    if result.versions_expired > 0 {
        out.push_str(&format!("Versions whose time in the trash is over: {}.\n", result.versions_expired));
    }
    out
}

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
What was deleted stays restorable for the grace time; only then a prune takes it, in two steps a day apart: \
who still reads by an old address is let finish. --now makes it one step: such readers ask for a new address, and \
readers of what was deleted get an error. --dry-run prints the plan that a real prune would carry out now.

Examples:
  slipway prune --dry-run
  slipway prune
  slipway prune --now
  slipway prune --no-wait -o json")]
pub(crate) struct Args {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Free at once what nothing refers to
    #[arg(long)]
    now: bool,
    /// Print the task and do not wait for its end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    let task = client.prune(&PruneRequest { dry_run: args.dry_run, now: args.now }).await?;
    if args.no_wait {
        return args.output.one(&task, |task| format!("{}\n", task.id));
    }
    let task = task_follow(cx, &client, task.id, None).await?;
    args.output.one(&task_result::<PruneResult>(&task)?, text)
}

fn text(result: &PruneResult) -> String {
    if is_nothing(result) {
        return "Nothing to free.\n".to_owned();
    }
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

/// Whether neither the numbers nor a line of the plan speaks of anything.
fn is_nothing(result: &PruneResult) -> bool {
    let PruneResult { versions_expired, packs_doomed, packs_rewritten, packs_deleted, .. } = result;
    let PruneResult { documents_deleted, bytes_freed, bytes_doomed, .. } = result;
    let packs = [versions_expired, packs_doomed, packs_rewritten, packs_deleted];
    let numbers = packs.into_iter().chain([documents_deleted, bytes_freed, bytes_doomed]);
    numbers.into_iter().all(|number| *number == 0) && result.lines.iter().all(|line| counts_only_zeros(line))
}

/// A plan's first line names all that it does, and how much: nothing, if each number in it is zero.
fn counts_only_zeros(line: &str) -> bool {
    let mut numbers = line.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty()).peekable();
    numbers.peek().is_some() && numbers.all(|digits| digits == "0")
}

#[cfg(test)]
mod tests {
    use super::text;
    use slipway_api::PruneResult;

    #[test]
    fn nothing_is_said_in_one_line() {
        let none = "delete 0 blobs (0 bytes), doom 0 (0 bytes), rewrite 0 packs (0 bytes), revive 0, sweep 0";
        let sweeps = none.replace("sweep 0", "sweep 10");
        let result = |lines: &[&str]| PruneResult {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            ..PruneResult::default()
        };
        for (name, result, nothing) in [
            ("no lines", result(&[]), true),
            ("zeros", result(&[none]), true),
            ("a dry run", PruneResult { dry_run: true, ..result(&[none]) }, true),
            ("sweeps", result(&[&sweeps]), false),
            ("held back", result(&[none, "left as it is: another prune runs"]), false),
            ("expires", PruneResult { versions_expired: 1, ..result(&[none]) }, false),
            ("dooms", PruneResult { bytes_doomed: 10, ..result(&[none]) }, false),
            ("frees", PruneResult { bytes_freed: 10, documents_deleted: 1, ..result(&[none]) }, false),
        ] {
            let said = text(&result);
            assert_eq!(said == "Nothing to free.\n", nothing, "{name}: {said}");
            assert_eq!(said.contains("now ("), !nothing, "{name}: {said}");
        }
    }
}

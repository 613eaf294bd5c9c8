//! `slipway check`: reads what is stored and says what is wrong with it.

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::follow::{task_follow, task_result};
use crate::human::{clean, count, size};
use crate::output::Output;
use slipway_api::{CheckRequest, CheckResult};

/// Read and verify what is stored (admins); exit code 7 if something is wrong
#[derive(Debug, clap::Args)]
#[command(after_help = "\
--repair rebuilds the index and puts damaged packs aside; it never deletes anything.

Examples:
  slipway check
  slipway check --quick
  slipway check --repair -o json")]
pub(crate) struct Args {
    /// Look at rows, sizes and indexes only; do not read every byte
    #[arg(long)]
    quick: bool,
    /// Rebuild the index and put damaged packs into quarantine
    #[arg(long)]
    repair: bool,
    /// Print the task and do not wait for its end
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(args: Args, cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    let task = client.check(&CheckRequest { quick: args.quick, repair: args.repair }).await?;
    if args.no_wait {
        return args.output.one(&task, |task| format!("{}\n", task.id));
    }
    let task = task_follow(cx, &client, task.id, None).await?;
    let result = task_result::<CheckResult>(&task)?;
    args.output.one(&result, text)?;
    match result.clean {
        true => Ok(()),
        false => {
            Err(Failure::new(exit::VERIFY, format!("the check found {}", count(result.findings.len() as u64, "fault")))
                .next(if args.repair {
                    "restore the versions named above from another copy, then check again"
                } else {
                    "'slipway check --repair' rebuilds the index and puts damaged packs aside"
                }))
        }
    }
}

fn text(result: &CheckResult) -> String {
    let mut out = String::new();
    for finding in &result.findings {
        out.push_str(&format!("{} {}: {}\n", clean(&finding.kind), clean(&finding.object), clean(&finding.detail)));
        for version in &finding.versions {
            out.push_str(&format!("  not whole: {}\n", clean(version)));
        }
    }
    let verdict = if result.clean { "Clean" } else { "Not clean" };
    out.push_str(&format!(
        "{verdict}: {}, {}, {} read.\n",
        count(result.versions, "version"),
        count(result.blobs, "blob"),
        size(result.bytes_read)
    ));
    out
}

//! `slipway task`: long work of the server.

use crate::context::Context;
use crate::failure::Failure;
use crate::follow::task_follow;
use crate::human::{duration, size, time, time_or_dash};
use crate::output::{Output, Table, facts};
use crate::pages::{PAGE_ROWS, pages_all};
use slipway_api::{PageQuery, Task};
use std::time::Duration;
use uuid::Uuid;

/// Long work of the server: list, show, wait, cancel
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "\
Examples:
  slipway task ls
  slipway task wait 0198c0de-0000-7000-8000-000000000000")]
pub(crate) enum Command {
    Ls(Ls),
    Show(Show),
    Wait(Wait),
    Cancel(Cancel),
}

/// List tasks, newest first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway task ls
  slipway task ls --limit 5 -o jsonl")]
pub(crate) struct Ls {
    /// At most so many tasks
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    #[command(flatten)]
    output: Output,
}

/// Show a task
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway task show 0198c0de-0000-7000-8000-000000000000
  slipway task show 0198c0de-0000-7000-8000-000000000000 -o json")]
pub(crate) struct Show {
    /// The task's id
    id: Uuid,
    #[command(flatten)]
    output: Output,
}

/// Wait for the end of a task; ends with the task's own exit code
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway task wait 0198c0de-0000-7000-8000-000000000000
  slipway task wait 0198c0de-0000-7000-8000-000000000000 --timeout 30m")]
pub(crate) struct Wait {
    /// The task's id
    id: Uuid,
    /// Give up waiting after this time with exit code 8; the task goes on
    #[arg(long, value_name = "TIME", value_parser = crate::human::duration_read)]
    timeout: Option<u64>,
    #[command(flatten)]
    output: Output,
}

/// Ask a task to stop; what it has done stays valid
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  slipway task cancel 0198c0de-0000-7000-8000-000000000000
  slipway task ls")]
pub(crate) struct Cancel {
    /// The task's id
    id: Uuid,
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(command: Command, cx: &Context) -> Result<(), Failure> {
    let client = cx.client()?;
    match command {
        Command::Ls(args) => {
            let tasks = pages_all(args.limit, |cursor| {
                let query = PageQuery { cursor, limit: Some(PAGE_ROWS), ..PageQuery::default() };
                let client = &client;
                async move { client.task_list(&query).await }
            })
            .await?;
            args.output.list(&tasks, table)
        }
        Command::Show(args) => args.output.one(&client.task_get(args.id).await?, text),
        Command::Wait(args) => {
            let task = task_follow(cx, &client, args.id, args.timeout.map(Duration::from_secs)).await?;
            args.output.one(&task, text)
        }
        Command::Cancel(args) => args.output.one(&client.task_cancel(args.id).await?, text),
    }
}

fn table(tasks: &[Task]) -> Table {
    let mut table = Table::new(&["ID", "KIND", "STATE", "STEP", ">BYTES", "BEGUN", "OBJECT"]);
    for task in tasks {
        table.row(vec![
            task.id.to_string(),
            crate::words::text(&task.kind),
            crate::words::text(&task.state),
            task.step.clone(),
            bytes(task),
            time(task.created_at),
            task.object.clone(),
        ]);
    }
    table
}

fn bytes(task: &Task) -> String {
    match task.bytes_total {
        Some(total) => format!("{} of {}", size(task.bytes_done), size(total)),
        None => size(task.bytes_done),
    }
}

fn text(task: &Task) -> String {
    let took = match (task.started_at, task.finished_at) {
        (Some(from), Some(to)) => Duration::try_from(to.duration_since(from)).map(duration).unwrap_or_default(),
        _ => String::new(),
    };
    facts(&[
        ("Task", task.id.to_string()),
        ("Kind", crate::words::text(&task.kind)),
        ("State", crate::words::text(&task.state)),
        ("Step", task.step.clone()),
        ("Bytes", bytes(task)),
        ("Object", task.object.clone()),
        ("Asked by", task.created_by.clone()),
        ("Asked at", time(task.created_at)),
        ("Begun at", time_or_dash(task.started_at)),
        ("Ended at", time_or_dash(task.finished_at)),
        ("Took", took),
        ("Attempt", task.attempt.to_string()),
        ("Error", task.error.as_ref().map(|problem| problem.title.clone()).unwrap_or_default()),
        ("Result", task.result.as_ref().map(ToString::to_string).unwrap_or_default()),
    ])
}

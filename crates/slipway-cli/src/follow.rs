//! Waiting for a task of the server.

use crate::context::Context;
use crate::failure::{Failure, exit};
use crate::progress::Progress;
use slipway_api::{Client, Task, TaskState};
use std::time::Duration;
use uuid::Uuid;

/// Waits until the task has ended, drawing how far it is. A failed or cancelled task is a failure with its own exit code.
pub(crate) async fn task_follow(
    cx: &Context,
    client: &Client,
    id: Uuid,
    timeout: Option<Duration>,
) -> Result<Task, Failure> {
    let progress = Progress::new(cx);
    cx.on_interrupt(format!("the task goes on in the server: 'slipway task wait {id}', or 'slipway task cancel {id}'"));
    let followed = client.task_follow(id, |task| progress.at(&task.step, task.bytes_done, task.bytes_total));
    let task = match timeout {
        None => followed.await?,
        Some(limit) => tokio::time::timeout(limit, followed).await.map_err(|_| {
            Failure::new(exit::TRY_AGAIN, format!("task {id} still runs after {}", crate::human::duration(limit)))
                .next(format!("'slipway task wait {id}' goes on waiting"))
        })??,
    };
    progress.clear();
    task_ended(task)
}

fn task_ended(task: Task) -> Result<Task, Failure> {
    match task.state {
        TaskState::Done => Ok(task),
        TaskState::Cancelled => Err(Failure::new(exit::FAILED, format!("task {} was cancelled", task.id))
            .next("run the command again to begin anew")),
        TaskState::Failed => Err(match task.error {
            Some(problem) => problem.into(),
            None => {
                Failure::new(exit::FAILED, format!("task {} failed", task.id)).next("look for it in the server's log")
            }
        }),
        TaskState::Queued | TaskState::Running => {
            Err(Failure::new(exit::TRY_AGAIN, format!("task {} still runs", task.id))
                .next(format!("'slipway task wait {}' goes on waiting", task.id)))
        }
    }
}

/// What a finished task came to, in the shape its kind has.
pub(crate) fn task_result<T: serde::de::DeserializeOwned>(task: &Task) -> Result<T, Failure> {
    let result = task.result.clone().unwrap_or(serde_json::Value::Null);
    serde_json::from_value(result).map_err(|why| {
        Failure::new(exit::FAILED, format!("reading the result of task {}: {why}", task.id))
            .next("client and server may be of different versions: 'slipway --version'")
    })
}

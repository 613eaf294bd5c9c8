use super::request::{json_read, part_read};
use super::{ApiError, Client};
use crate::Task;
use crate::events::EventReader;
use reqwest::Method;
use std::time::Duration;
use uuid::Uuid;

impl Client {
    /// Follows a task to its end, and tells each state on the way; goes on when the connection breaks.
    ///
    /// # Errors
    /// When the server stays away. A task that failed is no error here: its [`Task::error`] says why.
    pub async fn task_follow(&self, id: Uuid, mut on_state: impl FnMut(&Task)) -> Result<Task, ApiError> {
        let mut last = None;
        loop {
            match self.events_read(id, &mut last, &mut on_state).await {
                Ok(Some(task)) => return Ok(task),
                Ok(None) | Err(ApiError::Transport { .. }) => {}
                Err(why) => return Err(why),
            }
            // The stream ended early: what it would have said is also there to be asked for.
            let task = self.task_get(id).await?;
            on_state(&task);
            if task.state.is_final() {
                return Ok(task);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Waits for changes among the images that the caller may read, and tells each; the first at once, unless `last` says that it is known.
    /// Ends when the stream does: follow again, or list again.
    ///
    /// # Errors
    /// When the server cannot be reached, says no, or is silent for longer than it ever is by itself.
    pub async fn images_follow(&self, last: &mut Option<String>, mut on_change: impl FnMut()) -> Result<(), ApiError> {
        let act = "following the images";
        let mut ask = self.ask(Method::GET, act, &["images", "events"]).header("accept", "text/event-stream").once();
        if let Some(last) = &last {
            ask = ask.header("last-event-id", last);
        }
        let mut response = self.open(ask).await?;
        let mut reader = EventReader::default();
        while let Some(part) = part_read(act, &mut response, self.inner.idle).await? {
            for event in reader.feed(&part).ok_or_else(|| ApiError::protocol(act, "an event has no end"))? {
                if event.name == "images" {
                    *last = event.id;
                    on_change();
                }
            }
        }
        Ok(())
    }

    async fn events_read(
        &self,
        id: Uuid,
        last: &mut Option<String>,
        on_state: &mut impl FnMut(&Task),
    ) -> Result<Option<Task>, ApiError> {
        let (text, act) = (id.to_string(), format!("following task {id}"));
        let mut ask = self.ask(Method::GET, &act, &["tasks", &text, "events"]).header("accept", "text/event-stream");
        if let Some(last) = last {
            ask = ask.header("last-event-id", last);
        }
        let mut response = self.open(ask).await?;
        let mut reader = EventReader::default();
        while let Some(part) = part_read(&act, &mut response, self.inner.idle).await? {
            let events = reader.feed(&part).ok_or_else(|| ApiError::protocol(&act, "an event has no end"))?;
            for event in events {
                if event.id.is_some() {
                    *last = event.id;
                }
                if event.name != "task" {
                    continue;
                }
                let task: Task = json_read(&act, event.data.as_bytes())?;
                on_state(&task);
                if task.state.is_final() {
                    return Ok(Some(task));
                }
            }
        }
        Ok(None)
    }
}

use super::request::{json_read, part_read};
use super::{ApiError, Client};
use crate::Task;
use reqwest::Method;
use std::time::Duration;
use uuid::Uuid;

/// One event of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
struct Event {
    id: Option<String>,
    name: String,
    data: String,
}

/// Reads server-sent events out of the parts in which a body comes.
#[derive(Default)]
struct EventReader {
    line: Vec<u8>,
    event: Event,
}

/// A line longer than this is not an event of ours.
const LINE_MAX: usize = 1 << 20;

impl EventReader {
    /// Takes the next bytes; gives the events that they complete, or `None` when a line has no end.
    fn feed(&mut self, part: &[u8]) -> Option<Vec<Event>> {
        let mut done = Vec::new();
        for &byte in part {
            if byte != b'\n' {
                self.line.push(byte);
                if self.line.len() > LINE_MAX {
                    return None;
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line)).into_owned();
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() {
                    done.push(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "id" => self.event.id = Some(value.to_owned()),
                "event" => self.event.name = value.to_owned(),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                // A line that begins with a colon keeps the connection open; other fields are of no use here.
                _ => {}
            }
        }
        Some(done)
    }
}

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

#[cfg(test)]
mod tests {
    use super::{Event, EventReader};

    #[test]
    fn events_are_read_whatever_the_parts() {
        let text = b": hello\n\nid: 7\nevent: task\ndata: {\"a\":\ndata: 1}\n\nevent:x\r\ndata:y\r\n\r\ndata: cut";
        let want = [
            Event { id: Some("7".into()), name: "task".into(), data: "{\"a\":\n1}".into() },
            Event { id: None, name: "x".into(), data: "y".into() },
        ];
        for size in 1..text.len() {
            let mut reader = EventReader::default();
            let got: Vec<_> = text.chunks(size).flat_map(|part| reader.feed(part).unwrap()).collect();
            assert_eq!(got, want, "parts of {size}");
        }
        assert!(EventReader::default().feed(&vec![b'x'; super::LINE_MAX + 1]).is_none());
    }
}

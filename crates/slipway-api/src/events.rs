//! Server-sent events, read out of the parts in which a body comes.

/// One event of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) name: String,
    pub(crate) data: String,
}

/// Reads server-sent events out of the parts in which a body comes.
#[derive(Default)]
pub(crate) struct EventReader {
    line: Vec<u8>,
    event: Event,
}

/// A line longer than this is not an event of ours.
const LINE_MAX: usize = 1 << 20;

impl EventReader {
    /// Takes the next bytes; gives the events that they complete, or `None` when a line has no end.
    pub(crate) fn feed(&mut self, part: &[u8]) -> Option<Vec<Event>> {
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

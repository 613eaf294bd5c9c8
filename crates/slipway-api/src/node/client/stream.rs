use super::{ContainerKey, NodeClient, NodeError};
use crate::events::EventReader;
use crate::node::NodeEvent;
use bytes::Bytes;
use reqwest::{Method, Response};
use std::collections::VecDeque;

/// A container's log, as it comes.
#[derive(Debug)]
pub struct NodeOutput {
    client: NodeClient,
    act: String,
    response: Response,
}

impl NodeOutput {
    /// The next bytes; `None` at the end, which comes when the container has ended or nothing more was asked for.
    pub async fn next(&mut self) -> Result<Option<Bytes>, NodeError> {
        self.response.chunk().await.map_err(|why| self.client.unreached(&self.act, &why))
    }
}

/// What happens on a node, as it happens.
pub struct NodeEvents {
    client: NodeClient,
    response: Response,
    reader: EventReader,
    read: VecDeque<NodeEvent>,
}

const FOLLOW: &str = "following the events of the node";

impl NodeEvents {
    /// The next event; `None` when the service has ended the stream.
    pub async fn next(&mut self) -> Result<Option<NodeEvent>, NodeError> {
        loop {
            if let Some(event) = self.read.pop_front() {
                return Ok(Some(event));
            }
            let part = self.response.chunk().await.map_err(|why| self.client.unreached(FOLLOW, &why))?;
            let Some(part) = part else { return Ok(None) };
            let events = self.reader.feed(&part).ok_or_else(|| NodeError::protocol(FOLLOW, "an event has no end"))?;
            for event in events {
                // Another kind of event than those of a node's objects is of a newer service, and not for us.
                if let Ok(event) = serde_json::from_str(&event.data) {
                    self.read.push_back(event);
                }
            }
        }
    }
}

impl NodeClient {
    /// A container's log: its last `tail` lines, all if not given; with `follow` also what comes.
    ///
    /// # Errors
    /// When there is no such container, or the service cannot be reached.
    pub async fn container_logs(
        &self,
        key: &ContainerKey,
        tail: Option<u64>,
        follow: bool,
    ) -> Result<NodeOutput, NodeError> {
        let act = format!("reading the log of container {key}");
        let mut query = vec![key.pair()];
        query.extend(tail.map(|lines| ("tail", lines.to_string())));
        if follow {
            query.push(("follow", "true".to_owned()));
        }
        let response = self.open(&act, self.request(Method::GET, "container/logs", &query)).await?;
        Ok(NodeOutput { client: self.clone(), act, response })
    }

    /// What happens on the node from now on, or from behind the event with the number `since`, as far as the service remembers.
    ///
    /// # Errors
    /// When the service cannot be reached.
    pub async fn events(&self, since: Option<u64>) -> Result<NodeEvents, NodeError> {
        let mut request = self.request(Method::GET, "events", &[]).header("accept", "text/event-stream");
        if let Some(since) = since {
            request = request.header("last-event-id", since.to_string());
        }
        let response = self.open(FOLLOW, request).await?;
        Ok(NodeEvents { client: self.clone(), response, reader: EventReader::default(), read: VecDeque::new() })
    }
}

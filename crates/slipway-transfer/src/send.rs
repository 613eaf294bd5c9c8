//! Bodies on their way to the server: gathered, replayable from memory, two at most in flight.

use crate::{Control, TransferError};
use bytes::Bytes;
use slipway_api::{ApiError, Client, wire};
use slipway_chunk::{ChunkId, EncodedFrame, Segment, SegmentId};
use std::collections::HashSet;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use uuid::Uuid;

/// A body of frames is sent when it has so many bytes. One body becomes one pack on the server, so it should not be small; with
/// two in flight and one being filled this is most of a push's memory.
const BODY_LEN: usize = 16 << 20;
const BODIES_IN_FLIGHT: usize = 2;
/// Chunks of one body at most: what compresses to almost nothing would else make their ids most of a push's memory.
const BODY_IDS_MAX: usize = 100_000;
/// Segments are sent when their encodings have so many bytes together.
const SEGMENTS_LEN: usize = 4 << 20;

/// Sends what an upload needs. Used by the thread that reads the source; the network's work is done by tasks.
pub(crate) struct Sender {
    client: Client,
    upload: Uuid,
    runtime: Handle,
    control: Control,
    body: Vec<u8>,
    body_ids: Vec<ChunkId>,
    /// Chunks in frames that the server has not yet confirmed; it would call them missing.
    unconfirmed: HashSet<ChunkId>,
    sending: JoinSet<(Vec<ChunkId>, Result<u64, ApiError>)>,
    segments: Vec<(SegmentId, Vec<u8>)>,
    segments_len: usize,
    segments_seen: HashSet<SegmentId>,
    /// Bytes of frames that the server confirmed.
    pub(crate) sent_bytes: u64,
}

impl Sender {
    pub(crate) fn new(client: &Client, upload: Uuid, runtime: Handle, control: &Control) -> Self {
        Self {
            client: client.clone(),
            upload,
            runtime,
            control: control.clone(),
            body: Vec::new(),
            body_ids: Vec::new(),
            unconfirmed: HashSet::new(),
            sending: JoinSet::new(),
            segments: Vec::new(),
            segments_len: 0,
            segments_seen: HashSet::new(),
            sent_bytes: 0,
        }
    }

    /// Which of these chunks must be sent; none that is on its way.
    pub(crate) fn chunks_missing(&self, ids: &[ChunkId]) -> Result<HashSet<ChunkId>, TransferError> {
        let ask: HashSet<ChunkId> = ids.iter().filter(|id| !self.unconfirmed.contains(id)).copied().collect();
        let ask: Vec<ChunkId> = ask.into_iter().collect();
        let mut missing = HashSet::new();
        for part in ask.chunks(wire::MISSING_MAX) {
            let bits = self.wait(self.client.upload_chunks_missing(self.upload, part))?;
            missing.extend(part.iter().zip(bits).filter(|(_, bit)| *bit).map(|(id, _)| *id));
        }
        Ok(missing)
    }

    /// Tells that a chunk has gone into a frame that will come here.
    pub(crate) fn chunk_framed(&mut self, id: ChunkId) {
        self.unconfirmed.insert(id);
    }

    pub(crate) fn frames_add(&mut self, frames: Vec<EncodedFrame>) -> Result<(), TransferError> {
        for frame in frames {
            if self.body.len() + frame.bytes.len() > BODY_LEN || self.body_ids.len() >= BODY_IDS_MAX {
                self.body_send()?;
            }
            if self.body.capacity() == 0 {
                self.body.reserve_exact(BODY_LEN);
            }
            self.body.extend_from_slice(&frame.bytes);
            self.body_ids.extend(frame.chunks.iter().map(|(id, _)| *id));
        }
        Ok(())
    }

    pub(crate) fn segment_add(&mut self, segment: &Segment) -> Result<(), TransferError> {
        let encoded = segment.encode();
        let id = SegmentId::of(&encoded);
        // Equal regions, above all long holes, have one segment.
        if self.segments_seen.insert(id) {
            self.segments_len += encoded.len();
            self.segments.push((id, encoded));
        }
        match self.segments_len >= SEGMENTS_LEN || self.segments.len() >= wire::MISSING_MAX {
            true => self.segments_send(),
            false => Ok(()),
        }
    }

    /// Sends what is left and waits until the server has everything.
    pub(crate) fn finish(&mut self) -> Result<(), TransferError> {
        self.body_send()?;
        while !self.sending.is_empty() {
            self.confirm_one()?;
        }
        self.segments_send()
    }

    fn body_send(&mut self) -> Result<(), TransferError> {
        if self.body.is_empty() {
            return Ok(());
        }
        while self.sending.len() >= BODIES_IN_FLIGHT {
            self.confirm_one()?;
        }
        let (body, ids) = (Bytes::from(std::mem::take(&mut self.body)), std::mem::take(&mut self.body_ids));
        let (client, upload) = (self.client.clone(), self.upload);
        let send = async move {
            let len = body.len() as u64;
            let answer = client.upload_frames(upload, body).await;
            (ids, answer.map(|_| len))
        };
        self.sending.spawn_on(send, &self.runtime);
        Ok(())
    }

    fn confirm_one(&mut self) -> Result<(), TransferError> {
        let control = self.control.clone();
        let runtime = self.runtime.clone();
        let next =
            runtime.block_on(control.or_cancelled(async { Ok::<_, ApiError>(self.sending.join_next().await) }))?;
        match next {
            None => Ok(()),
            Some(Err(_)) => Err(TransferError::Panicked),
            Some(Ok((ids, answer))) => {
                self.sent_bytes += answer?;
                for id in ids {
                    self.unconfirmed.remove(&id);
                }
                Ok(())
            }
        }
    }

    fn segments_send(&mut self) -> Result<(), TransferError> {
        if self.segments.is_empty() {
            return Ok(());
        }
        self.segments_len = 0;
        let segments = std::mem::take(&mut self.segments);
        let ids: Vec<SegmentId> = segments.iter().map(|(id, _)| *id).collect();
        let bits = self.wait(self.client.upload_segments_missing(self.upload, &ids))?;
        let mut body = Vec::new();
        for ((_, encoded), _) in segments.iter().zip(bits).filter(|(_, bit)| *bit) {
            wire::segment_append(&mut body, encoded);
        }
        match body.is_empty() {
            true => Ok(()),
            false => self.wait(self.client.upload_segments(self.upload, body.into())),
        }
    }

    fn wait<T>(&self, waiting: impl Future<Output = Result<T, ApiError>>) -> Result<T, TransferError> {
        self.runtime.block_on(self.control.or_cancelled(waiting))
    }
}

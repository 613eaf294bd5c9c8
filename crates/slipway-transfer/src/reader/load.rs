//! Bringing frames: from memory, from the cache's folder, or with a few requests for neighbours of a pack.

use super::RemoteReader;
use super::map::{LayoutMap, Want};
use crate::fetch::needs_layout;
use crate::frames::{Claim, Failure, Flight, Frame, FrameKey, Ticket};
use crate::{Caps, TransferError};
use bytes::Bytes;
use slipway_api::BlobRange;
use slipway_chunk::{ChunkId, DecodedFrame};
use std::sync::Arc;

/// A frame that is here, or on its way.
pub(super) enum Arriving {
    Here(Arc<Frame>),
    Coming(Arc<Flight>),
}

impl Arriving {
    pub(super) fn wait(self) -> Result<Arc<Frame>, Failure> {
        match self {
            Self::Here(frame) => Ok(frame),
            Self::Coming(flight) => flight.wait(),
        }
    }
}

/// A frame to bring, and what must be in it.
struct Errand {
    ticket: Ticket,
    address: Arc<str>,
    len: u32,
    raw_len: u32,
    expected: Vec<(u32, u32, ChunkId)>,
}

impl Errand {
    fn key(&self) -> FrameKey {
        self.ticket.key()
    }

    fn is_good(&self, frame: &Frame) -> bool {
        self.expected.iter().all(|(at, len, id)| frame.chunk(*at, *len, id).is_some())
    }

    /// Lands what came from the server.
    fn land(self, encoded: &[u8], cache: &crate::FrameCache) {
        let frame = DecodedFrame::decode(encoded).ok().map(Frame::new).filter(|frame| self.is_good(frame));
        match frame {
            Some(frame) => {
                cache.folder_keep(self.key(), encoded);
                self.ticket.land(Ok(Arc::new(frame)));
            }
            None => self.ticket.land(Err(Failure::Bad)),
        }
    }
}

/// One request.
struct Trip {
    at: u64,
    len: u32,
    raw: u32,
    errands: Vec<Errand>,
}

impl RemoteReader {
    /// The frames that are wanted, in their order; those that are nowhere here are on their way.
    pub(super) fn frames_load(&self, layout: &LayoutMap, wants: &[Want<'_>]) -> Vec<Arriving> {
        let mut errands = Vec::new();
        let mut arriving = Vec::with_capacity(wants.len());
        for want in wants {
            arriving.push(match self.0.cache.claim(layout.key(want.frame)) {
                Claim::Here(frame) => Arriving::Here(frame),
                Claim::Coming(flight) => Arriving::Coming(flight),
                Claim::Yours(ticket) => {
                    let flight = ticket.flight();
                    errands.push(errand(layout, want, ticket));
                    Arriving::Coming(flight)
                }
            });
        }
        let (filed, far): (Vec<_>, Vec<_>) =
            errands.into_iter().partition(|errand| self.0.cache.folder_has(&errand.key()));
        self.trips_start(far);
        // One is decoded here, where the reader waits anyway.
        let mut filed = filed.into_iter();
        let own = filed.next();
        for errand in filed {
            let reader = self.clone();
            self.0.runtime.spawn_blocking(move || reader.errand_file(errand));
        }
        if let Some(errand) = own {
            self.errand_file(errand);
        }
        arriving
    }

    /// Begins to bring what is nowhere here, a few requests at once, behind whoever waits for a frame.
    pub(super) fn frames_load_ahead(&self, layout: &LayoutMap, wants: &[Want<'_>]) {
        let mut errands = Vec::new();
        for want in wants {
            if let Claim::Yours(ticket) = self.0.cache.claim(layout.key(want.frame)) {
                errands.push(errand(layout, want, ticket));
            }
        }
        let (filed, far): (Vec<_>, Vec<_>) =
            errands.into_iter().partition(|errand| self.0.cache.folder_has(&errand.key()));
        for trip in trips_plan(far) {
            let reader = self.clone();
            self.0.runtime.spawn(async move {
                let _turn = reader.0.cache.ahead().clone().acquire_owned().await;
                reader.trip_make(trip).await;
            });
        }
        for errand in filed {
            self.errand_file(errand);
        }
    }

    /// A frame that needs no network.
    pub(super) fn frame_local(&self, layout: &LayoutMap, want: &Want<'_>) -> Option<Arc<Frame>> {
        let key = layout.key(want.frame);
        if !self.0.cache.has(&key) {
            return None;
        }
        match self.0.cache.claim(key) {
            Claim::Here(frame) => Some(frame),
            Claim::Coming(_) => None,
            Claim::Yours(ticket) => {
                let good = |frame: &Frame| want.pieces.iter().all(|(at, piece)| piece.is_in(frame, *at));
                match self.0.cache.folder_load(&key, good) {
                    Some(frame) => {
                        ticket.land(Ok(frame.clone()));
                        Some(frame)
                    }
                    None => {
                        // Whoever came to wait meanwhile gets it all the same.
                        self.trips_start(vec![errand(layout, want, ticket)]);
                        None
                    }
                }
            }
        }
    }

    /// From the folder; if that does not have it, or not right, from the server.
    fn errand_file(&self, errand: Errand) {
        match self.0.cache.folder_load(&errand.key(), |frame| errand.is_good(frame)) {
            Some(frame) => errand.ticket.land(Ok(frame)),
            None => self.trips_start(vec![errand]),
        }
    }

    fn trips_start(&self, errands: Vec<Errand>) {
        for trip in trips_plan(errands) {
            let reader = self.clone();
            self.0.runtime.spawn(async move { reader.trip_make(trip).await });
        }
    }

    async fn trip_make(&self, trip: Trip) {
        match self.trip_read(&trip).await {
            Ok(bytes) => {
                let cache = self.0.cache.clone();
                // That it ended in a panic is told to those who wait when the errands are dropped.
                let _ = tokio::task::spawn_blocking(move || {
                    for errand in trip.errands {
                        let from = (errand.key().offset - trip.at) as usize;
                        let encoded = bytes.slice(from..from + errand.len as usize);
                        errand.land(&encoded, &cache);
                    }
                })
                .await;
            }
            Err(why) => trip.errands.into_iter().for_each(|errand| errand.ticket.land(Err(why.clone()))),
        }
    }

    async fn trip_read(&self, trip: &Trip) -> Result<Bytes, Failure> {
        let Some(first) = trip.errands.first() else { return Ok(Bytes::new()) };
        let range = BlobRange { address: &first.address, at: trip.at, len: trip.len };
        let client = self.0.content.client();
        let read = self.patiently(|| async { client.blob_range(&range).await.map_err(TransferError::from) }).await;
        read.map(Bytes::from).map_err(|why| match &why {
            TransferError::Api(api) if needs_layout(api) => Failure::Moved(Arc::new(why)),
            _ => Failure::Failed(Arc::new(why)),
        })
    }
}

fn errand(layout: &LayoutMap, want: &Want<'_>, ticket: Ticket) -> Errand {
    let (len, raw_len) = layout.lens(want.frame);
    let expected = want.pieces.iter().filter_map(|(at, piece)| Some((*at, piece.chunk_len, *piece.chunk?))).collect();
    Errand { ticket, address: layout.address(want.frame).clone(), len, raw_len, expected }
}

/// Puts neighbours of a pack into one request.
fn trips_plan(mut errands: Vec<Errand>) -> Vec<Trip> {
    let caps = Caps::default();
    errands.sort_unstable_by_key(Errand::key);
    let mut trips: Vec<Trip> = Vec::new();
    for errand in errands {
        let (key, end) = (errand.key(), errand.key().offset + u64::from(errand.len));
        if let Some(trip) = trips.last_mut()
            && trip.errands.last().is_some_and(|last| last.key().pack == key.pack)
            && key.offset <= trip.at + u64::from(trip.len) + u64::from(caps.gap)
            && end - trip.at <= u64::from(caps.range)
            && trip.raw + errand.raw_len <= caps.range_raw
        {
            trip.len = trip.len.max((end - trip.at) as u32);
            trip.raw += errand.raw_len;
            trip.errands.push(errand);
            continue;
        }
        trips.push(Trip { at: key.offset, len: errand.len, raw: errand.raw_len, errands: vec![errand] });
    }
    trips
}

//! A server for the tests of the client and the transfers: the routes they use, over memory, with faults on order. What the true
//! server does is tested with the command line.

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post, put};
use serde_json::{Value, json};
use slipway_api::{Client, ClientConfig, Code, ImageRef, Problem, wire};
use slipway_chunk::{
    ChunkAt, ChunkId, DecodedFrame, FrameAt, FrameHeader, Layout, Manifest, PACK_HEADER_LEN, PackAt, PackId, Segment,
    SegmentId,
};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What goes wrong with a request for a range of a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Half of the body, then the connection breaks.
    Cut,
    /// Bits of the body are wrong.
    Flip,
    /// A byte is missing at the end, and the header says so.
    Short,
    /// The range is ignored.
    Whole,
    /// Another range is answered.
    Elsewhere,
    /// The address has ended; so have all others that were given out.
    Gone,
    /// The capability has ended.
    Expired,
    /// 503.
    Unavailable,
    /// Half of the body, then nothing for longer than the client waits.
    Stall,
}

pub(crate) const FAULTS: [Fault; 9] = [
    Fault::Cut,
    Fault::Flip,
    Fault::Short,
    Fault::Whole,
    Fault::Elsewhere,
    Fault::Gone,
    Fault::Expired,
    Fault::Unavailable,
    Fault::Stall,
];

/// A question as it came, or its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    LayoutAsked(usize),
    LayoutAnswered(usize),
    Blob,
}

/// A list that is being waited for.
struct ListOpen(Origin);

impl Drop for ListOpen {
    fn drop(&mut self) {
        self.0.kept().lists_open -= 1;
    }
}

#[derive(Clone, Copy)]
struct Place {
    pack: PackId,
    frame: FrameAt,
    at: u32,
    len: u32,
}

#[derive(Default)]
pub(crate) struct Kept {
    packs: HashMap<PackId, Vec<u8>>,
    places: HashMap<ChunkId, Place>,
    segments: HashMap<SegmentId, Vec<u8>>,
    pub(crate) versions: Vec<Manifest>,
    /// Addresses of an older generation have ended.
    generation: u32,
    /// Whether the image exists.
    pub(crate) image: bool,
    pub(crate) images_made: u32,
    /// Faults of the next requests for packs.
    pub(crate) faults: VecDeque<Fault>,
    /// The same fault for every request.
    pub(crate) always: Option<Fault>,
    /// Every request waits so long.
    pub(crate) delay: Option<Duration>,
    /// Commits that forget the chunks of the last body first.
    pub(crate) lose: u32,
    last_body: Vec<ChunkId>,
    /// Bodies of frames that are answered with 503.
    pub(crate) refuse_frames: u32,
    pub(crate) frames_bytes: u64,
    pub(crate) blob_requests: u64,
    pub(crate) blob_bytes: u64,
    /// Segments and layouts of segments from this one on wait so long.
    pub(crate) lists_delay: Option<(usize, Duration)>,
    /// The layout of this segment is refused.
    pub(crate) layout_refused: Option<usize>,
    /// Segments and layouts that are asked for and not answered yet; who hangs up takes the question back.
    pub(crate) lists_open: u32,
    /// What a fetch asked for, in order.
    pub(crate) seen: Vec<Seen>,
    /// Manifests of `latest` that are still the one before.
    pub(crate) manifests_old: u32,
    pub(crate) findings: Vec<String>,
    pub(crate) tokens_at_blobs: u32,
}

/// The server; ends with the test's runtime.
#[derive(Clone)]
pub(crate) struct Origin {
    kept: Arc<Mutex<Kept>>,
    pub(crate) url: String,
}

type Answer = Result<Response, Response>;

fn refuse(code: Code) -> Response {
    let status = StatusCode::from_u16(code.status()).unwrap();
    (status, Json(Problem::new(code, format!("refused with {}", code.as_str())))).into_response()
}

impl Origin {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let origin = Self { kept: Arc::new(Mutex::new(Kept { image: true, ..Kept::default() })), url };
        let app = axum::Router::new()
            .route("/api/v1/images", post(image_create))
            .route("/api/v1/images/me/os/versions/{v}", get(version))
            .route("/api/v1/images/me/os/versions/{v}/manifest", get(manifest))
            .route("/api/v1/images/me/os/versions/{v}/segments/{i}", get(segment))
            .route("/api/v1/images/me/os/versions/{v}/layouts/{i}", get(layout))
            .route("/api/v1/images/me/os/versions/{v}/findings", post(finding))
            .route("/api/v1/uploads", post(upload))
            .route("/api/v1/uploads/{id}/missing", post(missing))
            .route("/api/v1/uploads/{id}/frames", put(frames))
            .route("/api/v1/uploads/{id}/segments", put(segments))
            .route("/api/v1/uploads/{id}/commit", post(commit))
            .route("/blobs/{generation}/{pack}", get(blob))
            .layer(DefaultBodyLimit::disable())
            .with_state(origin.clone());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        origin
    }

    pub(crate) fn client(&self) -> Client {
        let mut config = ClientConfig::new(&self.url);
        config.token = Some("slp_test".into());
        config.idle_timeout = Duration::from_millis(600);
        Client::new(&config).unwrap()
    }

    pub(crate) fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap()
    }

    /// The most chunks of one segment.
    pub(crate) fn chunks_max(&self) -> usize {
        let kept = self.kept();
        kept.segments.values().map(|bytes| Segment::decode(bytes).unwrap().chunks().count()).max().unwrap()
    }

    async fn list_wait(&self, index: usize) {
        let delay = {
            let mut kept = self.kept();
            kept.lists_open += 1;
            kept.lists_delay.filter(|(from, _)| index >= *from)
        };
        let _open = ListOpen(self.clone());
        if let Some((_, delay)) = delay {
            tokio::time::sleep(delay).await;
        }
    }
}

pub(crate) fn image_ref() -> ImageRef {
    "me/os".parse().unwrap()
}

const UUID: &str = "6f1c1a52-0000-4000-8000-000000000001";
const TIME: &str = "2026-01-01T00:00:00Z";

fn version_json(number: usize, manifest: &Manifest, data_bytes: u64) -> Value {
    json!({
        "number": number, "content": UUID, "root": manifest.root(), "digest": null, "sha256": null,
        "size": manifest.size, "sector_size": manifest.sector_size, "source_format": "raw", "data_bytes": data_bytes,
        "stored_bytes": 0, "new_bytes": 0, "parent": null, "message": "", "created_at": TIME, "created_by": "jan",
        "protected": false,
    })
}

impl Kept {
    fn manifest(&self, number: &str) -> Result<(usize, &Manifest), Response> {
        let number = match number {
            "latest" => self.versions.len().checked_sub(1),
            number => number.parse().ok(),
        };
        let found = number.and_then(|number| Some((number, self.versions.get(number)?)));
        found.ok_or_else(|| refuse(Code::NotFound))
    }

    fn segment(&self, number: &str, index: usize) -> Result<&Vec<u8>, Response> {
        let id = self.manifest(number)?.1.segments.get(index).ok_or_else(|| refuse(Code::NotFound))?;
        Ok(&self.segments[id])
    }

    fn version(&self, number: &str) -> Result<Value, Response> {
        let (number, manifest) = self.manifest(number)?;
        let data = |id| Segment::decode(&self.segments[id]).unwrap().data_bytes();
        Ok(version_json(number, manifest, manifest.segments.iter().map(data).sum()))
    }
}

async fn image_create(State(origin): State<Origin>, Json(_): Json<Value>) -> Response {
    let mut kept = origin.kept();
    kept.image = true;
    kept.images_made += 1;
    let image = json!({
        "id": UUID, "owner": "jan", "slug": "os", "ref": "jan/os", "title": "os", "type": "base", "file_system": null,
        "compression": "zstd", "target_location": null, "associated": [], "description": "", "labels": {}, "sharing": {},
        "protected": false, "latest": null, "version_count": 0, "new_bytes": 0, "created_at": TIME, "updated_at": TIME,
        "revision": 1,
    });
    (StatusCode::CREATED, Json(image)).into_response()
}

async fn version(State(origin): State<Origin>, Path(v): Path<String>) -> Answer {
    Ok(Json(origin.kept().version(&v)?).into_response())
}

async fn manifest(State(origin): State<Origin>, Path(v): Path<String>) -> Answer {
    let mut kept = origin.kept();
    let v = match kept.manifests_old {
        old if old > 0 && v == "latest" => {
            kept.manifests_old -= 1;
            (kept.versions.len() - 2).to_string()
        }
        _ => v,
    };
    Ok(kept.manifest(&v)?.1.encode().into_response())
}

async fn segment(State(origin): State<Origin>, Path((v, i)): Path<(String, usize)>) -> Answer {
    origin.list_wait(i).await;
    Ok(origin.kept().segment(&v, i)?.clone().into_response())
}

async fn layout(State(origin): State<Origin>, Path((v, i)): Path<(String, usize)>) -> Answer {
    origin.kept().seen.push(Seen::LayoutAsked(i));
    origin.list_wait(i).await;
    let mut kept = origin.kept();
    kept.seen.push(Seen::LayoutAnswered(i));
    if kept.layout_refused == Some(i) {
        return Err(refuse(Code::NotFound));
    }
    let segment = Segment::decode(kept.segment(&v, i)?).unwrap();
    let mut layout = Layout { packs: Vec::new(), frames: Vec::new(), chunks: Vec::new() };
    let (mut packs, mut frames, mut chunks) = (HashMap::new(), HashMap::new(), HashSet::new());
    for (_, id, len) in segment.chunks().filter(|(_, id, _)| chunks.insert(*id)) {
        let place = kept.places[&id];
        let pack = *packs.entry(place.pack).or_insert_with(|| {
            let address = format!("/blobs/{}/{}", kept.generation, place.pack);
            layout.packs.push(PackAt { id: place.pack, address });
            layout.packs.len() as u32 - 1
        });
        let frame = *frames.entry((pack, place.frame.offset)).or_insert_with(|| {
            layout.frames.push(FrameAt { pack, ..place.frame });
            layout.frames.len() as u32 - 1
        });
        assert_eq!(len, place.len);
        layout.chunks.push(ChunkAt { id, len, frame, at: place.at });
    }
    Ok(layout.encode().into_response())
}

async fn finding(State(origin): State<Origin>, Json(report): Json<Value>) -> Response {
    origin.kept().findings.push(report["chunk"].as_str().unwrap().to_owned());
    let task = json!({
        "id": UUID, "kind": "check", "state": "queued", "step": "", "bytes_done": 0, "bytes_total": null, "attempt": 0,
        "object": "", "created_by": "server", "created_at": TIME, "started_at": null, "finished_at": null,
    });
    (StatusCode::ACCEPTED, Json(task)).into_response()
}

async fn upload(State(origin): State<Origin>) -> Answer {
    if !origin.kept().image {
        return Err(refuse(Code::NotFound));
    }
    let upload = json!({
        "id": UUID, "image": "me/os", "format": "chunks", "state": "open", "offset": 0, "parent": null, "lease_until": TIME,
    });
    Ok((StatusCode::CREATED, Json(upload)).into_response())
}

async fn missing(State(origin): State<Origin>, Query(query): Query<HashMap<String, String>>, body: Bytes) -> Answer {
    let kept = origin.kept();
    let ids = wire::ids_decode(&body).ok_or_else(|| refuse(Code::InvalidRequest))?;
    let bits: Vec<bool> = match query["kind"].as_str() {
        "chunks" => ids.iter().map(|id| !kept.places.contains_key(&ChunkId::from_bytes(*id))).collect(),
        _ => ids.iter().map(|id| !kept.segments.contains_key(&SegmentId::from_bytes(*id))).collect(),
    };
    Ok(wire::bits_encode(&bits).into_response())
}

async fn frames(State(origin): State<Origin>, body: Bytes) -> Answer {
    let mut kept = origin.kept();
    if kept.refuse_frames > 0 {
        kept.refuse_frames -= 1;
        return Err(refuse(Code::Unavailable));
    }
    let pack = PackId::from_bytes((kept.packs.len() as u128 + 1).to_le_bytes());
    let (mut at, mut chunks, mut frames) = (0, Vec::new(), 0);
    while at < body.len() {
        let (header, header_len) = FrameHeader::decode(&body[at..]).unwrap().unwrap();
        let len = header_len + header.payload_len as usize;
        let decoded = DecodedFrame::decode(&body[at..at + len]).unwrap();
        let frame = FrameAt { pack: 0, offset: PACK_HEADER_LEN + at as u64, len: len as u32, raw_len: header.raw_len };
        let mut from = 0;
        for (id, chunk_len) in decoded.ids() {
            let place = Place { pack, frame, at: from, len: chunk_len };
            assert!(kept.places.insert(id, place).is_none(), "a chunk was sent that was not missing");
            chunks.push(id);
            from += chunk_len;
        }
        at += len;
        frames += 1;
    }
    kept.frames_bytes += body.len() as u64;
    // Only offsets count here: header and footer of a pack are the store's business.
    kept.packs.insert(pack, [&vec![0; PACK_HEADER_LEN as usize][..], &body].concat());
    let count = chunks.len();
    kept.last_body = chunks;
    Ok(Json(json!({ "frames": frames, "chunks": count, "stored_bytes": body.len() })).into_response())
}

async fn segments(State(origin): State<Origin>, body: Bytes) -> Answer {
    for encoded in wire::segments_split(&body).ok_or_else(|| refuse(Code::InvalidRequest))? {
        Segment::decode(encoded).map_err(|_| refuse(Code::BadImage))?;
        origin.kept().segments.insert(SegmentId::of(encoded), encoded.to_vec());
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn commit(State(origin): State<Origin>, body: Bytes) -> Answer {
    let mut kept = origin.kept();
    if kept.lose > 0 {
        kept.lose -= 1;
        for id in std::mem::take(&mut kept.last_body) {
            kept.places.remove(&id);
        }
    }
    let manifest = Manifest::decode(&body).map_err(|_| refuse(Code::BadImage))?;
    for id in &manifest.segments {
        let segment = kept.segments.get(id).ok_or_else(|| refuse(Code::SegmentsMissing))?;
        let segment = Segment::decode(segment).unwrap();
        if segment.chunks().any(|(_, id, _)| !kept.places.contains_key(&id)) {
            return Err(refuse(Code::ChunksMissing));
        }
    }
    let outcome = match kept.versions.last() == Some(&manifest) {
        true => "unchanged",
        false => {
            kept.versions.push(manifest);
            "created"
        }
    };
    let number = kept.versions.len() - 1;
    let answer = json!({ "outcome": outcome, "ref": format!("me/os:{number}"), "version": kept.version("latest")? });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

async fn blob(
    State(origin): State<Origin>,
    Path((generation, pack)): Path<(u32, String)>,
    headers: HeaderMap,
) -> Answer {
    let delay = origin.kept().delay;
    if let Some(delay) = delay {
        tokio::time::sleep(delay).await;
    }
    let mut kept = origin.kept();
    kept.blob_requests += 1;
    kept.seen.push(Seen::Blob);
    kept.tokens_at_blobs += u32::from(headers.contains_key(header::AUTHORIZATION));
    let fault = kept.faults.pop_front().or(kept.always);
    match fault {
        Some(Fault::Gone) => kept.generation += 1,
        Some(Fault::Expired) => return Err(refuse(Code::Forbidden)),
        Some(Fault::Unavailable) => return Err(refuse(Code::Unavailable)),
        _ => {}
    }
    if generation != kept.generation {
        return Err(refuse(Code::Gone));
    }
    let bytes = kept.packs.get(&pack.parse().unwrap()).ok_or_else(|| refuse(Code::NotFound))?.clone();
    let range = headers[header::RANGE].to_str().unwrap().strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let (from, to): (usize, usize) = (range.0.parse().unwrap(), range.1.parse().unwrap());
    kept.blob_bytes += (to + 1 - from) as u64;
    Ok(answer(&bytes, from, to + 1, fault))
}

fn answer(bytes: &[u8], from: usize, to: usize, fault: Option<Fault>) -> Response {
    let mut part = bytes[from..to].to_vec();
    let mut range = format!("bytes {from}-{}/{}", to - 1, bytes.len());
    match fault {
        // In many places, so that no chunk gets through by luck.
        Some(Fault::Flip) => part.iter_mut().skip(100).step_by(1000).for_each(|byte| *byte ^= 4),
        Some(Fault::Short) => drop(part.pop()),
        Some(Fault::Elsewhere) => range = format!("bytes {}-{to}/{}", from + 1, bytes.len()),
        Some(Fault::Whole) => return bytes.to_vec().into_response(),
        Some(Fault::Cut | Fault::Stall) => {
            let (len, half) = (part.len(), Bytes::from(part[..part.len() / 2].to_vec()));
            let stall = fault == Some(Fault::Stall);
            let body = futures_util::stream::unfold(Some(half), move |half| async move {
                match half {
                    Some(half) => Some((Ok(half), None)),
                    None if stall => std::future::pending().await,
                    None => Some((Err(std::io::Error::other("cut")), None)),
                }
            });
            let headers = [(header::CONTENT_RANGE, range), (header::CONTENT_LENGTH, len.to_string())];
            return (StatusCode::PARTIAL_CONTENT, headers, Body::from_stream(body)).into_response();
        }
        Some(Fault::Gone | Fault::Expired | Fault::Unavailable) | None => {}
    }
    (StatusCode::PARTIAL_CONTENT, [(header::CONTENT_RANGE, range)], part).into_response()
}

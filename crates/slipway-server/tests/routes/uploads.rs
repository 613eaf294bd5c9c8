//! The two ways to fill an upload: chunks, and bytes at an offset.

use super::kit::{Person, Site, noise};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use slipway_api::wire::{bits_decode, ids_encode, segment_append};
use slipway_chunk::{
    ChunkId, ChunkerParams, DecodedFrame, FrameBuilder, ImageBuilder, Layout, Manifest, Run, Scan, Segment, Stream,
};

/// An image, cut by the client.
pub(crate) struct Cut {
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Segment>,
    pub(crate) chunks: Vec<(ChunkId, Vec<u8>)>,
}

pub(crate) fn cut(bytes: &[u8]) -> Cut {
    let params = ChunkerParams::default();
    let (mut scan, mut image) = (Scan::new(Stream(bytes), params), ImageBuilder::new(params, 512));
    let (mut segments, mut chunks) = (Vec::new(), Vec::new());
    while let Some(run) = scan.next().unwrap() {
        match run {
            Run::Hole { len, .. } => segments.extend(image.hole(len)),
            Run::Data { bytes, .. } => {
                let id = ChunkId::of(bytes);
                chunks.push((id, bytes.to_vec()));
                segments.extend(image.chunk(id, bytes.len() as u32));
            }
        }
    }
    let (last, manifest) = image.finish().unwrap();
    segments.extend(last);
    Cut { manifest, segments, chunks }
}

pub(crate) fn frames(chunks: &[(ChunkId, Vec<u8>)]) -> Vec<u8> {
    let (mut builder, mut out) = (FrameBuilder::new(), Vec::new());
    for (id, bytes) in chunks {
        if !builder.fits(bytes.len()) {
            out.extend_from_slice(&builder.take().encode(3).bytes);
        }
        builder.push(*id, bytes);
    }
    if !builder.is_empty() {
        out.extend_from_slice(&builder.take().encode(3).bytes);
    }
    out
}

pub(crate) async fn begin(site: &Site, person: &Person, image: &str, format: &str) -> String {
    let made = site.post(&person.token, "uploads", &json!({ "image": image, "format": format })).await.is(201).json();
    made["id"].as_str().unwrap().to_owned()
}

async fn missing(site: &Site, person: &Person, upload: &str, cut: &Cut) -> Vec<bool> {
    let ids = ids_encode(cut.chunks.iter().map(|(id, _)| id.as_bytes()));
    let got =
        site.call("POST", &format!("uploads/{upload}/missing")).token(&person.token).body(ids).send().await.is(200);
    bits_decode(&got.body, cut.chunks.len()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_go_in_and_come_out_by_layout() {
    for site in Site::each().await {
        chunks_check(&site).await;
    }
}

async fn chunks_check(site: &Site) {
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let token = &person.token;
    let raw = noise(5, 1_500_000);
    let cut = cut(&raw);
    let upload = begin(site, &person, &image, "chunks").await;
    assert!(missing(site, &person, &upload, &cut).await.iter().all(|bit| *bit));
    let commit = |manifest: Vec<u8>| site.call("POST", &format!("uploads/{upload}/commit")).token(token).body(manifest);
    let manifest = cut.manifest.encode();
    assert_eq!(commit(manifest.clone()).send().await.is(409).code(), "segments_missing");
    let mut body = Vec::new();
    cut.segments.iter().for_each(|segment| segment_append(&mut body, &segment.encode()));
    site.put(token, &format!("uploads/{upload}/segments"), body.clone()).await.is(204);
    assert_eq!(commit(manifest.clone()).send().await.is(409).code(), "chunks_missing");
    let path = format!("uploads/{upload}/frames");
    let frames = frames(&cut.chunks);
    let (mut damaged, mut other) = (frames.clone(), frames.clone());
    let end = damaged.len() - 1;
    damaged[0] ^= 1;
    assert_eq!(site.put(token, &path, damaged).await.is(422).code(), "bad_image");
    assert_eq!(site.put(token, &path, frames[..end].to_vec()).await.is(422).code(), "bad_image");
    // A changed byte of plain data is another chunk, which the server names itself: the right one stays missing.
    other[end] ^= 1;
    site.put(token, &path, other).await.is(200);
    assert!(missing(site, &person, &upload, &cut).await.last().unwrap());
    body.truncate(body.len() - 1);
    site.put(token, &format!("uploads/{upload}/segments"), body).await.is(400);
    let received = site.put(token, &path, frames).await.is(200).json();
    assert_eq!(received["chunks"], cut.chunks.len());
    assert!(!missing(site, &person, &upload, &cut).await.iter().any(|bit| *bit));
    assert_eq!(commit(manifest[..manifest.len() - 1].to_vec()).send().await.is(422).code(), "bad_image");
    let done = commit(manifest.clone()).send().await.is(201).json();
    assert_eq!(done["version"]["root"], cut.manifest.root().to_string());
    assert_eq!(commit(manifest).send().await.is(201).json(), done, "a commit answers the same for ever");
    site.put(token, &path, Vec::new()).await.is(409);

    let version = format!("images/{image}/versions/0");
    let got = site.get(token, &format!("{version}/manifest")).await.is(200);
    assert_eq!(got.body, cut.manifest.encode());
    assert_eq!(got.header("slipway-root"), cut.manifest.root().to_string());
    let again =
        site.call("GET", &format!("{version}/manifest")).token(token).header("if-none-match", got.header("etag"));
    again.send().await.is(304);
    assert_eq!(site.get(token, &format!("{version}/segments/0")).await.is(200).body, cut.segments[0].encode());
    site.get(token, &format!("{version}/segments/1")).await.is(404);
    site.get(token, &format!("{version}/segments/x")).await.is(400);
    let layout = site.get(token, &format!("{version}/layouts/0")).await.is(200);
    assert_eq!(layout.header("cache-control"), "no-store");
    blobs_check(site, &Layout::decode(&layout.body).unwrap(), &cut).await;
}

/// Every chunk comes out of the packs, with the capability alone.
async fn blobs_check(site: &Site, layout: &Layout, cut: &Cut) {
    assert_eq!(layout.chunks.len(), cut.chunks.len());
    for frame in 0..layout.frames.len() {
        let at = layout.frames[frame];
        let address = &layout.packs[at.pack as usize].address;
        let range = format!("bytes={}-{}", at.offset, at.offset + u64::from(at.len) - 1);
        let got = site.call("GET", address).header("range", &range).send().await.is(206);
        let decoded = DecodedFrame::decode(&got.body).unwrap();
        for chunk in layout.chunks.iter().filter(|chunk| chunk.frame as usize == frame) {
            decoded.verify(chunk.at, chunk.len, &chunk.id).unwrap();
        }
    }
    let address = &layout.packs[0].address;
    let whole = site.call("GET", address).send().await.is(200);
    assert!(whole.header("cache-control").starts_with("public, max-age="));
    let head = site.call("HEAD", address).send().await.is(200);
    assert_eq!(head.header("content-length"), whole.body.len().to_string());
    site.call("GET", address).header("range", "bytes=99999999-").send().await.is(416);
    let (path, query) = address.split_once('?').unwrap();
    let (expiry, mac) = query.strip_prefix("e=").unwrap().split_once("&c=").unwrap();
    let by_header = site.call("GET", path).header("slipway-capability", &format!("{expiry}.{mac}"));
    by_header.send().await.is(200);
    let later = format!("{path}?e={}&c={mac}", expiry.parse::<u64>().unwrap() + 21_600);
    for wrong in [path.to_owned(), format!("{path}?e={expiry}&c=AAAA"), later, format!("{path}?e=1&c={mac}")] {
        // A token, even the admin's, gives nothing here.
        site.get(&site.admin, &wrong).await.is(403);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_at_an_offset_resume_and_commit() {
    for site in Site::each().await {
        offset_check(&site).await;
    }
}

async fn offset_check(site: &Site) {
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let token = &person.token;
    let raw = noise(6, 300_000);
    let upload = begin(site, &person, &image, "raw").await;
    let path = format!("uploads/{upload}");
    let patch = |offset: &str, body: &[u8]| {
        site.call("PATCH", &path).token(token).header("upload-offset", offset).body(body.to_vec())
    };
    assert_eq!(patch("0", &raw[..100_000]).send().await.is(204).header("upload-offset"), "100000");
    let wrong = patch("5", &raw[..10]).send().await.is(409);
    assert_eq!((wrong.code().as_str(), wrong.json()["offset"].as_u64()), ("offset_mismatch", Some(100_000)));
    site.call("PATCH", &path).token(token).body(vec![1]).send().await.is(400);
    patch("-1", &raw[..10]).send().await.is(400);
    // A body that breaks off: what came is kept and counted.
    let broken = futures_util::stream::iter([
        Ok(raw[100_000..150_000].to_vec()),
        Err(std::io::Error::other("the line went dead")),
    ]);
    let url = format!("{}/api/v1/{path}", site.url);
    let client = reqwest::Client::builder().no_proxy().tls_certs_only(Vec::new()).build().unwrap();
    let call = client.patch(url).bearer_auth(token).header("upload-offset", "100000");
    assert!(call.body(reqwest::Body::wrap_stream(broken)).send().await.is_err());
    let mut offset = 0;
    for _ in 0..50 {
        let head = site.call("HEAD", &path).token(token).send().await.is(200);
        offset = head.header("upload-offset").parse::<usize>().unwrap();
        if offset > 100_000 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!((100_000..=150_000).contains(&offset), "{offset}");
    // A digest is of the bytes of its request: those that do not have it are not counted, and one that cannot be checked is refused.
    let next = offset.to_string();
    let said = |bytes: &[u8]| format!("sha-256=:{}:", STANDARD.encode(Sha256::digest(bytes)));
    for name in ["repr-digest", "content-digest"] {
        let wrong = patch(&next, &raw[offset..]).header(name, &said(&raw)).send().await.is(422).json();
        assert_eq!((wrong["field"].as_str(), wrong["offset"].as_u64()), (Some(name), Some(offset as u64)), "{wrong}");
        let unknown = patch(&next, &raw[offset..]).header(name, "md5=:YWJj:").send().await.is(400).json();
        assert_eq!(unknown["field"], *name, "{unknown}");
    }
    let last = patch(&next, &raw[offset..]).header("content-digest", &said(&raw[offset..])).send().await.is(204);
    assert_eq!(last.header("upload-offset"), raw.len().to_string());
    let commit = || site.call("POST", &format!("{path}/commit")).token(token);
    let done = commit().send().await.is(201).json();
    assert_eq!(done["version"]["digest"], blake3::hash(&raw).to_hex().to_string());
    assert_eq!(commit().send().await.is(201).json(), done);
    patch(&raw.len().to_string(), b"x").send().await.is(409);
    assert_eq!(site.get(token, &format!("images/{image}/versions/0/content")).await.is(200).body, raw);

    let upload = begin(site, &person, &image, "chunks").await;
    let wrong =
        site.call("PATCH", &format!("uploads/{upload}")).token(token).header("upload-offset", "0").body(vec![1]);
    wrong.send().await.is(409);
    site.call("DELETE", &format!("uploads/{upload}")).token(token).send().await.is(204);
    site.put(token, &format!("uploads/{upload}/frames"), Vec::new()).await.is(410);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pushes_at_once_get_their_own_numbers() {
    for site in Site::each().await {
        let person = site.person("user").await;
        let image = site.image(&person).await;
        let path = format!("images/{image}/content");
        let puts = (0..6).map(|n| site.put(&person.token, &path, noise(n, 100_000)));
        let mut numbers: Vec<u64> = Vec::new();
        for got in futures_util::future::join_all(puts).await {
            numbers.push(got.is(201).json()["version"]["number"].as_u64().unwrap());
        }
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    }
}

//! Bytes in and out: one-shot uploads, downloads, ranges, tags, encodings.

use super::kit::{Person, Site, noise};
use base64::Engine as _;
use serde_json::json;
use sha2::Digest as _;
use std::io::Write as _;

/// Data, a hole over a segment border, data, and an end that is no multiple of a block.
fn image_bytes() -> Vec<u8> {
    let mut image = noise(1, 300_000);
    image.resize(5 << 20, 0);
    image.extend_from_slice(&noise(2, 100_001));
    image
}

async fn stage() -> (Site, Person, String) {
    let site = Site::start().await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    (site, person, image)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_wrapping_gives_the_same_version() {
    let (site, person, image) = stage().await;
    let raw = image_bytes();
    let gzip = {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(&raw).unwrap();
        writer.finish().unwrap()
    };
    let zstd = zstd::stream::encode_all(&raw[..], 1).unwrap();
    let path = format!("images/{image}/content");
    let first = site.version(&person, &image, raw.clone()).await;
    assert_eq!(first["outcome"], "created");
    assert_eq!(first["ref"], format!("{image}:0"));
    assert_eq!(first["version"]["size"], raw.len());
    assert_eq!(first["version"]["digest"], blake3::hash(&raw).to_hex().to_string());
    for (name, body, query, header) in [
        ("gzip by content", &gzip, "", None),
        ("zstd by content", &zstd, "", None),
        ("gzip said", &gzip, "?format=gzip", None),
        ("zstd by header", &zstd, "", Some("zstd")),
        ("raw", &raw, "?format=raw", None),
    ] {
        let mut call = site.call("PUT", &format!("{path}{query}")).token(&person.token).body(body.clone());
        if let Some(header) = header {
            call = call.header("content-encoding", header);
        }
        let got = call.send().await.is(200).json();
        assert_eq!(got["outcome"], "unchanged", "{name}");
        assert_eq!(got["version"]["root"], first["version"]["root"], "{name}");
    }
    let again = site.call("PUT", &format!("{path}?new=true&message=again")).token(&person.token).body(gzip);
    let again = again.send().await.is(201).json();
    assert_eq!((again["version"]["number"].as_u64(), again["version"]["new_bytes"].as_u64()), (Some(1), Some(0)));
    assert_eq!(again["version"]["message"], "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_what_it_should_be_makes_nothing() {
    let (site, person, image) = stage().await;
    let raw = image_bytes();
    let zstd = zstd::stream::encode_all(&raw[..], 1).unwrap();
    let zeros = "0".repeat(64);
    let right = blake3::hash(&raw).to_hex().to_string();
    let said = |bytes: &[u8]| {
        let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(bytes));
        format!("sha-256=:{hash}:")
    };
    for (name, body, query, repr, status, code) in [
        ("wrong body digest", raw.clone(), String::new(), said(b"other"), 422, "digest_mismatch"),
        ("digest of the raw image for a packed body", zstd.clone(), String::new(), said(&raw), 422, "digest_mismatch"),
        ("wrong image digest", raw.clone(), format!("?digest={zeros}"), String::new(), 422, "digest_mismatch"),
        ("wrong root", raw.clone(), format!("?root={zeros}"), String::new(), 422, "digest_mismatch"),
        ("no digest at all", raw.clone(), "?digest=abc".to_owned(), String::new(), 400, "invalid_request"),
        ("cut zstd", zstd[..zstd.len() - 5].to_vec(), String::new(), String::new(), 422, "bad_image"),
        ("zstd and more", [&zstd[..], b"more"].concat(), String::new(), String::new(), 422, "bad_image"),
        ("not gzip", raw.clone(), "?format=gzip".to_owned(), String::new(), 422, "bad_image"),
        ("nothing", Vec::new(), String::new(), String::new(), 422, "bad_image"),
        ("odd sectors", raw.clone(), "?sector_size=1000".to_owned(), String::new(), 400, "invalid_request"),
        ("unknown parameter", raw.clone(), "?colour=1".to_owned(), String::new(), 400, "invalid_request"),
    ] {
        let mut call = site.call("PUT", &format!("images/{image}/content{query}")).token(&person.token).body(body);
        if !repr.is_empty() {
            call = call.header("repr-digest", &repr);
        }
        let got = call.send().await.is(status);
        assert_eq!(got.code(), code, "{name}: {}", got.text());
        let shown = site.get(&person.token, &format!("images/{image}")).await.json();
        assert_eq!(shown["version_count"], 0, "{name} made a version");
    }
    let call = site.call("PUT", &format!("images/{image}/content?digest={right}")).token(&person.token);
    call.header("repr-digest", &said(&zstd)).body(zstd).send().await.is(201);
    // A body that is larger than allowed ends where it is too large, also when it unpacks to that.
    let small =
        Site::start_with(|options| options.image_max_bytes = 1 << 20, slipway_server::ServeTrial::default()).await;
    let person = small.person("user").await;
    let image = small.image(&person).await;
    let bomb = zstd::stream::encode_all(&vec![0u8; 2 << 20][..], 1).unwrap();
    let path = format!("images/{image}/content");
    small.put(&person.token, &path, noise(1, 2 << 20)).await.is(413);
    let bomb = small.put(&person.token, &path, bomb).await;
    assert!(matches!(bomb.status, 413 | 422), "{}", bomb.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn downloads_are_whole_in_parts_and_packed() {
    let (site, person, image) = stage().await;
    let raw = image_bytes();
    site.version(&person, &image, raw.clone()).await;
    let (size, token) = (raw.len(), &person.token);
    let path = format!("images/{image}/versions/latest/content");
    let got = site.get(token, &path).await.is(200);
    assert!(got.body == raw, "the download differs");
    let tag = got.header("etag").to_owned();
    assert_eq!(got.header("content-length"), size.to_string());
    assert_eq!(got.header("accept-ranges"), "bytes");
    assert!(got.header("content-disposition").starts_with("attachment; filename=\""));
    let head = site.call("HEAD", &path).token(token).send().await.is(200);
    assert_eq!((head.header("content-length"), head.header("etag"), head.body.len()), (&*size.to_string(), &*tag, 0));
    site.call("GET", &path).token(token).header("if-none-match", &tag).send().await.is(304);
    for (range, from, to) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=299999-300001".to_owned(), 299_999, 300_002),
        ("bytes=1000000-4000000".to_owned(), 1_000_000, 4_000_001),
        ("bytes=-5".to_owned(), size - 5, size),
        (format!("bytes={}-", size - 7), size - 7, size),
    ] {
        let got = site.call("GET", &path).token(token).header("range", &range).send().await.is(206);
        assert!(got.body == raw[from..to], "{range}");
        assert_eq!(got.header("content-range"), format!("bytes {from}-{}/{size}", to - 1));
        let stale = site.call("GET", &path).token(token).header("range", &range).header("if-range", "\"other\"");
        assert_eq!(stale.send().await.is(200).body.len(), size);
    }
    let beyond = format!("bytes={size}-");
    site.call("GET", &path).token(token).header("range", &beyond).send().await.is(416);
    site.call("GET", &path).token(token).header("range", "bytes=5-4").send().await.is(400);
    let zstd = site.call("GET", &path).token(token).header("accept-encoding", "zstd").send().await.is(200);
    assert_eq!(zstd.header("content-encoding"), "zstd");
    assert_ne!(zstd.header("etag"), tag);
    assert!(zstd::stream::decode_all(&zstd.body[..]).unwrap() == raw);
    let gzip = site.call("GET", &path).token(token).header("accept-encoding", "gzip").send().await.is(200);
    let mut unpacked = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gzip.body[..]), &mut unpacked).unwrap();
    assert!(unpacked == raw);
    // Once the SHA-256 is computed, it is said.
    let hash = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(&raw));
    for n in 0.. {
        let head = site.call("HEAD", &path).token(token).send().await.is(200);
        if head.header("repr-digest") == format!("sha-256=:{hash}:") {
            break;
        }
        assert!(n < 100, "no Repr-Digest: {:?}", head.headers);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_pack_is_an_error_and_never_a_wrong_byte() {
    let (site, person, image) = stage().await;
    let raw = noise(9, 1 << 20);
    site.version(&person, &image, raw.clone()).await;
    let packs = walk(&site.folder.path().join("data/blobs"), "packs");
    assert!(!packs.is_empty());
    for pack in packs {
        let mut bytes = std::fs::read(&pack).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&pack, bytes).unwrap();
    }
    let path = format!("images/{image}/versions/0/content");
    // The damage lies behind the first pieces, so the answer has begun: the connection must end without the whole.
    let url = format!("{}/api/v1/{path}", site.url);
    let client = reqwest::Client::builder().no_proxy().tls_certs_only(Vec::new()).build().unwrap();
    let response = client.get(url).bearer_auth(&person.token).send().await.unwrap();
    match response.status().as_u16() {
        200 => assert!(response.bytes().await.is_err(), "a damaged content was sent whole"),
        status => assert_eq!(status, 500),
    }
    let task = site.post(&site.admin, "check", &json!({})).await.is(202).json();
    assert_eq!(task["kind"], "check");
}

fn walk(folder: &std::path::Path, below: &str) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.components().any(|part| part.as_os_str() == below) => found.push(path),
                false => {}
            }
        }
    }
    found
}

//! Bytes in and out: ranges, tags, codings, cut bodies.

use super::super::kit::{BOUNDARY, Site, form_bytes, noise};
use super::{download, image, numbers, shown, upload, uploaded};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_has_ranges_tags_and_a_name() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let disk = image(&site, &owner, json!({})).await;
    let bytes = noise(31, 300_001);
    uploaded(upload(&site, &owner, &disk, None, &bytes).await);
    let call = |method: &str, path: &str| site.call(method, &format!("/image/{disk}/{path}")).token(&owner.token);
    for (method, path) in [("GET", "1"), ("GET", "latest"), ("POST", "latest"), ("GET", "01")] {
        let got = call(method, path).send().await.plain(200);
        assert_eq!(got.header("content-type"), "disk/raw", "{method} {path}");
        assert_eq!(got.header("content-disposition"), format!("attachment; filename={disk}-1.img"), "{method} {path}");
        assert_eq!(got.header("accept-ranges"), "bytes");
        assert!(got.body == bytes, "{method} {path}");
    }
    let head = call("HEAD", "1").send().await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, "300001", 0));
    let tag = head.header("etag").to_owned();
    assert_eq!(call("GET", "1").header("if-none-match", &tag).send().await.status, 304);
    assert_eq!(call("GET", "0").header("if-none-match", &tag).send().await.status, 200);
    let part = call("GET", "1").header("range", "bytes=1000-1999").send().await;
    assert_eq!((part.status, part.header("content-range")), (206, "bytes 1000-1999/300001"));
    assert!(part.body == bytes[1000..2000]);
    let part = call("GET", "1").header("range", "bytes=-1").header("if-range", &tag).send().await;
    assert_eq!((part.status, part.body.as_slice()), (206, &bytes[300_000..]));
    assert_eq!(call("GET", "1").header("range", "bytes=0-1").header("if-range", "\"x\"").send().await.status, 200);
    call("GET", "1").header("range", "bytes=300001-").send().await.plain(416);
    // The tag is of the content: replacing it changes the tag.
    uploaded(upload(&site, &owner, &disk, Some("false"), &noise(32, 4096)).await);
    assert_ne!(call("HEAD", "1").send().await.header("etag"), tag);
}

/// The seed's comments name versions by unix seconds: the newest that there was then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_may_be_named_by_time() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let disk = image(&site, &owner, json!({})).await;
    let mut times = Vec::new();
    for seed in [41, 42] {
        tokio::time::sleep(Duration::from_millis(1100)).await;
        uploaded(upload(&site, &owner, &disk, None, &noise(seed, 5000)).await);
        let made = shown(&site, &owner, &disk).await["Versions"].as_array().unwrap().last().unwrap().clone();
        times.push(made["CreatedAt"].as_u64().unwrap());
    }
    for (time, number) in [(times[0] - 1, 0), (times[0], 1), (times[1] - 1, 1), (times[1], 2), (4_000_000_000, 2)] {
        let got = site.get(&owner.token, &format!("/image/{disk}/{time}")).await.plain(200);
        assert_eq!(got.header("content-disposition"), format!("attachment; filename={disk}-{number}.img"), "{time}");
    }
    site.get(&owner.token, &format!("/image/{disk}/1000000000")).await.plain(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_is_compressed_when_asked() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let disk = image(&site, &owner, json!({ "DiskCompressionStrategy": "gzip", "Size": 8 })).await;
    let mut bytes = vec![0; 3 << 20];
    bytes[1 << 20..][..100_000].copy_from_slice(&noise(33, 100_000));
    uploaded(upload(&site, &owner, &disk, None, &bytes).await);
    for (query, accept, coding) in [
        ("", "", ""),
        ("", "gzip", "gzip"),
        ("", "gzip, zstd", "zstd"),
        ("?compress=gzip", "", "gzip"),
        ("?compress=zstd", "gzip", "zstd"),
        ("?compress=none", "gzip", ""),
    ] {
        let mut call = site.call("GET", &format!("/image/{disk}/1{query}")).token(&owner.token);
        if !accept.is_empty() {
            call = call.header("accept-encoding", accept);
        }
        let got = call.send().await.plain(200);
        assert_eq!(
            (got.header("content-encoding"), got.header("content-type")),
            (coding, "disk/raw"),
            "{query} {accept}"
        );
        let mut raw = Vec::new();
        match coding {
            "gzip" => drop(flate2::read::MultiGzDecoder::new(&got.body[..]).read_to_end(&mut raw).unwrap()),
            "zstd" => drop(zstd::stream::read::Decoder::new(&got.body[..]).unwrap().read_to_end(&mut raw).unwrap()),
            _ => raw = got.body,
        }
        assert!(raw == bytes, "{query} {accept}");
    }
    // A range is of the raw bytes, and is never coded.
    let call =
        site.call("GET", &format!("/image/{disk}/1?compress=zstd")).token(&owner.token).header("range", "bytes=0-9");
    let got = call.send().await;
    assert_eq!((got.status, got.header("content-encoding"), got.body.len()), (206, "", 10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_is_unpacked_when_magic_and_strategy_both_say_so() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let raw = noise(34, 150_000);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&raw).unwrap();
        encoder.finish().unwrap()
    };
    let zstd = zstd::stream::encode_all(&raw[..], 3).unwrap();
    for (strategy, sent, stored) in [
        ("none", &gzip, &gzip),
        ("none", &zstd, &zstd),
        ("GZip", &gzip, &raw),
        ("GZip", &zstd, &zstd),
        ("ZSTD", &zstd, &raw),
        ("ZSTD", &gzip, &gzip),
        ("zstd", &raw, &raw),
    ] {
        let disk = image(&site, &owner, json!({ "DiskCompressionStrategy": strategy })).await;
        assert_eq!(uploaded(upload(&site, &owner, &disk, None, sent).await), 1);
        assert!(download(&site, &owner, &disk, "1").await == *stored, "{strategy}");
    }
    // What begins like a stream and is none is refused, and makes nothing.
    let disk = image(&site, &owner, json!({ "DiskCompressionStrategy": "gzip" })).await;
    let mut broken = gzip.clone();
    broken.truncate(gzip.len() / 2);
    let got = upload(&site, &owner, &disk, None, &broken).await;
    assert!((400..500).contains(&got.status), "{}", got.text());
    assert_eq!(numbers(&shown(&site, &owner, &disk).await), [0]);
}

/// Of type qcow2, an image takes and gives that form; what is kept is the raw disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qcow2_image_takes_and_gives_qcow2() {
    let site = Site::start().await;
    let owner = site.person("user").await;
    let plain = image(&site, &owner, json!({ "Size": 4 })).await;
    let mut raw = noise(38, 200_000);
    raw.resize(4 << 20, 0);
    uploaded(upload(&site, &owner, &plain, None, &raw).await);
    let set = |uuid: &str, kind: &str| {
        let body = json!({ "ImageFileType": kind });
        site.call("PUT", &format!("/image/{uuid}")).token(&owner.token).json(&body).send()
    };
    set(&plain, "QCOW2").await.plain(200);
    let got = site.get(&owner.token, &format!("/image/{plain}/1")).await.plain(200);
    assert!(got.body.starts_with(b"QFI\xfb") && got.body.len() < raw.len(), "{} bytes", got.body.len());
    assert_eq!((got.header("content-type"), got.header("accept-ranges")), ("disk/qcow2", "bytes"));
    let part = site.call("GET", &format!("/image/{plain}/1")).token(&owner.token).header("range", "bytes=0-3");
    assert_eq!(part.send().await.body, b"QFI\xfb");
    // There and back: another image of that type takes it, also in place of its empty version.
    let other = image(&site, &owner, json!({ "ImageFileType": "qcow2" })).await;
    assert!(download(&site, &owner, &other, "0").await.starts_with(b"QFI\xfb"));
    assert_eq!(uploaded(upload(&site, &owner, &other, None, &got.body).await), 1);
    assert_eq!(uploaded(upload(&site, &owner, &other, Some("false"), &got.body).await), 1);
    // What is no qcow2 is refused, and so is half of one; neither makes a version.
    for wrong in [&raw[..], &got.body[..got.body.len() / 2], b"QFI\xfb"] {
        let refused = upload(&site, &owner, &other, None, wrong).await;
        assert!((400..500).contains(&refused.status), "{}: {}", refused.status, refused.text());
    }
    assert_eq!(numbers(&shown(&site, &owner, &other).await), [0, 1]);
    set(&other, "raw").await.plain(200);
    assert!(download(&site, &owner, &other, "1").await == raw);
    // As raw, the same bytes are just bytes.
    assert_eq!(uploaded(upload(&site, &owner, &other, None, &got.body).await), 2);
    assert!(download(&site, &owner, &other, "2").await == got.body);
}

/// Sends the head of an upload and some of its body, then hangs up or waits for the answer.
fn cut_upload(site: &Site, token: &str, disk: &str, new: &str, announced: usize, sent: &[u8], wait: bool) -> String {
    let mut stream = TcpStream::connect(site.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = format!(
        "POST /image/{disk} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nX-BAAS-NewVersion: {new}\r\n\
         Content-Type: multipart/form-data; boundary={BOUNDARY}\r\nContent-Length: {announced}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(sent).unwrap();
    if !wait {
        return String::new();
    }
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_breaks_off_leaves_no_version() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let disk = image(&site, &owner, json!({})).await;
        let kept = noise(35, 50_000);
        uploaded(upload(&site, &owner, &disk, None, &kept).await);
        let form = form_bytes(&[("file", Some("d.img"), &noise(36, 700_000))]);
        let end = form.len();
        for new in ["true", "false"] {
            // Cut in the headers, in the bytes, and just before the very end: the connection breaks.
            for len in [20, 100, end / 2, end - 60, end - 5] {
                cut_upload(&site, &owner.token, &disk, new, end, &form[..len], false);
            }
            // The connection holds, but the form is not whole: the length ends before the closing delimiter.
            for len in [end / 2, end - 8] {
                let answer = cut_upload(&site, &owner.token, &disk, new, len, &form[..len], true);
                assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("cut off"), "{answer}");
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(numbers(&shown(&site, &owner, &disk).await), [0, 1]);
        assert!(download(&site, &owner, &disk, "1").await == kept);
        // No upload is left that would hold a lease, so the image takes the next at once.
        assert_eq!(uploaded(upload(&site, &owner, &disk, Some("false"), &noise(37, 4096)).await), 1);
        assert_eq!(uploaded(upload(&site, &owner, &disk, Some("true"), &kept).await), 2);
    }
}

//! A quota is held in every way in: before the first byte where the length is known, and in the middle where it is not.

use super::kit::{Call, Person, Site, noise};
use super::uploads::{begin, cut, frames};
use serde_json::{Value, json};
use slipway_server::ServeTrial;

/// A body whose length nobody announces.
fn streamed(bytes: &[u8]) -> reqwest::Body {
    let pieces: Vec<std::io::Result<Vec<u8>>> = bytes.chunks(50_000).map(|piece| Ok(piece.to_vec())).collect();
    reqwest::Body::wrap_stream(tokio_stream::iter(pieces))
}

async fn quota_set(site: &Site, person: &Person, change: &Value) -> Value {
    let path = format!("users/{}/quota", person.name);
    site.call("PATCH", &path).token(&site.admin).json(change).send().await.is(200).json()
}

async fn used(site: &Site, person: &Person) -> u64 {
    let shown = site.get(&person.token, "users/me/quota").await.is(200).json();
    shown["stored_bytes"]["used"].as_u64().unwrap()
}

/// Refused, by quota, with use, limit and the next step.
async fn refused(call: Call<'_>, what: &str) {
    let got = call.send().await.is(507);
    assert_eq!(got.code(), "quota_exceeded", "{}", got.text());
    let problem = got.json();
    assert!(problem["title"].as_str().unwrap().contains(what), "{problem}");
    assert!(problem["hint"].as_str().unwrap().contains("slipway quota"), "{problem}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_in_is_limited() {
    for site in Site::each().await {
        let person = site.person("user").await;
        let image = site.image(&person).await;
        let shown = quota_set(&site, &person, &json!({ "stored_bytes": 400_000 })).await;
        assert_eq!(shown["stored_bytes"], json!({ "used": 0, "limit": 400_000, "own": true }));
        let bytes = noise(1, 1_000_000);
        let put = || site.call("PUT", &format!("images/{image}/content")).token(&person.token);
        refused(put().body(bytes.clone()), "stored bytes").await;
        // A small body that unpacks to much.
        quota_set(&site, &person, &json!({ "logical_bytes": 2_000_000 })).await;
        refused(put().body(zstd::encode_all(&vec![7; 40_000_000][..], 3).unwrap()), "logical bytes").await;
        // By PATCH: announced, and in the middle. What fitted is kept and counted.
        let patched = begin(&site, &person, &image, "raw").await;
        let path = format!("uploads/{patched}");
        let patch = || site.call("PATCH", &path).token(&person.token).header("upload-offset", "0");
        refused(patch().body(bytes.clone()), "stored bytes").await;
        let before = used(&site, &person).await;
        refused(patch().body(streamed(&bytes)), "stored bytes").await;
        let after = used(&site, &person).await;
        assert!(after > before && after <= 400_000, "{before} {after}");
        site.call("DELETE", &path).token(&person.token).send().await.is(204);
        assert_eq!(used(&site, &person).await, before);
        // Frames, the same.
        let chunks = begin(&site, &person, &image, "chunks").await;
        let path = format!("uploads/{chunks}/frames");
        let all = frames(&cut(&bytes).chunks);
        let put = |body: reqwest::Body| site.call("PUT", &path).token(&person.token).body(body);
        refused(put(all.clone().into()), "stored bytes").await;
        refused(put(streamed(&all)), "stored bytes").await;
        assert_eq!(used(&site, &person).await, before, "frames of a body that was refused stayed");
        let some = frames(&cut(&bytes[..200_000]).chunks);
        put(some.into()).send().await.is(200);
        assert!(used(&site, &person).await >= before + 200_000);
        // The announced size alone is enough to be refused.
        let announced = json!({ "image": image, "format": "chunks", "size": 3_000_000 });
        refused(site.call("POST", "uploads").token(&person.token).json(&announced), "logical bytes").await;
        let metrics = site.get(&site.admin, "/metrics").await.is(200).text();
        let line = metrics.lines().find(|line| line.starts_with("slipway_refused_total{for=\"quota\"}")).unwrap();
        assert!(!line.ends_with(" 0"), "{line}");
        let versions = site.get(&person.token, &format!("images/{image}/versions")).await.is(200).json();
        assert_eq!(versions["items"].as_array().unwrap().len(), 0, "something was made: {versions}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_give_the_defaults() {
    let site = Site::start_with(
        |options| {
            options.quota_versions = Some(1);
            options.quota_uploads = 2;
            options.retention = "last=3".to_owned();
            options.retention_hours = 0;
        },
        ServeTrial::default(),
    )
    .await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    site.version(&person, &image, noise(1, 4096)).await;
    let path = format!("images/{image}/content");
    refused(site.call("PUT", &path).token(&person.token).body(noise(2, 4096)), "versions").await;
    quota_set(&site, &person, &json!({ "versions": "unlimited" })).await;
    begin(&site, &person, &image, "raw").await;
    begin(&site, &person, &image, "raw").await;
    let third = json!({ "image": image, "format": "raw" });
    let got = site.post(&person.token, "uploads", &third).await.is(507);
    assert_eq!(got.code(), "quota_exceeded");
    let shown = site.get(&person.token, &format!("images/{image}/retention")).await.is(200).json();
    assert_eq!(shown, json!({ "own": null, "rules": { "keep_last": 3 }, "from": "server", "every_seconds": null }));
    // What is no rule is refused by name, in the query and in the body.
    let preview = format!("images/{image}/retention/preview");
    let got = site.get(&person.token, &format!("{preview}?rules=weekly")).await.is(400);
    assert_eq!(got.json()["field"], "rules");
    site.get(&person.token, &format!("{preview}?rules=last%3D1,daily%3D2")).await.is(200);
    let set = |body: &Value| site.call("PUT", &format!("images/{image}/retention")).token(&person.token).json(body);
    set(&json!({ "rules": { "keep_last": 0 } })).send().await.is(400);
    set(&json!({ "rules": { "keep_nightly": 1 } })).send().await.is(400);
    set(&json!({ "rules": null })).send().await.is(200);
}

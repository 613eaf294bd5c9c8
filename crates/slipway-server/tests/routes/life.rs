//! Start, stop, poison, TLS, events and what the server says of itself.

use super::kit::{Site, noise};
use serde_json::json;
use slipway_server::{ExitReason, ServeOptions, ServeTrial, Server};
use slipway_store::{FaultMode, Faults, OpKind};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_how_it_is() {
    let site = Site::start().await;
    let facts = site.get("", "/api/v1").await.is(200).json();
    assert_eq!((facts["needs_setup"].as_bool(), facts["version"].as_str()), (Some(false), Some(slipway_api::VERSION)));
    assert_eq!(site.get("", "/livez").await.is(200).text(), "ok\n");
    assert_eq!(site.get("", "/readyz").await.is(200).text(), "ready\n");
    let person = site.person("user").await;
    let image = site.image(&person).await;
    site.version(&person, &image, noise(1, 10_000)).await;
    let metrics = site.get("", "/metrics").await.is(200).text();
    for line in [
        "slipway_requests_total{operation=\"content_put\",status=\"201\"} 1",
        "slipway_uploads_total{outcome=\"committed\"} 1",
        "slipway_versions 1",
        "slipway_store_poisoned 0",
        "slipway_blobs{kind=\"pack\",state=\"live\"} 1",
    ] {
        assert!(metrics.lines().any(|got| got == line), "{line} in\n{metrics}");
    }
    // What a proxy on this machine forwards does not count as asked from here.
    site.call("GET", "/metrics").header("x-forwarded-for", "192.0.2.1").send().await.is(401);
    site.call("GET", "/metrics").header("x-forwarded-for", "192.0.2.1").token(&person.token).send().await.is(403);
    site.call("GET", "/metrics").header("x-forwarded-for", "192.0.2.1").token(&site.admin).send().await.is(200);
    let page = site.get("", "/docs/").await.is(200);
    assert!(page.header("content-type").starts_with("text/html"));
    let page = page.text();
    assert!(!page.contains("http://") && !page.contains("https://"), "the page of the API fetches from elsewhere");
    for file in ["swagger-ui-bundle.js", "swagger-ui.css", "swagger-initializer.js"] {
        site.get("", &format!("/docs/{file}")).await.is(200);
    }
    site.get("", "/docs/../../etc/passwd").await.is(404);
    site.get("", "/docs/nothing.js").await.is(404);
    let given = site.call("GET", "/livez").header("x-request-id", "mine-1").send().await;
    assert_eq!(given.header("x-request-id"), "mine-1");
    assert_eq!(given.header("x-content-type-options"), "nosniff");
    let data = site.folder.path().join("data");
    for private in [data.clone(), data.join("blobs"), data.join("spool")] {
        assert_eq!(std::fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o700, "{}", private.display());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_folder_is_refused() {
    let site = Site::start().await;
    let options = ServeOptions {
        data: site.folder.path().join("data"),
        listen: "127.0.0.1:0".parse().unwrap(),
        ..ServeOptions::default()
    };
    let error = Server::start(&options, ServeTrial::default()).await.err().unwrap();
    assert!(format!("{error:#}").contains(&format!("process {}", std::process::id())), "{error:#}");
    // Capabilities and tokens outlive a restart.
    let person = site.person("user").await;
    let image = site.image(&person).await;
    site.version(&person, &image, noise(1, 10_000)).await;
    let layout = site.get(&person.token, &format!("images/{image}/versions/0/layouts/0")).await.is(200).body;
    let address = slipway_chunk::Layout::decode(&layout).unwrap().packs[0].address.clone();
    let (reason, folder) = site.stop().await;
    assert_eq!(reason, ExitReason::Asked);
    let site = Site::start_in(folder, |_| {}, ServeTrial::default()).await;
    site.call("GET", &address).send().await.is(200);
    assert_eq!(
        site.get(&person.token, &format!("images/{image}/versions/0/content")).await.is(200).body,
        noise(1, 10_000)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_finishes_what_was_begun() {
    let mut site = Site::start().await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let raw = noise(1, 200_000);
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Vec<u8>>>(1);
    let url = format!("{}/api/v1/images/{image}/content", site.url);
    let client = reqwest::Client::builder().no_proxy().tls_certs_only(Vec::new()).build().unwrap();
    let body = reqwest::Body::wrap_stream(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let call = client.put(url).bearer_auth(&person.token).body(body);
    let sending = tokio::spawn(async move { call.send().await.unwrap().status() });
    sender.send(Ok(raw[..100_000].to_vec())).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    site.stop_ask();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(tokio::net::TcpStream::connect(site.address).await.is_err(), "it still accepts");
    sender.send(Ok(raw[100_000..].to_vec())).await.unwrap();
    drop(sender);
    assert_eq!(sending.await.unwrap(), 201);
    assert_eq!(site.ended().await, ExitReason::Asked);
    let Site { folder, .. } = site;
    let site = Site::start_in(folder, |_| {}, ServeTrial::default()).await;
    assert_eq!(site.get(&person.token, &format!("images/{image}/versions/0/content")).await.is(200).body, raw);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_stops_it_with_its_own_reason() {
    let faults = Faults::fail_from(OpKind::Fsync, 0, FaultMode::Error);
    let mut site = Site::start_with(|_| {}, ServeTrial { store_faults: faults, ..ServeTrial::default() }).await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let got = site.put(&person.token, &format!("images/{image}/content"), noise(1, 100_000)).await;
    assert!(matches!(got.status, 500 | 503), "{}", got.text());
    let reason = site.ended().await;
    assert_eq!((reason, reason.exit_code()), (ExitReason::Poisoned, 70));
    let Site { folder, .. } = site;
    let site = Site::start_in(folder, |_| {}, ServeTrial::default()).await;
    let shown = site.get(&person.token, &format!("images/{image}")).await.is(200).json();
    assert_eq!(shown["version_count"], 0);
    site.version(&person, &image, noise(1, 100_000)).await;
    assert_eq!(
        site.get(&person.token, &format!("images/{image}/versions/0/content")).await.is(200).body,
        noise(1, 100_000)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_of_a_spool_stops_it_too() {
    let faults = Faults::fail_from(OpKind::Fsync, 0, FaultMode::Error);
    let mut site = Site::start_with(|_| {}, ServeTrial { store_faults: faults, ..ServeTrial::default() }).await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let upload = super::uploads::begin(&site, &person, &image, "raw").await;
    let patch = site.call("PATCH", &format!("uploads/{upload}")).token(&person.token).header("upload-offset", "0");
    assert_eq!(patch.body(noise(1, 100_000)).send().await.is(503).code(), "unavailable");
    assert_eq!(site.ended().await, ExitReason::Poisoned);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_own_authority_is_enough_for_tls() {
    let site = Site::start_with(|options| options.tls_self_made = true, ServeTrial::default()).await;
    assert!(site.url.starts_with("https://"));
    site.get(&site.admin, "me").await.is(200);
    let key = site.folder.path().join("data/tls/ca.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    let before = std::fs::read(&key).unwrap();
    // Who does not know the authority does not talk to it.
    let stranger = reqwest::Client::builder().no_proxy().tls_certs_only(Vec::new()).build().unwrap();
    assert!(stranger.get(format!("{}/livez", site.url)).send().await.is_err());
    let (_, folder) = site.stop().await;
    let site = Site::start_in(folder, |options| options.tls_self_made = true, ServeTrial::default()).await;
    assert_eq!(std::fs::read(&key).unwrap(), before, "the authority outlives a restart");
    site.get("", "/livez").await.is(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_tell_a_task_to_its_end_once() {
    let site = Site::start().await;
    let task = site.post(&site.admin, "prune", &json!({ "dry_run": true })).await.is(202).json();
    let path = format!("tasks/{}/events", task["id"].as_str().unwrap());
    let got = site.get(&site.admin, &path).await.is(200);
    assert_eq!(got.header("content-type"), "text/event-stream");
    let text = got.text();
    let last = text.trim_end().rsplit("\n\n").next().unwrap();
    let field = |name: &str| last.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap().to_owned();
    assert_eq!(field("event"), "task");
    let state: serde_json::Value = serde_json::from_str(&field("data")).unwrap();
    assert_eq!(state["state"], "done", "{text}");
    site.call("GET", &path).token(&site.admin).header("last-event-id", &field("id")).send().await.is(204);
    let again = site.call("GET", &path).token(&site.admin).header("last-event-id", "other").send().await.is(200);
    assert!(again.text().contains("\"done\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_2_works_over_one_connection() {
    let site = Site::start().await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let raw = noise(1, 3 << 20);
    let client =
        reqwest::Client::builder().no_proxy().http2_prior_knowledge().tls_certs_only(Vec::new()).build().unwrap();
    let url = format!("{}/api/v1/images/{image}", site.url);
    let put = client.put(format!("{url}/content")).bearer_auth(&person.token).body(raw.clone()).send().await.unwrap();
    assert_eq!((put.status().as_u16(), put.version()), (201, reqwest::Version::HTTP_2));
    // All are read at once: HTTP/2 gives one window to all answers of a connection.
    let gets = (0..8).map(async |_| {
        let got = client.get(format!("{url}/versions/0/content")).bearer_auth(&person.token).send().await;
        got.unwrap().bytes().await.unwrap()
    });
    for got in futures_util::future::join_all(gets).await {
        assert!(got == raw);
    }
}

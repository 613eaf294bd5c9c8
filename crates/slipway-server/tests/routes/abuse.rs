//! Requests that are broken, hostile or stale.

use super::kit::{Site, noise};
use serde_json::json;
use slipway_server::ServeTrial;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Sends bytes as they are and reads what comes until the server closes.
fn raw(site: &Site, request: &[u8], patience: Duration) -> String {
    let mut stream = TcpStream::connect(site.address).unwrap();
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(request).unwrap();
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(n @ 1..) = stream.read(&mut piece) {
        answer.extend_from_slice(&piece[..n]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

async fn raw_async(site: &Site, request: Vec<u8>) -> String {
    // The blocking read must not hold a thread that the server needs.
    let address = site.address;
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
        // The server may close before all is sent.
        let _ = stream.write_all(&request);
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(n @ 1..) = stream.read(&mut piece) {
            answer.extend_from_slice(&piece[..n]);
        }
        String::from_utf8_lossy(&answer).into_owned()
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_of_json_are_read_strictly() {
    let site = Site::start().await;
    let deep = format!("{{\"ref\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let big = format!("{{\"ref\":\"{}\"}}", "x".repeat(2 << 20));
    for (body, kind, status, code, field) in [
        (r#"{"ref":"me/a","colour":1}"#, "application/json", 400, "invalid_request", "colour"),
        (r#"{"ref":1}"#, "application/json", 400, "invalid_request", "ref"),
        (r#"{"ref":"me/a","labels":{"a":1}}"#, "application/json", 400, "invalid_request", "labels.a"),
        (r#"{}"#, "application/json", 400, "invalid_request", "ref"),
        ("", "application/json", 400, "invalid_request", ""),
        (&deep, "application/json", 400, "invalid_request", ""),
        (&big, "application/json", 413, "too_large", ""),
        (r#"{"ref":"me/a"}"#, "text/plain", 415, "unsupported_media", "content-type"),
        (r#"{"ref":"me/../x"}"#, "application/json", 400, "invalid_name", "ref"),
        ("{\"ref\":\"me/a\\u202eb\"}", "application/json", 400, "invalid_name", "ref"),
        (r#"{"ref":"me/latest"}"#, "application/json", 400, "invalid_name", "ref"),
        (r#"{"ref":"me/fine; charset"}"#, "application/json; charset=utf-8", 400, "invalid_name", "ref"),
    ] {
        let call = site.call("POST", "images").token(&site.admin).header("content-type", kind).body(body.to_owned());
        let got = call.send().await.is(status);
        assert_eq!(got.code(), code, "{body:.60}");
        assert_eq!(got.json()["field"].as_str().unwrap_or_default(), field, "{body:.60}: {}", got.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn paths_queries_and_headers_are_read_strictly() {
    let site = Site::start().await;
    let long = "x".repeat(300);
    for (method, path, headers, status, code) in [
        ("GET", "/nowhere", vec![], 404, "not_found"),
        ("GET", "/api/v1/", vec![], 404, "not_found"),
        ("PUT", "images", vec![], 405, "method_not_allowed"),
        ("GET", "images?colour=1", vec![], 400, "invalid_request"),
        ("GET", "images?limit=x", vec![], 400, "invalid_request"),
        ("GET", "images?limit=0", vec![], 400, "invalid_request"),
        ("GET", "images?cursor=nonsense", vec![], 400, "invalid_request"),
        ("GET", "images/me/a%2fb", vec![], 400, "invalid_name"),
        ("GET", "images/me/%C3%BC%E2%80%AE", vec![], 400, "invalid_name"),
        ("GET", "images/me/none", vec![], 404, "not_found"),
        ("GET", "uploads/not-an-id", vec![], 404, "not_found"),
        ("GET", "images", vec![("slipway-client", "0.0.1")], 426, "client_too_old"),
        ("GET", "images", vec![("slipway-client", "new")], 400, "invalid_request"),
        ("GET", "images", vec![("authorization", "Basic eDp5")], 401, "unauthenticated"),
        ("GET", "images", vec![("authorization", "Bearer slp_nonsense")], 401, "unauthenticated"),
        ("POST", "images", vec![("idempotency-key", &long[..])], 400, "invalid_request"),
    ] {
        let mut call = site.call(method, path);
        if !headers.iter().any(|(name, _)| *name == "authorization") {
            call = call.token(&site.admin);
        }
        for (name, value) in &headers {
            call = call.header(name, value);
        }
        if method == "POST" {
            call = call.json(&json!({ "ref": "me/a" }));
        }
        let got = call.send().await.is(status);
        assert_eq!(got.code(), code, "{method} {path} {headers:?}");
        if status == 405 {
            assert_eq!(got.header("allow"), "GET, POST");
        }
        if status == 401 {
            assert!(got.header("www-authenticate").starts_with("Bearer"));
        }
    }
    // The other header for tokens works too.
    let got = site.call("GET", "me").header("x-auth-token", &site.admin).send().await.is(200);
    assert_eq!(got.json()["user"]["name"], "admin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_http_is_refused_and_makes_nothing() {
    let site = Site::start().await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let head =
        format!("PUT /api/v1/images/{image}/content HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n", person.token);
    let huge = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx-huge: {}\r\n\r\n", "a".repeat(200 << 10));
    let many = format!("GET /livez HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: 1\r\n".repeat(200));
    for (name, request, starts) in [
        ("two lengths", format!("{head}content-length: 4096\r\ncontent-length: 4097\r\n\r\n"), "HTTP/1.1 400"),
        ("negative length", format!("{head}content-length: -1\r\n\r\n"), "HTTP/1.1 400"),
        ("length and chunked", format!("{head}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"), ""),
        ("nonsense", "\x01\x02\x03\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        ("huge header", huge, "HTTP/1.1 431"),
        ("many headers", many, "HTTP/1.1 431"),
        ("chunk length lies", format!("{head}transfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n"), "HTTP/1.1 400"),
    ] {
        let answer = raw_async(&site, request.into_bytes()).await;
        assert!(answer.starts_with(starts), "{name}: {answer:.200}");
        assert!(!answer.starts_with("HTTP/1.1 201"), "{name}: {answer:.200}");
    }
    // Cut off: the client says 8192 bytes, or never says the end, and closes its side.
    for (name, rest) in
        [("short length", "content-length: 8192\r\n\r\n"), ("no end", "transfer-encoding: chunked\r\n\r\n1000\r\n")]
    {
        let mut request = format!("{head}{rest}").into_bytes();
        request.extend_from_slice(&noise(1, 4096));
        let address = site.address;
        tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&request).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let _ = stream.read(&mut [0; 100]);
        })
        .await
        .unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let shown = site.get(&person.token, &format!("images/{image}")).await.is(200).json();
        assert_eq!(shown["version_count"], 0, "{name} made a version");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_requests_end() {
    let trial = ServeTrial {
        header: Some(Duration::from_millis(400)),
        body: Some(Duration::from_millis(400)),
        ..ServeTrial::default()
    };
    let site = Site::start_with(|_| {}, trial).await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let body = format!(
        "PUT /api/v1/images/{image}/content HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 9999\r\n\r\nabc",
        person.token
    );
    for (name, request, expected) in [
        ("nothing at all", String::new(), ""),
        ("the beginning of HTTP/2", "PRI * HT".to_owned(), ""),
        ("half a header", "GET /livez HTTP/1.1\r\nhost:".to_owned(), ""),
        ("half a body", body, "HTTP/1.1 408"),
    ] {
        let began = Instant::now();
        let answer = tokio::task::block_in_place(|| raw(&site, request.as_bytes(), Duration::from_secs(10)));
        assert!(began.elapsed() < Duration::from_secs(5), "{name} was waited for too long");
        assert!(answer.starts_with(expected), "{name}: {answer:.200}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_upload_is_told_why_before_and_while_it_sends() {
    let site = Site::start().await;
    let head = "PUT /api/v1/images/me/x/content HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n";
    let waits = raw_async(&site, format!("{head}expect: 100-continue\r\n\r\n").into_bytes()).await;
    assert!(waits.starts_with("HTTP/1.1 401"), "{waits:.200}");
    // One that sends at once still gets the answer: the connection is not reset under what it sends.
    let mut sends = format!("{head}\r\n").into_bytes();
    sends.extend_from_slice(&noise(1, 8 << 20));
    let sends = raw_async(&site, sends).await;
    assert!(sends.starts_with("HTTP/1.1 401"), "{sends:.200}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_and_repeated_changes_are_told_apart() {
    let site = Site::start().await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let path = format!("images/{image}");
    let token = &person.token;
    let tag = site.get(token, &path).await.is(200).header("etag").to_owned();
    site.call("GET", &path).token(token).header("if-none-match", &tag).send().await.is(304);
    let patch = |tag: &str, title: &str| {
        site.call("PATCH", &path).token(token).header("if-match", tag).json(&json!({ "title": title }))
    };
    let changed = patch(&tag, "One").send().await.is(200);
    assert_ne!(changed.header("etag"), tag);
    assert_eq!(patch(&tag, "Two").send().await.is(412).code(), "precondition_failed");
    patch("nonsense", "Two").send().await.is(400);
    let revision = changed.json()["revision"].to_string();
    patch(&format!("\"{revision}\""), "Two").send().await.is(200);
    patch("*", "Three").send().await.is(200);
    site.call("GET", &path).token(token).header("if-none-match", &tag).send().await.is(200);

    site.version(&person, &image, noise(1, 4096)).await;
    let version = format!("{path}/versions/0");
    // The digests arrive by a task and change the version's tag.
    while site.get(token, &version).await.is(200).json()["sha256"].is_null() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for (thing, method, body) in [
        (version.clone(), "PATCH", json!({ "message": "said" })),
        (format!("{path}/channels/stable"), "PUT", json!({ "version": 0 })),
    ] {
        if method == "PUT" {
            site.call("PUT", &thing).token(token).json(&body).send().await.is(200);
        }
        let tag = site.get(token, &thing).await.is(200).header("etag").to_owned();
        let change = |tag: &str| site.call(method, &thing).token(token).header("if-match", tag).json(&body);
        change("\"other\"").send().await.is(412);
        change(&tag).send().await.is(200);
        site.call("DELETE", &thing).token(token).header("if-match", "\"other\"").send().await.is(412);
    }

    let new = json!({ "ref": format!("{}/once", person.name) });
    let create =
        |body: &serde_json::Value| site.call("POST", "images").token(token).header("idempotency-key", "k1").json(body);
    let first = create(&new).send().await.is(201).json();
    let again = create(&new).send().await.is(201).json();
    assert_eq!(first["id"], again["id"]);
    let other = json!({ "ref": format!("{}/twice", person.name) });
    assert_eq!(create(&other).send().await.is(422).code(), "idempotency_mismatch");
    // Without the key it is a second wish for the same name.
    site.post(token, "images", &new).await.is(409);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_space_is_said_before_there_is_none() {
    let site = Site::start_with(|options| options.min_free_bytes = u64::MAX, ServeTrial::default()).await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    let got = site.put(&person.token, &format!("images/{image}/content"), noise(1, 4096)).await.is(507);
    assert_eq!(got.code(), "no_space");
    site.post(&person.token, "uploads", &json!({ "image": image, "format": "chunks" })).await.is(507);
    // Behind a load balancer it must stay reachable for who deletes.
    let ready = site.get("", "/readyz").await.is(200).text();
    assert!(ready.starts_with("ready\nno uploads: ") && ready.contains("kept for deleting"), "{ready}");
    let patched = json!({ "image": image, "format": "raw" });
    site.post(&person.token, "uploads", &patched).await.is(507);
    let metrics = site.get(&site.admin, "/metrics").await.is(200).text();
    for line in ["slipway_uploads_refused 1", "slipway_refused_total{for=\"room\"} 3"] {
        assert!(metrics.lines().any(|got| got == line), "{line} in\n{metrics}");
    }
    site.get("", "/livez").await.is(200);
    // Deleting still works.
    site.call("DELETE", &format!("images/{image}")).token(&person.token).send().await.is(204);
}

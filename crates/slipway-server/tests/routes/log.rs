//! The log has one line for each request and no secret in any.

use super::kit::{Site, noise};
use slipway_chunk::Layout;
use std::io::Write;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_logged_once_and_without_secrets() {
    let kept = Kept::default();
    let writer = kept.clone();
    // Everything that the server could say, not only what it says by default.
    let everything = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone());
    tracing::subscriber::set_global_default(everything.finish()).unwrap();
    let site = Site::start().await;
    let person = site.person("user").await;
    let image = site.image(&person).await;
    site.version(&person, &image, noise(1, 10_000)).await;
    let got = site.get(&person.token, &format!("images/{image}/versions/0/layouts/0")).await.is(200);
    let address = Layout::decode(&got.body).unwrap().packs[0].address.clone();
    let mac = address.rsplit_once("&c=").unwrap().1.to_owned();
    site.call("GET", &address).header("x-request-id", "the-blob").send().await.is(200);
    site.get("slp_wrong0000000000000000000000000000000", "me").await.is(401);
    let path = address.split_once('?').unwrap().0;
    site.call("GET", path).header("slipway-capability", &format!("1.{mac}")).send().await.is(403);
    let login = serde_json::json!({ "user": person.name, "password": "the-wrong-password" });
    site.post("", "login", &login).await.is(401);
    let admin = site.admin.clone();
    site.stop().await;
    let log = String::from_utf8_lossy(&kept.0.lock().unwrap()).into_owned();
    let ours: Vec<&str> = log.lines().filter(|line| line.contains("slipway::request")).collect();
    let blob: Vec<&&str> = ours.iter().filter(|line| line.contains("the-blob")).collect();
    assert_eq!(blob.len(), 1, "{blob:?}");
    assert!(
        blob[0].contains("status=200") && blob[0].contains("method=GET") && blob[0].contains("sent="),
        "{}",
        blob[0]
    );
    assert!(ours.iter().any(|line| line.contains(&format!("user={}", person.name)) && line.contains("status=201")));
    for line in log.lines().filter(|line| line.contains("slipway")) {
        for secret in [&mac, &person.token, &admin, "slp_wrong", "the-wrong-password"] {
            assert!(!line.contains(secret), "a secret is in the log: {line}");
        }
    }
}

//! Who follows the images is told when one that they may read changes, and of nothing else; ended images are gone at once.

use super::kit::{Person, Site, noise};
use serde_json::json;
use std::time::Duration;

/// A stream of events that is being read.
struct Stream(reqwest::Response);

impl Stream {
    async fn open(site: &Site, token: &str) -> Self {
        let (got, response) = site.call("GET", "images/events").token(token).begin().await;
        assert_eq!(got.status, 200, "{}", got.text());
        assert_eq!(got.header("content-type"), "text/event-stream");
        Self(response)
    }

    /// Whether an event comes within a time; `None` at the end of the stream.
    async fn event(&mut self, within: u64) -> Option<bool> {
        let limit = tokio::time::Instant::now() + Duration::from_millis(within);
        loop {
            match tokio::time::timeout_at(limit, self.0.chunk()).await {
                Err(_) => return Some(false),
                Ok(Err(_) | Ok(None)) => return None,
                Ok(Ok(Some(part))) if part.starts_with(b"id: ") => return Some(true),
                Ok(Ok(Some(_))) => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_told_to_who_may_read_and_to_nobody_else() {
    for site in Site::each().await {
        let (owner, other) = (site.person("user").await, site.person("user").await);
        let image = site.image(&owner).await;
        let mut own = Stream::open(&site, &owner.token).await;
        let mut foreign = Stream::open(&site, &other.token).await;
        let mut all = Stream::open(&site, &site.admin).await;
        for stream in [&mut own, &mut foreign, &mut all] {
            assert_eq!(stream.event(3000).await, Some(true), "the first comes at once");
        }
        let path = format!("images/{image}");
        let delete = async |what: &str| {
            site.call("DELETE", what).token(&owner.token).send().await.is(204);
        };
        for step in 0..5 {
            match step {
                0 => drop(site.version(&owner, &image, noise(1, 8192)).await),
                1 => delete(&format!("{path}/versions/0")).await,
                2 => drop(
                    site.call("POST", &format!("{path}/versions/0/restore")).token(&owner.token).send().await.is(200),
                ),
                3 => delete(&format!("{path}/versions/0?now=true")).await,
                _ => delete(&format!("{path}?now=true")).await,
            }
            assert_eq!(own.event(3000).await, Some(true), "step {step}");
            assert_eq!(all.event(3000).await, Some(true), "step {step}");
        }
        assert_eq!(foreign.event(700).await, Some(false), "of others' images nothing is told");
        site.get(&owner.token, &path).await.is(404);
        // Its name is free again, and what is shared is told.
        let again = site.post(&owner.token, "images", &json!({ "ref": image })).await.is(201).json();
        assert_eq!(own.event(3000).await, Some(true));
        let sharing = json!({ "add": [other.name], "public": null });
        let shared = site.call("PUT", &format!("{path}/sharing")).token(&owner.token).json(&sharing).send().await;
        assert!(matches!(shared.status, 200 | 202), "{}", shared.text());
        assert_eq!(foreign.event(20_000).await, Some(true), "{again}");
        revoked_check(&site, &owner, own).await;
    }
}

async fn revoked_check(site: &Site, owner: &Person, mut stream: Stream) {
    while stream.event(500).await == Some(true) {}
    let tokens = site.get(&owner.token, "tokens").await.is(200).json();
    let id = tokens["items"][0]["id"].as_str().unwrap().to_owned();
    site.call("DELETE", &format!("tokens/{id}")).token(&owner.token).send().await.is(204);
    assert_eq!(stream.event(5000).await, None, "a token that is revoked is told nothing more");
    site.get(&owner.token, "images/events").await.is(401);
}

/// A token for the view reads every image when its user is an admin, and can do nothing else; no other user can have such a token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_reads_all_images_only_reads() {
    for site in Site::each().await {
        let owner = site.person("user").await;
        let image = site.image(&owner).await;
        site.version(&owner, &image, noise(1, 8192)).await;
        let scoped = async |token: &str| {
            let new = json!({ "name": "view", "scopes": ["image:read"] });
            site.post(token, "tokens", &new).await.is(201).json()["secret"].as_str().unwrap().to_owned()
        };
        let view = scoped(&site.admin).await;
        let path = format!("images/{image}");
        for (method, what, status) in [
            ("GET", "images".to_owned(), 200),
            ("GET", path.clone(), 200),
            ("GET", format!("{path}/versions/0/manifest"), 200),
            ("GET", format!("{path}/versions/0/layouts/0"), 200),
            ("DELETE", path.clone(), 403),
            ("DELETE", format!("{path}?now=true"), 403),
            ("DELETE", format!("{path}/versions/0?now=true"), 403),
            ("POST", format!("{path}/restore"), 403),
            ("GET", "users".to_owned(), 403),
            ("GET", "journal".to_owned(), 403),
            ("POST", "prune".to_owned(), 403),
            ("POST", "check".to_owned(), 403),
        ] {
            let got = site.call(method, &what).token(&view).send().await;
            assert_eq!(got.status, status, "{method} {what}: {}", got.text());
        }
        for (what, body) in [
            ("tokens", json!({ "name": "more" })),
            ("images", json!({ "ref": format!("{}/more", owner.name) })),
            ("uploads", json!({ "image": image, "format": "raw" })),
        ] {
            assert_eq!(site.post(&view, what, &body).await.status, 403, "{what}");
        }
        let change = site.call("PATCH", &path).token(&view).json(&json!({ "title": "x" })).send().await;
        assert_eq!(change.status, 403);
        // Who is no admin makes a token of the same words, and it reads no more than they do.
        for role in ["user", "moderator"] {
            let person = site.person(role).await;
            let narrow = scoped(&person.token).await;
            assert_eq!(site.get(&narrow, &path).await.status, 404, "{role}");
            assert_eq!(site.get(&narrow, "images").await.is(200).json()["items"].as_array().unwrap().len(), 0);
        }
    }
}

//! Every route of the table × everybody, against a golden file. The rows come from the server's own document, which is made from the
//! table: a new route without an expectation fails here.

use super::kit::{Got, Person, Site, noise};
use serde_json::{Value, json};
use slipway_chunk::Layout;
use std::collections::BTreeMap;
use std::fmt::Write as _;

const ACTORS: [&str; 5] = ["nobody", "other", "owner", "moderator", "admin"];
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/routes.txt");

/// What one cell is tried on: all of it is made anew, because many calls end what they are called on.
struct Scene {
    owner: Person,
    image: String,
    uuid: String,
    upload: String,
    task: String,
    layout: Option<Layout>,
}

async fn scene(site: &Site, path: &str, id: &str) -> Scene {
    let owner = site.person("user").await;
    let mut scene = Scene {
        owner: owner.clone(),
        image: String::new(),
        uuid: uuid::Uuid::nil().to_string(),
        upload: String::new(),
        task: String::new(),
        layout: None,
    };
    if path.starts_with("/image/{uuid}") || path.ends_with("/images/{image_name}") {
        let made = site.post(&owner.token, "/image", &json!({ "Name": "disk", "Size": 1 })).await.plain(201).json();
        scene.uuid = made["UUID"].as_str().unwrap().to_owned();
    }
    if path.contains("{slug}") || path.contains("/uploads") || path.contains("/tasks/") || path.contains("/blobs/") {
        scene.image = site.image(&owner).await;
    }
    let with_version = ["/versions", "/channels", "/sharing", "/blobs/", "/rollback", "{slug}/retention"];
    if with_version.iter().any(|part| path.contains(part)) {
        site.version(&owner, &scene.image, noise(1, 8192)).await;
        let layout = site.get(&owner.token, &format!("images/{}/versions/0/layouts/0", scene.image)).await.is(200);
        scene.layout = Some(Layout::decode(&layout.body).unwrap());
    }
    if path.contains("/channels/") && id != "channel_set" {
        let path = format!("images/{}/channels/stable", scene.image);
        site.call("PUT", &path).token(&owner.token).json(&json!({ "version": 0 })).send().await.is(200);
    }
    if path.contains("/uploads/") || path.contains("/tasks/") {
        let chunks = matches!(id, "upload_missing" | "upload_frames" | "upload_segments");
        let new = json!({ "image": scene.image, "format": if chunks { "chunks" } else { "raw" } });
        let made = site.post(&owner.token, "uploads", &new).await.is(201).json();
        scene.upload = made["id"].as_str().unwrap().to_owned();
    }
    if matches!(id, "upload_commit") || path.contains("/tasks/") {
        let patch = site.call("PATCH", &format!("uploads/{}", scene.upload)).token(&owner.token);
        patch.header("upload-offset", "0").body(noise(2, 4096)).send().await.is(204);
    }
    if path.contains("/tasks/") {
        site.call("POST", &format!("uploads/{}/commit", scene.upload)).token(&owner.token).send().await.is(201);
        let tasks = site.get(&owner.token, "tasks").await.is(200).json();
        scene.task = tasks["items"][0]["id"].as_str().unwrap().to_owned();
    }
    let image = format!("images/{}", scene.image);
    match id {
        "image_restore" => drop(site.call("DELETE", &image).token(&owner.token).send().await.is(204)),
        "version_restore" => {
            drop(site.call("DELETE", &format!("{image}/versions/0")).token(&owner.token).send().await.is(204));
        }
        _ => {}
    }
    scene
}

/// A body that is right for the operation, so that what the answer says is about the right alone.
fn body(id: &str, scene: &Scene, site: &Site) -> Option<Value> {
    let layout = || scene.layout.as_ref().unwrap();
    Some(match id {
        "login" => json!({ "user": "nobody-of-this-name", "password": "wrong-password" }),
        "setup" => json!({ "code": "2222-2222-2222-2222-2222", "password": "long enough" }),
        "user_create" => json!({ "name": site.fresh("new") }),
        "user_change" => json!({ "full_name": "A Name" }),
        "password_change" => json!({ "new": "a long password" }),
        "token_make" => json!({ "name": "another" }),
        "image_create" => json!({ "ref": format!("{}/{}", scene.owner.name, site.fresh("made")) }),
        "image_change" => json!({ "title": "Another title" }),
        "image_restore" | "version_restore" | "task_cancel" => json!(null),
        "sharing_change" => json!({ "add": ["admin"] }),
        "channel_set" => json!({ "version": 0 }),
        "version_change" => json!({ "message": "said" }),
        "finding_report" => {
            json!({ "chunk": layout().chunks[0].id.to_string(), "pack": layout().packs[0].id.to_string() })
        }
        "image_rollback" => json!({ "to": 0 }),
        "retention_set" | "account_retention_set" => json!({ "rules": { "keep_last": 1 } }),
        "retention_run" => json!({}),
        "quota_change" => json!({ "images": 1000, "stored_bytes": "default", "versions": "unlimited" }),
        "upload_create" => json!({ "image": scene.image, "format": "chunks" }),
        "baas_user_create" => json!({ "Username": site.fresh("new"), "Name": "A", "Email": "a@b.c", "Role": "user" }),
        "baas_user_change" => json!({ "Name": "A Name" }),
        "baas_image_create" | "baas_image_create_own" => json!({ "Name": "another", "Size": 1 }),
        "baas_image_change" => json!({ "Name": "other" }),
        "prune" => json!({ "dry_run": true }),
        "check" => json!({ "quick": true }),
        _ => return None,
    })
}

async fn call(site: &Site, method: &str, path: &str, id: &str, scene: &Scene, token: &str) -> Got {
    let (_, slug) = scene.image.split_once('/').unwrap_or_default();
    let own = if path.contains("/tokens/") { token_id(site, &scene.owner).await } else { String::new() };
    let thing = [scene.task.as_str(), scene.upload.as_str(), own.as_str()]
        .into_iter()
        .find(|id| !id.is_empty())
        .unwrap_or_default();
    let mut address = path
        .replace("{owner}", &scene.owner.name)
        .replace("{slug}", slug)
        .replace("{version}", "0")
        .replace("{index}", "0")
        .replace("{file}", "index.html")
        .replace("{uuid}", &scene.uuid)
        .replace("{image_name}", "disk")
        .replace("{mac}", "52:54:00:12:34:56")
        .replace("{id}", thing);
    address = match path.contains("/channels/") {
        true => address.replace("{name}", "stable"),
        false => address.replace("{name}", &scene.owner.name),
    };
    if id == "version_diff" {
        address.push_str("?from=0");
    }
    if path.contains("/blobs/") {
        address = scene.layout.as_ref().unwrap().packs[0].address.clone();
    }
    let mut call = site.call(method, &address).token(token);
    if let Some(body) = body(id, scene, site).filter(|body| !body.is_null()) {
        call = call.json(&body);
    }
    call = match id {
        "content_put" => call.body(noise(3, 4096)),
        "upload_append" => call.header("upload-offset", "0").body(noise(4, 4096)),
        "baas_image_upload" | "baas_image_docker" => call.form(&[("file", Some("d.img"), &noise(5, 4096))]),
        "upload_missing" => call.body(vec![7; 32]),
        "upload_frames" | "upload_segments" => call.body(Vec::new()),
        // A stream that has no end of its own.
        "image_events" => return call.begin().await.0,
        _ => call,
    };
    call.send().await
}

async fn token_id(site: &Site, owner: &Person) -> String {
    let made = site.post(&owner.token, "tokens", &json!({ "name": "second" })).await.is(201).json();
    made["token"]["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_route_answers_everybody_as_written_down() {
    for site in Site::each().await {
        matrix_check(&site).await;
    }
}

async fn matrix_check(site: &Site) {
    let document = site.get("", "/openapi.json").await.is(200).json();
    let (other, moderator) = (site.person("user").await, site.person("moderator").await);
    let mut table: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            let access = operation["x-slipway-role"].as_str().unwrap();
            let mut line = String::new();
            for actor in ACTORS {
                let scene = scene(site, path, id).await;
                let token = match actor {
                    "nobody" => "",
                    "other" => &other.token,
                    "owner" => &scene.owner.token,
                    "moderator" => &moderator.token,
                    _ => &site.admin,
                };
                let got = call(site, &method.to_uppercase(), path, id, &scene, token).await;
                let dialect = operation["tags"][0] == "baas";
                refusal_check(access, actor, path, dialect, &got);
                write!(line, " {:>9}", got.status).unwrap();
            }
            table.insert(format!("{path} {method}"), (format!("{:<7}{path}", method.to_uppercase()), line));
        }
    }
    let mut now = format!("{:<76}", "");
    ACTORS.iter().for_each(|actor| write!(now, " {actor:>9}").unwrap());
    table.values().for_each(|(route, line)| write!(now, "\n{route:<76}{line}").unwrap());
    now.push('\n');
    if std::env::var_os("SLIPWAY_ACCEPT").is_some() {
        std::fs::write(GOLDEN, &now).unwrap();
    }
    let golden = std::fs::read_to_string(GOLDEN).unwrap_or_default();
    for (now, golden) in now.lines().zip(golden.lines()) {
        assert_eq!(now, golden, "a route answers somebody else than written down in {GOLDEN}; {HOW}");
    }
    assert_eq!(now.lines().count(), golden.lines().count(), "routes came or went; {HOW}");
}

const HOW: &str =
    "if that is meant, run `SLIPWAY_ACCEPT=1 cargo test -p slipway-server --test routes matrix` and commit the file";

/// What holds whatever the golden file says.
fn refusal_check(access: &str, actor: &str, path: &str, dialect: bool, got: &Got) {
    let text = got.text();
    // The dialect says 501 for what is not there yet, and only to whoever may call it.
    assert!(got.status < 500 || (dialect && got.status == 501), "{path} as {actor}: {text}");
    match (access, actor) {
        ("open" | "capability" | "loopback", _) => {}
        (_, "nobody") => assert_eq!(got.status, 401, "{path} as nobody: {text}"),
        ("admin", "other" | "owner" | "moderator") | ("moderator", "other" | "owner") => {
            assert_eq!(got.status, 403, "{path} as {actor}: {text}");
        }
        // What one may not see is answered like what is not there.
        (_, "other" | "moderator") if path.contains("{slug}") || path.contains("/uploads/") => {
            assert_eq!(got.status, 404, "{path} as {actor}: {text}");
        }
        _ => {}
    }
    if got.status >= 400 {
        let media = if dialect { "text/plain; charset=utf-8" } else { "application/problem+json" };
        assert_eq!(got.header("content-type"), media, "{path} as {actor}: {text}");
    }
}

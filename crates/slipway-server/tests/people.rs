//! Signing in, users and tokens over HTTP, from a new server on.
#![allow(clippy::unwrap_used)]

use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use slipway_server::rules::login::setup_code_make;
use slipway_server::{ServeOptions, ServeSettings, ServeTrial, Server, serve_options_merge};
use std::path::{Path, PathBuf};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const PASSWORD: &str = "correct horse battery";

struct House {
    base: String,
    http: Client,
    stop: oneshot::Sender<()>,
    running: JoinHandle<()>,
    code: Option<String>,
}

struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Value,
}

impl House {
    async fn start(data: &Path, token_file: Option<PathBuf>) -> Self {
        let settings = ServeSettings {
            data: Some(data.to_owned()),
            listen: Some("127.0.0.1:0".parse().unwrap()),
            admin_token_file: Some(token_file),
            ..ServeSettings::default()
        };
        let merged = serve_options_merge(&settings, &|_| None, &ServeSettings::default());
        let options: ServeOptions = merged.unwrap().0;
        let server = Server::start(&options, ServeTrial::default()).await.unwrap();
        server.greet(&options).await.unwrap();
        // The code that was printed cannot be read back, so a newer one is made.
        let code = setup_code_make(server.core()).await.unwrap();
        let base = format!("http://{}/api/v1", server.address());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            let ended = server.run(async { drop(stopped.await) }).await.unwrap();
            assert_eq!(ended.exit_code(), 0);
        });
        Self { base, http: Client::new(), stop, running, code }
    }

    async fn end(self) {
        self.stop.send(()).unwrap();
        self.running.await.unwrap();
    }

    async fn ask(&self, method: Method, path: &str, token: &str, body: Option<Value>) -> Answer {
        let mut ask = self.http.request(method, format!("{}{path}", self.base));
        if !token.is_empty() {
            ask = ask.bearer_auth(token);
        }
        if let Some(body) = body {
            ask = ask.json(&body);
        }
        let answer = ask.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or(Value::Null);
        Answer { status, headers, body }
    }

    async fn get(&self, path: &str, token: &str) -> Answer {
        self.ask(Method::GET, path, token, None).await
    }

    async fn post(&self, path: &str, token: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, token, Some(body)).await
    }

    async fn login(&self, user: &str, password: &str) -> Answer {
        self.post("/login", "", json!({ "user": user, "password": password })).await
    }
}

fn text<'a>(answer: &'a Answer, member: &str) -> &'a str {
    answer.body[member].as_str().unwrap_or_else(|| panic!("{member} in {}", answer.body))
}

#[tokio::test]
async fn from_the_setup_code_to_a_robots_token() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::start(folder.path(), None).await;
    assert_eq!(house.get("", "").await.body["needs_setup"], true);
    let code = house.code.clone().unwrap();
    let setup = json!({ "code": code, "name": "root", "password": PASSWORD });
    let unknown = json!({ "code": code, "password": PASSWORD, "role": "admin" });
    assert_eq!(house.post("/setup", "", unknown).await.status, 400);
    let session = house.post("/setup", "", setup.clone()).await;
    assert_eq!(session.status, 201, "{}", session.body);
    let root = text(&session, "token").to_owned();
    assert_eq!(house.post("/setup", "", setup).await.status, 409);
    assert_eq!(house.get("", "").await.body["needs_setup"], false);

    let jan = json!({ "name": "jan", "password": PASSWORD });
    let made = house.post("/users", &root, jan).await;
    assert_eq!(made.status, 201);
    let tag = made.headers["etag"].to_str().unwrap();
    assert!(tag.starts_with("\"1-"), "{tag}: the revision, then what stands for the text");
    assert!(made.body.get("password").is_none(), "{}", made.body);
    let wrong = house.login("jan", "correct horse batterz").await;
    let nobody = house.login("nobody-there", PASSWORD).await;
    assert_eq!((wrong.status, nobody.status), (401, 401));
    assert_eq!(text(&wrong, "title"), text(&nobody, "title"));
    let session = house.login("jan", PASSWORD).await;
    assert_eq!(session.status, 201);
    let jan = text(&session, "token").to_owned();
    assert_eq!(house.get("/me", &jan).await.body["user"]["name"], "jan");

    let wish = json!({ "name": "ci", "scopes": ["image:read:me/*"], "ttl_seconds": 600 });
    let robot = house.post("/tokens", &jan, wish).await;
    assert_eq!((robot.status, &robot.body["token"]["scopes"]), (201, &json!(["image:read:jan/*"])));
    let (secret, id) = (text(&robot, "secret").to_owned(), robot.body["token"]["id"].as_str().unwrap().to_owned());
    for (method, path, token, body, status) in [
        (Method::GET, "/images", &*secret, None, 200),
        (Method::GET, "/me", &secret, None, 200),
        (Method::POST, "/images", &secret, Some(json!({ "ref": "me/os" })), 403),
        (Method::POST, "/tokens", &secret, Some(json!({ "name": "more" })), 403),
        (Method::GET, "/tokens", &secret, None, 403),
        (Method::GET, "/users", &jan, None, 403),
        (Method::GET, "/users/root", &jan, None, 404),
        (Method::GET, "/users/me", &jan, None, 200),
        (Method::PATCH, "/users/me", &jan, Some(json!({ "role": "admin" })), 403),
        (Method::PATCH, "/users/me", &jan, Some(json!({ "name": "root" })), 400),
        (Method::GET, "/users", &root, None, 200),
        (Method::GET, "/me", "", None, 401),
        (Method::GET, "/me", "slp_", None, 401),
        (Method::GET, "/me", &secret.to_uppercase(), None, 401),
        (Method::DELETE, "/tokens/not-an-id", &jan, None, 404),
    ] {
        let answer = house.ask(method.clone(), path, token, body).await;
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
    }
    let by_header = house.http.get(format!("{}/me", house.base)).header("X-Auth-Token", &secret).send().await.unwrap();
    assert_eq!(by_header.status(), StatusCode::OK);
    assert_eq!(house.ask(Method::DELETE, &format!("/tokens/{id}"), &jan, None).await.status, 204);
    assert_eq!(house.get("/me", &secret).await.status, 401);
    assert_eq!(house.ask(Method::PATCH, "/users/jan", &root, Some(json!({ "disabled": true }))).await.status, 200);
    assert_eq!(house.get("/me", &jan).await.status, 401);
    assert_eq!(house.login("jan", PASSWORD).await.status, 401);
    assert_eq!(house.ask(Method::DELETE, "/users/root", &root, None).await.status, 409);
    assert_eq!(house.ask(Method::DELETE, "/users/jan", &root, None).await.status, 204);
    let journal = house.get("/journal", &root).await.body.to_string();
    for secret in [&root, &jan, &secret, PASSWORD, &code] {
        assert!(!journal.contains(secret));
    }
    house.end().await;
}

#[tokio::test]
async fn the_token_file_works_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("admin.token");
    for round in 0..2 {
        let house = House::start(&folder.path().join("data"), Some(file.clone())).await;
        assert_eq!(house.code, None);
        let token = std::fs::read_to_string(&file).unwrap();
        let me = house.get("/me", token.trim()).await;
        assert_eq!((me.status, &me.body["user"]["role"]), (200, &json!("admin")), "round {round}");
        house.end().await;
    }
}

#[tokio::test]
async fn guessing_ends_in_429_with_retry_after() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::start(folder.path(), None).await;
    let mut seen = Vec::new();
    for _ in 0..12 {
        let answer = house.login("jan", "wrong horse battery").await;
        seen.push(answer.status);
        if answer.status == 429 {
            let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
            assert!((1..=900).contains(&wait));
            break;
        }
    }
    assert_eq!(seen, [401, 401, 401, 401, 401, 401, 401, 401, 429]);
    house.end().await;
}

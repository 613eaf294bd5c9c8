//! A server in this process, and raw requests to it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use slipway_server::{ExitReason, ServeOptions, ServeTrial, Server};
use sqlx::{Connection as _, Executor as _};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running server with its folder.
pub(crate) struct Site {
    pub(crate) url: String,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) admin: String,
    pub(crate) folder: tempfile::TempDir,
    http: reqwest::Client,
    stop: Option<oneshot::Sender<()>>,
    running: Option<JoinHandle<anyhow::Result<ExitReason>>>,
    next: AtomicU32,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Got {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts the status and, for errors, that a problem document says why.
    #[track_caller]
    pub(crate) fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        if status >= 400 {
            assert_eq!(self.header("content-type"), "application/problem+json");
            let problem = self.json();
            assert_eq!(problem["status"], status);
            assert_eq!(problem["request_id"], self.header("x-request-id"));
        }
        self
    }

    /// Asserts the status and that the answer is the dialect's: plain text with a final newline for errors.
    #[track_caller]
    pub(crate) fn plain(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        if status >= 400 {
            assert_eq!(self.header("content-type"), "text/plain; charset=utf-8");
            assert!(self.text().ends_with('\n') && self.text().len() > 1, "{:?}", self.text());
        }
        self
    }

    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }
}

/// One request in the making.
pub(crate) struct Call<'a> {
    site: &'a Site,
    request: reqwest::RequestBuilder,
}

impl Call<'_> {
    pub(crate) fn token(mut self, token: &str) -> Self {
        if !token.is_empty() {
            self.request = self.request.bearer_auth(token);
        }
        self
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn json(mut self, body: &Value) -> Self {
        self.request = self.request.json(body);
        self
    }

    /// A form of these parts: name, file name if it is a file, bytes.
    pub(crate) fn form(mut self, parts: &[(&str, Option<&str>, &[u8])]) -> Self {
        let header = format!("multipart/form-data; boundary={BOUNDARY}");
        self.request = self.request.header("content-type", header).body(form_bytes(parts));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<reqwest::Body>) -> Self {
        self.request = self.request.body(body);
        self
    }

    /// For an answer that goes on: its body is empty here and still to be read, unless it is a refusal.
    pub(crate) async fn begin(self) -> (Got, reqwest::Response) {
        let request = self.request.try_clone().unwrap();
        let response = self.request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = match status {
            200 => Vec::new(),
            _ => request.send().await.unwrap().bytes().await.unwrap().to_vec(),
        };
        (Got { status, headers, body }, response)
    }

    pub(crate) async fn send(self) -> Got {
        let _ = self.site;
        let response = self.request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Got { status, headers, body: response.bytes().await.unwrap().to_vec() }
    }
}

pub(crate) const BOUNDARY: &str = "------------------------2f6e1b";

/// A form as curl writes it.
pub(crate) fn form_bytes(parts: &[(&str, Option<&str>, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, bytes) in parts {
        body.extend_from_slice(format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"").as_bytes());
        if let Some(file) = file {
            let more = format!("; filename=\"{file}\"\r\nContent-Type: application/octet-stream");
            body.extend_from_slice(more.as_bytes());
        }
        body.extend_from_slice(b"\r\n\r\n");
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    body
}

/// A user of a site.
#[derive(Clone)]
pub(crate) struct Person {
    pub(crate) name: String,
    pub(crate) token: String,
}

impl Site {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}, ServeTrial::default()).await
    }

    /// A server on each database: SQLite, and a fresh PostgreSQL database when the test command started one.
    pub(crate) async fn each() -> Vec<Self> {
        let mut sites = vec![Self::start().await];
        if let Some(url) = postgres_fresh().await {
            sites.push(Self::start_with(|options| options.database = Some(url), ServeTrial::default()).await);
        }
        sites
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut ServeOptions), trial: ServeTrial) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), change, trial).await
    }

    pub(crate) async fn start_in(
        folder: tempfile::TempDir,
        change: impl FnOnce(&mut ServeOptions),
        trial: ServeTrial,
    ) -> Self {
        let mut options = ServeOptions {
            data: folder.path().join("data"),
            listen: "127.0.0.1:0".parse().unwrap(),
            admin_token_file: Some(folder.path().join("admin.token")),
            min_free_bytes: 0,
            stop_seconds: 10,
            ..ServeOptions::default()
        };
        change(&mut options);
        let server = Server::start(&options, trial).await.unwrap();
        server.greet(&options).await.unwrap();
        let address = server.address();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(server.run(async {
            let _ = stopped.await;
        }));
        let scheme = if options.tls_self_made { "https" } else { "http" };
        let mut roots = Vec::new();
        if options.tls_self_made {
            let pem = std::fs::read(options.data.join("tls/ca.pem")).unwrap();
            roots.push(reqwest::Certificate::from_pem(&pem).unwrap());
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .tls_certs_only(roots)
            .build()
            .unwrap();
        let admin = std::fs::read_to_string(folder.path().join("admin.token")).unwrap().trim().to_owned();
        Self {
            url: format!("{scheme}://{address}"),
            address,
            admin,
            folder,
            http,
            stop: Some(stop),
            running: Some(running),
            next: AtomicU32::new(1),
        }
    }

    /// Stops it and gives its reason and its folder.
    pub(crate) async fn stop(mut self) -> (ExitReason, tempfile::TempDir) {
        let _ = self.stop.take().unwrap().send(());
        let reason = self.ended().await;
        (reason, self.folder)
    }

    /// Waits for its end.
    pub(crate) async fn ended(&mut self) -> ExitReason {
        tokio::time::timeout(Duration::from_secs(30), self.running.take().unwrap()).await.unwrap().unwrap().unwrap()
    }

    /// Asks it to stop without waiting.
    pub(crate) fn stop_ask(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    pub(crate) fn call(&self, method: &str, path: &str) -> Call<'_> {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/api/v1/{path}") };
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Call { site: self, request: self.http.request(method, format!("{}{path}", self.url)) }
    }

    pub(crate) async fn get(&self, token: &str, path: &str) -> Got {
        self.call("GET", path).token(token).send().await
    }

    pub(crate) async fn post(&self, token: &str, path: &str, body: &Value) -> Got {
        self.call("POST", path).token(token).json(body).send().await
    }

    pub(crate) async fn put(&self, token: &str, path: &str, body: Vec<u8>) -> Got {
        self.call("PUT", path).token(token).body(body).send().await
    }

    pub(crate) fn fresh(&self, start: &str) -> String {
        format!("{start}{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A new user with a token.
    pub(crate) async fn person(&self, role: &str) -> Person {
        let name = self.fresh("p");
        self.post(&self.admin, "users", &json!({ "name": name, "role": role })).await.is(201);
        let token = self.token_of(&name).await;
        Person { name, token }
    }

    pub(crate) async fn token_of(&self, name: &str) -> String {
        let made = self.post(&self.admin, "tokens", &json!({ "name": "test", "user": name })).await.is(201);
        made.json()["secret"].as_str().unwrap().to_owned()
    }

    /// A new image of this person, `owner/name`.
    pub(crate) async fn image(&self, person: &Person) -> String {
        let reference = format!("{}/{}", person.name, self.fresh("i"));
        self.post(&person.token, "images", &json!({ "ref": reference })).await.is(201);
        reference
    }

    /// A new version of an image, by one-shot upload.
    pub(crate) async fn version(&self, person: &Person, image: &str, bytes: Vec<u8>) -> Value {
        let got = self.put(&person.token, &format!("images/{image}/content"), bytes).await;
        assert!(got.status == StatusCode::CREATED || got.status == StatusCode::OK, "{}", got.text());
        got.json()
    }
}

async fn postgres_fresh() -> Option<String> {
    let address = std::env::var("SLIPWAY_TEST_POSTGRES").ok().filter(|url| !url.is_empty())?;
    sqlx::any::install_default_drivers();
    let mut admin = sqlx::AnyConnection::connect(&address).await.unwrap();
    let name = format!("routes_{}", uuid::Uuid::new_v4().simple());
    admin.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
    admin.close().await.unwrap();
    let (server, _) = address.rsplit_once('/').unwrap();
    Some(format!("{server}/{name}"))
}

/// Bytes that do not compress, different for each seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut hash = [0u8; 8];
    hash.copy_from_slice(&seed.to_le_bytes());
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&hash).finalize_xof().fill(&mut out);
    out
}

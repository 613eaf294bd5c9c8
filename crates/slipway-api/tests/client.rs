//! The client against a server that answers by script: what is repeated, what is not, and what is refused.

#![allow(clippy::unwrap_used)]

use slipway_api::{
    ApiError, BlobRange, Client, ClientConfig, Code, ImageRef, Login, Problem, ServerFacts, UserNew, VersionPick,
};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Answers one connection after the other, each with the next text of the script; keeps the requests.
struct Script {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Script {
    fn start(answers: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let kept = requests.clone();
        std::thread::spawn(move || {
            for answer in answers {
                let (stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(&stream);
                let (mut head, mut len) = (String::new(), 0);
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    if let Some(value) = line.strip_prefix("content-length: ") {
                        len = value.trim().parse().unwrap();
                    }
                    head.push_str(&line);
                    if line == "\r\n" || line.is_empty() {
                        break;
                    }
                }
                let mut body = vec![0; len];
                reader.read_exact(&mut body).unwrap();
                kept.lock().unwrap().push(head + &String::from_utf8(body).unwrap());
                // The client may have gone; that is its business.
                let _ = (&stream).write_all(answer.as_bytes());
            }
        });
        Self { url, requests }
    }

    fn client(&self) -> Client {
        let mut config = ClientConfig::new(&self.url);
        config.token = Some("slp_secret".into());
        config.idle_timeout = Duration::from_millis(500);
        Client::new(&config).unwrap()
    }

    fn count(&self) -> usize {
        self.requests.lock().unwrap().len()
    }
}

fn answer(status: u16, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}

fn problem(code: Code) -> String {
    let body = serde_json::to_string(&Problem::new(code, "no")).unwrap();
    answer(code.status(), "content-type: application/problem+json\r\n", &body)
}

fn facts() -> String {
    let facts = r#"{"version":"1","oldest_client":"1","time":"2026-01-01T00:00:00Z","needs_setup":false}"#;
    answer(200, "", facts)
}

async fn ask(script: &Script) -> Result<ServerFacts, ApiError> {
    script.client().server_facts().await
}

#[tokio::test]
async fn asking_again_helps_or_not() {
    let cut = "HTTP/1.1 200 X\r\ncontent-length: 90\r\n\r\n{\"version\"".to_owned();
    let proxy = answer(502, "", "<html>bad gateway</html>");
    let slow = answer(429, "retry-after: 1\r\n", "");
    let slower = answer(429, "retry-after: 3600\r\n", "");
    let moved = answer(302, "location: http://127.0.0.1:1/\r\n", "");
    for (name, answers, calls, exit) in [
        ("at once", vec![facts()], 1, 0),
        ("busy", vec![problem(Code::Unavailable), proxy.clone(), facts()], 3, 0),
        ("cut off", vec![cut.clone(), cut, facts()], 3, 0),
        ("hung up", vec![String::new(), facts()], 2, 0),
        ("slow down", vec![slow, facts()], 2, 0),
        ("slow down for an hour", vec![slower], 1, 8),
        ("no right", vec![problem(Code::Forbidden)], 1, 4),
        ("not there", vec![problem(Code::NotFound)], 1, 3),
        ("too old", vec![problem(Code::ClientTooOld)], 1, 1),
        ("no problem document", vec![answer(404, "", "nginx")], 1, 3),
        ("no JSON", vec![answer(200, "", "<html>hello</html>")], 1, 1),
        ("elsewhere", vec![moved], 1, 1),
    ] {
        let script = Script::start(answers);
        let got = ask(&script).await;
        assert_eq!(script.count(), calls, "{name}");
        assert_eq!(got.as_ref().map_or_else(ApiError::exit_code, |_| 0), exit, "{name}: {got:?}");
    }
}

#[tokio::test]
async fn what_acts_twice_is_not_repeated() {
    let login = Login { user: "jan".into(), password: "x".into(), ttl_seconds: None };
    let script = Script::start(vec![problem(Code::Unavailable), facts()]);
    assert_eq!(script.client().login(&login).await.err().map(|why| why.exit_code()), Some(8));
    assert_eq!(script.count(), 1);

    // A creating call has a key, and the same one each time.
    let new =
        UserNew { name: "jan".parse().unwrap(), full_name: String::new(), email: None, role: None, password: None };
    let script = Script::start(vec![problem(Code::Unavailable), String::new(), problem(Code::NameTaken)]);
    let why = script.client().user_create(&new).await.unwrap_err();
    assert_eq!((why.code(), script.count()), (Some(Code::NameTaken), 3));
    let keys: Vec<String> = script
        .requests
        .lock()
        .unwrap()
        .iter()
        .map(|request| request.lines().find(|line| line.starts_with("idempotency-key: ")).unwrap().to_owned())
        .collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
}

#[tokio::test]
async fn a_deletion_that_lost_its_answer_has_worked() {
    let gone = || problem(Code::NotFound);
    let cut = "HTTP/1.1 200 X\r\ncontent-length: 90\r\n\r\n".to_owned();
    for (name, answers, exit) in [
        ("never there", vec![gone()], 3),
        ("hung up", vec![String::new(), gone()], 0),
        ("cut off", vec![cut, gone()], 0),
        ("a proxy that lost the server", vec![answer(502, "", ""), gone()], 0),
        ("lost, then busy", vec![String::new(), problem(Code::SlowDown), gone()], 0),
        ("refused before it was read", vec![problem(Code::SlowDown), gone()], 3),
        ("lost, then refused", vec![String::new(), problem(Code::Forbidden)], 4),
        ("at once", vec![answer(204, "", "")], 0),
    ] {
        let (calls, script) = (answers.len(), Script::start(answers));
        let got = script.client().user_delete("jan").await;
        assert_eq!(got.as_ref().map_or_else(ApiError::exit_code, |()| 0), exit, "{name}: {got:?}");
        assert_eq!(script.count(), calls, "{name}");
    }
    // What only reads cannot have made it vanish.
    let script = Script::start(vec![String::new(), gone()]);
    assert_eq!(ask(&script).await.err().map(|why| why.exit_code()), Some(3));
    // An attempt that found nobody listening cannot have deleted anything.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let server = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(60));
        let (mut stream, _) = TcpListener::bind(address).unwrap().accept().unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(problem(Code::NotFound).as_bytes());
    });
    let client = Client::new(&ClientConfig::new(format!("http://{address}"))).unwrap();
    assert_eq!(client.user_delete("jan").await.err().map(|why| why.exit_code()), Some(3));
    server.join().unwrap();
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = ClientConfig::new(format!("http://{}", listener.local_addr().unwrap()));
    config.idle_timeout = Duration::from_millis(200);
    config.attempts = 2;
    let begun = Instant::now();
    let why = Client::new(&config).unwrap().server_facts().await.unwrap_err();
    assert_eq!(why.exit_code(), 9, "{why}");
    assert!(begun.elapsed() < Duration::from_secs(3));
    drop(listener);
    let why = Client::new(&config).unwrap().server_facts().await.unwrap_err();
    assert!(why.exit_code() == 9 && why.to_string().contains("127.0.0.1"), "{why}");
}

#[tokio::test]
async fn blobs_are_exact_and_get_no_token() {
    let body = "0123456789";
    let range = |range: &str, body: &str| answer(206, &format!("content-range: bytes {range}/99\r\n"), body);
    for (name, answers, fine) in [
        ("right", vec![range("5-14", body)], true),
        ("other range", vec![range("6-15", body)], false),
        ("no range", vec![answer(200, "", body)], false),
        ("too long", vec![range("5-14", "0123456789x")], false),
        ("too short, then right", vec![range("5-14", "012345678"), range("5-14", body)], true),
    ] {
        let script = Script::start(answers);
        let blob = BlobRange { address: "/blobs/s/p?e=1&c=SECRET", at: 5, len: 10 };
        let got = script.client().blob_range(&blob).await;
        assert_eq!(got.as_ref().is_ok_and(|bytes| &bytes[..] == body.as_bytes()), fine, "{name}: {got:?}");
        let requests = script.requests.lock().unwrap();
        assert!(requests.iter().all(|request| !request.contains("authorization:")), "{name}");
        assert!(requests[0].starts_with("GET /blobs/s/p?e=1&c=SECRET HTTP/1.1\r\n"), "{}", requests[0]);
        assert!(got.err().is_none_or(|why| !format!("{why} {why:?}").contains("SECRET")), "{name}");
    }
}

#[tokio::test]
async fn paths_are_encoded_and_the_token_sent() {
    let script = Script::start(vec![problem(Code::NotFound), problem(Code::NotFound)]);
    let image: ImageRef = "me/os".parse().unwrap();
    script.client().version_get(&image, &VersionPick::Number(7)).await.unwrap_err();
    script.client().user_get("a/../b?x").await.unwrap_err();
    let requests = script.requests.lock().unwrap();
    assert!(requests[0].starts_with("GET /api/v1/images/me/os/versions/7 HTTP/1.1\r\n"), "{}", requests[0]);
    assert!(requests[0].contains("authorization: Bearer slp_secret\r\n") && requests[0].contains("slipway-client: "));
    assert!(requests[1].starts_with("GET /api/v1/users/a%2F..%2Fb%3Fx HTTP/1.1\r\n"), "{}", requests[1]);
}

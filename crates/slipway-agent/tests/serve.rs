//! The node service as a process: every route, and what it refuses.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kit;

use kit::{Lab, exchange, inside, until};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

#[test]
#[ignore = "needs root"]
fn root_what_needs_no_right_is_answered_and_described() {
    if !inside("root_what_needs_no_right_is_answered_and_described") {
        return;
    }
    let lab = Lab::with(&["--listen", "127.0.0.1:0"], &[]);
    let address = lab.service.as_ref().unwrap().addresses[0].clone();
    let ask = |path: &str| exchange(kit::connect(&address), "GET", path, &[], b"");
    assert_eq!((ask("/livez").status, ask("/readyz").status), (200, 200));
    assert_eq!(ask("/version").ok()["name"], "slipway-agent");
    let swagger = ask("/swagger.json").ok();
    assert_eq!((swagger["swagger"].as_str(), swagger["basePath"].as_str()), (Some("2.0"), Some("/imageapi/v1")));
    let page = ask("/imageapi/v1/docs");
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
    assert!(ask("/imageapi/v1/docs/page.js").header("content-type").unwrap().starts_with("text/javascript"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    // Everything else asks who is there, whatever the method.
    for (base, part) in [("/imageapi/v1", "paths"), ("", "x-root-paths")] {
        for (path, methods) in swagger[part].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                let answer =
                    exchange(kit::connect(&address), &method.to_uppercase(), &format!("{base}{path}"), &[], b"");
                let open = ["/docs", "/swagger.json", "/livez", "/readyz", "/version"].contains(&path.as_str());
                assert_eq!(answer.status, if open { 200 } else { 401 }, "{method} {path}");
                assert_eq!(answer.header("www-authenticate").is_some(), !open);
            }
        }
    }
    let metrics = lab.ask("GET", "/metrics", None);
    assert!(metrics.text().contains("slipway_node_requests_total{route=\"container_list\",status=\"401\"} 1"));
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_attachments_and_mounts_come_and_go() {
    if !inside("root_attachments_and_mounts_come_and_go") {
        return;
    }
    let lab = Lab::new();
    assert_eq!(lab.get("attach").ok(), json!([]));
    let attach =
        json!({"kind": "loopback", "loopback": {"path": lab.image(), "base": "root"}, "labels": {"of": "test"}});
    let attached = lab.post("attach", attach).made();
    assert_eq!((attached["id"].as_u64(), attached["refs"].as_u64()), (Some(1), Some(1)));
    assert!(attached["device_file"].as_str().unwrap().starts_with("/dev/loop"));
    let mount = json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": {"id": 1}}});
    let mounted = lab.post("mount", mount).made();
    let inner = &mounted["attach"]["attach"];
    assert_eq!(
        (inner["id"].as_u64(), inner["refs"].as_u64(), &inner["labels"]["of"]),
        (Some(1), Some(2), &json!("test"))
    );
    assert_eq!(mounted["attach"]["mount_options"], Value::Null);
    assert!(std::path::Path::new(mounted["mountpoint"].as_str().unwrap()).join("bin/busybox").exists());
    // With an id, the kind is not looked at.
    assert_eq!(lab.one("mount?id=2&kind=bind")["id"], 2);
    assert_eq!(lab.get("mount?kind=bind").ok(), json!([]));
    assert_eq!(lab.one("mount?kind=attach&id=")["id"], 2);
    assert_eq!(lab.get("mount?id=1").status, 404, "it is of another type");
    let busy = lab.api("DELETE", "attach?id=1", None);
    assert_eq!(busy.refusal(), (409, 409, "object is busy".into()));
    assert_eq!(busy.json()["holders"][0], json!({"kind": "object", "object": "mount", "id": 2}));
    // A word that is no yes is a no.
    assert_eq!(lab.api("DELETE", "attach?id=1&force=maybe", None).status, 409);
    let held = lab.api("DELETE", "attach?id=1&force=yes", None);
    assert_eq!((held.status, &held.json()["holders"][0]["kind"]), (409, &json!("mount")), "the kernel holds it");
    assert_eq!(lab.api("DELETE", "mount?id=2", None).ok(), mounted);
    assert_eq!(lab.api("DELETE", "attach?id=1", None).ok()["id"], 1);
    assert_eq!(lab.api("DELETE", "attach?id=1", None).status, 404);
    lab.close();
}

/// Method, path, content type, body, status, code, part of the message.
type Row = (&'static str, &'static str, Option<&'static str>, &'static str, u16, u64, &'static str);

const JSON: Option<&str> = Some("application/json");

const REFUSALS: &[Row] = &[
    ("GET", "/imageapi/v1/nothing", None, "", 404, 404, "path /imageapi/v1/nothing was not found"),
    ("GET", "/", None, "", 404, 404, "was not found"),
    ("GET", "/imageapi/v1/attach/", None, "", 404, 404, "was not found"),
    ("PUT", "/imageapi/v1/attach", None, "", 405, 405, "method PUT is not allowed, but [GET,POST,DELETE] are"),
    ("HEAD", "/imageapi/v1/container/logs", None, "", 405, 405, ""),
    ("POST", "/imageapi/v1/attach", None, "", 422, 602, "attach in body is required"),
    ("POST", "/imageapi/v1/mount", None, "{}", 415, 415, "unsupported media type \"application/octet-stream\""),
    ("POST", "/imageapi/v1/mount", Some("text/plain"), "{}", 415, 415, "only [application/json] are allowed"),
    (
        "POST",
        "/imageapi/v1/mount",
        Some("Application/JSON; charset=utf-8"),
        "{}",
        501,
        501,
        "no driver found for this object type",
    ),
    ("POST", "/imageapi/v1/mount", JSON, "{", 400, 400, "parsing mount body from \"\" failed, because"),
    ("POST", "/imageapi/v1/mount", JSON, "{} x", 400, 400, "parsing mount body"),
    ("POST", "/imageapi/v1/mount", JSON, "[]", 422, 601, "mount in body must be of type object"),
    ("POST", "/imageapi/v1/attach", JSON, "{}", 501, 501, "no driver found for this object type"),
    (
        "POST",
        "/imageapi/v1/attach",
        JSON,
        r#"{"kind":"floppy"}"#,
        422,
        606,
        "kind in body should be one of [iscsi local",
    ),
    ("POST", "/imageapi/v1/attach", JSON, r#"{"kind":"local"}"#, 400, 400, "invalid data type"),
    ("POST", "/imageapi/v1/attach", JSON, r#"{"kind":"local","local":{}}"#, 422, 602, "local.path in body is required"),
    (
        "POST",
        "/imageapi/v1/attach",
        JSON,
        r#"{"kind":"local","local":{"path":"/etc/passwd"}}"#,
        400,
        400,
        "invalid data type",
    ),
    (
        "POST",
        "/imageapi/v1/attach",
        JSON,
        r#"{"kind":"local","local":{"path":"/dev/none"}}"#,
        400,
        400,
        "invalid data type",
    ),
    (
        "POST",
        "/imageapi/v1/attach",
        JSON,
        r#"{"id":7,"kind":"local","local":{"path":"/dev/null"}}"#,
        400,
        400,
        "invalid data type",
    ),
    ("POST", "/imageapi/v1/attach", JSON, r#"{"refs":1}"#, 422, 619, "refs in body is readOnly"),
    (
        "POST",
        "/imageapi/v1/attach",
        JSON,
        r#"{"kind":"loopback","loopback":{"path":"/none","base":"root"}}"#,
        400,
        400,
        "invalid data type",
    ),
    (
        "POST",
        "/imageapi/v1/mount",
        JSON,
        r#"{"kind":"overlay","overlay":{"lower":[{"id":99}]}}"#,
        404,
        404,
        "not found",
    ),
    (
        "POST",
        "/imageapi/v1/container",
        JSON,
        r#"{"mount":{"id":1},"command":"/x","name":".x"}"#,
        422,
        605,
        "name in body should match",
    ),
    (
        "POST",
        "/imageapi/v1/container",
        JSON,
        r#"{"mount":{"id":1},"command":"/x","labels":{"slipway.idempotency":"a.b"}}"#,
        422,
        619,
        "labels.slipway.idempotency in body is readOnly",
    ),
    ("POST", "/imageapi/v1/container", JSON, r#"{"command":"/x"}"#, 422, 602, "mount in body is required"),
    ("POST", "/imageapi/v1/container", JSON, r#"{"mount":{"id":99},"command":"/x"}"#, 404, 404, "not found"),
    (
        "POST",
        "/imageapi/v1/container",
        JSON,
        r#"{"mount":{"id":99},"command":"/x","state":"dead"}"#,
        400,
        400,
        "invalid data type",
    ),
    ("GET", "/imageapi/v1/attach?id=x", None, "", 422, 601, "id in query must be of type int64: \"x\""),
    ("GET", "/imageapi/v1/attach?id=-1", None, "", 404, 404, "not found"),
    ("GET", "/imageapi/v1/attach?id=99999999999999999999", None, "", 422, 601, "int64"),
    (
        "GET",
        "/imageapi/v1/mount?kind=attach&kind=x",
        None,
        "",
        422,
        606,
        "kind in query should be one of [attach bind nfs overlay uri]",
    ),
    (
        "GET",
        "/imageapi/v1/container?state=asleep",
        None,
        "",
        422,
        606,
        "state in query should be one of [created running",
    ),
    ("GET", "/imageapi/v1/container?name=nobody", None, "", 404, 404, "not found"),
    ("DELETE", "/imageapi/v1/mount", None, "", 422, 602, "id in query is required"),
    ("DELETE", "/imageapi/v1/mount?id=", None, "", 422, 602, "id in query is required"),
    ("DELETE", "/imageapi/v1/attach?id=5", None, "", 404, 404, "not found"),
    ("DELETE", "/imageapi/v1/container", None, "", 400, 400, "invalid data type"),
    ("DELETE", "/imageapi/v1/container?name=nobody", None, "", 404, 404, "not found"),
    ("PATCH", "/imageapi/v1/container?id=1", None, "", 422, 602, "state in query is required"),
    (
        "PATCH",
        "/imageapi/v1/container?id=1&state=created",
        None,
        "",
        422,
        606,
        "state in query should be one of [running exited paused]",
    ),
    ("PATCH", "/imageapi/v1/container?state=running", None, "", 400, 400, "invalid data type"),
    ("PATCH", "/imageapi/v1/container?state=running&id=9", None, "", 404, 404, "not found"),
    ("GET", "/imageapi/v1/container/logs", None, "", 400, 400, "invalid data type"),
    ("GET", "/imageapi/v1/container/logs?id=9", None, "", 404, 404, "not found"),
];

#[test]
#[ignore = "needs root"]
fn root_refusals_are_those_of_the_imageapi() {
    if !inside("root_refusals_are_those_of_the_imageapi") {
        return;
    }
    let lab = Lab::new();
    for (method, path, kind, body, status, code, message) in REFUSALS {
        let headers: Vec<_> = kind.iter().map(|kind| ("Content-Type", *kind)).collect();
        if *method == "HEAD" {
            let mut stream = UnixStream::connect(lab.socket()).unwrap();
            write!(stream, "HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
            let (got, headers) = kit::head_read(&mut BufReader::new(stream));
            assert_eq!((got, headers.iter().any(|(name, value)| name == "allow" && value == "GET")), (*status, true));
            continue;
        }
        let answer = lab.ask_raw(method, path, &headers, body.as_bytes());
        let got = answer.refusal();
        assert_eq!((got.0, got.1), (*status, *code), "{method} {path} {body}: {}", answer.text());
        assert!(got.2.contains(message), "{method} {path} {body}: {}", got.2);
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("allow").is_some(), *status == 405);
    }
    for kind in ["attach", "mount", "container"] {
        assert_eq!(lab.get(kind).ok(), json!([]), "nothing was made");
    }
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_krakens_five_steps() {
    if !inside("root_krakens_five_steps") {
        return;
    }
    let lab = Lab::new();
    let body = json!({
        "name": "node2", "state": "running", "mount": lab.nested(), "systemd": false, "stop_timeout": 5,
        "command": "/bin/sh -c 'trap \"exit 0\" TERM; echo up; while :; do sleep 0.1; done'",
    });
    assert_eq!(lab.get("container").ok(), json!([]));
    let made = lab.post("container", body.clone()).made();
    assert_eq!((&made["state"], &made["namespaces"]), (&json!("running"), &Value::Null));
    assert_eq!(made["privileged"], true, "root over the socket has the rights that the original gives");
    let lower = &made["mount"]["overlay"]["lower"][0];
    assert!(lower["attach"]["attach"]["device_file"].as_str().unwrap().starts_with("/dev/loop"));
    assert_eq!(lab.post("container", body).refusal().0, 409, "the name is taken");
    assert_eq!(lab.one("container?state=running")["name"], "node2");
    assert_eq!(lab.get("container?name=node2&state=dead").ok()[0]["state"], "running", "the state is not looked at");
    assert_eq!(lab.api("DELETE", "container?name=node2", None).refusal().0, 409);
    until("its output is logged", || lab.get("container/logs?name=node2").text().contains("\nup\n"));
    let stopped = lab.api("PATCH", "container?name=node2&state=exited", None).ok();
    assert!(["stopping", "exited"].contains(&stopped["state"].as_str().unwrap()), "{stopped}");
    until("it has exited", || lab.one("container?name=node2")["state"] == "exited");
    assert_eq!(lab.api("PATCH", "container?name=node2&state=exited", None).ok()["state"], "exited");
    let gone = lab.api("DELETE", "container?name=node2", None).ok();
    assert_eq!((&gone["state"], &gone["exit"]["code"]), (&json!("exited"), &json!(0)));
    until("what it stood on is gone", || lab.get("mount").ok() == json!([]) && lab.get("attach").ok() == json!([]));
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_containers_start_stop_pause_and_say_why_not() {
    if !inside("root_containers_start_stop_pause_and_say_why_not") {
        return;
    }
    let lab = Lab::new();
    let of =
        |name: &str, command: &str| json!({"name": name, "mount": lab.bound(), "command": command, "stop_timeout": 1});
    let made = lab.post("container", of("a", "/bin/sleep 1000")).made();
    assert_eq!(made["state"], "created");
    assert_eq!(lab.api("PATCH", "container?name=a&state=running", None).ok()["state"], "running");
    assert_eq!(lab.api("PATCH", "container?name=a&state=paused", None).ok()["state"], "paused");
    assert_eq!(lab.one("container?state=paused")["name"], "a");
    assert_eq!(lab.api("PATCH", "container?name=a&state=running", None).ok()["state"], "running");
    // The number counts where both are given.
    let other = lab.post("container", of("b", "/bin/true")).made();
    assert_eq!(lab.one(&format!("container?id={}&name=a", other["id"]))["name"], "b");
    assert_eq!(lab.api("DELETE", "container?name=a", None).refusal().0, 409);
    assert_eq!(lab.api("DELETE", "container?name=a&force=1", None).ok()["name"], "a");
    let mut missing = of("c", "/bin/none");
    missing["state"] = json!("running");
    let dead = lab.post("container", missing).made();
    assert_eq!(dead["state"], "dead");
    assert_eq!((&dead["error"]["step"], &dead["error"]["errno"]), (&json!("init"), &json!("ENOENT")));
    let failed = lab.api("PATCH", "container?name=c&state=running", None);
    assert_eq!((failed.refusal().0, &failed.json()["error"]["step"]), (500, &json!("init")));
    let metrics = lab.ask("GET", "/metrics", None).text();
    for line in [
        "slipway_node_container_start_failures_total 2",
        "slipway_node_container_starts_total 1",
        "slipway_node_objects{type=\"container\",kind=\"\",state=\"dead\"} 1",
        "slipway_node_objects{type=\"mount\",kind=\"bind\",state=\"ready\"} 2",
    ] {
        assert!(metrics.lines().any(|got| got == line), "{line} in\n{metrics}");
    }
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_a_repeated_request_makes_no_second_object() {
    if !inside("root_a_repeated_request_makes_no_second_object") {
        return;
    }
    let mut lab = Lab::new();
    let body =
        json!({"mount": lab.bound(), "command": "/bin/sleep 1000", "state": "running", "stop_timeout": 1}).to_string();
    let ask = |lab: &Lab, key: &str, body: &str| {
        let headers = [("Content-Type", "application/json"), ("Idempotency-Key", key)];
        lab.ask_raw("POST", "/imageapi/v1/container", &headers, body.as_bytes())
    };
    let first = ask(&lab, "k-1", &body).made();
    for _ in 0..20 {
        assert_eq!(ask(&lab, "k-1", &body).made()["id"], first["id"]);
    }
    assert_ne!(ask(&lab, "k-2", &body).made()["id"], first["id"]);
    assert_eq!(ask(&lab, "k-1", &body.replace("1000", "1001")).refusal().0, 422);
    assert_eq!(ask(&lab, "with space", &body).refusal().0, 400);
    drop(lab.service.take());
    lab.start(&[], &[]);
    let again = ask(&lab, "k-1", &body).made();
    assert_eq!((&again["id"], &again["pid"]), (&first["id"], &first["pid"]));
    assert_eq!(lab.get("container").ok().as_array().unwrap().len(), 2);
    // Many at once: one is made, and whoever comes while it is being made is told to wait.
    let body = json!({"mount": lab.bound(), "command": "/bin/true"}).to_string();
    let answers: Vec<_> = std::thread::scope(|scope| {
        let asks: Vec<_> = (0..8).map(|_| scope.spawn(|| ask(&lab, "k-3", &body))).collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    let made: Vec<_> =
        answers.iter().filter(|answer| answer.status == 201).map(|answer| answer.json()["id"].clone()).collect();
    assert!(!made.is_empty() && made.iter().all(|id| *id == made[0]));
    assert!(answers.iter().all(|answer| [201, 409].contains(&answer.status)));
    assert_eq!(lab.get("container").ok().as_array().unwrap().len(), 3);
    lab.close();
}

#[test]
#[ignore = "needs root"]
fn root_events_are_followed_and_resumed() {
    if !inside("root_events_are_followed_and_resumed") {
        return;
    }
    let mut lab = Lab::new();
    let mut all = follow(&lab, None);
    let made = lab.post("mount", lab.bound()).made();
    let created = next(&mut all);
    assert_eq!((&created["what"], &created["object"]), (&json!("mount.created"), &made["id"]));
    lab.api("DELETE", &format!("mount?id={}", made["id"]), None).ok();
    let removed = next(&mut all);
    assert_eq!(
        (&removed["what"], removed["id"].as_u64()),
        (&json!("mount.removed"), created["id"].as_u64().map(|id| id + 1))
    );
    // Behind the first one, the second one comes again.
    assert_eq!(next(&mut follow(&lab, created["id"].as_u64())), removed);
    let since = lab.get("events?since=x");
    assert_eq!((since.refusal().0, since.refusal().1), (422, 601));
    // Another service knows nothing of what was before, and says so.
    drop(lab.service.take());
    lab.start(&[], &[]);
    let mut later = follow(&lab, removed["id"].as_u64());
    let gap = next(&mut later);
    assert_eq!(gap["what"], "gap");
    lab.post("mount", lab.bound()).made();
    let created = next(&mut later);
    assert_eq!(created["what"], "mount.created");
    assert!(created["id"].as_u64() > removed["id"].as_u64());
    // The end of the service ends the stream, at once and in order.
    let begun = Instant::now();
    lab.service.as_ref().unwrap().terminate();
    let mut rest = Vec::new();
    later.read_to_end(&mut rest).unwrap();
    assert!(String::from_utf8_lossy(&rest).ends_with("0\r\n\r\n") && begun.elapsed() < Duration::from_secs(5));
    lab.service.as_mut().unwrap().child.wait().unwrap();
    lab.start(&[], &[]);
    lab.close();
}

fn follow(lab: &Lab, last: Option<u64>) -> BufReader<UnixStream> {
    let mut stream = UnixStream::connect(lab.socket()).unwrap();
    stream.set_read_timeout(Some(kit::LONG)).unwrap();
    let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    write!(stream, "GET /imageapi/v1/events HTTP/1.1\r\nHost: x\r\n{last}\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let (status, headers) = kit::head_read(&mut reader);
    assert!(status == 200 && headers.contains(&("content-type".into(), "text/event-stream".into())));
    reader
}

fn next(events: &mut BufReader<UnixStream>) -> Value {
    loop {
        let mut line = String::new();
        assert_ne!(events.read_line(&mut line).unwrap(), 0, "the stream ended");
        if let Some(data) = line.strip_prefix("data: ") {
            return serde_json::from_str(data).unwrap();
        }
    }
}

#[test]
#[ignore = "needs root"]
fn root_logs_are_read_and_followed() {
    if !inside("root_logs_are_read_and_followed") {
        return;
    }
    let lab = Lab::new();
    let command = "/bin/sh -c 'echo one; echo two >&2; sleep 0.5; echo three'";
    let body = json!({"name": "l", "mount": lab.bound(), "command": command, "state": "running"});
    let made = lab.post("container", body).made();
    // Ends with the container, and has all of it.
    let text = lab.get("container/logs?name=l&follow=true").text();
    let own: Vec<&str> = text.lines().filter(|line| !line.contains("container(")).collect();
    assert_eq!(own, ["one", "two", "three"]);
    assert!(text.contains(&format!("container({}): process ended, exit code (0)", made["id"])), "{text}");
    until("its end is known", || lab.one("container?name=l")["state"] == "exited");
    let all = lab.get(&format!("container/logs?id={}", made["id"])).text();
    let last: Vec<&str> = all.lines().rev().take(2).collect();
    let tail = lab.get("container/logs?name=l&tail=2").text();
    assert_eq!(tail.lines().rev().collect::<Vec<_>>(), last);
    assert_eq!(lab.get("container/logs?name=l&tail=0").text(), "");
    let begun = Instant::now();
    assert_eq!(lab.get("container/logs?name=l&follow=yes").text(), all);
    assert!(begun.elapsed() < Duration::from_secs(2), "it has ended, so there is nothing to wait for");
    lab.close();
}

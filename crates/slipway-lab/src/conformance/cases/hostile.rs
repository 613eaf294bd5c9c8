//! Requests that mean harm, or are mad.

use super::{Case, case, differs};
use crate::conformance::bench::{Bench, Outcome, holds, id, same};
use serde_json::json;
use std::time::{Duration, Instant};

pub(super) const CASES: &[Case] = &[
    differs("hostile_body_of_a_gibibyte", "reads it all into memory", gibibyte),
    differs("hostile_body_without_end", "reads it all into memory", without_end),
    differs("hostile_deep_json", "has no limit of its own", deep_json),
    case("hostile_long_texts", long_texts),
    case("hostile_numbers", numbers),
    case("hostile_half_a_request", half_a_request),
    differs("hostile_secrets_stay_secret", "shows the secret of a device to everybody", secrets),
    differs("hostile_full_disk", "has no limit for an overlay's changes", full_disk),
    case("hostile_many_at_once", many_at_once),
];

const JSON: &[(&str, &str)] = &[("Content-Type", "application/json")];

fn refused_early(b: &Bench, length: Option<u64>, headers: &[(&str, &str)], part: Vec<u8>, parts: usize) -> Outcome {
    let begun = Instant::now();
    let answer =
        b.client.ask_streamed("POST", &b.client.path("/mount"), headers, length, std::iter::repeat_n(part, parts))?;
    holds(answer.status == 413, || format!("413, got {answer}"))?;
    holds(begun.elapsed() < Duration::from_secs(10), || {
        format!("an answer before the end of the body, took {:?}", begun.elapsed())
    })
}

fn gibibyte(b: &Bench) -> Outcome {
    refused_early(b, Some(1 << 30), JSON, vec![b' '; 64 << 10], 16 << 10)
}

fn without_end(b: &Bench) -> Outcome {
    let mut part = b"10000\r\n".to_vec();
    part.extend_from_slice(&[b' '; 0x10000]);
    part.extend_from_slice(b"\r\n");
    refused_early(b, None, &[JSON[0], ("Transfer-Encoding", "chunked")], part, 1024)
}

fn deep_json(b: &Bench) -> Outcome {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let body = format!("{}1{}", open.repeat(100_000), close.repeat(100_000));
        let answer = b.client.ask_raw("POST", &b.client.path("/mount"), JSON, Some(body.as_bytes()))?;
        holds(answer.status == 400 || answer.status == 422, || format!("400 or 422, got {answer}"))?;
    }
    // Half of it, never closed.
    let answer = b.client.ask_raw("POST", &b.client.path("/attach"), JSON, Some("[".repeat(100_000).as_bytes()))?;
    holds(answer.status == 400, || format!("400, got {answer}"))
}

fn long_texts(b: &Bench) -> Outcome {
    let long = "x".repeat(100_000);
    for (path, body) in [
        ("/attach", json!({"kind": "local", "local": {"path": format!("/{long}")}})),
        ("/attach", json!({"kind": "loopback", "loopback": {"path": format!("/{long}"), "base": "root"}})),
        ("/mount", json!({"kind": "bind", "bind": {"path": "/\u{0}etc", "base": "root"}})),
        ("/mount", json!({"kind": "attach", "attach": {"fs_type": long, "attach": b.looped("rootfs.ext4")}})),
        ("/mount", json!({"kind": "attach", "attach": {"fs_type": "ext4\u{0}", "attach": b.looped("rootfs.ext4")}})),
        ("/container", json!({"mount": b.tree(), "command": "/bin/\u{0}true"})),
    ] {
        let answer = b.post(path, &body)?;
        holds((400..500).contains(&answer.status), || format!("the request's fault, got {answer} for {path}"))?;
    }
    let answer = b.get(&format!("/container?name={long}"))?;
    holds((400..500).contains(&answer.status), || format!("the request's fault, got {answer}"))
}

fn numbers(b: &Bench) -> Outcome {
    for number in ["-1", "1.5", "1e400", "99999999999999999999999999", "\"1\"", "true"] {
        let body = format!("{{\"id\":{number},\"kind\":\"bind\"}}");
        let answer = b.client.ask_raw("POST", &b.client.path("/mount"), JSON, Some(body.as_bytes()))?;
        holds(answer.status == 422 || answer.status == 400, || format!("422 or 400 for id {number}, got {answer}"))?;
    }
    for size in ["18446744073709551615", "9223372036854775808"] {
        let body = format!(
            "{{\"kind\":\"loopback\",\"loopback\":{{\"path\":\"{}\",\"base\":\"root\",\"offset\":{size}}}}}",
            b.files.at("jail/disk")
        );
        let answer = b.client.ask_raw("POST", &b.client.path("/attach"), JSON, Some(body.as_bytes()))?;
        holds(answer.status >= 400 && answer.json()["message"].is_string(), || {
            format!("an error for offset {size}, got {answer}")
        })?;
    }
    b.get("/attach?id=-1")
        .and_then(|answer| holds((400..500).contains(&answer.status), || format!("4xx, got {answer}")))
}

/// Who hangs up in the middle leaves nothing, and the service goes on.
fn half_a_request(b: &Bench) -> Outcome {
    let before = b.ids()?;
    let body = b.looped("jail/disk").to_string();
    let half = body.as_bytes()[..body.len() / 2].to_vec();
    b.client.hang_up("POST", &b.client.path("/attach"), JSON, body.len() as u64, &half)?;
    std::thread::sleep(Duration::from_millis(200));
    holds(b.ids()? == before, || format!("objects {before:?} only, got {:?}", b.ids()))
}

fn secrets(b: &Bench) -> Outcome {
    let secret = "AQAmdGVzdHNlY3JldHRlc3RzZWNyZXR0ZXN0Cg==";
    let options = json!({"name": "admin", "secret": secret, "mount_timeout": 1});
    let body =
        json!({"kind": "rbd", "rbd": {"monitors": ["127.0.0.1:1"], "pool": "p", "image": "i", "options": options}});
    let answer = b.post("/attach", &body)?;
    holds(answer.status >= 400, || format!("an error, since nobody listens there, got {answer}"))?;
    holds(!answer.to_string().contains(secret), || format!("no secret in the answer, got {answer}"))?;
    let all = b.get("/attach")?;
    holds(!all.to_string().contains(secret), || "no secret in the list".into())
}

fn full_disk(b: &Bench) -> Outcome {
    let small = json!({"kind": "overlay", "overlay": {"lower": [b.bind("rootfs")], "size": 1 << 20}});
    let made = b.made("/mount", &small)?;
    let (ended, said) = b.sh(json!({"id": id(&made)}), "dd if=/dev/zero of=/tmp/big bs=64k count=64 && echo wrote")?;
    same("state", ended["state"].as_str().unwrap_or_default(), "dead")?;
    holds(said.contains("No space left") && !said.contains("wrote"), || format!("no more than a MiB, got '{said}'"))?;
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    Ok(())
}

/// Many nested requests, half of which are refused half-way; the other half is there.
fn many_at_once(b: &Bench) -> Outcome {
    let body = |n: usize| match n % 2 {
        0 => json!({"mount": b.layered(), "command": "/bin/true", "state": "running"}),
        _ => {
            json!({"mount": {"kind": "overlay", "overlay": {"lower": [b.bind("upper"), b.bind("nothing")]}}, "command": "/bin/true"})
        }
    };
    let answers: Vec<(usize, Result<u16, String>)> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..20)
            .map(|n| scope.spawn(move || (n, b.post("/container", &body(n)).map(|answer| answer.status))))
            .collect();
        asking.into_iter().filter_map(|one| one.join().ok()).collect()
    });
    same("answers", answers.len(), 20)?;
    for (n, status) in answers {
        same(&format!("status of request {n}"), status?, if n % 2 == 0 { 201 } else { 400 })?;
    }
    let containers = b.all("/container")?;
    for one in containers.iter().filter(|one| one["state"] == "running" || one["state"] == "exited") {
        b.state_reached(id(one), "exited")?;
    }
    Ok(())
}

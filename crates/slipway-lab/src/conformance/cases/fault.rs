//! Faults that the first implementation has, each by its name. What needs the service to die is tested beside this program.

use super::{Case, differs};
use crate::census::Figures;
use crate::conformance::bench::{Bench, Outcome, SOON, holds, id, same, until};
use crate::conformance::http::Client;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    differs("fault_unforced_delete", "answers 409 to every unforced delete of what was made directly", unforced_delete),
    differs("fault_looking_leaks", "adds a claim with each GET by id", looking_leaks),
    differs("fault_collection_spins", "tries a failed collection 27,800 times a second", collection_spins),
    differs("fault_exited_while_it_runs", "says exited as soon as the signal is sent", exited_while_it_runs),
    differs("fault_missing_init", "stays chrooted in the image whose init is missing", missing_init),
    differs("fault_read_only_binds", "mounts ro binds writable", read_only_binds),
    differs("fault_paths_escape", "follows .. and symlinks out of a mount", paths_escape),
    differs("fault_loop_race", "fails when two requests want a loop device at once", loop_race),
    differs("fault_bind_beside_run", "takes a bind from the file system of /run for not mounted", bind_beside_run),
    differs("fault_panics", "panics for rbd without options, iscsi with a high lun, a container with an id", panics),
    differs("fault_no_authentication", "lets in everybody who can connect", no_authentication),
    differs("fault_host_mounts_inside", "shows the node's mounts in every container", host_mounts_inside),
];

fn unforced_delete(b: &Bench) -> Outcome {
    let attach = id(&b.made("/attach", &b.looped("jail/disk"))?);
    b.delete(&format!("/attach?id={attach}"))?.is(200)?;
    let mount = id(&b.made("/mount", &b.bind("jail"))?);
    b.delete(&format!("/mount?id={mount}"))?.is(200)?;
    Ok(())
}

fn looking_leaks(b: &Bench) -> Outcome {
    let made = b.made("/container", &json!({"mount": b.layered(), "command": "/bin/true", "name": "looked-at"}))?;
    let inner = &made["mount"]["overlay"]["lower"][0];
    let all = [
        ("/container", id(&made)),
        ("/mount", id(&made["mount"])),
        ("/mount", id(inner)),
        ("/attach", id(&inner["attach"]["attach"])),
    ];
    for _ in 0..20 {
        for (path, number) in all {
            b.one(path, number)?;
            for wrong in ["/attach", "/mount", "/container"] {
                b.get(&format!("{wrong}?id={number}"))?;
            }
        }
        b.get("/container?name=looked-at")?.is(200)?;
    }
    for (path, number) in all {
        same(&format!("refs of {path} {number}"), &b.one(path, number)?["refs"], 1)?;
    }
    b.delete(&format!("/container?id={}", id(&made)))?.is(200)?;
    holds(until(SOON, || b.is_gone("/attach", all[3].1))?, || "all gone with it".into())
}

fn collection_spins(b: &Bench) -> Outcome {
    let body = json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": b.looped("rootfs.squashfs")}});
    let made = b.made("/mount", &body)?;
    let attach = &made["attach"]["attach"];
    let path = attach["device_file"].as_str().unwrap_or_default();
    let open = File::open(path).map_err(|why| format!("{path}: {why}"))?;
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    // Nobody wants the device, and it cannot go: it stays listed, and the service waits between its tries.
    let ticks = || b.client.server().and_then(Figures::of).map(|figures| figures.ticks);
    std::thread::sleep(Duration::from_secs(1));
    let before = ticks();
    std::thread::sleep(Duration::from_secs(3));
    if let (Some(before), Some(after)) = (before, ticks()) {
        holds(after - before < 30, || {
            format!("less than a tenth of a processor, got {} ticks in 3 s", after - before)
        })?;
    }
    same("its health", b.one("/attach", id(attach))?["health"].as_str().unwrap_or_default(), "removing")?;
    drop(open);
    holds(until(SOON, || b.is_gone("/attach", id(attach)))?, || "it gone once nobody has it open".into())
}

fn exited_while_it_runs(b: &Bench) -> Outcome {
    let line = "/bin/sh -c 'trap \"sleep 4; exit 0\" TERM; while :; do sleep 0.05; done'";
    let made = b.made("/container", &json!({"mount": b.layered(), "command": line, "state": "running"}))?;
    std::thread::sleep(Duration::from_millis(300));
    let asked = b.patch(&format!("/container?id={}&state=exited", id(&made)))?.is(200)?;
    same("state", asked["state"].as_str().unwrap_or_default(), "stopping")?;
    b.delete(&format!("/container?id={}", id(&made)))?.refused(409, 409, "object is busy")?;
    b.state_reached(id(&made), "exited")?;
    if let Some(pid) = made["pid"].as_u64() {
        holds(Figures::of(pid as u32).is_none(), || format!("process {pid} gone when it is said to be"))?;
    }
    b.delete(&format!("/container?id={}", id(&made)))?.is(200)?;
    Ok(())
}

fn missing_init(b: &Bench) -> Outcome {
    let made = b.made("/container", &json!({"mount": b.tree(), "command": "/sbin/init", "state": "running"}))?;
    same("state", made["state"].as_str().unwrap_or_default(), "dead")?;
    // What the service opens next is the node's, not the image's.
    b.made("/attach", &b.looped("jail/disk"))?;
    b.post("/attach", &json!({"kind": "loopback", "loopback": {"path": "/etc/layer", "base": "root"}}))?
        .refused(400, 400, "")?;
    if let Some(pid) = b.client.server() {
        let root = std::fs::read_link(format!("/proc/{pid}/root")).unwrap_or_default();
        same("the service's root", root.display().to_string(), "/")?;
    }
    Ok(())
}

fn read_only_binds(b: &Bench) -> Outcome {
    for recursive in [false, true] {
        let mut bind = b.bind("rootfs");
        bind["bind"]["ro"] = json!(true);
        bind["bind"]["recursive"] = json!(recursive);
        let (_, said) = b.sh(bind, "echo x > /tmp/written && echo wrote")?;
        holds(said.contains("Read-only") && !said.contains("wrote"), || format!("no writes, got '{said}'"))?;
    }
    holds(!std::path::Path::new(&b.files.at("rootfs/tmp/written")).exists(), || "no file".into())
}

fn paths_escape(b: &Bench) -> Outcome {
    let jail = id(&b.made("/mount", &b.bind("jail"))?);
    let paths = [
        "../../../../../../../../etc/passwd",
        "/../etc/passwd",
        "/link",
        "/up/passwd",
        "/dir/../../etc/passwd",
        "/dir/../up/../etc/passwd",
        "/loop-a",
        "/proc/self/root/etc/passwd",
        "/disk/../../etc/passwd",
    ];
    for path in paths {
        let at = |kind: &str| json!({"kind": kind, kind: {"path": path, "base": "mount", "mount": {"id": jail}}});
        b.post("/attach", &at("loopback"))?
            .refused(400, 400, "invalid data type")
            .map_err(|why| format!("{path}: {why}"))?;
        b.post("/mount", &at("bind"))?
            .refused(400, 400, "invalid data type")
            .map_err(|why| format!("{path}: {why}"))?;
    }
    same("refs of the mount", &b.one("/mount", jail)?["refs"], 1)
}

fn loop_race(b: &Bench) -> Outcome {
    let made: Vec<Result<Value, String>> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..50).map(|_| scope.spawn(|| b.made("/attach", &b.looped("rootfs.squashfs")))).collect();
        asking.into_iter().map(|one| one.join().unwrap_or_else(|_| Err("a thread of the case".into()))).collect()
    });
    let made = made.into_iter().collect::<Result<Vec<_>, _>>()?;
    let devices: BTreeSet<String> = made.iter().map(|one| one["device_file"].to_string()).collect();
    same("devices", devices.len(), 50)
}

fn bind_beside_run(b: &Bench) -> Outcome {
    let made = b.made("/mount", &json!({"kind": "bind", "bind": {"path": "/run", "base": "root"}}))?;
    let was = b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    same("what was deleted", id(&was), id(&made))?;
    // A container on a bind of a directory beside the service's own is alive.
    let (ended, _) = b.sh(b.tree(), "true")?;
    same("state", ended["state"].as_str().unwrap_or_default(), "exited")
}

fn panics(b: &Bench) -> Outcome {
    let before = b.ids()?;
    let rbd = json!({"monitors": ["127.0.0.1"], "pool": "p", "image": "i"});
    let iscsi = json!({"initiator": "iqn.2026-01.test:a", "target": "iqn.2026-01.test:b", "host": "127.0.0.1", "port": 1, "lun": 4000});
    for (path, body) in [
        ("/attach", json!({"kind": "rbd", "rbd": rbd})),
        ("/attach", json!({"kind": "iscsi", "iscsi": iscsi})),
        ("/container", json!({"id": 3, "mount": b.tree(), "command": "/bin/true"})),
    ] {
        let answer = b.post(path, &body)?;
        holds(answer.status >= 400 && answer.json()["message"].is_string(), || {
            format!("an error that says why, got {answer}")
        })?;
    }
    holds(until(SOON, || Ok(b.ids()? == before))?, || format!("objects {before:?} only, got {:?}", b.ids()))
}

/// Over TCP a request without a token is refused; a unix socket knows who asks.
fn no_authentication(b: &Bench) -> Outcome {
    let stranger: Client = b.client.without_token();
    if b.client.server().is_some() {
        return Ok(());
    }
    let answer = stranger.ask("GET", "/attach", None)?;
    holds(answer.status == 401 || answer.status == 403, || format!("401 or 403 without a token, got {answer}"))
}

fn host_mounts_inside(b: &Bench) -> Outcome {
    let elsewhere = b.made("/mount", &b.bind("jail"))?;
    let (_, said) = b.sh(b.tree(), "cat /proc/mounts")?;
    let places: Vec<&str> = said.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    for place in &places {
        let own = ["/", "/proc", "/sys", "/dev"].contains(place)
            || ["/dev/", "/proc/", "/sys/"].iter().any(|top| place.starts_with(top));
        holds(own, || format!("nothing of the node, got {place}"))?;
    }
    // So an image that nobody uses is not pinned by somebody's container.
    let sleeper =
        b.made("/container", &json!({"mount": b.tree(), "command": "/bin/sleep 1000", "state": "running"}))?;
    b.delete(&format!("/mount?id={}", id(&elsewhere)))?.is(200)?;
    let image = json!({"kind": "attach", "attach": {"fs_type": "ext4", "attach": b.looped("rootfs.ext4")}});
    let made = b.made("/mount", &image)?;
    let second = b.made("/container", &json!({"mount": b.tree(), "command": "/bin/sleep 1000", "state": "running"}))?;
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    holds(until(SOON, || b.is_gone("/attach", id(&made["attach"]["attach"])))?, || "its device gone with it".into())?;
    for one in [sleeper, second] {
        b.delete(&format!("/container?id={}&force=true", id(&one)))?.is(200)?;
    }
    Ok(())
}

//! Mounts.

use super::{Case, case, differs};
use crate::conformance::bench::{Bench, Outcome, SOON, holds, id, same, until};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

pub(super) const CASES: &[Case] = &[
    case("mount_attach", attach),
    case("mount_attach_with_options", options),
    case("mount_bind", bind),
    case("mount_bind_of_a_file", bind_file),
    case("mount_bind_in_a_mount", bind_in_a_mount),
    differs("mount_bind_missing", "answers 500 for a directory that is not there", bind_missing),
    case("mount_overlay", overlay),
    differs("mount_overlay_read_only", "has no read-only overlays", overlay_read_only),
    differs("mount_overlay_without_lower", "answers 500", overlay_without_lower),
    case("mount_without_kind", without_kind),
    case("mount_with_an_id", with_an_id),
    case("mount_block_missing", block_missing),
    differs("mount_unknown_file_system", "answers 500", unknown_file_system),
    case("mount_refused_by_the_kernel", refused_by_the_kernel),
    case("mount_nfs_host_unknown", nfs_host_unknown),
    differs("mount_uri", "has the kind and no driver: 501", uri),
    differs("mount_uri_block_missing", "answers 501 for the kind", uri_block_missing),
    case("mount_delete_refused", delete_refused),
    case("mount_kinds_are_listed_apart", kinds),
];

fn attach(b: &Bench) -> Outcome {
    for kind in ["squashfs", "ext4"] {
        let attach = b.looped(&format!("rootfs.{kind}"));
        let made = b.made("/mount", &json!({"kind": "attach", "attach": {"fs_type": kind, "attach": attach}}))?;
        same("kind", made["kind"].as_str().unwrap_or_default(), "attach")?;
        same("refs", &made["refs"], 1)?;
        same("fs_type", made["attach"]["fs_type"].as_str().unwrap_or_default(), kind)?;
        holds(made["attach"].get("mount_options").is_some_and(|it| it.is_null()), || {
            format!("mount_options null, got {made}")
        })?;
        holds(made["mountpoint"].as_str().is_some_and(|at| at.starts_with('/')), || {
            format!("a mountpoint, got {made}")
        })?;
        let below = &made["attach"]["attach"];
        same("refs of the attachment", &below["refs"], 1)?;
        holds(below["device_file"].is_string(), || format!("the attachment in full, got {made}"))?;
        same("the mount by its id", &b.one("/mount", id(&made))?, &made)?;
        same("the attachment by its id", &b.one("/attach", id(below))?, below)?;
        let was = b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
        same("what was deleted", &was, &made)?;
        b.get(&format!("/mount?id={}", id(&made)))?.refused(404, 404, "not found")?;
    }
    Ok(())
}

fn options(b: &Bench) -> Outcome {
    let attach = b.looped("rootfs.ext4");
    let body =
        json!({"kind": "attach", "attach": {"fs_type": "ext4", "attach": attach, "mount_options": ["ro", "noatime"]}});
    let made = b.made("/mount", &body)?;
    same("mount_options", &made["attach"]["mount_options"], &json!(["ro", "noatime"]))?;
    let (_, said) = b.sh(json!({"id": id(&made)}), "echo x > /tmp/x; true")?;
    holds(said.contains("Read-only"), || format!("no writes to a file system that is mounted ro, got '{said}'"))
}

fn bind(b: &Bench) -> Outcome {
    let made = b.made("/mount", &b.bind("rootfs"))?;
    same("base", made["bind"]["base"].as_str().unwrap_or_default(), "root")?;
    for zero in ["recursive", "ro", "mount"] {
        holds(made["bind"].get(zero).is_none(), || format!("no {zero} in {made}"))?;
    }
    let (_, said) = b.sh(json!({"id": id(&made)}), "cat /etc/layer")?;
    same("a file of the tree", said.as_str(), "rootfs")?;
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    Ok(())
}

fn bind_file(b: &Bench) -> Outcome {
    let made = b.made("/mount", &b.bind("jail/disk"))?;
    let inner = json!({"kind": "loopback", "loopback": {"path": b.files.at("jail/disk"), "base": "root"}});
    b.made("/attach", &inner)?;
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    Ok(())
}

fn bind_in_a_mount(b: &Bench) -> Outcome {
    let below = id(&b.made("/mount", &b.bind("rootfs"))?);
    let made =
        b.made("/mount", &json!({"kind": "bind", "bind": {"path": "/etc", "base": "mount", "mount": {"id": below}}}))?;
    same("its mount", id(&made["bind"]["mount"]), below)?;
    same("refs of its mount", &made["bind"]["mount"]["refs"], 2)?;
    let refused = b.delete(&format!("/mount?id={below}"))?.refused(409, 409, "object is busy")?;
    let wanted = json!({"kind": "object", "object": "mount", "id": id(&made)});
    holds(refused["holders"].as_array().is_some_and(|all| all.contains(&wanted)), || {
        format!("{wanted} among the holders, got {refused}")
    })?;
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    same("refs of its mount", &b.one("/mount", below)?["refs"], 1)?;
    // In an inline one, and in one that is no mount.
    let inline = json!({"kind": "bind", "bind": {"path": "/etc", "base": "mount", "mount": b.bind("rootfs")}});
    let made = b.made("/mount", &inline)?;
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    holds(until(SOON, || b.is_gone("/mount", id(&made["bind"]["mount"])))?, || "the inner mount gone with it".into())?;
    let attach = id(&b.made("/attach", &b.looped("jail/disk"))?);
    let wrong = json!({"kind": "bind", "bind": {"path": "/", "base": "mount", "mount": {"id": attach}}});
    b.post("/mount", &wrong)?.refused(404, 404, "not found")?;
    let missing = json!({"kind": "bind", "bind": {"path": "/", "base": "mount"}});
    b.post("/mount", &missing)?.refused(400, 400, "invalid data type")?;
    Ok(())
}

fn bind_missing(b: &Bench) -> Outcome {
    b.post("/mount", &b.bind("nothing"))?.refused(400, 400, "invalid data type")?;
    Ok(())
}

fn overlay(b: &Bench) -> Outcome {
    let made =
        b.made("/mount", &json!({"kind": "overlay", "overlay": {"lower": [b.bind("upper"), b.bind("rootfs")]}}))?;
    for dir in ["upperdir", "workdir"] {
        holds(made["overlay"][dir].as_str().is_some_and(|at| at.starts_with('/')), || format!("{dir}, got {made}"))?;
    }
    let lower = made["overlay"]["lower"].as_array().cloned().unwrap_or_default();
    same("lowers", lower.len(), 2)?;
    let (_, said) = b.sh(json!({"id": id(&made)}), "cat /etc/layer; echo changed > /etc/layer; cat /etc/layer")?;
    same("the first lower is the top, and changes stay above", said.as_str(), "upper\nchanged")?;
    same(
        "the lower, unchanged",
        std::fs::read_to_string(b.files.at("upper/etc/layer")).unwrap_or_default().trim(),
        "upper",
    )?;
    let upper = made["overlay"]["upperdir"].as_str().unwrap_or_default().to_owned();
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    holds(!Path::new(&upper).exists(), || format!("{upper} removed with the overlay"))?;
    for lower in lower {
        holds(until(SOON, || b.is_gone("/mount", id(&lower)))?, || "the lowers gone with it".into())?;
    }
    Ok(())
}

fn overlay_read_only(b: &Bench) -> Outcome {
    let made = b.made("/mount", &json!({"kind": "overlay", "overlay": {"lower": [b.bind("rootfs")], "ro": true}}))?;
    let (_, said) = b.sh(json!({"id": id(&made)}), "echo x > /tmp/x; true")?;
    holds(said.contains("Read-only"), || format!("no writes, got '{said}'"))
}

fn overlay_without_lower(b: &Bench) -> Outcome {
    b.post("/mount", &json!({"kind": "overlay", "overlay": {"lower": []}}))?.refused(400, 400, "invalid data type")?;
    Ok(())
}

fn without_kind(b: &Bench) -> Outcome {
    b.post("/mount", &json!({}))?.refused(501, 501, "no driver found for this object type")?;
    b.post("/mount", &json!({"kind": "overlay", "overlay": {"lower": [{}]}}))?.refused(501, 501, "no driver")?;
    Ok(())
}

fn with_an_id(b: &Bench) -> Outcome {
    let mut body = b.bind("jail");
    body["id"] = json!(7);
    b.post("/mount", &body)?.refused(400, 400, "invalid data type")?;
    Ok(())
}

fn block_missing(b: &Bench) -> Outcome {
    for kind in ["attach", "bind", "nfs", "overlay"] {
        b.post("/mount", &json!({"kind": kind}))?.refused(400, 400, "invalid data type")?;
    }
    Ok(())
}

fn unknown_file_system(b: &Bench) -> Outcome {
    for kind in ["nonsense", "", "../ext4"] {
        let body = json!({"kind": "attach", "attach": {"fs_type": kind, "attach": b.looped("rootfs.ext4")}});
        b.post("/mount", &body)?.refused(400, 400, "invalid data type")?;
    }
    Ok(())
}

fn refused_by_the_kernel(b: &Bench) -> Outcome {
    let attach = id(&b.made("/attach", &b.looped("rootfs.ext4"))?);
    let before = b.ids()?;
    let body = json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": {"id": attach}}});
    b.post("/mount", &body)?.refused(500, 500, "operation failed")?;
    same("refs of the attachment", &b.one("/attach", attach)?["refs"], 1)?;
    // What was made for it by the way is undone.
    let body = json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": b.looped("rootfs.ext4")}});
    b.post("/mount", &body)?.refused(500, 500, "operation failed")?;
    holds(until(SOON, || Ok(b.ids()? == before))?, || format!("objects {before:?} only, got {:?}", b.ids()))?;
    // A word that the file system does not know.
    let body = json!({"kind": "attach", "attach": {"fs_type": "ext4", "attach": {"id": attach}, "mount_options": ["nonsense=1"]}});
    let refused = b.post("/mount", &body)?;
    holds(refused.status == 400 || refused.status == 500, || format!("400 or 500, got {refused}"))
}

fn nfs_host_unknown(b: &Bench) -> Outcome {
    let body = json!({"kind": "nfs", "nfs": {"host": "no-such-host.invalid", "path": "/x"}});
    b.post("/mount", &body)?.refused(400, 400, "invalid data type")?;
    Ok(())
}

/// Serves one file a number of times on this machine's loopback.
fn served(name: &str, bytes: Vec<u8>, times: usize) -> Result<(String, std::thread::JoinHandle<()>), String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|why| format!("listening: {why}"))?;
    let address = listener.local_addr().map_err(|why| format!("listening: {why}"))?;
    let serving = std::thread::spawn(move || {
        for mut stream in listener.incoming().take(times).flatten() {
            let mut asked = [0; 4096];
            let _ = stream.read(&mut asked);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", bytes.len());
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes));
        }
    });
    Ok((format!("http://{address}/{name}"), serving))
}

fn uri(b: &Bench) -> Outcome {
    let image = std::fs::read(b.files.at("rootfs.squashfs")).map_err(|why| why.to_string())?;
    let (url, serving) = served("rootfs.squashfs", image, 1)?;
    let made = b.made("/mount", &json!({"kind": "uri", "uri": {"uri": url}}));
    if made.is_err() {
        // The server still waits for somebody to ask.
        let _ = std::net::TcpStream::connect(url.trim_start_matches("http://").split('/').next().unwrap_or_default());
    }
    let made = made?;
    serving.join().map_err(|_| "the server of the case".to_owned())?;
    let (_, said) = b.sh(json!({"id": id(&made)}), "cat /etc/layer")?;
    same("a file of the image", said.as_str(), "rootfs")?;
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    Ok(())
}

fn uri_block_missing(b: &Bench) -> Outcome {
    b.post("/mount", &json!({"kind": "uri"}))?.refused(400, 400, "invalid data type")?;
    Ok(())
}

fn delete_refused(b: &Bench) -> Outcome {
    b.delete("/mount")?.refused(422, 602, "id")?;
    let attach = id(&b.made("/attach", &b.looped("jail/disk"))?);
    for number in [999_999_999, attach] {
        for force in ["", "&force=true"] {
            b.delete(&format!("/mount?id={number}{force}"))?.refused(404, 404, "not found")?;
        }
    }
    b.get(&format!("/mount?id={attach}"))?.refused(404, 404, "not found")?;
    Ok(())
}

fn kinds(b: &Bench) -> Outcome {
    let made = b.made("/mount", &json!({"kind": "overlay", "overlay": {"lower": [b.bind("rootfs")]}}))?;
    let of = |kind: &str| -> Result<Vec<u64>, String> {
        Ok(b.all(&format!("/mount?kind={kind}"))?.iter().map(id).collect())
    };
    let lower = id(&made["overlay"]["lower"][0]);
    holds(of("overlay")?.contains(&id(&made)) && !of("overlay")?.contains(&lower), || "the overlay alone".into())?;
    holds(of("bind")?.contains(&lower) && !of("nfs")?.contains(&lower), || "the bind alone".into())
}

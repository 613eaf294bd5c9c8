//! Attachments.

use super::{Case, case, differs};
use crate::conformance::bench::{Bench, Outcome, SOON, holds, id, same, until};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::Path;

pub(super) const CASES: &[Case] = &[
    case("attach_loopback", loopback),
    case("attach_local", local),
    differs("attach_local_missing", "answers 500 for a device that is not there", local_missing),
    case("attach_not_a_block_device", not_a_block_device),
    differs("attach_without_kind", "answers 500", without_kind),
    case("attach_block_missing", block_missing),
    differs("attach_with_an_id", "answers 500", with_an_id),
    case("attach_file_missing", file_missing),
    case("attach_kinds_are_listed_apart", kinds),
    case("attach_get_unknown", get_unknown),
    case("attach_delete_refused", delete_refused),
    differs("attach_partitions", "accepts readPartitions and ignores it", partitions),
    case("attach_read_only", read_only),
    case("attach_file_in_a_mount", in_a_mount),
    case("attach_in_a_read_only_mount", in_a_read_only_mount),
    differs("attach_busy_stays_and_says_by_whom", "frees the device under whoever has it open", busy),
];

fn device(object: &Value) -> String {
    object["device_file"].as_str().unwrap_or_default().to_owned()
}

fn loopback(b: &Bench) -> Outcome {
    let made = b.made("/attach", &b.looped("jail/disk"))?;
    let number = id(&made);
    same("kind", made["kind"].as_str().unwrap_or_default(), "loopback")?;
    same("refs", &made["refs"], 1)?;
    holds(device(&made).starts_with("/dev/loop"), || format!("a loop device, got {made}"))?;
    for zero in ["mount", "readPartitions"] {
        holds(made["loopback"].get(zero).is_none(), || format!("no {zero} in {made}"))?;
    }
    same("the object by its id", &b.one("/attach", number)?, &made)?;
    let listed = b.all("/attach")?.contains(&made);
    holds(listed, || format!("{made} in the list"))?;
    // With an id the kind does not matter.
    let list = b.get(&format!("/attach?id={number}&kind=rbd"))?.is(200)?;
    same("the object of an id and another kind", &list, &json!([made]))?;
    let was = b.delete(&format!("/attach?id={number}"))?.is(200)?;
    same("what was deleted", &was, &made)?;
    b.get(&format!("/attach?id={number}"))?.refused(404, 404, "not found")?;
    Ok(())
}

fn local(b: &Bench) -> Outcome {
    let below = b.made("/attach", &b.looped("jail/disk"))?;
    let made = b.made("/attach", &json!({"kind": "local", "local": {"path": device(&below)}}))?;
    same("device_file", device(&made), device(&below))?;
    same("local", &made["local"], &json!({"path": device(&below)}))?;
    b.delete(&format!("/attach?id={}", id(&made)))?.is(200)?;
    holds(Path::new(&device(&below)).exists(), || "that the device stays".into())?;
    b.delete(&format!("/attach?id={}", id(&below)))?.is(200)?;
    Ok(())
}

fn local_missing(b: &Bench) -> Outcome {
    b.post("/attach", &json!({"kind": "local", "local": {"path": "/dev/no-such-device"}}))?.refused(
        400,
        400,
        "invalid data type",
    )?;
    Ok(())
}

fn not_a_block_device(b: &Bench) -> Outcome {
    for path in ["/dev/null", "/etc", &b.files.at("jail/disk")] {
        b.post("/attach", &json!({"kind": "local", "local": {"path": path}}))?.refused(
            400,
            400,
            "invalid data type",
        )?;
    }
    Ok(())
}

fn without_kind(b: &Bench) -> Outcome {
    b.post("/attach", &json!({}))?.refused(501, 501, "no driver found for this object type")?;
    b.post("/attach", &json!({"local": {"path": "/dev/null"}}))?.refused(501, 501, "no driver")?;
    Ok(())
}

fn block_missing(b: &Bench) -> Outcome {
    for kind in ["iscsi", "local", "loopback", "rbd"] {
        b.post("/attach", &json!({"kind": kind}))?.refused(400, 400, "invalid data type")?;
    }
    let body = json!({"kind": "loopback", "loopback": {"path": "/x", "base": "mount"}});
    b.post("/attach", &body)?.refused(400, 400, "invalid data type")?;
    Ok(())
}

fn with_an_id(b: &Bench) -> Outcome {
    let mut body = b.looped("jail/disk");
    body["id"] = json!(7);
    b.post("/attach", &body)?.refused(400, 400, "invalid data type")?;
    Ok(())
}

fn file_missing(b: &Bench) -> Outcome {
    for name in ["nothing", "jail/nothing", "jail", "jail/disk/below", "jail/loop-a"] {
        b.post("/attach", &b.looped(name))?
            .refused(400, 400, "invalid data type")
            .map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(())
}

fn kinds(b: &Bench) -> Outcome {
    let made = b.made("/attach", &b.looped("jail/disk"))?;
    let of = |kind: &str| -> Result<BTreeSet<u64>, String> {
        Ok(b.all(&format!("/attach?kind={kind}"))?.iter().map(id).collect())
    };
    holds(of("loopback")?.contains(&id(&made)), || "it among the loopbacks".into())?;
    holds(!of("local")?.contains(&id(&made)), || "it not among the locals".into())
}

fn get_unknown(b: &Bench) -> Outcome {
    let mount = id(&b.made("/mount", &b.bind("jail"))?);
    for number in [999_999_999, mount] {
        b.get(&format!("/attach?id={number}"))?.refused(404, 404, "not found")?;
    }
    b.get("/attach?id=0")?;
    Ok(())
}

fn delete_refused(b: &Bench) -> Outcome {
    b.delete("/attach")?.refused(422, 602, "id")?;
    b.delete("/attach?force=true")?.refused(422, 602, "id")?;
    let mount = id(&b.made("/mount", &b.bind("jail"))?);
    for number in [999_999_999, mount] {
        for force in ["", "&force=true"] {
            b.delete(&format!("/attach?id={number}{force}"))?.refused(404, 404, "not found")?;
        }
    }
    holds(!b.is_gone("/mount", mount)?, || "that the mount of that number is still there".into())
}

fn partitions(b: &Bench) -> Outcome {
    let mut body = b.looped("partitions");
    body["loopback"]["readPartitions"] = json!(true);
    let made = b.made("/attach", &body)?;
    same("readPartitions", &made["loopback"]["readPartitions"], true)?;
    // Which tables it can read is the kernel's own matter.
    let flag = format!("/sys/block/{}/loop/partscan", device(&made).trim_start_matches("/dev/"));
    same(&flag, fs::read_to_string(&flag).unwrap_or_default().trim(), "1")
}

fn read_only(b: &Bench) -> Outcome {
    let mut body = b.looped("jail/disk");
    body["loopback"]["ro"] = json!(true);
    let made = b.made("/attach", &body)?;
    let flag = format!("/sys/block/{}/ro", device(&made).trim_start_matches("/dev/"));
    same(&flag, fs::read_to_string(&flag).unwrap_or_default().trim(), "1")
}

fn in_a_mount(b: &Bench) -> Outcome {
    let body = json!({"kind": "loopback", "loopback": {"path": "/disk", "base": "mount", "mount": b.bind("jail")}});
    let made = b.made("/attach", &body)?;
    let mount = &made["loopback"]["mount"];
    holds(id(mount) > 0 && mount["mountpoint"].is_string(), || format!("the mount in full, got {made}"))?;
    same("its refs", &mount["refs"], 1)?;
    b.delete(&format!("/mount?id={}", id(mount)))?.refused(409, 409, "object is busy")?;
    b.delete(&format!("/attach?id={}", id(&made)))?.is(200)?;
    holds(until(SOON, || b.is_gone("/mount", id(mount)))?, || "its mount gone with it".into())?;
    // The same by number: then the mount is its creator's.
    let mount = id(&b.made("/mount", &b.bind("jail"))?);
    let body = json!({"kind": "loopback", "loopback": {"path": "disk", "base": "mount", "mount": {"id": mount}}});
    let made = b.made("/attach", &body)?;
    same("refs of the mount", &b.one("/mount", mount)?["refs"], 2)?;
    b.delete(&format!("/attach?id={}", id(&made)))?.is(200)?;
    same("refs of the mount", &b.one("/mount", mount)?["refs"], 1)
}

fn in_a_read_only_mount(b: &Bench) -> Outcome {
    let mut bind = b.bind("jail");
    bind["bind"]["ro"] = json!(true);
    let body = json!({"kind": "loopback", "loopback": {"path": "/disk", "base": "mount", "mount": bind}});
    let made = b.made("/attach", &body)?;
    let flag = format!("/sys/block/{}/ro", device(&made).trim_start_matches("/dev/"));
    same(&flag, fs::read_to_string(&flag).unwrap_or_default().trim(), "1")
}

fn busy(b: &Bench) -> Outcome {
    let made = b.made("/attach", &b.looped("jail/disk"))?;
    let path = device(&made);
    let open = File::open(&path).map_err(|why| format!("{path}: {why}"))?;
    for force in ["", "&force=true"] {
        let refused = b.delete(&format!("/attach?id={}{force}", id(&made)))?.refused(409, 409, "object is busy")?;
        let me = refused["holders"].as_array().into_iter().flatten().any(|one| one["pid"] == std::process::id());
        holds(me, || format!("process {} among the holders, got {refused}", std::process::id()))?;
    }
    same("the object, unchanged", &b.one("/attach", id(&made))?, &made)?;
    drop(open);
    b.delete(&format!("/attach?id={}", id(&made)))?.is(200)?;
    Ok(())
}

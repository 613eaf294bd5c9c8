//! What is the same for every path: methods, bodies, queries, errors.

use super::{Case, case, differs};
use crate::conformance::bench::{Bench, Outcome, holds, id, same};
use serde_json::{Value, json};

pub(super) const CASES: &[Case] = &[
    case("wire_unknown_path", unknown_path),
    case("wire_wrong_method", wrong_method),
    case("wire_bad_json", bad_json),
    case("wire_wrong_media_type", wrong_media_type),
    case("wire_no_body", no_body),
    case("wire_unknown_fields_are_ignored", unknown_fields),
    case("wire_booleans_of_queries", booleans),
    case("wire_empty_value_is_absent", empty_value),
    case("wire_last_value_wins", last_value),
    case("wire_query_types", query_types),
    case("wire_swagger_document", swagger),
    case("wire_wrong_types_601", wrong_types),
    case("wire_required_602", required),
    case("wire_pattern_605", pattern),
    case("wire_enum_606", enums),
    case("wire_read_only_619", read_only),
    case("wire_null_is_absent", null_is_absent),
    differs(
        "wire_kernel_errors_have_a_step",
        "flattens what the kernel says to 'internal server error'",
        kernel_errors,
    ),
];

const PATHS: [&str; 3] = ["/attach", "/mount", "/container"];

fn unknown_path(b: &Bench) -> Outcome {
    for path in ["/nothing", "/attach/1", "/"] {
        b.get(path)?.refused(404, 404, "")?;
    }
    Ok(())
}

fn wrong_method(b: &Bench) -> Outcome {
    for (method, path) in [("PUT", "/attach"), ("PATCH", "/mount"), ("PUT", "/container"), ("PATCH", "/attach")] {
        b.client.ask(method, path, None)?.refused(405, 405, "")?;
    }
    Ok(())
}

fn raw(b: &Bench, path: &str, kind: &str, body: &[u8]) -> Result<crate::conformance::http::Answer, String> {
    b.client.ask_raw("POST", &b.client.path(path), &[("Content-Type", kind)], Some(body))
}

fn bad_json(b: &Bench) -> Outcome {
    for path in PATHS {
        for body in ["{", "{]", "\u{1}", "{\"kind\":\"local\"} x", "{\"kind\":\"lo"] {
            raw(b, path, "application/json", body.as_bytes())?.refused(400, 400, "")?;
        }
        raw(b, path, "application/json", b"{\"kind\":\"\xff\xfe\"}")?.refused(400, 400, "")?;
    }
    Ok(())
}

fn wrong_media_type(b: &Bench) -> Outcome {
    for path in PATHS {
        for kind in ["text/plain", "application/xml", "application/x-www-form-urlencoded"] {
            raw(b, path, kind, b"{}")?.refused(415, 415, "")?;
        }
    }
    // A parameter of the type changes nothing.
    raw(b, "/mount", "application/json; charset=utf-8", b"{}")?.refused(501, 501, "no driver")?;
    Ok(())
}

fn no_body(b: &Bench) -> Outcome {
    for path in PATHS {
        let answer =
            b.client.ask_raw("POST", &b.client.path(path), &[("Content-Type", "application/json")], Some(b""))?;
        answer.refused(422, 602, "required")?;
    }
    Ok(())
}

fn unknown_fields(b: &Bench) -> Outcome {
    let mut asked = b.looped("jail/disk");
    asked["whatever"] = json!([1, {"a": null}]);
    asked["loopback"]["more"] = json!("x");
    let made = b.made("/attach", &asked)?;
    holds(made.get("whatever").is_none(), || format!("unknown fields are not kept, got {made}"))
}

fn booleans(b: &Bench) -> Outcome {
    let pair = || -> Result<(u64, u64), String> {
        let below = id(&b.made("/mount", &b.bind("jail"))?);
        let above = json!({"kind": "bind", "bind": {"path": "/dir", "base": "mount", "mount": {"id": below}}});
        Ok((below, id(&b.made("/mount", &above)?)))
    };
    for word in ["true", "1", "yes", "TRUE"] {
        let (below, above) = pair()?;
        b.delete(&format!("/mount?id={below}&force={word}"))?.is(200)?;
        b.delete(&format!("/mount?id={above}"))?.is(200)?;
    }
    let (below, above) = pair()?;
    for word in ["false", "0", "maybe", "", "no"] {
        b.delete(&format!("/mount?id={below}&force={word}"))?.refused(409, 409, "object is busy")?;
    }
    b.delete(&format!("/mount?id={above}"))?.is(200)?;
    b.delete(&format!("/mount?id={below}"))?.is(200)?;
    Ok(())
}

fn empty_value(b: &Bench) -> Outcome {
    for path in ["/attach?id=", "/mount?kind=&id=", "/container?id=&name=&state="] {
        let list = b.get(path)?.is(200)?;
        holds(list.is_array(), || format!("GET {path} lists all, got {list}"))?;
    }
    b.delete("/attach?id=")?.refused(422, 602, "id")?;
    b.delete("/container?id=&name=")?.refused(400, 400, "")?;
    Ok(())
}

fn last_value(b: &Bench) -> Outcome {
    let made = id(&b.made("/attach", &b.looped("jail/disk"))?);
    let list = b.get(&format!("/attach?id=999999999&id={made}"))?.is(200)?;
    same("the object of the last id", id(&list[0]), made)
}

fn query_types(b: &Bench) -> Outcome {
    for path in ["/attach?id=x", "/mount?id=1.5", "/container?id=0x1", "/attach?id=99999999999999999999999"] {
        b.get(path)?.refused(422, 601, "id")?;
    }
    b.delete("/mount?id=x")?.refused(422, 601, "id")?;
    for path in ["/attach?kind=floppy", "/mount?kind=loopback"] {
        b.get(path)?.refused(422, 606, "kind")?;
    }
    b.get("/container?state=asleep")?.refused(422, 606, "state")?;
    Ok(())
}

fn swagger(b: &Bench) -> Outcome {
    let document = b.client.ask_raw("GET", "/swagger.json", &[], None)?.is(200)?;
    same("its version", document["swagger"].as_str().unwrap_or_default(), "2.0")?;
    same("its base path", document["basePath"].as_str().unwrap_or_default(), "/imageapi/v1")?;
    for (path, methods) in [
        ("/attach", &["get", "post", "delete"][..]),
        ("/mount", &["get", "post", "delete"]),
        ("/container", &["get", "post", "delete", "patch"]),
    ] {
        for method in methods {
            holds(document["paths"][path][method].is_object(), || format!("it has {method} {path}"))?;
        }
    }
    Ok(())
}

type Row = (&'static str, Value, &'static str);

fn refused_all(b: &Bench, code: u16, rows: Vec<Row>) -> Outcome {
    for (path, body, field) in rows {
        b.post(path, &body)?.refused(422, code, field).map_err(|why| format!("{body}: {why}"))?;
    }
    Ok(())
}

fn wrong_types(b: &Bench) -> Outcome {
    refused_all(
        b,
        601,
        vec![
            ("/attach", json!([]), "attach"),
            ("/mount", json!("x"), "mount"),
            ("/container", json!(7), "container"),
            ("/attach", json!({"kind": 7}), "kind"),
            ("/attach", json!({"id": "one"}), "id"),
            ("/attach", json!({"kind": "local", "local": {"path": 1}}), "local.path"),
            ("/attach", json!({"kind": "local", "local": "x"}), "local"),
            (
                "/attach",
                json!({"kind": "loopback", "loopback": {"path": "/x", "base": "root", "readPartitions": "yes"}}),
                "readPartitions",
            ),
            (
                "/attach",
                json!({"kind": "iscsi", "iscsi": {"initiator": "i", "target": "t", "host": "h", "lun": "0"}}),
                "lun",
            ),
            ("/attach", json!({"kind": "rbd", "rbd": {"monitors": "m", "pool": "p", "image": "i"}}), "monitors"),
            ("/attach", json!({"kind": "rbd", "rbd": {"monitors": [7], "pool": "p", "image": "i"}}), "monitors"),
            (
                "/attach",
                json!({"kind": "rbd", "rbd": {"monitors": ["m"], "pool": "p", "image": "i", "options": {"ro": 1}}}),
                "ro",
            ),
            ("/mount", json!({"kind": "attach", "attach": {"attach": 3, "fs_type": "ext4"}}), "attach"),
            (
                "/mount",
                json!({"kind": "attach", "attach": {"attach": {"id": 3}, "fs_type": "ext4", "mount_options": "ro"}}),
                "mount_options",
            ),
            ("/mount", json!({"kind": "bind", "bind": {"path": "/", "base": "root", "ro": "true"}}), "ro"),
            ("/mount", json!({"kind": "overlay", "overlay": {"lower": {"id": 1}}}), "lower"),
            ("/mount", json!({"kind": "nfs", "nfs": {"host": "h", "path": "/", "options": [1]}}), "options"),
            ("/container", json!({"mount": [], "command": "/x"}), "mount"),
            ("/container", json!({"mount": {"id": 1}, "command": ["/x"]}), "command"),
            ("/container", json!({"mount": {"id": 1}, "command": "/x", "systemd": "no"}), "systemd"),
            ("/container", json!({"mount": {"id": 1}, "command": "/x", "namespaces": "net"}), "namespaces"),
            ("/container", json!({"mount": {"id": 1}, "command": "/x", "name": 5}), "name"),
        ],
    )
}

fn required(b: &Bench) -> Outcome {
    refused_all(
        b,
        602,
        vec![
            ("/attach", json!({"kind": "local", "local": {}}), "path"),
            ("/attach", json!({"kind": "loopback", "loopback": {"base": "root"}}), "path"),
            ("/attach", json!({"kind": "loopback", "loopback": {"path": "/x"}}), "base"),
            ("/attach", json!({"kind": "iscsi", "iscsi": {"target": "t", "host": "h"}}), "initiator"),
            ("/attach", json!({"kind": "iscsi", "iscsi": {"initiator": "i", "host": "h"}}), "target"),
            ("/attach", json!({"kind": "iscsi", "iscsi": {"initiator": "i", "target": "t"}}), "host"),
            ("/attach", json!({"kind": "rbd", "rbd": {"pool": "p", "image": "i"}}), "monitors"),
            ("/attach", json!({"kind": "rbd", "rbd": {"monitors": ["m"], "image": "i"}}), "pool"),
            ("/attach", json!({"kind": "rbd", "rbd": {"monitors": ["m"], "pool": "p"}}), "image"),
            ("/mount", json!({"kind": "attach", "attach": {"attach": {"id": 1}}}), "fs_type"),
            ("/mount", json!({"kind": "attach", "attach": {"fs_type": "ext4"}}), "attach"),
            ("/mount", json!({"kind": "bind", "bind": {"base": "root"}}), "path"),
            ("/mount", json!({"kind": "bind", "bind": {"path": "/"}}), "base"),
            ("/mount", json!({"kind": "overlay", "overlay": {}}), "lower"),
            ("/mount", json!({"kind": "nfs", "nfs": {"path": "/"}}), "host"),
            ("/mount", json!({"kind": "nfs", "nfs": {"host": "h"}}), "path"),
            ("/container", json!({"command": "/x"}), "mount"),
            ("/container", json!({"mount": {"id": 1}}), "command"),
        ],
    )
}

fn pattern(b: &Bench) -> Outcome {
    let named = |name: String| json!({"mount": {"id": 1}, "command": "/x", "name": name});
    let long = "x".repeat(65);
    for name in ["a b", "a/b", "\u{e4}", "a:b", "..", ".hidden", "a\n", long.as_str()] {
        b.post("/container", &named(name.to_owned()))?
            .refused(422, 605, "name")
            .map_err(|why| format!("'{name}': {why}"))?;
    }
    Ok(())
}

fn enums(b: &Bench) -> Outcome {
    refused_all(
        b,
        606,
        vec![
            ("/attach", json!({"kind": "floppy"}), "kind"),
            ("/attach", json!({"kind": "Loopback"}), "kind"),
            ("/attach", json!({"kind": "loopback", "loopback": {"path": "/x", "base": "up"}}), "base"),
            ("/mount", json!({"kind": "loopback"}), "kind"),
            ("/mount", json!({"kind": "bind", "bind": {"path": "/x", "base": ""}}), "base"),
            ("/mount", json!({"kind": "overlay", "overlay": {"lower": [{"kind": "x"}]}}), "kind"),
            ("/container", json!({"mount": {"id": 1}, "command": "/x", "state": "asleep"}), "state"),
            ("/container", json!({"mount": {"id": 1}, "command": "/x", "namespaces": ["net", "moon"]}), "namespaces"),
            ("/container", json!({"mount": {"kind": "x"}, "command": "/x"}), "kind"),
        ],
    )
}

fn read_only(b: &Bench) -> Outcome {
    refused_all(
        b,
        619,
        vec![
            ("/attach", json!({"kind": "local", "device_file": "/dev/sda"}), "device_file"),
            ("/attach", json!({"kind": "local", "refs": 3}), "refs"),
            (
                "/attach",
                json!({"kind": "rbd", "rbd": {"device_id": 4, "monitors": ["m"], "pool": "p", "image": "i"}}),
                "device_id",
            ),
            ("/mount", json!({"kind": "bind", "mountpoint": "/x"}), "mountpoint"),
            ("/mount", json!({"kind": "bind", "refs": 1}), "refs"),
            ("/mount", json!({"kind": "overlay", "overlay": {"lower": [], "workdir": "/x"}}), "workdir"),
            ("/mount", json!({"kind": "overlay", "overlay": {"lower": [], "upperdir": "/x"}}), "upperdir"),
            ("/container", json!({"mount": {"id": 1}, "command": "/x", "logfile": "/x"}), "logfile"),
            ("/container", json!({"mount": {"id": 1}, "command": "/x", "refs": 2}), "refs"),
        ],
    )
}

fn null_is_absent(b: &Bench) -> Outcome {
    let body = json!({"id": null, "kind": "bind", "mountpoint": null, "refs": 0, "attach": null,
        "bind": {"path": b.files.at("jail"), "base": "root", "mount": null, "ro": null}});
    b.made("/mount", &body)?;
    Ok(())
}

fn kernel_errors(b: &Bench) -> Outcome {
    let body = json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": b.looped("rootfs.ext4")}});
    let refused = b.post("/mount", &body)?.refused(500, 500, "operation failed")?;
    let error = &refused["error"];
    let has = |field: &str| error[field].as_str().is_some_and(|text| !text.is_empty());
    holds(has("step") && has("text") && error["errno"] == "EINVAL", || format!("step, errno and text, got {refused}"))
}

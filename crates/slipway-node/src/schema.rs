//! What a request's body must look like: the ImageAPI's definitions, and the codes that its clients know.
//!
//! 601 wrong type, 602 required, 605 pattern, 606 enum, 619 read-only; each names the field. Unknown fields are let through.

use crate::refusal::Refusal;
use serde_json::Value;

/// How deep a body may be before it is looked at any further: 64 levels of objects, a handful of JSON levels each.
pub const DEPTH_MAX: usize = 512;

enum Shape {
    Text,
    Whole,
    Flag,
    OneOf(&'static [&'static str]),
    Name,
    List(&'static Shape),
    Object(&'static [Field]),
    /// Defined elsewhere, since definitions contain each other.
    Of(fn() -> &'static [Field]),
    /// Names and texts.
    Texts,
}

struct Field {
    name: &'static str,
    shape: Shape,
    required: bool,
    read_only: bool,
}

const fn field(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false, read_only: false }
}

const fn must(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: true, read_only: false }
}

const fn told(name: &'static str, shape: Shape) -> Field {
    Field { name, shape, required: false, read_only: true }
}

const BASES: Shape = Shape::OneOf(&["root", "mount"]);
const ATTACH: Shape = Shape::Of(|| ATTACH_FIELDS);
const MOUNT: Shape = Shape::Of(|| MOUNT_FIELDS);

const ATTACH_FIELDS: &[Field] = &[
    field("id", Shape::Whole),
    field("kind", Shape::OneOf(&["iscsi", "local", "loopback", "rbd", "nbd", "slipway"])),
    told("device_file", Shape::Text),
    told("refs", Shape::Whole),
    field("labels", Shape::Texts),
    field("local", Shape::Object(&[must("path", Shape::Text)])),
    field(
        "loopback",
        Shape::Object(&[
            must("path", Shape::Text),
            must("base", BASES),
            field("mount", MOUNT),
            field("readPartitions", Shape::Flag),
            field("ro", Shape::Flag),
            field("direct_io", Shape::Flag),
            field("sector_size", Shape::Whole),
            field("offset", Shape::Whole),
            field("size_limit", Shape::Whole),
        ]),
    ),
    field(
        "iscsi",
        Shape::Object(&[
            must("initiator", Shape::Text),
            must("target", Shape::Text),
            must("host", Shape::Text),
            field("port", Shape::Whole),
            field("lun", Shape::Whole),
            field("max_comands", Shape::Whole),
            field("max_commands", Shape::Whole),
            field("queue_depth", Shape::Whole),
            field("scheduler", Shape::Text),
            field("username", Shape::Text),
            field("password", Shape::Text),
            field("username_in", Shape::Text),
            field("password_in", Shape::Text),
            field("dead_timeout", Shape::Whole),
            field("ro", Shape::Flag),
        ]),
    ),
    field(
        "rbd",
        Shape::Object(&[
            told("device_id", Shape::Whole),
            must("monitors", Shape::List(&Shape::Text)),
            must("pool", Shape::Text),
            must("image", Shape::Text),
            field("snapshot", Shape::Text),
            field("options", Shape::Object(RBD_OPTIONS)),
        ]),
    ),
    field(
        "nbd",
        Shape::Object(&[
            field("host", Shape::Text),
            field("port", Shape::Whole),
            field("socket", Shape::Text),
            field("export", Shape::Text),
            field("ro", Shape::Flag),
            field("connections", Shape::Whole),
            field("dead_timeout", Shape::Whole),
            field(
                "tls",
                Shape::Object(&[
                    must("ca_ref", Shape::Text),
                    field("cert_ref", Shape::Text),
                    field("key_ref", Shape::Text),
                    field("name", Shape::Text),
                ]),
            ),
        ]),
    ),
    field(
        "slipway",
        Shape::Object(&[must("ref", Shape::Text), must("server", Shape::Text), field("token_ref", Shape::Text)]),
    ),
];

const RBD_OPTIONS: &[Field] = &[
    field("fsid", Shape::Text),
    field("ip", Shape::Text),
    field("share", Shape::Flag),
    field("noshare", Shape::Flag),
    field("crc", Shape::Flag),
    field("nocrc", Shape::Flag),
    field("ceph_requires_signatures", Shape::Flag),
    field("noceph_requires_signatures", Shape::Flag),
    field("tcp_nodelay", Shape::Flag),
    field("notcp_nodelay", Shape::Flag),
    field("cephx_sign_messages", Shape::Flag),
    field("nocephx_sign_messages", Shape::Flag),
    field("mount_timeout", Shape::Whole),
    field("osdkeepalive", Shape::Whole),
    field("osd_idle_ttl", Shape::Whole),
    field("force", Shape::Flag),
    field("rw", Shape::Flag),
    field("ro", Shape::Flag),
    field("queue_depth", Shape::Whole),
    field("lock_on_read", Shape::Flag),
    field("exclusive", Shape::Flag),
    field("lock_timeout", Shape::Whole),
    field("notrim", Shape::Flag),
    field("abort_on_full", Shape::Flag),
    field("alloc_size", Shape::Whole),
    field("name", Shape::Text),
    field("secret", Shape::Text),
    field("namespace", Shape::Text),
];

const MOUNT_FIELDS: &[Field] = &[
    field("id", Shape::Whole),
    field("kind", Shape::OneOf(&["attach", "bind", "nfs", "overlay", "uri"])),
    told("mountpoint", Shape::Text),
    told("refs", Shape::Whole),
    field("labels", Shape::Texts),
    field(
        "attach",
        Shape::Object(&[
            must("attach", ATTACH),
            must("fs_type", Shape::Text),
            field("mount_options", Shape::List(&Shape::Text)),
        ]),
    ),
    field(
        "bind",
        Shape::Object(&[
            must("path", Shape::Text),
            must("base", BASES),
            field("mount", MOUNT),
            field("recursive", Shape::Flag),
            field("ro", Shape::Flag),
        ]),
    ),
    field(
        "nfs",
        Shape::Object(&[
            must("host", Shape::Text),
            must("path", Shape::Text),
            field("ro", Shape::Flag),
            field("version", Shape::Text),
            field("options", Shape::List(&Shape::Text)),
        ]),
    ),
    field(
        "overlay",
        Shape::Object(&[
            told("workdir", Shape::Text),
            told("upperdir", Shape::Text),
            must("lower", Shape::List(&MOUNT)),
            field("ro", Shape::Flag),
            field("size", Shape::Whole),
            field("persist", Shape::Text),
        ]),
    ),
    field(
        "uri",
        Shape::Object(&[
            must("uri", Shape::Text),
            field("format", Shape::OneOf(&["auto", "tar", "squashfs", "erofs", "cpio", "ext4"])),
            field("checksum", Shape::Text),
            field("size_limit", Shape::Whole),
            field("entries_limit", Shape::Whole),
            field("timeout", Shape::Whole),
            field("ro", Shape::Flag),
        ]),
    ),
];

const STATES: &[&str] = &["created", "running", "stopping", "exited", "dead"];

const CONTAINER_FIELDS: &[Field] = &[
    field("id", Shape::Whole),
    told("logfile", Shape::Text),
    field("name", Shape::Name),
    must("mount", MOUNT),
    must("command", Shape::Text),
    field("systemd", Shape::Flag),
    field("state", Shape::OneOf(STATES)),
    field("namespaces", Shape::List(&Shape::OneOf(&["cgroup", "ipc", "net", "mnt", "pid", "time", "user", "uts"]))),
    told("refs", Shape::Whole),
    field("env", Shape::Texts),
    field("cwd", Shape::Text),
    field("user", Shape::Text),
    field("hostname", Shape::Text),
    field("network", Shape::OneOf(&["host", "none"])),
    field(
        "resources",
        Shape::Object(&[
            field("memory", Shape::Whole),
            field("swap", Shape::Whole),
            field("cpu_millis", Shape::Whole),
            field("cpu_weight", Shape::Whole),
            field("pids", Shape::Whole),
            field(
                "io",
                Shape::List(&Shape::Object(&[
                    must("device", Shape::Text),
                    field("read_bps", Shape::Whole),
                    field("write_bps", Shape::Whole),
                    field("read_iops", Shape::Whole),
                    field("write_iops", Shape::Whole),
                ])),
            ),
        ]),
    ),
    field("privileged", Shape::Flag),
    field("capabilities", Shape::List(&Shape::Text)),
    field("read_only", Shape::Flag),
    field("stop_timeout", Shape::Whole),
    field(
        "restart",
        Shape::Object(&[must("when", Shape::OneOf(&["no", "on-failure", "always"])), field("max", Shape::Whole)]),
    ),
    field("labels", Shape::Texts),
];

/// Checks the body of a new attachment.
///
/// # Errors
/// 422 with the code and the field of the first thing that does not fit.
pub fn attach_check(body: &Value) -> Result<(), Refusal> {
    object_check("attach", body, ATTACH_FIELDS)
}

/// Checks the body of a new mount.
///
/// # Errors
/// As [`attach_check`].
pub fn mount_check(body: &Value) -> Result<(), Refusal> {
    object_check("mount", body, MOUNT_FIELDS)
}

/// Checks the body of a new container.
///
/// # Errors
/// As [`attach_check`].
pub fn container_check(body: &Value) -> Result<(), Refusal> {
    object_check("container", body, CONTAINER_FIELDS)
}

fn object_check(what: &str, body: &Value, fields: &[Field]) -> Result<(), Refusal> {
    if !body.is_object() {
        return Err(wrong_type(what, "object", body));
    }
    fields_check("", body, fields)
}

fn fields_check(path: &str, value: &Value, fields: &[Field]) -> Result<(), Refusal> {
    for field in fields {
        let at = if path.is_empty() { field.name.to_owned() } else { format!("{path}.{}", field.name) };
        match value.get(field.name) {
            None | Some(Value::Null) if field.required => {
                return Err(Refusal::invalid(602, format!("{at} in body is required")));
            }
            None | Some(Value::Null) => {}
            Some(given) if field.read_only && !is_zero(given) => {
                return Err(Refusal::invalid(619, format!("{at} in body is readOnly")));
            }
            Some(given) => shape_check(&at, given, &field.shape)?,
        }
    }
    Ok(())
}

/// What an old client sends back of an answer without meaning it.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_u64() == Some(0),
        _ => false,
    }
}

fn shape_check(at: &str, value: &Value, shape: &Shape) -> Result<(), Refusal> {
    match shape {
        Shape::Text if value.is_string() => Ok(()),
        Shape::Text => Err(wrong_type(at, "string", value)),
        Shape::Whole if value.as_u64().is_some() => Ok(()),
        Shape::Whole if value.as_i64().is_some() => {
            Err(Refusal::invalid(601, format!("{at} in body must be of type integer, and not below 0")))
        }
        Shape::Whole => Err(wrong_type(at, "integer", value)),
        Shape::Flag if value.is_boolean() => Ok(()),
        Shape::Flag => Err(wrong_type(at, "boolean", value)),
        Shape::OneOf(known) => match value.as_str() {
            Some(text) if known.contains(&text) => Ok(()),
            Some(_) => Err(Refusal::invalid(606, format!("{at} in body should be one of [{}]", known.join(" ")))),
            None => Err(wrong_type(at, "string", value)),
        },
        Shape::Name => match value.as_str() {
            Some(text) if name_fits(text) => Ok(()),
            Some(_) => {
                let pattern = "^([A-Za-z0-9_-][A-Za-z0-9._-]{0,63})?$";
                Err(Refusal::invalid(605, format!("{at} in body should match '{pattern}'")))
            }
            None => Err(wrong_type(at, "string", value)),
        },
        Shape::List(of) => match value.as_array() {
            Some(items) => {
                items.iter().enumerate().try_for_each(|(n, item)| shape_check(&format!("{at}.{n}"), item, of))
            }
            None => Err(wrong_type(at, "array", value)),
        },
        Shape::Object(fields) if value.is_object() => fields_check(at, value, fields),
        Shape::Of(fields) if value.is_object() => fields_check(at, value, fields()),
        Shape::Object(_) | Shape::Of(_) => Err(wrong_type(at, "object", value)),
        Shape::Texts => match value.as_object() {
            Some(texts) => texts.iter().try_for_each(|(name, text)| match text.is_string() {
                true => Ok(()),
                false => Err(wrong_type(&format!("{at}.{name}"), "string", text)),
            }),
            None => Err(wrong_type(at, "object", value)),
        },
    }
}

/// Empty, or letters, digits, `.`, `_` and `-`, no dot first, at most 64.
pub fn name_fits(name: &str) -> bool {
    name.len() <= 64
        && !name.starts_with('.')
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn wrong_type(at: &str, wanted: &str, value: &Value) -> Refusal {
    let given = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    Refusal::invalid(601, format!("{at} in body must be of type {wanted}: \"{given}\""))
}

/// Takes away fields that are null: in the ImageAPI they are as good as absent, whatever their type.
pub fn nulls_drop(body: &mut Value) {
    match body {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(nulls_drop);
        }
        Value::Array(items) => items.iter_mut().for_each(nulls_drop),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether a body nests no deeper than [`DEPTH_MAX`], seen without building anything.
pub fn is_shallow(body: &[u8]) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::{attach_check, container_check, is_shallow, mount_check, nulls_drop};
    use crate::refusal::Refusal;
    use serde_json::Value;

    type Check = fn(&Value) -> Result<(), Refusal>;

    #[test]
    fn what_does_not_fit_is_named_with_its_code() {
        const ROWS: &[(Check, &str, u16, &str)] = &[
            (attach_check, "[]", 601, "attach in body must be of type object: \"array\""),
            (
                attach_check,
                r#"{"kind":"floppy"}"#,
                606,
                "kind in body should be one of [iscsi local loopback rbd nbd slipway]",
            ),
            (attach_check, r#"{"kind":7}"#, 601, "kind in body must be of type string: \"number\""),
            (attach_check, r#"{"kind":"local","local":{}}"#, 602, "local.path in body is required"),
            (
                attach_check,
                r#"{"kind":"loopback","loopback":{"path":1,"base":"root"}}"#,
                601,
                "loopback.path in body must be of type string: \"number\"",
            ),
            (
                attach_check,
                r#"{"kind":"loopback","loopback":{"path":"/a","base":"up"}}"#,
                606,
                "loopback.base in body should be one of [root mount]",
            ),
            (attach_check, r#"{"refs":3}"#, 619, "refs in body is readOnly"),
            (attach_check, r#"{"device_file":"/dev/sda"}"#, 619, "device_file in body is readOnly"),
            (
                attach_check,
                r#"{"kind":"rbd","rbd":{"monitors":[1],"pool":"p","image":"i"}}"#,
                601,
                "rbd.monitors.0 in body must be of type string: \"number\"",
            ),
            (attach_check, r#"{"id":-1}"#, 601, "id in body must be of type integer, and not below 0"),
            (mount_check, r#"{"kind":"overlay","overlay":{}}"#, 602, "overlay.lower in body is required"),
            (
                mount_check,
                r#"{"overlay":{"lower":[{},{"kind":"x"}]}}"#,
                606,
                "overlay.lower.1.kind in body should be one of [attach bind nfs overlay uri]",
            ),
            (container_check, r#"{"command":"/init"}"#, 602, "mount in body is required"),
            (container_check, r#"{"mount":{"id":1}}"#, 602, "command in body is required"),
            (
                container_check,
                r#"{"mount":{"id":1},"command":"x","name":".x"}"#,
                605,
                "name in body should match '^([A-Za-z0-9_-][A-Za-z0-9._-]{0,63})?$'",
            ),
            (
                container_check,
                r#"{"mount":{"id":1},"command":"x","state":"gone"}"#,
                606,
                "state in body should be one of [created running stopping exited dead]",
            ),
            (
                container_check,
                r#"{"mount":{"id":1},"command":"x","env":{"A":1}}"#,
                601,
                "env.A in body must be of type string: \"number\"",
            ),
        ];
        for (check, body, code, message) in ROWS {
            let refusal = check(&serde_json::from_str(body).unwrap()).unwrap_err();
            assert_eq!(
                (refusal.status, refusal.problem.code, refusal.problem.message.as_str()),
                (422, *code, *message),
                "{body}"
            );
        }
    }

    #[test]
    fn what_old_clients_send_is_let_through() {
        for body in [
            r#"{"kind":"attach","attach":{"kind":"iscsi","fs_type":"ext4","mount_options":null,"attach":{"id":3}}}"#,
            r#"{"id":0,"refs":0,"mountpoint":"","kind":"bind","bind":{"path":"/","base":"root","ro":false},"unknown":[1]}"#,
        ] {
            mount_check(&serde_json::from_str(body).unwrap()).unwrap();
        }
        container_check(
            &serde_json::from_str(r#"{"mount":{"id":1},"command":"x","name":"node2","namespaces":null}"#).unwrap(),
        )
        .unwrap();
    }

    #[test]
    fn null_is_absent_for_every_type() {
        let text = r#"{"id":null,"kind":"overlay","refs":null,"overlay":{"lower":[{"id":3,"kind":null}],"ro":null,"size":null}}"#;
        let mut body: Value = serde_json::from_str(text).unwrap();
        mount_check(&body).unwrap();
        nulls_drop(&mut body);
        assert_eq!(body, serde_json::json!({"kind": "overlay", "overlay": {"lower": [{"id": 3}]}}));
        serde_json::from_value::<slipway_api::node::Mount>(body).unwrap();
    }

    #[test]
    fn depth_is_seen_before_anything_is_built() {
        assert!(is_shallow(br#"{"a":"[[[[\"[[["}"#));
        assert!(is_shallow(&[b'['; 512]));
        assert!(!is_shallow(&[b'['; 513]));
    }
}

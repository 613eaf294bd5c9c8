//! What is asked for, compared with what a node has.

use serde_json::{Map, Value};
use slipway_api::node::{Attach, Container, Mount};

/// A field that is not as it is asked to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Where, like `mount.overlay.lower.0.kind`.
    pub(crate) at: String,
    pub(crate) wanted: String,
    pub(crate) found: String,
}

/// What a service shows instead of a secret.
const HIDDEN: &str = "***";
/// What only a service says, or what comes and goes while the definition stays.
const TOLD: &[&str] = &[
    "refs",
    "device_file",
    "mountpoint",
    "created_at_ms",
    "health",
    "error",
    "workdir",
    "upperdir",
    "device_id",
    "logfile",
    "pid",
    "ready",
    "exit",
    "restarts",
    "ooms",
    "started_at_ms",
    "state",
];

/// How a container differs from its definition.
pub(crate) fn container_differences(wanted: &Container, found: &Container) -> Vec<Difference> {
    differences(wanted, found)
}

/// Whether a mount on the node is the one that is asked for.
pub(crate) fn mount_equal(wanted: &Mount, found: &Mount) -> bool {
    differences(wanted, found).is_empty()
}

/// Whether an attachment on the node is the one that is asked for.
pub(crate) fn attach_equal(wanted: &Attach, found: &Attach) -> bool {
    differences(wanted, found).is_empty()
}

fn differences<T: serde::Serialize>(wanted: &T, found: &T) -> Vec<Difference> {
    let value = |item: &T| serde_json::to_value(item).unwrap_or_default();
    let mut out = Vec::new();
    compare("", &value(wanted), &value(found), &mut out);
    out
}

fn compare(at: &str, wanted: &Value, found: &Value, out: &mut Vec<Difference>) {
    match (wanted, found) {
        (Value::Object(wanted), Value::Object(found)) => fields_compare(at, wanted, found, out),
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (n, (wanted, found)) in one.iter().zip(other).enumerate() {
                compare(&format!("{at}.{n}"), wanted, found, out);
            }
        }
        // A secret that is set cannot be compared with one that is hidden.
        (Value::String(_), Value::String(found)) if found == HIDDEN => {}
        _ if wanted == found => {}
        _ => out.push(Difference { at: at.to_owned(), wanted: shown(at, wanted), found: shown(at, found) }),
    }
}

fn fields_compare(at: &str, wanted: &Map<String, Value>, found: &Map<String, Value>, out: &mut Vec<Difference>) {
    let null = Value::Null;
    let under = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    // A reference is a number; what the node shows behind it does not matter.
    if let Some(id) = wanted.get("id") {
        let seen = found.get("id").unwrap_or(&null);
        if id != seen {
            out.push(Difference { at: under("id"), wanted: id.to_string(), found: seen.to_string() });
        }
        return;
    }
    let names: std::collections::BTreeSet<&String> = wanted.keys().chain(found.keys()).collect();
    for name in names.into_iter().filter(|name| !TOLD.contains(&name.as_str()) && *name != "id") {
        let (wanted, found) = (wanted.get(name).unwrap_or(&null), found.get(name).unwrap_or(&null));
        // Who may what is the service's to decide when nobody asks for it.
        if name == "privileged" && wanted.is_null() {
            continue;
        }
        compare(&under(name), wanted, found, out);
    }
}

/// A value on one line, not too long; secrets of definitions are not shown.
fn shown(at: &str, value: &Value) -> String {
    const SECRET: &[&str] = &["password", "password_in", "secret"];
    if SECRET.contains(&at.rsplit('.').next().unwrap_or(at)) && !value.is_null() {
        return "a secret".into();
    }
    match value {
        Value::Null => "nothing".into(),
        Value::String(text) => format!("'{}'", crate::human::short(text, 60)),
        other => crate::human::short(&other.to_string(), 60),
    }
}

/// The definition of a container as it is, so that it can be made again. `None` when a secret of it is not known.
///
/// What somebody else counts on too is named by its number, the rest is described.
pub(crate) fn definition_again(found: &Container) -> Option<Container> {
    let mut again = Container {
        id: 0,
        refs: 0,
        logfile: String::new(),
        pid: None,
        ready: false,
        exit: None,
        restarts: 0,
        ooms: 0,
        health: slipway_api::node::Health::Ready,
        created_at_ms: None,
        started_at_ms: None,
        error: None,
        state: slipway_api::node::ContainerState::Created,
        ..found.clone()
    };
    again.mount = found.mount.as_ref().map(mount_again);
    let text = serde_json::to_string(&again).ok()?;
    (!text.contains(&format!("\"{HIDDEN}\""))).then_some(again)
}

fn mount_again(mount: &Mount) -> Mount {
    if mount.refs > 1 {
        return Mount { id: mount.id, ..Mount::default() };
    }
    let mut again = Mount {
        id: 0,
        mountpoint: String::new(),
        refs: 0,
        created_at_ms: None,
        health: slipway_api::node::Health::Ready,
        error: None,
        ..mount.clone()
    };
    if let Some(block) = &mut again.attach {
        *block.attach = attach_again(&block.attach);
    }
    if let Some(below) = again.bind.as_mut().and_then(|block| block.mount.as_mut()) {
        **below = mount_again(below);
    }
    if let Some(block) = &mut again.overlay {
        (block.workdir, block.upperdir) = (String::new(), String::new());
        block.lower = block.lower.iter().map(mount_again).collect();
    }
    again
}

fn attach_again(attach: &Attach) -> Attach {
    if attach.refs > 1 {
        return Attach { id: attach.id, ..Attach::default() };
    }
    let mut again = Attach {
        id: 0,
        device_file: String::new(),
        refs: 0,
        created_at_ms: None,
        health: slipway_api::node::Health::Ready,
        error: None,
        ..attach.clone()
    };
    if let Some(block) = &mut again.rbd {
        block.device_id = 0;
    }
    if let Some(below) = again.loopback.as_mut().and_then(|block| block.mount.as_mut()) {
        **below = mount_again(below);
    }
    again
}

#[cfg(test)]
mod tests {
    use super::{container_differences, definition_again};
    use serde_json::from_str;
    use slipway_api::node::Container;

    fn said(wanted: &str, found: &str) -> String {
        let differences = container_differences(&from_str(wanted).unwrap(), &from_str(found).unwrap());
        let lines: Vec<String> =
            differences.iter().map(|found| format!("{}: {} not {}", found.at, found.wanted, found.found)).collect();
        lines.join("; ")
    }

    #[test]
    fn only_what_was_asked_for_is_compared() {
        let found = r#"{"id":4,"refs":1,"name":"web","command":"/init","state":"running","pid":7,"created_at_ms":1,"privileged":true,
            "mount":{"id":3,"refs":1,"kind":"attach","mountpoint":"/m","attach":{"fs_type":"ext4","attach":{"id":2,"refs":1,
            "kind":"rbd","device_file":"/dev/rbd0","rbd":{"device_id":1,"monitors":["m"],"pool":"p","image":"i","options":{"name":"n","secret":"***"}}}}}}"#;
        let asked = r#"{"name":"web","command":"/init","mount":{"kind":"attach","attach":{"fs_type":"ext4","attach":{
            "kind":"rbd","rbd":{"monitors":["m"],"pool":"p","image":"i","options":{"name":"n","secret":"key"}}}}}}"#;
        assert_eq!(said(asked, found), "");
        assert_eq!(said(r#"{"name":"web","command":"/init","mount":{"id":3}}"#, found), "");
        assert_eq!(said(r#"{"name":"web","command":"/init","mount":{"id":5}}"#, found), "mount.id: 5 not 3");
        assert_eq!(said(&asked.replace("ext4", "xfs"), found), "mount.attach.fs_type: 'xfs' not 'ext4'");
        assert_eq!(
            said(&asked.replace("\"command\"", "\"env\":{\"A\":\"1\"},\"command\""), found),
            "env: {\"A\":\"1\"} not nothing"
        );
        assert_eq!(
            said(&asked.replace(",\"secret\":\"key\"", ""), found),
            "mount.attach.attach.rbd.options.secret: nothing not a secret"
        );
    }

    #[test]
    fn a_container_is_described_again_unless_it_has_secrets() {
        let found = r#"{"id":4,"refs":1,"name":"web","command":"/init","state":"running","pid":7,
            "mount":{"id":3,"refs":1,"kind":"overlay","mountpoint":"/m","overlay":{"upperdir":"/u","workdir":"/w","size":5,
            "lower":[{"id":2,"refs":2,"kind":"bind","mountpoint":"/n","bind":{"path":"/"}}]}}}"#;
        let again = definition_again(&from_str(found).unwrap()).unwrap();
        let wanted: Container = from_str(
            r#"{"name":"web","command":"/init","mount":{"kind":"overlay","overlay":{"size":5,"lower":[{"id":2}]}}}"#,
        )
        .unwrap();
        assert_eq!(again, wanted);
        let secret = found.replace("\"command\"", "\"env\":{\"A\":\"***\"},\"command\"");
        assert!(definition_again(&from_str(&secret).unwrap()).is_none());
    }
}

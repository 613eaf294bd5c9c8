//! Objects of a node as people see them.

use super::find::{Everything, Object, called};
use crate::human::{count, duration, size};
use crate::output::{Table, facts};
use jiff::Timestamp;
use slipway_api::node::{
    Attach, AttachKind, Base, Container, ContainerState, Exit, Health, Mount, MountKind, StepError,
};
use std::time::Duration;

/// What an attachment is made of, in a few words.
pub(crate) fn attach_source(attach: &Attach) -> String {
    let Some(kind) = attach.kind else { return String::new() };
    let text = match kind {
        AttachKind::Local => attach.local.as_ref().map(|block| block.path.clone()),
        AttachKind::Loopback => attach.loopback.as_ref().map(|block| match (block.base, &block.mount) {
            (Base::Mount, Some(mount)) => format!("{} in mount {}", block.path, mount.id),
            (Base::Mount | Base::Root, _) => block.path.clone(),
        }),
        AttachKind::Iscsi => attach.iscsi.as_ref().map(|block| {
            let port = if block.port == 0 { String::new() } else { format!(":{}", block.port) };
            format!("{} lun {} at {}{port}", block.target, block.lun, block.host)
        }),
        AttachKind::Rbd => attach.rbd.as_ref().map(|block| {
            let snapshot = match block.snapshot.as_str() {
                "" | "-" => String::new(),
                name => format!("@{name}"),
            };
            format!("{}/{}{snapshot}", block.pool, block.image)
        }),
        AttachKind::Nbd => attach.nbd.as_ref().map(|block| {
            let server = match (block.socket.is_empty(), block.port) {
                (false, _) => format!("unix:{}", block.socket),
                (true, 0) => block.host.clone(),
                (true, port) => format!("{}:{port}", block.host),
            };
            match block.export.as_str() {
                "" => server,
                export => format!("{export} at {server}"),
            }
        }),
        AttachKind::Slipway => attach.slipway.as_ref().map(|block| format!("{} at {}", block.reference, block.server)),
    };
    text.unwrap_or_default()
}

/// What a mount is made of, in a few words.
pub(crate) fn mount_source(mount: &Mount) -> String {
    let Some(kind) = mount.kind else { return String::new() };
    let text = match kind {
        MountKind::Attach => {
            mount.attach.as_ref().map(|block| format!("{} of {}", block.fs_type, device(&block.attach)))
        }
        MountKind::Bind => mount.bind.as_ref().map(|block| match (block.base, &block.mount) {
            (Base::Mount, Some(mount)) => format!("{} in mount {}", block.path, mount.id),
            (Base::Mount | Base::Root, _) => block.path.clone(),
        }),
        MountKind::Nfs => mount.nfs.as_ref().map(|block| format!("{}:{}", block.host, block.path)),
        MountKind::Overlay => mount.overlay.as_ref().map(|block| {
            let lower: Vec<String> = block.lower.iter().map(|lower| lower.id.to_string()).collect();
            format!("{} {}", if lower.len() == 1 { "mount" } else { "mounts" }, lower.join(", "))
        }),
        MountKind::Uri => mount.uri.as_ref().map(|block| block.uri.clone()),
    };
    text.unwrap_or_default()
}

fn device(attach: &Attach) -> String {
    match attach.device_file.as_str() {
        "" => format!("attachment {}", attach.id),
        file => file.to_owned(),
    }
}

fn health(health: Health, error: Option<&StepError>) -> String {
    let word = match health {
        Health::Ready => return "ready".into(),
        Health::Pending => "pending",
        Health::Removing => "removing",
        Health::Lost => "lost",
        Health::Degraded => "degraded",
    };
    match error {
        Some(error) => format!("{word}: {}", error.text),
        None => word.into(),
    }
}

/// How an init ended: `0`, `7`, `signal 9`, `signal 9, out of memory`.
pub(crate) fn exit_text(exit: &Exit) -> String {
    let mut text = match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("signal {signal}"),
        (Some(code), None) => code.to_string(),
        (None, None) => "unknown".into(),
    };
    if exit.oom {
        text.push_str(", out of memory");
    }
    text
}

/// What this program's own exit code is when a process ended like this: as shells have it.
pub(crate) fn exit_code(exit: &Exit) -> u8 {
    let code = match (exit.code, exit.signal) {
        (_, Some(signal)) => 128 + (signal & 0x7f),
        (Some(code), None) => code & 0xff,
        (None, None) => 255,
    };
    u8::try_from(code).unwrap_or(255)
}

/// What a container is at, for a table.
pub(crate) fn state(container: &Container, now: Timestamp) -> String {
    let word = container.state.as_str();
    match (container.state, &container.exit) {
        (ContainerState::Running, _) => {
            let since = container.started_at_ms.map(|at| format!(" {}", since(at, now))).unwrap_or_default();
            let ready = if container.systemd && !container.ready { ", not ready" } else { "" };
            format!("{word}{since}{ready}")
        }
        (ContainerState::Exited | ContainerState::Dead, Some(exit)) => format!("{word} ({})", exit_text(exit)),
        (ContainerState::Dead, None) if container.error.is_some() => "dead (not started)".into(),
        (ContainerState::Created | ContainerState::Paused | ContainerState::Stopping, _)
        | (ContainerState::Exited | ContainerState::Dead, None) => word.into(),
    }
}

fn since(at_ms: i64, now: Timestamp) -> String {
    let passed = u64::try_from(now.as_millisecond() - at_ms).unwrap_or(0);
    duration(Duration::from_millis(passed))
}

fn time(at_ms: Option<i64>) -> String {
    let at = at_ms.and_then(|at| Timestamp::from_millisecond(at).ok());
    at.map(|at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

/// Containers as a table.
pub(crate) fn container_table(containers: &[Container]) -> Table {
    let mut table = Table::new(&["NAME", ">ID", "STATE", ">PID", "ROOT", "COMMAND"]);
    let now = Timestamp::now();
    for container in containers {
        table.row(vec![
            container.name.clone(),
            container.id.to_string(),
            state(container, now),
            container.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            container.mount.as_ref().map(root).unwrap_or_default(),
            container.command.clone(),
        ]);
    }
    table
}

/// What a root comes from in the end: the image below an overlay and its file system.
fn root(mount: &Mount) -> String {
    if let Some(lower) = mount.overlay.as_ref().and_then(|block| block.lower.first()) {
        return root(lower);
    }
    match mount.attach.as_ref().map(|block| attach_source(&block.attach)) {
        Some(source) if !source.is_empty() => source,
        _ => match mount_source(mount) {
            source if source.is_empty() => format!("mount {}", mount.id),
            source => source,
        },
    }
}

/// Attachments and mounts as a table.
pub(crate) fn object_table(objects: &[Object], all: &Everything) -> Table {
    let mut table = Table::new(&[">ID", "OBJECT", "KIND", "SOURCE", "WHERE", "USED BY", "STATE"]);
    for object in objects {
        let (kind, source, place, state) = match object {
            Object::Attach(attach) => (
                attach.kind.map(AttachKind::as_str).unwrap_or_default(),
                attach_source(attach),
                attach.device_file.clone(),
                health(attach.health, attach.error.as_ref()),
            ),
            Object::Mount(mount) => (
                mount.kind.map(MountKind::as_str).unwrap_or_default(),
                mount_source(mount),
                mount.mountpoint.clone(),
                health(mount.health, mount.error.as_ref()),
            ),
            Object::Container(container) => ("", String::new(), String::new(), container.state.as_str().into()),
        };
        let used: Vec<String> = all.parents(object.id()).iter().map(ToString::to_string).collect();
        table.row(vec![
            object.id().to_string(),
            if object.noun() == "attachment" { "attach" } else { object.noun() }.to_owned(),
            kind.to_owned(),
            source,
            place,
            used.join(", "),
            state,
        ]);
    }
    table
}

/// An object with all that it stands on.
pub(crate) fn object_text(object: &Object, all: &Everything) -> String {
    match object {
        Object::Container(container) => container_text(container),
        Object::Mount(mount) => {
            let block = mount.overlay.as_ref();
            let mut text = facts(&[
                ("Mount", mount.id.to_string()),
                ("Kind", mount.kind.map(MountKind::as_str).unwrap_or_default().to_owned()),
                ("At", mount.mountpoint.clone()),
                ("State", health(mount.health, mount.error.as_ref())),
                ("Changes", block.map(|block| block.upperdir.clone()).unwrap_or_default()),
                ("Used by", used(all, mount.id, mount.refs)),
                ("Labels", labels(&mount.labels)),
                ("Made", time(mount.created_at_ms)),
            ]);
            text.push_str("Made of\n");
            mount_tree(&mut text, mount, 1);
            text
        }
        Object::Attach(attach) => {
            let mut text = facts(&[
                ("Attachment", attach.id.to_string()),
                ("Kind", attach.kind.map(AttachKind::as_str).unwrap_or_default().to_owned()),
                ("Device", attach.device_file.clone()),
                ("State", health(attach.health, attach.error.as_ref())),
                ("Used by", used(all, attach.id, attach.refs)),
                ("Labels", labels(&attach.labels)),
                ("Made", time(attach.created_at_ms)),
            ]);
            text.push_str("Made of\n");
            attach_tree(&mut text, attach, 1);
            text
        }
    }
}

fn used(all: &Everything, id: u64, refs: u64) -> String {
    let mut words: Vec<String> = all.parents(id).iter().map(ToString::to_string).collect();
    if all.is_asked_for(id, refs) {
        words.push("whoever made it".into());
    }
    words.join(", ")
}

fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn container_text(container: &Container) -> String {
    let limits = container.resources.as_ref().map(|limits| {
        let mut words = Vec::new();
        if limits.memory > 0 {
            words.push(format!("{} of memory", size(limits.memory)));
        }
        if limits.cpu_millis > 0 {
            words.push(format!("{} processors", limits.cpu_millis as f64 / 1000.0));
        }
        if limits.pids > 0 {
            words.push(count(limits.pids, "task"));
        }
        words.join(", ")
    });
    let env: Vec<&str> = container.env.keys().map(String::as_str).collect();
    let mut text = facts(&[
        ("Container", called(container)),
        ("Number", container.id.to_string()),
        ("State", state(container, Timestamp::now())),
        ("Error", container.error.as_ref().map(|error| error.text.clone()).unwrap_or_default()),
        ("Command", container.command.clone()),
        ("Systemd", if container.systemd { "yes".into() } else { String::new() }),
        ("Process", container.pid.map(|pid| pid.to_string()).unwrap_or_default()),
        ("Ended", container.exit.as_ref().map(exit_text).unwrap_or_default()),
        ("Restarts", if container.restarts > 0 { container.restarts.to_string() } else { String::new() }),
        ("OOM kills", if container.ooms > 0 { container.ooms.to_string() } else { String::new() }),
        ("User", container.user.clone()),
        ("Directory", container.cwd.clone()),
        ("Variables", env.join(" ")),
        ("Limits", limits.unwrap_or_default()),
        ("Log", container.logfile.clone()),
        ("Labels", labels(&container.labels)),
        ("Made", time(container.created_at_ms)),
        ("Started", time(container.started_at_ms)),
    ]);
    if let Some(mount) = &container.mount {
        text.push_str("Root\n");
        mount_tree(&mut text, mount, 1);
    }
    text
}

fn line(text: &mut String, depth: usize, words: &str) {
    text.push_str(&"  ".repeat(depth));
    text.push_str(crate::human::clean(words).trim_end());
    text.push('\n');
}

fn mount_tree(text: &mut String, mount: &Mount, depth: usize) {
    let kind = mount.kind.map(MountKind::as_str).unwrap_or_default();
    let at = if mount.mountpoint.is_empty() { String::new() } else { format!(" at {}", mount.mountpoint) };
    line(text, depth, &format!("mount {} {kind} {}{at}", mount.id, mount_source(mount)));
    if let Some(block) = &mount.attach {
        attach_tree(text, &block.attach, depth + 1);
    }
    if let Some(below) = mount.bind.as_ref().and_then(|block| block.mount.as_ref()) {
        mount_tree(text, below, depth + 1);
    }
    for lower in mount.overlay.iter().flat_map(|block| &block.lower) {
        mount_tree(text, lower, depth + 1);
    }
}

fn attach_tree(text: &mut String, attach: &Attach, depth: usize) {
    let kind = attach.kind.map(AttachKind::as_str).unwrap_or_default();
    let at = if attach.device_file.is_empty() { String::new() } else { format!(" as {}", attach.device_file) };
    line(text, depth, &format!("attach {} {kind} {}{at}", attach.id, attach_source(attach)));
    if let Some(below) = attach.loopback.as_ref().and_then(|block| block.mount.as_ref()) {
        mount_tree(text, below, depth + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::{attach_source, exit_code, mount_source, object_text};
    use crate::node::find::{Everything, Object};
    use serde_json::from_str;
    use slipway_api::node::Exit;

    #[test]
    fn sources_are_short() {
        for (json, shown) in [
            (r#"{"kind":"loopback","loopback":{"path":"/a.img"}}"#, "/a.img"),
            (r#"{"kind":"loopback","loopback":{"path":"a.img","base":"mount","mount":{"id":3}}}"#, "a.img in mount 3"),
            (r#"{"kind":"iscsi","iscsi":{"target":"iqn.x:y","host":"s","lun":1}}"#, "iqn.x:y lun 1 at s"),
            (r#"{"kind":"rbd","rbd":{"pool":"p","image":"i","snapshot":"-"}}"#, "p/i"),
            (r#"{"kind":"rbd","rbd":{"pool":"p","image":"i","snapshot":"s"}}"#, "p/i@s"),
            (r#"{"kind":"nbd","nbd":{"host":"h","port":5,"export":"e"}}"#, "e at h:5"),
            (r#"{"kind":"nbd","nbd":{"socket":"/s"}}"#, "unix:/s"),
            ("{}", ""),
        ] {
            assert_eq!(attach_source(&from_str(json).unwrap()), shown, "{json}");
        }
        for (json, shown) in [
            (r#"{"kind":"nfs","nfs":{"host":"h","path":"/p"}}"#, "h:/p"),
            (r#"{"kind":"overlay","overlay":{"lower":[{"id":1},{"id":2}]}}"#, "mounts 1, 2"),
            (r#"{"kind":"attach","attach":{"attach":{"id":4},"fs_type":"xfs"}}"#, "xfs of attachment 4"),
        ] {
            assert_eq!(mount_source(&from_str(json).unwrap()), shown, "{json}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_shells() {
        for (code, signal, shown) in
            [(Some(0), None, 0), (Some(7), None, 7), (None, Some(9), 137), (Some(3), Some(15), 143), (None, None, 255)]
        {
            assert_eq!(exit_code(&Exit { code, signal, ..Exit::default() }), shown);
        }
    }

    #[test]
    fn a_container_is_shown_with_all_it_stands_on() {
        let json = r#"{"id":4,"name":"web","command":"/init","state":"exited","exit":{"code":0,"at_ms":0},
            "mount":{"id":3,"kind":"overlay","mountpoint":"/run/m/3","overlay":{"lower":[{"id":2,"kind":"attach",
            "attach":{"fs_type":"squashfs","attach":{"id":1,"kind":"loopback","device_file":"/dev/loop7","loopback":{"path":"/a\u001b[1m"}}}}]}}}"#;
        let text = object_text(&Object::Container(Box::new(from_str(json).unwrap())), &Everything::default());
        let tree = "Root\n  mount 3 overlay mount 2 at /run/m/3\n    mount 2 attach squashfs of /dev/loop7\n      attach 1 loopback /a\\u{1b}[1m as /dev/loop7\n";
        assert!(text.contains("State      exited (0)\n") && text.ends_with(tree), "{text}");
    }
}

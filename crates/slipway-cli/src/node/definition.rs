//! Files of definitions: attachments, mounts and containers in the API's own shape, as YAML or JSON.

use super::strict::typed;
use super::variables::Variables;
use crate::failure::Failure;
use crate::near::nearest;
use serde_json::Value;
use slipway_api::node::{Attach, AttachKind, Container, ContainerState, Mount, MountKind};

/// The most bytes that a file may have.
pub(crate) const FILE_MAX: u64 = 1 << 20;

/// What shall be on a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Definition {
    Attach(Box<Attach>),
    Mount(Box<Mount>),
    Container(Box<Container>),
}

/// A definition, and how it is called in messages: by a container's name, else by its place in the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Placed {
    pub(crate) called: String,
    pub(crate) definition: Definition,
}

/// What is wrong with a file: where, what.
type Wrong = String;

/// Reads all definitions of a text; `json` when its name says so.
pub(crate) fn read(name: &str, text: &str, json: bool, variables: &mut Variables) -> Result<Vec<Placed>, Failure> {
    let wrong = |what: Wrong| {
        Failure::usage(format!("reading {name}: {what}"))
            .next("correct the file; 'slipway node apply --dry-run -f FILE' looks at it and changes nothing")
    };
    let mut values = documents(text, json).map_err(wrong)?;
    if values.is_empty() {
        return Err(wrong("it holds no definitions".into()));
    }
    for value in &mut values {
        variables
            .fill(value)
            .map_err(|text| wrong(format!("in '{text}' a ${{ has no name or no end; $${{ stands for ${{ itself")))?;
    }
    let missing = variables.missing();
    if let Some(first) = missing.first() {
        let options: Vec<String> = missing.iter().map(|name| format!("--set {name}=VALUE")).collect();
        return Err(Failure::usage(format!("reading {name}: {} not set", list(&missing)))
            .next(format!("add {}, or --set-file {first}=FILE for a secret", options.join(" "))));
    }
    if let Some(first) = variables.unused().first() {
        return Err(Failure::usage(format!("reading {name}: it has no ${{{first}}}"))
            .next("leave that --set out, or correct its name"));
    }
    let count = values.len();
    let placed = values.into_iter().enumerate().map(|(at, value)| {
        let place = if count == 1 { String::new() } else { format!("definition {}: ", at + 1) };
        definition(value, at).map_err(|what| wrong(format!("{place}{what}")))
    });
    let placed = placed.collect::<Result<Vec<_>, _>>()?;
    let mut names: Vec<&str> = placed.iter().filter_map(container_name).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(wrong(format!("two containers are called {}", pair[0]))),
        None => Ok(placed),
    }
}

fn list(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("${{{name}}}")).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

fn container_name(placed: &Placed) -> Option<&str> {
    match &placed.definition {
        Definition::Container(container) => Some(&container.name),
        Definition::Attach(_) | Definition::Mount(_) => None,
    }
}

/// The documents of a text; a list in one stands for its items.
fn documents(text: &str, json: bool) -> Result<Vec<Value>, Wrong> {
    let documents: Vec<Value> = match json || text.trim_start().starts_with(['{', '[']) {
        true => vec![serde_json::from_str(text).map_err(|why| why.to_string())?],
        false => serde_saphyr::from_multiple(text).map_err(|why| first_line(&why.without_snippet().to_string()))?,
    };
    let items = documents.into_iter().flat_map(|document| match document {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        other => vec![other],
    });
    Ok(items.collect())
}

fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    match line.contains("budget breached") {
        true => "there is more in it than is read, or its aliases (*) multiply".into(),
        false => line.replace(
            "recursive references require weak recursion types",
            "an alias (*) stands in what it is the name of",
        ),
    }
}

fn definition(value: Value, at: usize) -> Result<Placed, Wrong> {
    let Some(fields) = value.as_object() else { return Err("it is no object with fields".into()) };
    let kind = fields.get("kind").and_then(Value::as_str);
    let place = |kind: &str| format!("{kind} (definition {})", at + 1);
    if fields.contains_key("command") || (fields.contains_key("mount") && kind.is_none()) {
        let container: Container = typed(value)?;
        container_check(&container)?;
        return Ok(Placed { called: container.name.clone(), definition: Definition::Container(Box::new(container)) });
    }
    let Some(kind) = kind else {
        return Err("it has neither 'command', as containers do, nor 'kind', as attachments and mounts do".into());
    };
    if AttachKind::ALL.iter().any(|known| known.as_str() == kind) {
        let called = place(kind);
        let attach: Attach = typed(value)?;
        attach_check("", &attach)?;
        return Ok(Placed { called, definition: Definition::Attach(Box::new(attach)) });
    }
    if MountKind::ALL.iter().any(|known| known.as_str() == kind) {
        let called = place(kind);
        let mount: Mount = typed(value)?;
        mount_check("", &mount)?;
        return Ok(Placed { called, definition: Definition::Mount(Box::new(mount)) });
    }
    let known: Vec<&str> = AttachKind::ALL
        .iter()
        .map(|kind| kind.as_str())
        .chain(MountKind::ALL.iter().map(|kind| kind.as_str()))
        .collect();
    Err(match nearest(kind, known.iter().copied()) {
        Some(near) => format!("kind '{kind}' is not known; did you mean '{near}'?"),
        None => format!("kind '{kind}' is not known; there are {}", known.join(", ")),
    })
}

fn must(at: &str, fields: &[(&str, bool)]) -> Result<(), Wrong> {
    match fields.iter().find(|(_, given)| !given) {
        Some((field, _)) => Err(format!("{at}{field} is missing")),
        None => Ok(()),
    }
}

fn told(at: &str, fields: &[(&str, bool)]) -> Result<(), Wrong> {
    match fields.iter().find(|(_, given)| *given) {
        Some((field, _)) => Err(format!("{at}{field} is what the service says, and cannot be asked for")),
        None => Ok(()),
    }
}

fn container_check(container: &Container) -> Result<(), Wrong> {
    told(
        "",
        &[
            ("id", container.id > 0),
            ("refs", container.refs > 0),
            ("logfile", !container.logfile.is_empty()),
            ("pid", container.pid.is_some()),
            ("ready", container.ready),
            ("exit", container.exit.is_some()),
            ("restarts", container.restarts > 0),
            ("ooms", container.ooms > 0),
            ("health", !container.health.is_ready()),
            ("created_at_ms", container.created_at_ms.is_some()),
            ("started_at_ms", container.started_at_ms.is_some()),
            ("error", container.error.is_some()),
        ],
    )?;
    must(
        "",
        &[
            ("name", !container.name.is_empty()),
            ("command", !container.command.trim().is_empty()),
            ("mount", container.mount.is_some()),
        ],
    )?;
    if !matches!(container.state, ContainerState::Created | ContainerState::Running) {
        return Err(format!("state is '{}'; it can be asked to be created or running", container.state.as_str()));
    }
    container.mount.as_ref().map_or(Ok(()), |mount| mount_check("mount.", mount))
}

fn mount_check(at: &str, mount: &Mount) -> Result<(), Wrong> {
    if mount.id > 0 && !at.is_empty() {
        return match *mount == (Mount { id: mount.id, ..Mount::default() }) {
            true => Ok(()),
            false => Err(format!("{at}id names a mount that is there; nothing else may stand beside it")),
        };
    }
    told(
        at,
        &[
            ("id", mount.id > 0),
            ("mountpoint", !mount.mountpoint.is_empty()),
            ("refs", mount.refs > 0),
            ("health", !mount.health.is_ready()),
            ("error", mount.error.is_some()),
            ("created_at_ms", mount.created_at_ms.is_some()),
        ],
    )?;
    let Some(kind) = mount.kind else { return Err(format!("{at}kind is missing")) };
    let blocks = [
        (MountKind::Attach, mount.attach.is_some()),
        (MountKind::Bind, mount.bind.is_some()),
        (MountKind::Nfs, mount.nfs.is_some()),
        (MountKind::Overlay, mount.overlay.is_some()),
        (MountKind::Uri, mount.uri.is_some()),
    ];
    for (block, given) in blocks {
        match (block == kind, given) {
            (true, false) => return Err(format!("{at}{} is missing, the description of its kind", kind.as_str())),
            (false, true) => return Err(format!("{at}{} does not belong to kind {}", block.as_str(), kind.as_str())),
            (true, true) | (false, false) => {}
        }
    }
    if let Some(block) = &mount.attach {
        must(at, &[("attach.fs_type", !block.fs_type.is_empty())])?;
        attach_check(&format!("{at}attach.attach."), &block.attach)?;
    }
    if let Some(block) = &mount.bind {
        must(at, &[("bind.path", !block.path.is_empty())])?;
        if let Some(below) = &block.mount {
            mount_check(&format!("{at}bind.mount."), below)?;
        }
    }
    if let Some(block) = &mount.nfs {
        must(at, &[("nfs.host", !block.host.is_empty()), ("nfs.path", !block.path.is_empty())])?;
    }
    if let Some(block) = &mount.overlay {
        told(at, &[("overlay.workdir", !block.workdir.is_empty()), ("overlay.upperdir", !block.upperdir.is_empty())])?;
        must(at, &[("overlay.lower", !block.lower.is_empty())])?;
        for (n, lower) in block.lower.iter().enumerate() {
            mount_check(&format!("{at}overlay.lower[{n}]."), lower)?;
        }
    }
    mount.uri.as_ref().map_or(Ok(()), |block| must(at, &[("uri.uri", !block.uri.is_empty())]))
}

fn attach_check(at: &str, attach: &Attach) -> Result<(), Wrong> {
    if attach.id > 0 && !at.is_empty() {
        return match *attach == (Attach { id: attach.id, ..Attach::default() }) {
            true => Ok(()),
            false => Err(format!("{at}id names an attachment that is there; nothing else may stand beside it")),
        };
    }
    told(
        at,
        &[
            ("id", attach.id > 0),
            ("device_file", !attach.device_file.is_empty()),
            ("refs", attach.refs > 0),
            ("health", !attach.health.is_ready()),
            ("error", attach.error.is_some()),
            ("created_at_ms", attach.created_at_ms.is_some()),
        ],
    )?;
    let Some(kind) = attach.kind else { return Err(format!("{at}kind is missing")) };
    let blocks = [
        (AttachKind::Iscsi, attach.iscsi.is_some()),
        (AttachKind::Local, attach.local.is_some()),
        (AttachKind::Loopback, attach.loopback.is_some()),
        (AttachKind::Rbd, attach.rbd.is_some()),
        (AttachKind::Nbd, attach.nbd.is_some()),
        (AttachKind::Slipway, attach.slipway.is_some()),
    ];
    for (block, given) in blocks {
        match (block == kind, given) {
            (true, false) => return Err(format!("{at}{} is missing, the description of its kind", kind.as_str())),
            (false, true) => return Err(format!("{at}{} does not belong to kind {}", block.as_str(), kind.as_str())),
            (true, true) | (false, false) => {}
        }
    }
    if let Some(block) = &attach.loopback {
        must(at, &[("loopback.path", !block.path.is_empty())])?;
        if let Some(below) = &block.mount {
            mount_check(&format!("{at}loopback.mount."), below)?;
        }
    }
    if let Some(block) = &attach.iscsi {
        let given = [
            ("iscsi.initiator", !block.initiator.is_empty()),
            ("iscsi.target", !block.target.is_empty()),
            ("iscsi.host", !block.host.is_empty()),
        ];
        must(at, &given)?;
    }
    if let Some(block) = &attach.rbd {
        let given = [
            ("rbd.monitors", !block.monitors.is_empty()),
            ("rbd.pool", !block.pool.is_empty()),
            ("rbd.image", !block.image.is_empty()),
        ];
        must(at, &given)?;
        told(at, &[("rbd.device_id", block.device_id > 0)])?;
    }
    if let Some(block) = &attach.nbd {
        must(at, &[("nbd.host, or nbd.socket,", !block.host.is_empty() || !block.socket.is_empty())])?;
    }
    if let Some(block) = &attach.slipway {
        must(at, &[("slipway.ref", !block.reference.is_empty()), ("slipway.server", !block.server.is_empty())])?;
    }
    attach.local.as_ref().map_or(Ok(()), |block| must(at, &[("local.path", !block.path.is_empty())]))
}

#[cfg(test)]
mod tests {
    use super::{Definition, read};
    use crate::node::variables::Variables;

    fn said(text: &str) -> String {
        match read("x.yaml", text, false, &mut Variables::default()) {
            Ok(placed) => placed.iter().map(|placed| placed.called.as_str()).collect::<Vec<_>>().join("; "),
            Err(why) => why.what.trim_start_matches("reading x.yaml: ").to_owned(),
        }
    }

    /// A list of ten to the power of nine items in ten lines.
    fn growing() -> String {
        let list = |of: &str| [of; 10].join(", ");
        let lines = (1..10).map(|at| format!("- &l{at} [{}]\n", list(&format!("*l{}", at - 1))));
        format!("- &l0 [{}]\n", list("x")) + &lines.collect::<String>()
    }

    #[test]
    fn definitions_are_read_or_named() {
        let bind = "kind: bind\nbind: {path: /}\n";
        for (text, wanted) in [
            ("name: web\ncommand: /init\nmount: {id: 3}\n", "web"),
            (
                "kind: loopback\nloopback:\n  path: /a\n---\nkind: nfs\nnfs: {host: h, path: /p}\n",
                "loopback (definition 1); nfs (definition 2)",
            ),
            ("- {name: a, command: /x, mount: {id: 1}}\n- kind: bind\n  bind: {path: /}\n", "a; bind (definition 2)"),
            (r#"{"name":"web","command":"/init","mount":{"id":3},"env":{"A":"1"}}"#, "web"),
            ("", "it holds no definitions"),
            ("---\n# nothing\n", "it holds no definitions"),
            ("just words", "it is no object with fields"),
            ("a: b", "it has neither 'command', as containers do, nor 'kind', as attachments and mounts do"),
            ("kind: lopback\n", "kind 'lopback' is not known; did you mean 'loopback'?"),
            ("kind: nfs\nnfs: {host: h}\n", "nfs.path is missing"),
            ("kind: nfs\n", "nfs is missing, the description of its kind"),
            ("kind: nfs\nnfs: {host: h, path: /p}\nbind: {path: /}\n", "bind does not belong to kind nfs"),
            ("kind: nfs\nnfs: {host: h, paht: /p}\n", "nfs: there is no field 'paht'; did you mean 'path'?"),
            (
                "name: a\ncommand: /x\nmount: {kind: overlay, overlay: {lower: [{kind: bind, bind: {path: /, readonly: true}}]}}\n",
                "mount.overlay.lower[0].bind: there is no field 'readonly'; there are path, base, mount, recursive, ro",
            ),
            (
                "name: a\ncommand: /x\nmount: {id: 3}\nresources: {memory: 512M}\n",
                "resources.memory: invalid type: string \"512M\", expected a number of bytes",
            ),
            ("name: a\ncomand: /x\nmount: {id: 3}\n", "there is no field 'comand'; did you mean 'command'?"),
            (
                "kind: bind\nbind: {path: /, recursive: perhaps}\n",
                "bind.recursive: invalid type: string \"perhaps\", expected a boolean",
            ),
            (
                "kind: attach\nattach: {fs_type: ext4, attach: {kind: iscsi, iscsi: {target: t, host: h}}}\n",
                "attach.attach.iscsi.initiator is missing",
            ),
            ("command: /init\nmount: {id: 3}\n", "name is missing"),
            (
                "name: a\ncommand: /x\nmount: {id: 3}\nstate: dead\n",
                "state is 'dead'; it can be asked to be created or running",
            ),
            (
                "name: a\ncommand: /x\nmount: {id: 3, kind: bind}\n",
                "mount.id names a mount that is there; nothing else may stand beside it",
            ),
            (
                "name: a\ncommand: /x\nmount: {kind: overlay, overlay: {lower: [{kind: bind}]}}\n",
                "mount.overlay.lower[0].bind is missing, the description of its kind",
            ),
            (
                "kind: bind\nbind: {path: /}\nmountpoint: /x\n",
                "mountpoint is what the service says, and cannot be asked for",
            ),
            (
                "- {name: a, command: /x, mount: {id: 1}}\n- {name: a, command: /x, mount: {id: 1}}\n",
                "two containers are called a",
            ),
            (
                &format!("{bind}---\nkind: x\n"),
                "definition 2: kind 'x' is not known; there are iscsi, local, loopback, rbd, nbd, slipway, attach, bind, nfs, overlay, uri",
            ),
        ] {
            assert_eq!(said(text), wanted, "{text}");
        }
        // What holds itself has no end, and what grows by being named again and again is not let grow.
        let cycle = said("&a\nkind: overlay\noverlay: {lower: [*a]}\n");
        assert!(cycle.starts_with("an alias (*) stands in what it is the name of at line 3"), "{cycle}");
        let grown = said(&growing());
        assert!(grown.contains("aliases (*) multiply"), "{grown}");
        assert!(said("a: [").contains("line 1"), "{}", said("a: ["));
        assert!(said("{\"a\":").contains("line 1"), "{}", said("{\"a\":"));
    }

    #[test]
    fn variables_are_filled_in_before_anything_is_looked_at() {
        let text = "kind: nfs\nnfs: {host: \"${host}\", path: \"/x/${what}\"}\n";
        let filled = |values: &[(&str, &str)]| {
            let values = values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            read("x", text, false, &mut Variables::new(values))
        };
        let placed = filled(&[("host", "s1"), ("what", "home: 1")]).unwrap();
        let Definition::Mount(mount) = &placed[0].definition else { panic!("{placed:?}") };
        assert_eq!(mount.nfs.as_ref().unwrap().path, "/x/home: 1");
        assert!(filled(&[]).unwrap_err().what.ends_with("${host}, ${what} are not set"));
        let extra = filled(&[("host", "a"), ("what", "b"), ("hots", "c")]).unwrap_err();
        assert!(extra.what.contains("${hots}"), "{extra:?}");
    }
}

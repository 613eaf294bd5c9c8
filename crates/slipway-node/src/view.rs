//! Objects as they are answered: nested ones are shown in full again, with what only the service knows.

use crate::object::{Entry, Phase, Proof, What};
use crate::plan::NESTING_MAX;
use crate::table::Table;
use slipway_api::node::{Attach, Base, Container, Health, Mount, ObjectId, StepError};

/// An attachment, if the entry is one.
pub fn attach_view(table: &Table, entry: &Entry) -> Option<Attach> {
    attach_at(table, entry, 0, false)
}

/// A mount, if the entry is one.
pub fn mount_view(table: &Table, entry: &Entry) -> Option<Mount> {
    mount_at(table, entry, 0, false)
}

/// A container, if the entry is one, as far as the table knows it.
pub fn container_view(table: &Table, entry: &Entry) -> Option<Container> {
    let What::Container(container) = &entry.what else { return None };
    let mut view = container.as_ref().clone();
    view.id = entry.id;
    view.refs = refs(entry);
    view.created_at_ms = Some(entry.created_at_ms);
    view.mount = Some(mount_child(table, entry.children.first().copied(), 1, false));
    Some(view)
}

fn refs(entry: &Entry) -> u64 {
    entry.claims.len() as u64
}

/// Whether all that it stands on is there; known if something `above` it, which stands on the same, is whole.
fn whole(table: &Table, entry: &Entry, above: bool) -> bool {
    above || table.is_whole(entry)
}

fn health(table: &Table, entry: &Entry, whole: bool) -> (Health, Option<StepError>) {
    match &entry.phase {
        Phase::Making => (Health::Pending, None),
        Phase::Pending(error) => (Health::Pending, Some(error.clone())),
        Phase::Ready if table.trouble(entry.id).is_some() => (Health::Degraded, table.trouble(entry.id).cloned()),
        Phase::Ready if whole => (Health::Ready, None),
        Phase::Ready => (Health::Degraded, None),
        Phase::Removing(error) => (Health::Removing, error.clone()),
        Phase::Lost(error) => (Health::Lost, Some(error.clone())),
    }
}

fn attach_at(table: &Table, entry: &Entry, depth: usize, above: bool) -> Option<Attach> {
    let What::Attach(attach) = &entry.what else { return None };
    let mut view = attach.as_ref().clone();
    view.id = entry.id;
    view.refs = refs(entry);
    view.created_at_ms = Some(entry.created_at_ms);
    let whole = whole(table, entry, above);
    (view.health, view.error) = health(table, entry, whole);
    if let Some(Proof { device, detail, .. }) = &entry.proof {
        view.device_file.clone_from(device);
        if let Some(rbd) = &mut view.rbd {
            rbd.device_id = detail.get("device_id").and_then(serde_json::Value::as_u64).unwrap_or_default();
        }
    }
    if let Some(block) = &mut view.loopback
        && block.base == Base::Mount
    {
        block.mount = Some(Box::new(mount_child(table, entry.children.first().copied(), depth + 1, whole)));
    }
    Some(view)
}

fn mount_at(table: &Table, entry: &Entry, depth: usize, above: bool) -> Option<Mount> {
    let What::Mount(mount) = &entry.what else { return None };
    let mut view = mount.as_ref().clone();
    view.id = entry.id;
    view.refs = refs(entry);
    view.created_at_ms = Some(entry.created_at_ms);
    let whole = whole(table, entry, above);
    (view.health, view.error) = health(table, entry, whole);
    let first = entry.children.first().copied();
    if let Some(block) = &mut view.attach {
        *block.attach = attach_child(table, first, depth + 1, whole);
    }
    if let Some(block) = &mut view.bind
        && block.base == Base::Mount
    {
        block.mount = Some(Box::new(mount_child(table, first, depth + 1, whole)));
    }
    if let Some(block) = &mut view.overlay {
        block.lower = entry.children.iter().map(|id| mount_child(table, Some(*id), depth + 1, whole)).collect();
    }
    if let Some(Proof { mountpoint, detail, .. }) = &entry.proof {
        view.mountpoint.clone_from(mountpoint);
        let text = |key: &str| detail.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        if let Some(block) = &mut view.overlay {
            (block.upperdir, block.workdir) = (text("upperdir"), text("workdir"));
        }
    }
    Some(view)
}

/// Chains by number have no limit, answers have: what lies deeper is named and not shown.
fn mount_child(table: &Table, id: Option<ObjectId>, depth: usize, above: bool) -> Mount {
    let id = id.unwrap_or_default();
    let shown = table.get(id).filter(|_| depth < NESTING_MAX).and_then(|entry| mount_at(table, entry, depth, above));
    shown.unwrap_or_else(|| Mount { id, ..Mount::default() })
}

fn attach_child(table: &Table, id: Option<ObjectId>, depth: usize, above: bool) -> Attach {
    let id = id.unwrap_or_default();
    let shown = table.get(id).filter(|_| depth < NESTING_MAX).and_then(|entry| attach_at(table, entry, depth, above));
    shown.unwrap_or_else(|| Attach { id, ..Attach::default() })
}

#[cfg(test)]
mod tests {
    use super::mount_view;
    use crate::plan::{Draft, NESTING_MAX};
    use crate::table::Table;

    fn add(table: &mut Table, json: &str) -> u64 {
        let ids = table.admit(Draft::mount(serde_json::from_str(json).unwrap()).unwrap(), 7).unwrap();
        for id in &ids {
            table.made(*id, None);
        }
        *ids.last().unwrap()
    }

    #[test]
    fn nested_objects_are_shown_as_they_were_asked_for() {
        let mut table = Table::default();
        let asked = r#"{"kind":"overlay","overlay":{"lower":[{"kind":"attach","attach":{"fs_type":"squashfs",
            "attach":{"kind":"loopback","loopback":{"path":"/a","base":"root"}}}}]}}"#;
        let id = add(&mut table, asked);
        let view = serde_json::to_value(mount_view(&table, table.get(id).unwrap()).unwrap()).unwrap();
        let expected = serde_json::json!({
            "id": 3, "kind": "overlay", "refs": 1, "created_at_ms": 7,
            "overlay": {"lower": [{
                "id": 2, "kind": "attach", "refs": 1, "created_at_ms": 7,
                "attach": {
                    "fs_type": "squashfs", "mount_options": null,
                    "attach": {
                        "id": 1, "kind": "loopback", "refs": 1, "created_at_ms": 7,
                        "loopback": {"path": "/a", "base": "root"},
                    },
                },
            }]},
        });
        assert_eq!(view, expected);
    }

    #[test]
    fn a_long_chain_is_cut_in_the_answer() {
        let mut table = Table::default();
        let mut id = add(&mut table, r#"{"kind":"bind","bind":{"path":"/","base":"root"}}"#);
        for _ in 0..10_000 {
            id = add(
                &mut table,
                &format!(r#"{{"kind":"bind","bind":{{"path":"/","base":"mount","mount":{{"id":{id}}}}}}}"#),
            );
        }
        let mut shown = mount_view(&table, table.get(id).unwrap()).unwrap();
        let mut levels = 1;
        while let Some(inner) = shown.bind.and_then(|bind| bind.mount) {
            shown = *inner;
            levels += 1;
        }
        assert_eq!((levels, shown.kind, shown.id), (NESTING_MAX + 1, None, 10_001 - NESTING_MAX as u64));
    }
}

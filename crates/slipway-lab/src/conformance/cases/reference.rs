//! Numbers, claims, and what follows when something goes.

use super::{Case, case, differs};
use crate::conformance::bench::{Bench, Outcome, SOON, holds, id, same, until};
use serde_json::{Value, json};

pub(super) const CASES: &[Case] = &[
    case("reference_numbers_grow", numbers_grow),
    case("reference_counts", counts),
    case("reference_cascade_at_once", cascade),
    case("reference_shared_by_two", shared),
    case("reference_half_made_is_undone", half_made),
    case("reference_unknown_id", unknown_id),
    differs("reference_id_of_another_type", "leaks a claim of the object", other_type),
    case("reference_forced", forced),
    differs("reference_forced_busy", "takes it from under its users", forced_busy),
    case("reference_sixty_levels", sixty_levels),
    differs("reference_a_hundred_levels", "has no limit", hundred_levels),
    case("reference_a_chain_of_a_thousand", chain),
    case("reference_a_cycle_cannot_be_asked_for", cycle),
];

fn numbers_grow(b: &Bench) -> Outcome {
    let attach = id(&b.made("/attach", &b.looped("jail/disk"))?);
    let mount = id(&b.made("/mount", &b.bind("rootfs"))?);
    let container = id(&b.made("/container", &json!({"mount": {"id": mount}, "command": "/bin/true"}))?);
    holds(attach < mount && mount < container, || format!("one counter, got {attach}, {mount}, {container}"))?;
    b.delete(&format!("/container?id={container}"))?.is(200)?;
    let again = id(&b.made("/mount", &b.bind("rootfs"))?);
    holds(again > container, || format!("no number twice, got {again} after {container}"))
}

fn on_attach(attach: Value) -> Value {
    json!({"kind": "attach", "attach": {"fs_type": "squashfs", "attach": attach}})
}

fn counts(b: &Bench) -> Outcome {
    let attach = id(&b.made("/attach", &b.looped("rootfs.squashfs"))?);
    let refs = |wanted: u64| same("refs of the attachment", &b.one("/attach", attach)?["refs"], wanted);
    refs(1)?;
    let first = id(&b.made("/mount", &on_attach(json!({"id": attach})))?);
    refs(2)?;
    let second = id(&b.made("/mount", &on_attach(json!({"id": attach})))?);
    refs(3)?;
    let refused = b.delete(&format!("/attach?id={attach}"))?.refused(409, 409, "object is busy")?;
    same("holders", refused["holders"].as_array().map_or(0, Vec::len), 2)?;
    b.delete(&format!("/mount?id={first}"))?.is(200)?;
    refs(2)?;
    b.delete(&format!("/mount?id={second}"))?.is(200)?;
    refs(1)?;
    // With an id the rest of the description does not matter.
    let mut both = b.looped("nothing");
    both["id"] = json!(attach);
    let third = b.made("/mount", &on_attach(both))?;
    same("the attachment", id(&third["attach"]["attach"]), attach)?;
    b.delete(&format!("/mount?id={}", id(&third)))?.is(200)?;
    b.delete(&format!("/attach?id={attach}"))?.is(200)?;
    Ok(())
}

fn cascade(b: &Bench) -> Outcome {
    let made = b.made("/container", &json!({"mount": b.layered(), "command": "/bin/true"}))?;
    let overlay = &made["mount"];
    let image = &overlay["overlay"]["lower"][0];
    let attach = &image["attach"]["attach"];
    for inner in [overlay, image, attach] {
        same("refs of what is inside", &inner["refs"], 1)?;
    }
    for (path, inner) in [("/mount", overlay), ("/mount", image), ("/attach", attach)] {
        b.delete(&format!("{path}?id={}", id(inner)))?.refused(409, 409, "object is busy")?;
    }
    b.delete(&format!("/container?id={}", id(&made)))?.is(200)?;
    let begun = std::time::Instant::now();
    for (path, inner) in [("/mount", overlay), ("/mount", image), ("/attach", attach)] {
        holds(until(SOON, || b.is_gone(path, id(inner)))?, || format!("{path} {} gone with the container", id(inner)))?;
    }
    holds(begun.elapsed().as_millis() < 1000, || format!("all gone within a second, took {:?}", begun.elapsed()))
}

fn shared(b: &Bench) -> Outcome {
    let tree = id(&b.made("/mount", &b.bind("rootfs"))?);
    let run = || b.made("/container", &json!({"mount": {"id": tree}, "command": "/bin/true"}));
    let (first, second) = (id(&run()?), id(&run()?));
    same("refs", &b.one("/mount", tree)?["refs"], 3)?;
    b.delete(&format!("/container?id={first}"))?.is(200)?;
    b.delete(&format!("/container?id={second}"))?.is(200)?;
    same("refs", &b.one("/mount", tree)?["refs"], 1)?;
    b.delete(&format!("/mount?id={tree}"))?.is(200)?;
    Ok(())
}

fn half_made(b: &Bench) -> Outcome {
    let before = b.ids()?;
    let good = on_attach(b.looped("rootfs.squashfs"));
    let bad = on_attach(b.looped("rootfs.ext4"));
    b.post("/mount", &json!({"kind": "overlay", "overlay": {"lower": [good, b.bind("upper"), bad]}}))?.refused(
        500,
        500,
        "operation failed",
    )?;
    let missing = json!({"kind": "overlay", "overlay": {"lower": [good, b.bind("nothing")]}});
    b.post("/mount", &missing)?.refused(400, 400, "invalid data type")?;
    b.post("/container", &json!({"mount": missing, "command": "/bin/true"}))?.refused(400, 400, "invalid data type")?;
    holds(until(SOON, || Ok(b.ids()? == before))?, || format!("objects {before:?} only, got {:?}", b.ids()))
}

fn unknown_id(b: &Bench) -> Outcome {
    let none = json!({"id": 999_999_999_u64});
    let before = b.ids()?;
    b.post("/mount", &on_attach(none.clone()))?.refused(404, 404, "not found")?;
    b.post("/mount", &json!({"kind": "overlay", "overlay": {"lower": [b.bind("rootfs"), none]}}))?.refused(
        404,
        404,
        "not found",
    )?;
    b.post("/container", &json!({"mount": none, "command": "/bin/true"}))?.refused(404, 404, "not found")?;
    let body = json!({"kind": "loopback", "loopback": {"path": "/x", "base": "mount", "mount": none}});
    b.post("/attach", &body)?.refused(404, 404, "not found")?;
    holds(b.ids()? == before, || format!("objects {before:?} only, got {:?}", b.ids()))
}

fn other_type(b: &Bench) -> Outcome {
    let attach = id(&b.made("/attach", &b.looped("rootfs.squashfs"))?);
    let mount = id(&b.made("/mount", &b.bind("rootfs"))?);
    b.post("/mount", &on_attach(json!({"id": mount})))?.refused(404, 404, "not found")?;
    b.post("/container", &json!({"mount": {"id": attach}, "command": "/bin/true"}))?.refused(404, 404, "not found")?;
    same("refs", &b.one("/attach", attach)?["refs"], 1)?;
    same("refs", &b.one("/mount", mount)?["refs"], 1)
}

fn forced(b: &Bench) -> Outcome {
    let below = id(&b.made("/mount", &b.bind("rootfs"))?);
    let above = id(
        &b.made("/mount", &json!({"kind": "bind", "bind": {"path": "/etc", "base": "mount", "mount": {"id": below}}}))?
    );
    b.delete(&format!("/mount?id={below}&force=true"))?.is(200)?;
    holds(b.is_gone("/mount", below)?, || "the lower mount gone".into())?;
    holds(!b.is_gone("/mount", above)?, || "the upper mount still there".into())?;
    b.delete(&format!("/mount?id={above}"))?.is(200)?;
    Ok(())
}

fn forced_busy(b: &Bench) -> Outcome {
    let made = b.made("/mount", &on_attach(b.looped("rootfs.squashfs")))?;
    let attach = id(&made["attach"]["attach"]);
    let refused = b.delete(&format!("/attach?id={attach}&force=true"))?.refused(409, 409, "object is busy")?;
    let mounted = refused["holders"].as_array().into_iter().flatten().any(|one| one["path"] == made["mountpoint"]);
    holds(mounted, || format!("the mount among the holders, got {refused}"))?;
    same("the mount, unchanged", &b.one("/mount", id(&made))?, &made)
}

fn nested(b: &Bench, levels: usize) -> Value {
    let mut mount = b.bind("jail");
    for _ in 1..levels {
        mount = json!({"kind": "bind", "bind": {"path": "/", "base": "mount", "mount": mount}});
    }
    mount
}

fn sixty_levels(b: &Bench) -> Outcome {
    let before = b.ids()?.len();
    let made = b.made("/mount", &nested(b, 64))?;
    same("objects", b.ids()?.len(), before + 64)?;
    let mut levels = 1;
    let mut inner = &made;
    while inner["bind"]["mount"].is_object() {
        inner = &inner["bind"]["mount"];
        levels += 1;
    }
    same("levels shown", levels, 64)?;
    b.delete(&format!("/mount?id={}", id(&made)))?.is(200)?;
    holds(until(SOON, || Ok(b.ids()?.len() == before))?, || format!("all gone, got {:?}", b.ids()))
}

fn hundred_levels(b: &Bench) -> Outcome {
    let before = b.ids()?;
    for levels in [65, 100, 400] {
        let refused = b.post("/mount", &nested(b, levels))?;
        holds(refused.status == 400, || format!("400 for {levels} levels, got {refused}"))?;
    }
    holds(b.ids()? == before, || "that nothing was made".into())
}

fn chain(b: &Bench) -> Outcome {
    let mut ids = vec![id(&b.made("/mount", &b.bind("jail"))?)];
    for _ in 1..1000 {
        let on = ids[ids.len() - 1];
        ids.push(id(
            &b.made("/mount", &json!({"kind": "bind", "bind": {"path": "/", "base": "mount", "mount": {"id": on}}}))?
        ));
    }
    let top = ids[ids.len() - 1];
    same("the top of the chain", id(&b.one("/mount", top)?), top)?;
    b.delete(&format!("/mount?id={}", ids[0]))?.refused(409, 409, "object is busy")?;
    for number in ids.into_iter().rev() {
        b.delete(&format!("/mount?id={number}"))?.is(200)?;
    }
    Ok(())
}

/// What refers to something is always younger than it, so the next number is one that nothing has.
fn cycle(b: &Bench) -> Outcome {
    let last = id(&b.made("/mount", &b.bind("jail"))?);
    for number in last + 1..last + 4 {
        let body = json!({"kind": "bind", "bind": {"path": "/", "base": "mount", "mount": {"id": number}}});
        b.post("/mount", &body)?.refused(404, 404, "not found")?;
    }
    Ok(())
}

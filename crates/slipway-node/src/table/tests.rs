use super::Table;
use crate::object::{Phase, Type};
use crate::plan::Draft;
use slipway_api::node::{Attach, Container, Mount, ObjectId, StepError};

fn attach(json: &str) -> Draft {
    Draft::attach(serde_json::from_str::<Attach>(json).unwrap()).unwrap()
}

fn mount(json: &str) -> Draft {
    Draft::mount(serde_json::from_str::<Mount>(json).unwrap()).unwrap()
}

fn container(json: &str) -> Draft {
    Draft::container(serde_json::from_str::<Container>(json).unwrap()).unwrap()
}

const LOOP: &str = r#"{"kind":"loopback","loopback":{"path":"/a.img","base":"root"}}"#;
const NESTED: &str = r#"{"kind":"overlay","overlay":{"lower":[
    {"kind":"attach","attach":{"fs_type":"squashfs","attach":{"kind":"loopback","loopback":{"path":"/a.img","base":"root"}}}},
    {"id":1}]}}"#;

fn all_made(table: &mut Table, draft: Draft) -> Vec<ObjectId> {
    let ids = table.admit(draft, 0).unwrap();
    for id in &ids {
        table.made(*id, None);
    }
    ids
}

fn refs(table: &Table, id: ObjectId) -> usize {
    table.get(id).map_or(0, |entry| entry.claims.len())
}

fn error() -> StepError {
    StepError { step: "umount".into(), errno: Some("EBUSY".into()), text: "busy".into() }
}

#[test]
fn children_come_first_and_a_parent_claims_them() {
    let mut table = Table::default();
    let bind = mount(r#"{"kind":"bind","bind":{"path":"/","base":"root"}}"#);
    assert_eq!(all_made(&mut table, bind), [1]);
    assert_eq!(all_made(&mut table, mount(NESTED)), [2, 3, 4]);
    assert_eq!([1, 2, 3, 4].map(|id| refs(&table, id)), [2, 1, 1, 1]);
    // The inline ones belong to their parent alone, so they cannot be taken from under it.
    for (id, kind) in [(2, Type::Attach), (3, Type::Mount), (1, Type::Mount)] {
        let refusal = table.removal_begin(id, kind, false).unwrap_err();
        assert_eq!((refusal.status, refusal.problem.message.as_str()), (409, "object is busy"));
        assert_eq!(refusal.problem.holders.len(), 1, "{id}");
    }
    table.removal_begin(4, Type::Mount, false).unwrap();
    assert_eq!(table.removed(4), [3]);
    assert!(table.collection_begin(3));
    assert_eq!(table.removed(3), [2]);
    assert!(table.collection_begin(2));
    assert!(table.removed(2).is_empty());
    // What was only referred to stays for its creator.
    assert_eq!(refs(&table, 1), 1);
    table.removal_begin(1, Type::Mount, false).unwrap();
    assert!(table.removed(1).is_empty());
    assert_eq!(table.iter().count(), 0);
    assert_eq!(table.last_id(), 4);
}

#[test]
fn asking_changes_nothing_and_a_wrong_type_is_not_found() {
    let mut table = Table::default();
    all_made(&mut table, attach(LOOP));
    for _ in 0..3 {
        assert!(table.of_type(1, Type::Attach).is_ok());
        assert_eq!(table.of_type(1, Type::Mount).unwrap_err().status, 404);
        assert_eq!(table.removal_begin(1, Type::Container, true).unwrap_err().status, 404);
    }
    assert_eq!(refs(&table, 1), 1);
    table.removal_begin(1, Type::Attach, false).unwrap();
}

#[test]
fn a_refused_request_changes_nothing() {
    let mut table = Table::default();
    all_made(&mut table, mount(r#"{"kind":"bind","bind":{"path":"/","base":"root"}}"#));
    let on =
        |id: u64, name: &str| container(&format!(r#"{{"mount":{{"id":{id}}},"command":"/init","name":"{name}"}}"#));
    assert_eq!(table.admit(on(7, "x"), 0).unwrap_err().status, 404);
    all_made(&mut table, on(1, "x"));
    assert_eq!(table.admit(on(1, "x"), 0).unwrap_err().status, 409);
    assert_eq!((refs(&table, 1), table.last_id()), (2, 2));
    assert_eq!(table.named("x").unwrap().id, 2);
    // The name is free again with the container gone, and unnamed ones do not clash.
    table.removal_begin(2, Type::Container, false).unwrap();
    table.removed(2);
    assert!(table.named("x").is_none());
    all_made(&mut table, on(1, ""));
    all_made(&mut table, on(1, ""));
    all_made(&mut table, on(1, "x"));
}

#[test]
fn what_fails_half_way_is_collected_from_the_top() {
    let mut table = Table::default();
    all_made(&mut table, mount(r#"{"kind":"bind","bind":{"path":"/","base":"root"}}"#));
    let ids = table.admit(mount(NESTED), 0).unwrap();
    table.made(ids[0], None);
    // The second could not be made: nobody wants the third, which was never begun, and so on down.
    assert_eq!(table.abandon(ids[2]), [ids[2]]);
    assert_eq!(table.removed(ids[2]), [ids[1]]);
    assert_eq!(table.removed(ids[1]), [ids[0]]);
    assert!(table.collection_begin(ids[0]));
    table.removed(ids[0]);
    assert_eq!(table.iter().map(|entry| entry.id).collect::<Vec<_>>(), [1]);
    assert_eq!(refs(&table, 1), 1);
}

#[test]
fn a_failed_removal_leaves_it_as_it_was_or_waiting() {
    let mut table = Table::default();
    all_made(
        &mut table,
        mount(
            NESTED
                .replace(
                    r#",
    {"id":1}"#,
                    "",
                )
                .as_str(),
        ),
    );
    let was = table.removal_begin(3, Type::Mount, false).unwrap().phase;
    assert_eq!(table.removal_begin(3, Type::Mount, true).unwrap_err().status, 409, "somebody is at it");
    table.removal_failed(3, &was, error());
    assert!(table.get(3).unwrap().is_ready());
    table.removal_begin(3, Type::Mount, false).unwrap();
    assert_eq!(table.removed(3), [2]);
    assert!(table.collection_begin(2));
    table.removal_failed(2, &was, error());
    assert_eq!(table.get(2).unwrap().phase, Phase::Removing(Some(error())));
    assert_eq!(table.unwanted(), [2]);
    // Nobody can stand on it now; somebody may ask for it to go at once.
    let on = mount(r#"{"kind":"bind","bind":{"path":"/","base":"mount","mount":{"id":2}}}"#);
    assert_eq!(table.admit(on, 0).unwrap_err().status, 409);
    table.removal_begin(2, Type::Mount, false).unwrap();
}

#[test]
fn force_takes_what_others_stand_on_and_says_so_of_them() {
    let mut table = Table::default();
    all_made(
        &mut table,
        mount(
            NESTED
                .replace(
                    r#",
    {"id":1}"#,
                    "",
                )
                .as_str(),
        ),
    );
    table.removal_begin(2, Type::Mount, true).unwrap();
    assert_eq!(table.removed(2), [1]);
    assert!(!table.is_whole(table.get(3).unwrap()));
}

#[test]
fn drafts_are_refused_for_what_is_missing_or_too_deep() {
    let of = |json: &str| Draft::mount(serde_json::from_str::<Mount>(json).unwrap()).map(|draft| draft.objects.len());
    let status = |json: &str| of(json).unwrap_err().status;
    assert_eq!(status("{}"), 501);
    assert_eq!(status(r#"{"id":3}"#), 400);
    assert_eq!(status(r#"{"kind":"nfs"}"#), 400);
    assert_eq!(status(r#"{"kind":"overlay","overlay":{"lower":[]}}"#), 400);
    assert_eq!(status(r#"{"kind":"bind","bind":{"path":"/","base":"mount"}}"#), 400);
    let deep = |levels: usize| {
        let inner = r#"{"kind":"bind","bind":{"path":"/","base":"root"}}"#.to_owned();
        (1..levels)
            .fold(inner, |json, _| format!(r#"{{"kind":"bind","bind":{{"path":"/","base":"mount","mount":{json}}}}}"#))
    };
    let parse = |json: &str| {
        let mut read = serde_json::Deserializer::from_str(json);
        read.disable_recursion_limit();
        Draft::mount(serde::Deserialize::deserialize(&mut read).unwrap())
    };
    assert_eq!(parse(&deep(32)).unwrap().objects.len(), 32);
    assert_eq!(parse(&deep(64)).unwrap().objects.len(), 64);
    assert_eq!(parse(&deep(65)).unwrap_err().status, 400);
}

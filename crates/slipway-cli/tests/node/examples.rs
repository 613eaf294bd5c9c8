//! The structures that are shipped: each is read as it is, and fits the schema of the service. What needs no server runs here.

use super::house::Place;
use super::place::{Node, image};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn files() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples/node");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Every field and value fits, with `${…}` filled in.
#[test]
fn examples_fit_the_schema() {
    let mut kinds = BTreeSet::new();
    for file in files() {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        let value: serde_json::Value = serde_saphyr::from_str(&text).unwrap_or_else(|why| panic!("{name}: {why}"));
        slipway_node::schema::container_check(&with_bases(value)).unwrap_or_else(|why| panic!("{name}: {why:?}"));
        let (structure, init) = name.trim_end_matches(".yaml").rsplit_once('-').unwrap();
        assert!(["systemd", "init"].contains(&init), "{name}");
        assert_eq!(text.contains("systemd: true"), init == "systemd", "{name}");
        assert!(
            text.contains(&format!("name: {structure}\n")) && text.contains(&format!("apply -f examples/node/{name}")),
            "{name}"
        );
        kinds.insert((structure.to_owned(), init.to_owned()));
        // The program reads it as well, up to the service that is not there; what is not set is named.
        let place = Place::new();
        let ran = place.run(&["node", "apply", "-f", file.to_str().unwrap()], &[], b"").expect(2);
        assert!(ran.err.contains("not set"), "{}", ran.err);
        let mut words = vec!["node".to_owned(), "apply".into(), "-f".into(), file.to_str().unwrap().into()];
        let mut names: Vec<&str> = text.split("${").skip(1).map(|rest| rest.split('}').next().unwrap()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            assert!(
                text.contains(&format!("--set {name}=")) || text.contains(&format!("--set-file {name}=")),
                "{name}"
            );
            words.extend(["--set".into(), format!("{name}=x")]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let env = [("SLIPWAY_NODE", "unix:/nonexistent/node.sock")];
        place.run(&words, &env, b"").expect(9);
    }
    for structure in [
        "nfs",
        "nfs-overlay",
        "nfs-loopback-overlay",
        "iscsi-ext4",
        "rbd-ext4",
        "iscsi-squashfs-overlay",
        "rbd-squashfs-overlay",
        "deep-chain",
        "loopback-overlay",
    ] {
        for init in ["systemd", "init"] {
            assert!(kinds.contains(&(structure.to_owned(), init.to_owned())), "{structure} {init}");
        }
    }
}

/// The program fills in the default that the schema wants to see.
fn with_bases(mut value: serde_json::Value) -> serde_json::Value {
    match &mut value {
        serde_json::Value::Object(fields) => {
            for (name, field) in fields.iter_mut() {
                *field = with_bases(field.take());
                if ["loopback", "bind"].contains(&name.as_str())
                    && let Some(block) = field.as_object_mut()
                {
                    block.entry("base").or_insert("root".into());
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| *item = with_bases(item.take())),
        _ => {}
    }
    value
}

#[test]
#[ignore = "needs root"]
fn root_the_example_without_a_server_runs() {
    let node = Node::start();
    let image = image(&node.place, "root.sqfs");
    let file = files().into_iter().find(|file| file.ends_with("loopback-overlay-init.yaml")).unwrap();
    let image = format!("image={image}");
    let words = ["apply", "-f", file.to_str().unwrap(), "--set", &image, "--set", "fs_type=squashfs", "--wait"];
    node.run(&words).expect(0);
    node.wait(|| node.run(&["logs", "loopback-overlay"]).text().contains("ready\n"));
    assert!(node.run(&words).expect(0).text().contains("unchanged"));
    node.run(&["stop", "loopback-overlay"]).expect(0);
    node.run(&["rm", "loopback-overlay"]).expect(0);
    node.empty_wait();
}

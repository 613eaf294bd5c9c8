//! Random requests, refusals and crashes against a kernel in memory: what the table says is what the kernel has, and what nobody wants is gone.
#![allow(clippy::unwrap_used, reason = "a test")]

mod kernel;

use kernel::{Fault, Simulated};
use proptest::prelude::*;
use slipway_api::node::{Container, Mount};
use slipway_node::{Claim, Draft, Node, NodeConfig, Phase, Type};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Step {
    /// A mount of so many levels, the lowest of which refers to the n-th object that is there, or is a device of its own.
    Mount {
        levels: usize,
        on: Option<usize>,
    },
    /// A container on a mount that is there, or on one of its own.
    Container {
        on: Option<usize>,
    },
    Delete {
        which: usize,
        force: bool,
    },
    Hold {
        which: usize,
    },
    Release,
    Restart,
    Reboot,
    Fault {
        after: usize,
        fault: Fault,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![Just(Fault::Refuse), Just(Fault::CrashBefore), Just(Fault::CrashAfter)];
    prop_oneof![
        4 => (1..4_usize, proptest::option::of(0..8_usize)).prop_map(|(levels, on)| Step::Mount { levels, on }),
        2 => proptest::option::of(0..8_usize).prop_map(|on| Step::Container { on }),
        6 => (0..12_usize, proptest::bool::weighted(0.2)).prop_map(|(which, force)| Step::Delete { which, force }),
        1 => (0..12_usize).prop_map(|which| Step::Hold { which }),
        1 => Just(Step::Release),
        2 => Just(Step::Restart),
        1 => Just(Step::Reboot),
        3 => (1..4_usize, fault).prop_map(|(after, fault)| Step::Fault { after, fault }),
    ]
}

struct Lab {
    kernel: Simulated,
    node: Arc<Node<Simulated>>,
    run: tempfile::TempDir,
    state: tempfile::TempDir,
    boot: usize,
}

fn config() -> NodeConfig {
    NodeConfig { deadline: Duration::from_secs(20), retry_first: Duration::ZERO, retry_max: Duration::ZERO }
}

fn open(kernel: &Simulated, run: &Path, state: &Path, boot: usize) -> Arc<Node<Simulated>> {
    Node::open(kernel.clone(), config(), run, state, &format!("boot {boot}")).unwrap()
}

const LOOP: &str = r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"loopback","loopback":{"path":"/a","base":"root"}}}}"#;

impl Lab {
    fn new() -> Self {
        let (run, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let kernel = Simulated::default();
        kernel.0.lock().unwrap().others.insert(1, true);
        let node = open(&kernel, run.path(), state.path(), 0);
        Self { kernel, node, run, state, boot: 0 }
    }

    fn ids(&self, wanted: Option<Type>) -> Vec<u64> {
        let fits = |kind: Type| wanted.is_none_or(|wanted| wanted == kind);
        self.node.read(|table| table.iter().filter(|e| fits(e.what.kind())).map(|e| e.id).collect())
    }

    fn mount_json(&self, levels: usize, on: Option<usize>) -> String {
        let there = self.ids(Some(Type::Mount));
        let lowest = match on.and_then(|n| there.get(n)) {
            Some(id) => format!(r#"{{"id":{id}}}"#),
            None => LOOP.to_owned(),
        };
        (0..levels).fold(lowest, |json, _| format!(r#"{{"kind":"overlay","overlay":{{"lower":[{json}]}}}}"#))
    }

    fn act(&mut self, step: &Step) {
        match step {
            Step::Mount { levels, on } => {
                let mount: Mount = serde_json::from_str(&self.mount_json(*levels, *on)).unwrap();
                let _ = self.node.create(Draft::mount(mount).unwrap(), 0);
            }
            Step::Container { on } => {
                let json = format!(r#"{{"command":"/init","mount":{}}}"#, self.mount_json(0, *on));
                let container: Container = serde_json::from_str(&json).unwrap();
                let _ = self.node.create(Draft::container(container).unwrap(), 0);
            }
            Step::Delete { which, force } => {
                let ids = self.ids(None);
                let Some(&id) = ids.get(*which) else { return };
                let kind = self.node.read(|table| table.get(id).unwrap().what.kind());
                let before = self.node.read(|table| table.get(id).cloned());
                if let Err(refusal) = self.node.delete(id, kind, *force)
                    && refusal.status == 409
                {
                    let after = self.node.read(|table| table.get(id).cloned());
                    assert!(
                        after.is_none() || after == before || self.is_crashed(),
                        "409 changed {before:?} to {after:?}"
                    );
                }
            }
            Step::Hold { which } => {
                if let Some(&id) = self.ids(None).get(*which) {
                    self.kernel.0.lock().unwrap().held.insert(id);
                }
            }
            Step::Release => self.kernel.0.lock().unwrap().held.clear(),
            Step::Restart => self.restart(),
            Step::Reboot => {
                self.kernel.0.lock().unwrap().ours.clear();
                self.kernel.0.lock().unwrap().held.clear();
                std::fs::remove_file(self.run.path().join("objects.log")).unwrap();
                self.boot += 1;
                self.restart();
            }
            Step::Fault { after, fault } => {
                let mut table = self.kernel.0.lock().unwrap();
                table.fault = Some((table.calls + after, *fault));
            }
        }
        if self.is_crashed() {
            self.restart();
        }
    }

    fn is_crashed(&self) -> bool {
        self.kernel.0.lock().unwrap().crashed
    }

    /// A new service on the same kernel. The one before has no calls under way: they all came back with its death.
    fn restart(&mut self) {
        let mut table = self.kernel.0.lock().unwrap();
        (table.crashed, table.fault) = (false, None);
        drop(table);
        self.node = open(&self.kernel, self.run.path(), self.state.path(), self.boot);
    }

    fn check(&self) {
        let kernel = self.kernel.0.lock().unwrap();
        self.node.read(|table| {
            for entry in table.iter() {
                let there = kernel.ours.contains_key(&entry.id);
                match &entry.phase {
                    Phase::Ready => assert!(there || entry.driver().is_none(), "{entry:?} is not there"),
                    Phase::Removing(_) => assert!(entry.claims.is_empty(), "{entry:?} is wanted"),
                    Phase::Lost(_) => assert!(!there, "{entry:?} is there"),
                    Phase::Making | Phase::Pending(_) => panic!("{entry:?} was left half way"),
                }
                // Claims are what stands on it, and its creator: each parent is there and names it.
                for claim in &entry.claims {
                    if let Claim::Parent(parent) = claim {
                        let parent =
                            table.get(*parent).unwrap_or_else(|| panic!("{entry:?} has a parent that is gone"));
                        assert!(parent.children.contains(&entry.id));
                    }
                }
            }
            for (id, (driver, _)) in &kernel.ours {
                let entry = table.get(*id).unwrap_or_else(|| panic!("{id} was left in the kernel"));
                assert_eq!(entry.driver(), Some(*driver));
                assert!(!entry.claims.is_empty() || matches!(entry.phase, Phase::Removing(_)), "{entry:?} is unwanted");
            }
            assert!(kernel.others[&1], "what others made was touched");
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if std::env::var_os("SLIPWAY_TEST_ALL").is_some() { 2000 } else { 60 }, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn claims_equal_reality(steps in proptest::collection::vec(step(), 1..40)) {
        let mut lab = Lab::new();
        for step in &steps {
            lab.act(step);
            lab.check();
        }
        // All of it can go in the end.
        lab.kernel.0.lock().unwrap().held.clear();
        lab.restart();
        lab.node.reconcile();
        while let Some(id) = lab.ids(None).last().copied() {
            let kind = lab.node.read(|table| table.get(id).unwrap().what.kind());
            lab.node.delete(id, kind, true).unwrap();
            lab.check();
        }
        prop_assert!(lab.kernel.0.lock().unwrap().ours.is_empty());
    }
}

//! Who may do what on a node. One function decides, [`allowed`]; what it does not allow is refused.

mod policy;
mod tokens;

pub use policy::{Peer, Policy, PolicyError, RunPolicy, ServerRule};
pub use tokens::{Token, TokenFile, TokenRow};

use crate::object::{Entry, What};
use crate::plan::{Child, Draft};
use crate::refusal::Refusal;
use crate::table::Table;
use serde::{Deserialize, Serialize};
use slipway_api::node::ObjectId;
use std::fmt;

/// What somebody may do; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// See objects, logs, events and metrics.
    Read,
    /// Make, stop and remove what the policy allows.
    Run,
    /// Everything, which is as much as root on the node.
    Admin,
}

impl Role {
    /// The name in files and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Run => "run",
            Self::Admin => "admin",
        }
    }
}

impl std::str::FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Self::Read),
            "run" => Ok(Self::Run),
            "admin" => Ok(Self::Admin),
            other => Err(format!("'{other}' is no role; there are read, run and admin")),
        }
    }
}

/// Who asks, after it was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// For the log: `uid 0`, `token build-farm`, `certificate sha256:…`.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Root over the unix socket: a container of its that does not say `privileged` is, as in the ImageAPI.
    pub is_local_root: bool,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.role.as_str())
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub enum Act<'a> {
    /// Seeing something.
    Look,
    /// Making objects. The draft says already whether its container is privileged.
    Make(&'a Draft),
    /// Starting, stopping, removing or entering an object that is there.
    Change(ObjectId),
    /// Removing an object against the claims of others.
    Force(ObjectId),
}

/// Decides whether a caller may do something.
///
/// Role `run` may make an object, refer to it, change it or enter it if the policy allows that object and all that it stands on. So it
/// can neither use nor remove what only an admin could have made.
///
/// # Errors
/// 403 with what is not allowed and who could allow it.
pub fn allowed(caller: &Caller, policy: &Policy, table: &Table, act: Act<'_>) -> Result<(), Refusal> {
    match (caller.role, act) {
        (Role::Admin, _) | (_, Act::Look) => Ok(()),
        (Role::Read, _) => Err(refused(caller, "the role 'read' only looks")),
        (Role::Run, Act::Make(draft)) => {
            for object in &draft.objects {
                policy.run.permits(&object.what).map_err(|why| refused(caller, &why))?;
                for child in &object.children {
                    if let Child::There(id, _) = child {
                        tree_allowed(caller, policy, table, *id)?;
                    }
                }
            }
            Ok(())
        }
        (Role::Run, Act::Change(id)) => tree_allowed(caller, policy, table, id),
        (Role::Run, Act::Force(_)) => {
            Err(refused(caller, "removing by force what others refer to needs the role 'admin'"))
        }
    }
}

/// An object, and all that it stands on. That it is not there is said by whoever looks for it.
fn tree_allowed(caller: &Caller, policy: &Policy, table: &Table, top: ObjectId) -> Result<(), Refusal> {
    let mut left = vec![top];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(id) = left.pop() {
        let Some(Entry { what, children, .. }) = table.get(id) else { continue };
        if seen.insert(id) {
            let kind = what.kind().as_str();
            policy.run.permits(what).map_err(|why| refused(caller, &format!("{kind} {id}: {why}")))?;
            left.extend(children);
        }
    }
    Ok(())
}

fn refused(caller: &Caller, why: &str) -> Refusal {
    Refusal::new(403, format!("{caller} may not do this: {why}"))
        .hint("ask the administrator of this node for another role, or to allow it in the node's policy file")
}

/// Writes down in a draft what a container that does not say it gets.
pub fn privileged_settle(draft: &mut Draft, caller: &Caller) {
    for object in &mut draft.objects {
        if let What::Container(container) = &mut object.what {
            container.privileged.get_or_insert(caller.is_local_root);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Act, Caller, Policy, Role, allowed, privileged_settle};
    use crate::plan::Draft;
    use crate::table::Table;

    const POLICY: &str = r#"
[run]
attach = ["loopback", "iscsi", "rbd", "nbd", "slipway"]
mount = ["attach", "bind", "overlay", "nfs", "uri"]
persist = ["lab-"]
token_refs = ["ca"]
capabilities = ["CAP_NET_RAW"]

[[run.server]]
host = "storage.example"
kinds = ["nfs", "iscsi", "rbd", "nbd"]
paths = ["/images", "iqn.2026-01.example:img", "images/", "exp"]

[[run.server]]
host = "*.example.org"
kinds = ["uri", "slipway"]
paths = ["/pub/", "lab/"]
"#;

    fn caller(role: Role) -> Caller {
        Caller { name: "token t".into(), role, is_local_root: false }
    }

    fn answer(role: Role, draft: Draft) -> Result<(), String> {
        let mut draft = draft;
        privileged_settle(&mut draft, &caller(role));
        let policy = Policy::parse(POLICY).unwrap();
        let answer = allowed(&caller(role), &policy, &Table::default(), Act::Make(&draft));
        answer.map_err(|refusal| {
            assert_eq!(refusal.status, 403);
            refusal.problem.message
        })
    }

    fn mount(json: &str) -> Draft {
        Draft::mount(serde_json::from_str(json).unwrap()).unwrap()
    }

    fn container(extra: &str) -> Draft {
        let json = format!(
            r#"{{"command":"/i",{extra}"mount":{{"kind":"nfs","nfs":{{"host":"storage.example","path":"/images/a"}}}}}}"#
        );
        Draft::container(serde_json::from_str(&json).unwrap()).unwrap()
    }

    #[test]
    fn the_role_run_makes_what_the_policy_names_and_nothing_else() {
        let rows: &[(&str, Option<&str>)] = &[
            (r#"{"kind":"nfs","nfs":{"host":"storage.example","path":"/images"}}"#, None),
            (r#"{"kind":"nfs","nfs":{"host":"STORAGE.example","path":"/images/a"}}"#, None),
            (r#"{"kind":"nfs","nfs":{"host":"storage.example","path":"/imagesx"}}"#, Some("/imagesx")),
            (r#"{"kind":"nfs","nfs":{"host":"storage.example","path":"/images/../etc"}}"#, Some("..")),
            (r#"{"kind":"nfs","nfs":{"host":"other.example","path":"/images"}}"#, Some("other.example")),
            (r#"{"kind":"uri","uri":{"uri":"https://a.example.org/pub/x.tar"}}"#, None),
            (r#"{"kind":"uri","uri":{"uri":"https://a.example.org:8443/pub/x.tar"}}"#, None),
            (r#"{"kind":"uri","uri":{"uri":"https://example.org/pub/x.tar"}}"#, Some("example.org")),
            (r#"{"kind":"uri","uri":{"uri":"https://a.example.org@evil.example/pub/x"}}"#, Some("evil.example")),
            (r#"{"kind":"uri","uri":{"uri":"https://a.example.org/pub/%2e%2e/x"}}"#, Some("path")),
            (r#"{"kind":"uri","uri":{"uri":"https://a.example.org/priv/x"}}"#, Some("/priv/x")),
            (r#"{"kind":"bind","bind":{"path":"/","base":"root"}}"#, Some("bind.base")),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"local","local":{"path":"/dev/sda"}}}}"#,
                Some("local"),
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"loopback","loopback":{"path":"/a","base":"root"}}}}"#,
                Some("loopback.base"),
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"loopback","loopback":{"path":"/a","base":"mount",
                "mount":{"kind":"nfs","nfs":{"host":"storage.example","path":"/images"}}}}}}"#,
                None,
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"iscsi","iscsi":{"target":"iqn.2026-01.example:img-1","host":"storage.example"}}}}"#,
                None,
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"iscsi","iscsi":{"target":"iqn.2026-01.example:other","host":"storage.example"}}}}"#,
                Some("iqn.2026-01.example:other"),
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"rbd","rbd":{"pool":"images","image":"a","monitors":["storage.example:6789"]}}}}"#,
                None,
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"rbd","rbd":{"pool":"images","image":"a","monitors":["storage.example","evil.example"]}}}}"#,
                Some("evil.example"),
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"nbd","nbd":{"socket":"/run/x","export":"exp"}}}}"#,
                Some("nbd.socket"),
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"slipway","slipway":{"ref":"lab/os:3","server":"https://c.example.org"}}}}"#,
                None,
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"slipway","slipway":{"ref":"lab/os:3","server":"https://c.example.org","token_ref":"t"}}}}"#,
                Some("token_ref"),
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"nbd","nbd":{"host":"storage.example","export":"exp","tls":{"ca_ref":"ca"}}}}}"#,
                None,
            ),
            (
                r#"{"kind":"attach","attach":{"fs_type":"ext4","attach":{"kind":"nbd","nbd":{"host":"storage.example","export":"exp","tls":{"ca_ref":"ca","cert_ref":"other","key_ref":"other"}}}}}"#,
                Some("nbd.tls.cert_ref 'other'"),
            ),
            (
                r#"{"kind":"overlay","overlay":{"persist":"lab-a","lower":[{"kind":"nfs","nfs":{"host":"storage.example","path":"/images"}}]}}"#,
                None,
            ),
            (
                r#"{"kind":"overlay","overlay":{"persist":"home","lower":[{"kind":"nfs","nfs":{"host":"storage.example","path":"/images"}}]}}"#,
                Some("persist"),
            ),
        ];
        for (json, refused) in rows {
            match (answer(Role::Run, mount(json)), refused) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{json}: {why}"),
                (answer, _) => panic!("{json}: {answer:?}"),
            }
            assert_eq!(answer(Role::Admin, mount(json)), Ok(()));
            assert!(answer(Role::Read, mount(json)).is_err());
        }
    }

    #[test]
    fn a_container_of_the_role_run_stays_in_its_own_namespaces_with_its_own_rights() {
        let rows: &[(&str, Option<&str>)] = &[
            (r#""network":"none","#, None),
            (r#""namespaces":["net"],"#, None),
            ("", Some("network")),
            (r#""network":"host","#, Some("network")),
            (r#""network":"none","privileged":true,"#, Some("privileged")),
            (r#""network":"none","capabilities":["CAP_NET_RAW"],"#, None),
            (r#""network":"none","capabilities":["net_raw"],"#, None),
            (r#""network":"none","capabilities":["CAP_SYS_MODULE"],"#, Some("CAP_SYS_MODULE")),
        ];
        for (extra, refused) in rows {
            match (answer(Role::Run, container(extra)), refused) {
                (Ok(()), None) => {}
                (Err(why), Some(part)) => assert!(why.contains(part), "{extra}: {why}"),
                (answer, _) => panic!("{extra}: {answer:?}"),
            }
        }
    }

    #[test]
    fn what_only_an_admin_could_make_is_not_for_the_role_run_to_use_or_change() {
        let mut table = Table::default();
        let ids = table.admit(mount(r#"{"kind":"bind","bind":{"path":"/","base":"root"}}"#), 0).unwrap();
        table.made(ids[0], None);
        let over = table.admit(mount(r#"{"kind":"overlay","overlay":{"lower":[{"id":1}]}}"#), 0).unwrap();
        table.made(over[0], None);
        let policy = Policy::parse(POLICY).unwrap();
        let of = |role, act: Act<'_>| allowed(&caller(role), &policy, &table, act).is_ok();
        let refers = mount(r#"{"kind":"overlay","overlay":{"lower":[{"id":2}]}}"#);
        assert!(!of(Role::Run, Act::Make(&refers)) && of(Role::Admin, Act::Make(&refers)));
        assert!(!of(Role::Run, Act::Change(1)) && !of(Role::Run, Act::Change(2)) && of(Role::Admin, Act::Force(2)));
        assert!(of(Role::Run, Act::Change(99)), "404 is said by whoever looks for it");
        assert!(of(Role::Read, Act::Look) && !of(Role::Read, Act::Change(1)) && !of(Role::Run, Act::Force(99)));
    }

    #[test]
    fn without_a_policy_the_role_run_makes_nothing() {
        let policy = Policy::default();
        let draft = mount(r#"{"kind":"nfs","nfs":{"host":"storage.example","path":"/images"}}"#);
        assert!(allowed(&caller(Role::Run), &policy, &Table::default(), Act::Make(&draft)).is_err());
    }
}

//! What a shim is told: everything about a container, checked.

use super::cgroup::CgroupPlace;
use crate::refusal::Refusal;
use serde::{Deserialize, Serialize};
use slipway_api::node::{Container, Namespace, Network, ObjectId};
use std::path::PathBuf;

/// A container as its shim starts it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Its number.
    pub id: ObjectId,
    /// The tree that becomes its root.
    pub root: PathBuf,
    /// Its init, as a path in that tree, and the arguments after it.
    pub argv: Vec<String>,
    /// Its init's environment, in order.
    pub env: Vec<(String, String)>,
    /// Its init's directory.
    pub cwd: String,
    /// As in the request; empty for root.
    pub user: String,
    /// Its host name, if it has one of its own.
    pub hostname: String,
    /// Beside mnt and pid, which every container has.
    pub namespaces: Vec<Namespace>,
    /// All capabilities, no filter.
    pub privileged: bool,
    /// Capabilities beside the default ones.
    pub capabilities: Vec<String>,
    /// No writes to the root.
    pub read_only: bool,
    /// Its init is systemd.
    pub systemd: bool,
    /// Where its processes are counted and limited.
    pub cgroup: CgroupPlace,
    /// Bytes of a log file before the next one is begun.
    pub log_max: u64,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Checks a request and makes a spec of it. `privileged` is what a request that does not say gets.
///
/// # Errors
/// 400 with the field that is wrong.
pub fn spec_of(
    id: ObjectId,
    container: &Container,
    root: PathBuf,
    cgroup: CgroupPlace,
    privileged: bool,
    log_max: u64,
) -> Result<Spec, Refusal> {
    let wrong = |field: &str, why: String| Refusal::new(400, "invalid data type").hint(format!("{field}: {why}"));
    let argv = shell_words::split(&container.command).map_err(|why| wrong("command", why.to_string()))?;
    if container.command.contains('\0') {
        return Err(wrong("command", "it has a NUL in it".into()));
    }
    let Some(init) = argv.first() else { return Err(wrong("command", "it is empty".into())) };
    if !init.starts_with('/') {
        return Err(wrong("command", format!("'{init}' is not an absolute path in the image")));
    }
    for (name, value) in &container.env {
        if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
            return Err(wrong("env", format!("'{}' cannot be set", name.escape_debug())));
        }
    }
    let cwd = if container.cwd.is_empty() { "/".to_owned() } else { container.cwd.clone() };
    if !cwd.starts_with('/') {
        return Err(wrong("cwd", format!("'{cwd}' is not an absolute path in the image")));
    }
    if container.hostname.len() > 64
        || container.hostname.contains(|c: char| !c.is_ascii_alphanumeric() && !"-.".contains(c))
    {
        return Err(wrong("hostname", "at most 64 letters, digits, '-' and '.'".into()));
    }
    let mut namespaces = container.namespaces.clone().unwrap_or_default();
    namespaces.extend([Namespace::Ipc, Namespace::Uts]);
    if container.network == Some(Network::None) {
        namespaces.push(Namespace::Net);
    }
    if container.systemd {
        namespaces.push(Namespace::Cgroup);
    }
    namespaces.sort();
    namespaces.dedup();
    namespaces.retain(|namespace| !matches!(namespace, Namespace::Mnt | Namespace::Pid));
    for unsupported in [Namespace::User, Namespace::Time] {
        if namespaces.contains(&unsupported) {
            return Err(wrong("namespaces", format!("{unsupported:?} is not offered here").to_lowercase()));
        }
    }
    let mut env = vec![("PATH".to_owned(), PATH.to_owned()), ("container".to_owned(), "slipway".to_owned())];
    if container.systemd {
        // An id of its own that is the same after each start, as systemd's container interface asks.
        env.push(("container_uuid".to_owned(), format!("00000000-0000-4000-8000-{id:012x}")));
        env.push(("NOTIFY_SOCKET".to_owned(), "/run/host/notify".to_owned()));
    }
    env.retain(|(name, _)| !container.env.contains_key(name));
    env.extend(container.env.clone());
    Ok(Spec {
        id,
        root,
        argv,
        env,
        cwd,
        user: container.user.clone(),
        hostname: container.hostname.clone(),
        namespaces,
        privileged: container.privileged.unwrap_or(privileged),
        capabilities: container.capabilities.clone(),
        read_only: container.read_only,
        systemd: container.systemd,
        cgroup,
        log_max,
    })
}

#[cfg(test)]
mod tests {
    use super::{CgroupPlace, spec_of};
    use slipway_api::node::{Container, Namespace};

    #[test]
    fn commands_are_split_as_a_shell_splits_words() {
        let spec = |command: &str| {
            let container = Container { command: command.into(), ..Container::default() };
            spec_of(1, &container, "/x".into(), CgroupPlace::default(), true, 1)
        };
        assert_eq!(
            spec(r#"/bin/sh -c "echo hi" 'a b' c\ d"#).unwrap().argv,
            ["/bin/sh", "-c", "echo hi", "a b", "c d"]
        );
        for wrong in ["", "  ", "/bin/\0true", "init", "./init", "/bin/sh \"open"] {
            assert_eq!(spec(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }

    #[test]
    fn what_is_asked_for_wins_and_what_is_not_offered_is_refused() {
        let of = |json: &str| {
            let container: Container = serde_json::from_str(json).unwrap();
            spec_of(1, &container, "/x".into(), CgroupPlace::default(), false, 1)
        };
        let spec = of(r#"{"command":"/i","env":{"PATH":"/mine"},"network":"none","systemd":true}"#).unwrap();
        assert_eq!(spec.env.iter().filter(|(name, _)| name == "PATH").count(), 1);
        assert_eq!(spec.env.last().unwrap().1, "/mine");
        assert_eq!(spec.namespaces, [Namespace::Cgroup, Namespace::Ipc, Namespace::Net, Namespace::Uts]);
        assert!(!spec.privileged);
        for wrong in [
            r#"{"command":"/i","env":{"A=B":""}}"#,
            r#"{"command":"/i","cwd":"x"}"#,
            r#"{"command":"/i","hostname":"a b"}"#,
            r#"{"command":"/i","namespaces":["user"]}"#,
        ] {
            assert_eq!(of(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }
}

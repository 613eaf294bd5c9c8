//! The node's policy: a file that its administrator writes, and that nothing else changes.

use super::Role;
use crate::object::What;
use serde::Deserialize;
use slipway_api::node::{Attach, AttachKind, Base, Container, Mount, MountKind, Namespace, Network};
use std::path::{Path, PathBuf};

/// The most that a policy file may have, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// What a policy file says. Without one only root on the unix socket may do anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Who may do what over the unix socket, beside root.
    pub peer: Vec<Peer>,
    /// What any certificate of the client CA may do; nothing if absent.
    pub certificate_role: Option<Role>,
    /// What single certificates may do: `sha256:HEX` of the certificate, in DER.
    pub certificates: std::collections::BTreeMap<String, Role>,
    /// What the role `run` may make.
    pub run: RunPolicy,
}

/// A user or group of the node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    /// A user's name or number.
    pub user: Option<String>,
    /// A group's name or number: a process' own group, or one that its user is listed in.
    pub group: Option<String>,
    /// What it may do.
    pub role: Role,
}

/// What the role `run` may make; what is not named is not allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunPolicy {
    /// Kinds of attachments.
    pub attach: Vec<AttachKind>,
    /// Kinds of mounts.
    pub mount: Vec<MountKind>,
    /// Servers, and what of them.
    pub server: Vec<ServerRule>,
    /// Beginnings of the names under which changes may be kept.
    pub persist: Vec<String>,
    /// Names of files in the credentials directory that may be used.
    pub token_refs: Vec<String>,
    /// Capabilities that a container may ask for.
    pub capabilities: Vec<String>,
    /// Containers may use the node's network.
    pub host_network: bool,
}

/// A server, and what of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerRule {
    /// A name or address as requests write it, or `*.DOMAIN` for the names in a domain.
    pub host: String,
    /// `nfs`, `uri`, `iscsi`, `rbd`, `nbd`, `slipway`.
    pub kinds: Vec<String>,
    /// Beginnings of what is asked of it: an NFS or URI path, an iSCSI target, `pool/image` or `pool/namespace/image` of rbd, an NBD export, `owner/name` of a
    /// version. One that begins with a slash ends at a slash too: `/images` is not `/images2`. None: everything.
    #[serde(default)]
    pub paths: Vec<String>,
}

/// Why a policy file is not used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("reading the policy {}: {error}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Others than root could change it.
    #[error("the policy {} may be written by others than root; chown root and chmod go-w it", .0.display())]
    Open(PathBuf),
    /// It says something that is not a policy.
    #[error("the policy {}: {text}", .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What and where.
        text: String,
    },
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// When it cannot be read, others than root may write it, or it has a word that no policy has.
    pub fn read(path: &Path) -> Result<Self, PolicyError> {
        use std::io::Read as _;
        use std::os::unix::fs::MetadataExt as _;
        let failed = |error| PolicyError::Read { path: path.to_owned(), error };
        let file = std::fs::File::open(path).map_err(failed)?;
        let facts = file.metadata().map_err(failed)?;
        if facts.uid() != 0 || facts.mode() & 0o022 != 0 {
            return Err(PolicyError::Open(path.to_owned()));
        }
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text).map_err(|text| PolicyError::Wrong { path: path.to_owned(), text })
    }

    /// Reads the text of a policy.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, String> {
        let policy: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        for rule in &policy.run.server {
            for kind in &rule.kinds {
                if !["nfs", "uri", "iscsi", "rbd", "nbd", "slipway"].contains(&kind.as_str()) {
                    return Err(format!("run.server '{}': no kind '{kind}' has a server", rule.host));
                }
            }
        }
        if let Some(peer) = policy.peer.iter().find(|peer| peer.user.is_some() == peer.group.is_some()) {
            return Err(format!("a peer with role '{}' must name either a user or a group", peer.role.as_str()));
        }
        Ok(policy)
    }

    /// What a process at the other end of the unix socket may do.
    pub fn peer_role(&self, uid: u32, gid: u32) -> Option<Role> {
        if uid == 0 {
            return Some(Role::Admin);
        }
        let matching = self.peer.iter().filter(|peer| match (&peer.user, &peer.group) {
            (Some(user), _) => number_of("/etc/passwd", user) == Some(uid),
            (_, Some(group)) => number_of("/etc/group", group) == Some(gid) || group_has(group, uid),
            (None, None) => false,
        });
        matching.map(|peer| peer.role).max()
    }

    /// What a certificate of the client CA may do, by `sha256:HEX`.
    pub fn certificate_role(&self, fingerprint: &str) -> Option<Role> {
        self.certificates.get(fingerprint).copied().or(self.certificate_role)
    }
}

/// The number of a name in a file like passwd or group: its third field.
fn number_of(file: &str, name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let text = std::fs::read_to_string(file).ok()?;
    fields_of(&text, name)?.nth(1)?.parse().ok()
}

fn fields_of<'a>(text: &'a str, name: &str) -> Option<std::str::Split<'a, char>> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then_some(fields)
    })
}

fn group_has(group: &str, uid: u32) -> bool {
    let (Ok(groups), Ok(people)) = (std::fs::read_to_string("/etc/group"), std::fs::read_to_string("/etc/passwd"))
    else {
        return false;
    };
    let user = people.lines().find(|line| line.split(':').nth(2).and_then(|field| field.parse().ok()) == Some(uid));
    let Some(user) = user.and_then(|line| line.split(':').next()) else { return false };
    let members = groups.lines().find(|line| {
        let mut fields = line.split(':');
        fields.next() == Some(group) || fields.nth(1) == Some(group)
    });
    members.and_then(|line| line.split(':').nth(3)).is_some_and(|members| members.split(',').any(|name| name == user))
}

impl RunPolicy {
    /// Whether an object by itself, not what it stands on, may be made.
    pub(super) fn permits(&self, what: &What) -> Result<(), String> {
        match what {
            What::Attach(attach) => self.attach_permits(attach),
            What::Mount(mount) => self.mount_permits(mount),
            What::Container(container) => self.container_permits(container),
        }
    }

    fn attach_permits(&self, attach: &Attach) -> Result<(), String> {
        let Some(kind) = attach.kind else { return Ok(()) };
        if kind == AttachKind::Local {
            return Err("attach kind 'local' needs the role 'admin'".into());
        }
        if !self.attach.contains(&kind) {
            return Err(format!("the policy does not allow attach kind '{}'", kind.as_str()));
        }
        if let Some(block) = &attach.loopback
            && block.base == Base::Root
        {
            return Err("loopback.base 'root' needs the role 'admin'".into());
        }
        if let Some(block) = &attach.iscsi {
            self.server_permits(&block.host, "iscsi", &block.target)?;
        }
        if let Some(block) = &attach.rbd {
            let namespace = block.options.as_ref().map_or("", |options| options.namespace.as_str());
            let slash = if namespace.is_empty() { "" } else { "/" };
            let image = format!("{}{slash}{namespace}/{}", block.pool, block.image);
            for monitor in &block.monitors {
                self.server_permits(host_of(monitor), "rbd", &image)?;
            }
        }
        if let Some(block) = &attach.nbd {
            if !block.socket.is_empty() {
                return Err("nbd.socket, a path of the node, needs the role 'admin'".into());
            }
            self.server_permits(&block.host, "nbd", &block.export)?;
            if let Some(tls) = &block.tls {
                for (field, name) in [("ca_ref", &tls.ca_ref), ("cert_ref", &tls.cert_ref), ("key_ref", &tls.key_ref)] {
                    self.credential_permits(&format!("nbd.tls.{field}"), name)?;
                }
            }
        }
        if let Some(block) = &attach.slipway {
            let (host, _) = url_parts(&block.server)?;
            self.server_permits(host, "slipway", &block.reference)?;
            self.credential_permits("slipway.token_ref", &block.token_ref)?;
        }
        Ok(())
    }

    fn credential_permits(&self, field: &str, name: &str) -> Result<(), String> {
        match name.is_empty() || self.token_refs.iter().any(|allowed| allowed == name) {
            true => Ok(()),
            false => Err(format!("the policy does not allow {field} '{}'", name.escape_debug())),
        }
    }

    fn mount_permits(&self, mount: &Mount) -> Result<(), String> {
        let Some(kind) = mount.kind else { return Ok(()) };
        if !self.mount.contains(&kind) {
            return Err(format!("the policy does not allow mount kind '{}'", kind.as_str()));
        }
        if let Some(block) = &mount.bind
            && block.base == Base::Root
        {
            return Err("bind.base 'root' needs the role 'admin'".into());
        }
        if let Some(block) = &mount.nfs {
            self.server_permits(&block.host, "nfs", &block.path)?;
        }
        if let Some(block) = &mount.uri {
            let (host, path) = url_parts(&block.uri)?;
            self.server_permits(host, "uri", path)?;
        }
        if let Some(block) = &mount.overlay
            && !block.persist.is_empty()
            && !self.persist.iter().any(|begin| block.persist.starts_with(begin))
        {
            return Err(format!("the policy does not allow overlay.persist '{}'", block.persist.escape_debug()));
        }
        Ok(())
    }

    fn container_permits(&self, container: &Container) -> Result<(), String> {
        if container.privileged != Some(false) {
            return Err("a privileged container needs the role 'admin'".into());
        }
        let own_network = container.network == Some(Network::None)
            || container.namespaces.as_ref().is_some_and(|namespaces| namespaces.contains(&Namespace::Net));
        if !own_network && !self.host_network {
            return Err("the policy does not allow the node's network; say network: none".into());
        }
        let plain = |name: &str| name.to_uppercase().trim_start_matches("CAP_").to_owned();
        for wanted in &container.capabilities {
            if !self.capabilities.iter().any(|known| plain(known) == plain(wanted)) {
                return Err(format!("the policy does not allow capability '{}'", wanted.escape_debug()));
            }
        }
        Ok(())
    }

    fn server_permits(&self, host: &str, kind: &str, what: &str) -> Result<(), String> {
        // A name is the same in capitals and with the dot of the root behind it.
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        if what.split('/').any(|part| part == ".." || part == ".") {
            return Err(format!("'{}' has a '..' or '.' in it", what.escape_debug()));
        }
        let of_host = self.server.iter().filter(|rule| rule.kinds.iter().any(|known| known == kind)).filter(|rule| {
            let name = rule.host.to_ascii_lowercase();
            match name.strip_prefix('*') {
                Some(domain) if domain.starts_with('.') => host.len() > domain.len() && host.ends_with(domain),
                _ => host == name,
            }
        });
        let mut known = false;
        for rule in of_host {
            known = true;
            if rule.paths.is_empty() || rule.paths.iter().any(|begin| begins(what, begin)) {
                return Ok(());
            }
        }
        let (host, what) = (host.escape_debug(), what.escape_debug());
        Err(match known {
            true => format!("the policy does not allow '{what}' of server '{host}' for {kind}"),
            false => format!("the policy does not allow server '{host}' for {kind}"),
        })
    }
}

fn begins(what: &str, begin: &str) -> bool {
    let Some(rest) = what.strip_prefix(begin) else { return false };
    !begin.starts_with('/') || begin.ends_with('/') || rest.is_empty() || rest.starts_with('/')
}

/// The host of `host`, `host:port` or `[address]:port`.
fn host_of(text: &str) -> &str {
    match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None if text.matches(':').count() == 1 => text.split(':').next().unwrap_or_default(),
        None => text,
    }
}

/// Host and path of a URL that reads the same whoever reads it; what could be read in two ways is refused.
fn url_parts(url: &str) -> Result<(&str, &str), String> {
    let wrong = |why: &str| format!("the URL '{}' {why}", url.escape_debug());
    let lower = url.get(..8).unwrap_or(url).to_ascii_lowercase();
    let scheme = ["https://", "http://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let rest = scheme.map(|scheme| &url[scheme.len()..]).ok_or_else(|| wrong("is neither http nor https"))?;
    if rest.bytes().any(|byte| byte <= b' ' || byte == b'\\' || byte >= 0x7f) {
        return Err(wrong("has characters that a URL cannot have"));
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = path.split(['?', '#']).next().unwrap_or_default();
    if path.contains('%') {
        return Err(wrong("has a path with escapes, which the policy cannot compare"));
    }
    Ok((host_of(authority), if path.is_empty() { "/" } else { path }))
}

#[cfg(test)]
mod tests {
    use super::{Policy, begins, host_of, url_parts};

    #[test]
    fn beginnings_of_paths_end_at_slashes() {
        let rows = [
            ("/images", "/images", true),
            ("/images/a", "/images", true),
            ("/images2", "/images", false),
            ("/images/a", "/images/", true),
            ("/images", "/images/", false),
            ("iqn.a:b", "iqn.a", true),
            ("pool/a", "pool/", true),
        ];
        for (what, begin, expected) in rows {
            assert_eq!(begins(what, begin), expected, "{what} {begin}");
        }
    }

    #[test]
    fn hosts_are_read_as_clients_read_them() {
        for (text, host) in
            [("a", "a"), ("a:1", "a"), ("[::1]:2", "::1"), ("::1", "::1"), ("10.0.0.1:6789", "10.0.0.1")]
        {
            assert_eq!(host_of(text), host);
        }
        assert_eq!(url_parts("https://u:p@h:1/a/b?c#d"), Ok(("h", "/a/b")));
        assert_eq!(url_parts("HTTP://h"), Ok(("h", "/")));
        for wrong in ["ftp://h/", "https://h\\evil/", "https://h/%2e", "//h", "https://h/a b"] {
            assert!(url_parts(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_word_that_no_policy_has_is_said() {
        let said = |text: &str| Policy::parse(text).unwrap_err();
        assert!(said("[run]\nattach = [\"floppy\"]").contains("floppy"));
        assert!(said("[run]\natach = []").contains("atach"));
        assert!(said("[[run.server]]\nhost = \"h\"\nkinds = [\"smb\"]").contains("smb"));
        assert!(said("[[peer]]\nrole = \"run\"").contains("either a user or a group"));
        assert!(said("[[peer]]\nuser = \"a\"\nrole = \"king\"").contains("king"));
    }

    #[test]
    fn peers_are_users_and_groups_of_the_node() {
        let policy =
            Policy::parse("[[peer]]\nuser = \"4711\"\nrole = \"read\"\n[[peer]]\ngroup = \"4712\"\nrole = \"run\"")
                .unwrap();
        let of = |uid, gid| policy.peer_role(uid, gid).map(super::Role::as_str);
        assert_eq!(
            (of(0, 0), of(4711, 1), of(1, 4712), of(4711, 4712), of(1, 1)),
            (Some("admin"), Some("read"), Some("run"), Some("run"), None)
        );
    }
}

//! A directory of an NFS server, mounted by the kernel itself: no program of nfs-utils is needed.

use super::mountpoint::Mountpoint;
use super::rpc::{self, Program};
use super::{address, filesystem};
use crate::crash::crash_point;
use crate::object::Proof;
use crate::refusal::DriverError;
use rustix::mount::MountAttrFlags;
use slipway_api::node::MountNfs;
use std::net::SocketAddr;
use std::time::Duration;

/// How long a server may take to say that it is there. The kernel itself would wait for ever.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The same before an unmount, where the mount has had an answer before.
const GONE_LIMIT: Duration = Duration::from_secs(2);
const PORT: u16 = 2049;
/// `MNTPATHLEN` of RFC 1813.
const PATH_MAX: usize = 1024;
/// What the service says itself, and words that would say it in another way.
const RESERVED: &[&str] =
    &["addr", "clientaddr", "vers", "nfsvers", "minorversion", "v2", "v3", "v4", "v4.0", "v4.1", "v4.2", "source"];
/// Words for mount(8) and mount.nfs that are nothing to the kernel.
const TOOLS_WORDS: &[&str] = &["_netdev", "nofail", "bg", "fg", "retry", "sloppy", "user", "nouser", "noauto"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Three,
    /// With its minor number.
    Four(u8),
}

impl Version {
    fn of(text: &str) -> Result<Self, DriverError> {
        match text {
            "" | "4.2" => Ok(Self::Four(2)),
            "4.1" => Ok(Self::Four(1)),
            // As the kernel takes it.
            "4" | "4.0" => Ok(Self::Four(0)),
            "3" => Ok(Self::Three),
            other => {
                let shown: String = other.escape_debug().take(20).collect();
                Err(DriverError::request("nfs", format!("nfs.version '{shown}' is none of 3, 4.0, 4.1 and 4.2")))
            }
        }
    }
}

/// What is asked for, looked at before anybody else is asked.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    version: Version,
    /// As the kernel takes it: `HOST:PATH`.
    source: String,
    options: filesystem::Options,
}

impl Wanted {
    fn of(block: &MountNfs) -> Result<Self, DriverError> {
        let wrong = |text: String| Err(DriverError::request("nfs", text));
        if !block.path.starts_with('/') || block.path.len() > PATH_MAX || block.path.contains(char::is_control) {
            let shown: String = block.path.escape_debug().take(80).collect();
            return wrong(format!("nfs.path '{shown}' is no absolute path of at most {PATH_MAX} bytes"));
        }
        let version = Version::of(&block.version)?;
        let mut options = filesystem::options(block.options.as_deref().unwrap_or_default());
        options.own.retain(|option| !TOOLS_WORDS.contains(&key(option)));
        if let Some(option) = options.own.iter().find(|option| RESERVED.contains(&key(option))) {
            let instead = if key(option).contains("addr") { "nfs.host" } else { "nfs.version" };
            return wrong(format!("nfs.options has '{}', which the service says itself; use {instead}", key(option)));
        }
        if block.ro {
            // Of this mount alone: the kernel has one file system for all mounts of an export.
            options.attr |= MountAttrFlags::MOUNT_ATTR_RDONLY.bits();
        }
        let bracketed = block.host.contains(':') && !block.host.starts_with('[');
        let host = if bracketed { format!("[{}]", block.host) } else { block.host.clone() };
        Ok(Self { version, source: format!("{host}:{}", block.path), options })
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.own.iter().find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    fn says(&self, names: &[&str]) -> bool {
        self.options.own.iter().any(|option| names.contains(&key(option)))
    }

    fn port(&self, name: &str) -> Result<Option<u16>, DriverError> {
        let wrong = |text: &str| {
            let shown: String = text.escape_debug().take(20).collect();
            DriverError::request("nfs", format!("{name} '{shown}' in nfs.options is no port"))
        };
        self.option(name).map(|text| text.parse().ok().filter(|port| *port != 0).ok_or_else(|| wrong(text))).transpose()
    }

    /// Whether it goes over TCP, as it does unless it is told otherwise.
    fn is_tcp(&self) -> bool {
        self.option("proto").is_none_or(|proto| proto.starts_with("tcp")) && !self.says(&["udp", "rdma"])
    }

    /// Adds what the kernel must be told of a server at `to`, which has answered.
    fn server_add(&mut self, to: SocketAddr) -> Result<(), DriverError> {
        let mut own = match self.version {
            Version::Three => vec!["vers=3".to_owned()],
            Version::Four(minor) => {
                let here = address::source_of(to)?;
                vec![format!("vers=4.{minor}"), format!("clientaddr={}", address::bare(here))]
            }
        };
        own.push(format!("addr={}", address::bare(to)));
        if self.version == Version::Three {
            own.extend(self.three_asked(to)?);
            // The lock manager needs rpc.statd here; without it a mount that wants locks waits for them in vain.
            if !self.says(&["lock", "nolock", "local_lock"]) {
                own.push("nolock".to_owned());
            }
        } else if self.is_tcp() {
            rpc::ping(to, Program::Nfs, 4, ANSWER_LIMIT)?;
        }
        // Behind the caller's own, so that these hold.
        self.options.own.extend(own);
        Ok(())
    }

    /// Asks the programs of version 3, each where the port mapper says it is unless the caller knows better.
    fn three_asked(&self, to: SocketAddr) -> Result<Vec<String>, DriverError> {
        let mut found = Vec::new();
        if !self.is_tcp() {
            return Ok(found);
        }
        for (name, program) in [("port", Program::Nfs), ("mountport", Program::Mount)] {
            let port = match self.port(name)? {
                Some(port) => port,
                None => {
                    let port = rpc::port(to, program, 3, ANSWER_LIMIT)?;
                    found.push(format!("{name}={port}"));
                    port
                }
            };
            let mut program_at = to;
            program_at.set_port(port);
            rpc::ping(program_at, program, 3, ANSWER_LIMIT)?;
        }
        if !self.says(&["mountproto"]) {
            found.push("mountproto=tcp".to_owned());
        }
        Ok(found)
    }
}

fn key(option: &str) -> &str {
    option.split_once('=').map_or(option, |(key, _)| key)
}

pub(super) fn make(at: &Mountpoint, block: &MountNfs) -> Result<Proof, DriverError> {
    let mut wanted = Wanted::of(block)?;
    let port = wanted.port("port")?.unwrap_or(PORT);
    let mut refused = None;
    for to in address::resolve("nfs.host", &block.host, port)? {
        match wanted.server_add(to) {
            Ok(()) => {
                refused = None;
                break;
            }
            // The name's next address may be one that answers.
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    if let Some(error) = refused {
        return Err(error);
    }
    crash_point("nfs.asked");
    let fs_type = if wanted.version == Version::Three { "nfs" } else { "nfs4" };
    let tree = filesystem::mounted(fs_type, &wanted.source, &wanted.options)?;
    crash_point("nfs.mounted");
    at.prepare(true)?;
    at.put(tree)
}

/// Takes the mount away. One whose server is gone would wait for it to come back, so nothing is waited for then: unless somebody uses it,
/// it is cut off.
pub(super) fn undo(at: &Mountpoint) -> Result<(), DriverError> {
    crash_point("nfs.undo.before");
    let undone = match at.options()?.as_deref().and_then(server_of) {
        Some((server, version)) if rpc::ping(server, Program::Nfs, version, GONE_LIMIT).is_err() => {
            at.unmount_cut_off()
        }
        _ => at.unmount(),
    };
    crash_point("nfs.undo.after");
    undone
}

/// The server and version of a mount, as the kernel lists it; none if it is not reached by TCP.
fn server_of(options: &str) -> Option<(SocketAddr, u32)> {
    let option = |name: &str| options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='));
    option("proto").filter(|proto| proto.starts_with("tcp"))?;
    let port = option("port").map_or(Ok(PORT), str::parse).ok()?;
    // A numbered interface in an address is only understood with a resolver, which takes no time for it.
    let server = address::resolve("addr", option("addr")?, port).ok()?.into_iter().next()?;
    let version = if option("vers")?.starts_with('3') { 3 } else { 4 };
    Some((server, version))
}

#[cfg(test)]
mod tests {
    use super::{MountNfs, Version, Wanted, server_of};

    fn wanted(json: &str) -> Result<Wanted, String> {
        let block: MountNfs = serde_json::from_str(json).unwrap();
        Wanted::of(&block).map_err(|error| {
            assert_eq!(error.status, 400);
            error.error.text
        })
    }

    #[test]
    fn what_is_wanted_is_looked_at_first() {
        let found = wanted(
            r#"{"host":"fe80::1","path":"/a b","ro":true,"options":["soft,timeo=50","noatime","_netdev,retry=0","port=20490"]}"#,
        );
        let found = found.unwrap();
        assert_eq!((found.source.as_str(), found.version), ("[fe80::1]:/a b", Version::Four(2)));
        assert_eq!(found.options.own, ["soft", "timeo=50", "port=20490"]);
        assert_eq!(found.options.attr, 0x11);
        assert_eq!(found.port("port"), Ok(Some(20490)));
        assert!(found.is_tcp() && found.says(&["soft"]));
        for (json, field) in [
            (r#"{"host":"h","path":"a"}"#, "nfs.path"),
            (r#"{"host":"h","path":"/a\n"}"#, "nfs.path"),
            (r#"{"host":"h","path":"/","version":"2"}"#, "nfs.version"),
            (r#"{"host":"h","path":"/","options":["ro,addr=1.2.3.4"]}"#, "nfs.host"),
            (r#"{"host":"h","path":"/","options":["vers=3"]}"#, "nfs.version"),
            (r#"{"host":"h","path":"/","options":["v4.1"]}"#, "nfs.version"),
        ] {
            let text = wanted(json).unwrap_err();
            assert!(text.contains(field), "{json}: {text}");
        }
        let found = wanted(r#"{"host":"h","path":"/","options":["port=0"]}"#).unwrap();
        assert!(found.port("port").unwrap_err().error.text.contains("port '0'"));
        assert!(!wanted(r#"{"host":"h","path":"/","version":"3","options":["proto=udp"]}"#).unwrap().is_tcp());
    }

    #[test]
    fn the_kernel_says_whose_a_mount_is() {
        let four =
            "rw,vers=4.2,rsize=1048576,hard,proto=tcp6,timeo=600,sec=sys,clientaddr=::1,local_lock=none,addr=::1";
        assert_eq!(server_of(four), Some(("[::1]:2049".parse().unwrap(), 4)));
        let three = "rw,vers=3,proto=tcp,port=20490,mountaddr=10.0.0.2,mountport=7,mountproto=tcp,addr=10.0.0.2";
        assert_eq!(server_of(three), Some(("10.0.0.2:20490".parse().unwrap(), 3)));
        assert_eq!(server_of("rw,vers=3,proto=udp,addr=10.0.0.2"), None);
        assert_eq!(server_of("rw"), None);
    }
}

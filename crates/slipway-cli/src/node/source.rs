//! Files, devices and directories of the command line as definitions.

use crate::failure::Failure;
use slipway_api::node::{
    Attach, AttachKind, AttachLocal, AttachLoopback, Mount, MountAttach, MountBind, MountKind, MountOverlay,
    NodeAddress, ObjectId,
};
use slipway_format::{PROBE_LEN, PartitionTable, probe};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A path as the node sees it. On this machine it may be relative; elsewhere it cannot be.
pub(crate) fn path(address: &NodeAddress, given: &Path) -> Result<String, Failure> {
    let path = match given.is_absolute() {
        true => given.to_owned(),
        false if address.is_here() => std::path::absolute(given).map_err(|why| Failure::io("finding", given, &why))?,
        false => {
            return Err(Failure::usage(format!("{} is a path of this machine, not of the node", given.display()))
                .next(format!("give the whole path that it has on {address}, from '/' on")));
        }
    };
    path.into_os_string().into_string().map_err(|path| {
        Failure::usage(format!("{} is not UTF-8", Path::new(&path).display()))
            .next("give it another name, or make a link to it with one")
    })
}

/// Something that can be a root or a device.
pub(crate) struct Source<'a> {
    pub(crate) address: &'a NodeAddress,
    pub(crate) text: &'a str,
    pub(crate) fs_type: Option<&'a str>,
}

/// What is behind a path.
enum Behind {
    Device(String),
    File(String),
    Directory(String),
}

impl Source<'_> {
    /// The number of an object of the node, if that is what was given.
    pub(crate) fn id(&self) -> Option<ObjectId> {
        self.text.parse().ok().filter(|id| *id > 0)
    }

    fn behind(&self) -> Result<Behind, Failure> {
        let given = PathBuf::from(self.text);
        let path = path(self.address, &given)?;
        if !self.address.is_here() {
            return Ok(match self.fs_type {
                Some(_) if path.starts_with("/dev/") => Behind::Device(path),
                Some(_) => Behind::File(path),
                None => Behind::Directory(path),
            });
        }
        let meta = std::fs::metadata(&given).map_err(|why| Failure::io("looking at", &given, &why))?;
        match meta.file_type() {
            kind if kind.is_dir() => Ok(Behind::Directory(path)),
            kind if kind.is_block_device() => Ok(Behind::Device(path)),
            kind if kind.is_file() => Ok(Behind::File(path)),
            _ => Err(Failure::usage(format!("{} is neither file, directory nor block device", given.display()))
                .next("name an image, a directory with a system in it, or the number of a mount")),
        }
    }

    /// The file system in it: as said, else as its first bytes say.
    fn fs_type(&self, path: &str) -> Result<String, Failure> {
        match self.fs_type {
            Some(said) => Ok(said.to_owned()),
            None if self.address.is_here() => fs_probe(Path::new(path)),
            None => Err(Failure::usage(format!("what file system is in {path} cannot be seen from here"))
                .next("say it with --fs-type, such as --fs-type squashfs")),
        }
    }

    /// The device behind a number, block device or file.
    pub(crate) fn attach(&self, ro: bool) -> Result<(Attach, String), Failure> {
        if let Some(id) = self.id() {
            let fs_type = self.fs_type.ok_or_else(|| {
                Failure::usage(format!("what file system is in attachment {id} is not known here"))
                    .next("say it with --fs-type, such as --fs-type ext4")
            })?;
            return Ok((Attach { id, ..Attach::default() }, fs_type.to_owned()));
        }
        match self.behind()? {
            Behind::Device(path) => {
                let fs_type = self.fs_type(&path)?;
                Ok((
                    Attach { kind: Some(AttachKind::Local), local: Some(AttachLocal { path }), ..Attach::default() },
                    fs_type,
                ))
            }
            Behind::File(path) => {
                let fs_type = self.fs_type(&path)?;
                let loopback = AttachLoopback { path, ro, ..AttachLoopback::default() };
                Ok((
                    Attach { kind: Some(AttachKind::Loopback), loopback: Some(loopback), ..Attach::default() },
                    fs_type,
                ))
            }
            Behind::Directory(path) => Err(Failure::usage(format!("{path} is a directory, which is no device"))
                .next(format!("'slipway node mount bind {path}' mounts a directory"))),
        }
    }

    /// The tree behind a number, image or directory. What is not a mount already is read-only, and below whatever is put over it.
    pub(crate) fn tree(&self) -> Result<Mount, Failure> {
        if let Some(id) = self.id() {
            return Ok(Mount { id, ..Mount::default() });
        }
        if let Behind::Directory(path) = self.behind()? {
            let bind = MountBind { path, ro: true, ..MountBind::default() };
            return Ok(Mount { kind: Some(MountKind::Bind), bind: Some(bind), ..Mount::default() });
        }
        let (attach, fs_type) = self.attach(true)?;
        let block = MountAttach { attach: Box::new(attach), fs_type, mount_options: Some(vec!["ro".into()]) };
        Ok(Mount { kind: Some(MountKind::Attach), attach: Some(block), ..Mount::default() })
    }
}

/// Changes over a tree: in memory up to so many bytes, or kept under a name.
pub(crate) fn overlay(lower: Mount, size: u64, persist: Option<String>) -> Mount {
    let size = if persist.is_some() { 0 } else { size };
    let block =
        MountOverlay { lower: vec![lower], size, persist: persist.unwrap_or_default(), ..MountOverlay::default() };
    Mount { kind: Some(MountKind::Overlay), overlay: Some(block), ..Mount::default() }
}

fn fs_probe(path: &Path) -> Result<String, Failure> {
    let mut first = Vec::new();
    File::open(path)
        .and_then(|file| file.take(PROBE_LEN as u64).read_to_end(&mut first))
        .map_err(|why| Failure::io("reading", path, &why))?;
    let found = probe(&first);
    let shown = path.display();
    match (found.file_system, found.table) {
        (Some(name), _) => Ok(name.to_owned()),
        (None, PartitionTable::None) => Err(Failure::usage(format!("{shown} holds no file system that is known here"))
            .next("say with --fs-type what it is; 'slipway push' reads qcow2, VMDK and compressed images")),
        (None, PartitionTable::Mbr | PartitionTable::Gpt { .. }) => Err(Failure::usage(format!(
            "{shown} is a whole disk with partitions"
        ))
        .next(format!("'slipway node attach loopback {shown} --partitions' shows them as devices; name one of those"))),
    }
}

#[cfg(test)]
mod tests {
    use super::{Source, overlay};
    use slipway_api::node::NodeAddress;

    #[test]
    fn roots_are_what_is_behind_them() {
        let here = NodeAddress::usual();
        let far: NodeAddress = "https://n".parse().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.sqfs");
        let mut bytes = b"hsqs".to_vec();
        bytes.resize(4096, 0);
        bytes[28] = 4;
        std::fs::write(&image, &bytes).unwrap();
        let tree = |address, text: &str, fs_type| Source { address, text, fs_type }.tree();
        let json = |mount| serde_json::to_value(mount).unwrap();

        assert_eq!(json(tree(&here, "12", None).unwrap()), serde_json::json!({"id": 12}));
        let bind = json(tree(&here, dir.path().to_str().unwrap(), None).unwrap());
        assert_eq!((bind["kind"].as_str(), bind["bind"]["ro"].as_bool()), (Some("bind"), Some(true)));
        let attach = json(tree(&here, image.to_str().unwrap(), None).unwrap());
        assert_eq!(attach["attach"]["fs_type"], "squashfs");
        assert_eq!(attach["attach"]["attach"]["loopback"]["path"], image.to_str().unwrap());

        assert_eq!(json(tree(&far, "/srv/root", None).unwrap())["kind"], "bind");
        assert_eq!(json(tree(&far, "/srv/a.img", Some("ext4")).unwrap())["attach"]["attach"]["kind"], "loopback");
        assert_eq!(json(tree(&far, "/dev/sda1", Some("ext4")).unwrap())["attach"]["attach"]["kind"], "local");
        assert_eq!(tree(&far, "root", None).unwrap_err().exit, 2);
        assert_eq!(tree(&here, "/no/such/file", None).unwrap_err().exit, 3);
        let empty = dir.path().join("empty");
        std::fs::write(&empty, b"nothing").unwrap();
        assert!(tree(&here, empty.to_str().unwrap(), None).unwrap_err().next.unwrap().contains("--fs-type"));

        let over = json(overlay(tree(&here, "12", None).unwrap(), 5, None));
        assert_eq!(over, serde_json::json!({"kind": "overlay", "overlay": {"lower": [{"id": 12}], "size": 5}}));
    }
}

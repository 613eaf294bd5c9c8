//! A request taken apart: what is to be made, children before parents, and what is only referred to.

use crate::object::{Type, What};
use crate::refusal::Refusal;
use slipway_api::node::{Attach, AttachKind, Base, Container, Mount, MountKind, ObjectId};

/// Inline descriptions nest at most so deep; references by number have no limit.
pub const NESTING_MAX: usize = 64;

/// A child of something in a [`Draft`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Child {
    /// The n-th object of the same draft.
    Drafted(usize),
    /// An object that must be there, of this type.
    There(ObjectId, Type),
}

/// An object to be made; what it nests is taken out of its description.
#[derive(Clone, Debug, PartialEq)]
pub struct Drafted {
    /// The description, with an empty object in place of each nested one.
    pub what: What,
    /// What it stands on, in the order of the description.
    pub children: Vec<Child>,
}

/// What a request asks for, in the order of making; the last one is what was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Draft {
    /// Each stands only on earlier ones, or on what is there.
    pub objects: Vec<Drafted>,
}

impl Draft {
    /// Takes an attachment apart.
    ///
    /// # Errors
    /// 400 for a missing block, a number in a new object, or too deep a nesting; 501 without a kind.
    pub fn attach(attach: Attach) -> Result<Self, Refusal> {
        number_refuse(attach.id)?;
        let mut draft = Self::default();
        draft.attach_add(attach, 0)?;
        Ok(draft)
    }

    /// Takes a mount apart.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn mount(mount: Mount) -> Result<Self, Refusal> {
        number_refuse(mount.id)?;
        let mut draft = Self::default();
        draft.mount_add(mount, 0)?;
        Ok(draft)
    }

    /// Takes a container apart.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn container(mut container: Container) -> Result<Self, Refusal> {
        number_refuse(container.id)?;
        let mut draft = Self::default();
        let Some(root) = container.mount.take() else { return Err(block_missing("container", "mount")) };
        let children = vec![draft.mount_child(root, 1)?];
        draft.objects.push(Drafted { what: What::Container(Box::new(container)), children });
        Ok(draft)
    }

    fn attach_child(&mut self, attach: Attach, depth: usize) -> Result<Child, Refusal> {
        match attach.id {
            0 => self.attach_add(attach, depth).map(Child::Drafted),
            id => Ok(Child::There(id, Type::Attach)),
        }
    }

    fn mount_child(&mut self, mount: Mount, depth: usize) -> Result<Child, Refusal> {
        match mount.id {
            0 => self.mount_add(mount, depth).map(Child::Drafted),
            id => Ok(Child::There(id, Type::Mount)),
        }
    }

    fn attach_add(&mut self, mut attach: Attach, depth: usize) -> Result<usize, Refusal> {
        depth_check(depth)?;
        let kind = attach.kind.ok_or_else(no_driver)?;
        let mut children = Vec::new();
        match kind {
            AttachKind::Loopback => {
                let Some(block) = &mut attach.loopback else { return Err(block_missing("attach", kind.as_str())) };
                children.extend(self.base_child(block.base, &mut block.mount, "loopback", depth)?);
            }
            AttachKind::Iscsi => block_check(attach.iscsi.is_some(), kind.as_str())?,
            AttachKind::Local => block_check(attach.local.is_some(), kind.as_str())?,
            AttachKind::Rbd => block_check(attach.rbd.is_some(), kind.as_str())?,
            AttachKind::Nbd => block_check(attach.nbd.is_some(), kind.as_str())?,
            AttachKind::Slipway => block_check(attach.slipway.is_some(), kind.as_str())?,
        }
        attach.device_file.clear();
        attach.refs = 0;
        self.objects.push(Drafted { what: What::Attach(Box::new(attach)), children });
        Ok(self.objects.len() - 1)
    }

    fn mount_add(&mut self, mut mount: Mount, depth: usize) -> Result<usize, Refusal> {
        depth_check(depth)?;
        let kind = mount.kind.ok_or_else(no_driver)?;
        let mut children = Vec::new();
        match kind {
            MountKind::Attach => {
                let Some(block) = &mut mount.attach else { return Err(block_missing("mount", kind.as_str())) };
                let attach = std::mem::take(block.attach.as_mut());
                children.push(self.attach_child(attach, depth + 1)?);
            }
            MountKind::Bind => {
                let Some(block) = &mut mount.bind else { return Err(block_missing("mount", kind.as_str())) };
                children.extend(self.base_child(block.base, &mut block.mount, "bind", depth)?);
            }
            MountKind::Overlay => {
                let Some(block) = &mut mount.overlay else { return Err(block_missing("mount", kind.as_str())) };
                block.workdir.clear();
                block.upperdir.clear();
                if block.lower.is_empty() {
                    return Err(
                        Refusal::new(400, "invalid data type").hint("overlay.lower is empty; name at least one mount")
                    );
                }
                for lower in &mut block.lower {
                    children.push(self.mount_child(std::mem::take(lower), depth + 1)?);
                }
            }
            MountKind::Nfs => block_check(mount.nfs.is_some(), kind.as_str())?,
            MountKind::Uri => block_check(mount.uri.is_some(), kind.as_str())?,
        }
        mount.mountpoint.clear();
        mount.refs = 0;
        self.objects.push(Drafted { what: What::Mount(Box::new(mount)), children });
        Ok(self.objects.len() - 1)
    }

    /// What a path begins at, if that is a mount. One that is named without `base: mount` is not used, as in the ImageAPI.
    fn base_child(
        &mut self,
        base: Base,
        mount: &mut Option<Box<Mount>>,
        block: &str,
        depth: usize,
    ) -> Result<Option<Child>, Refusal> {
        match (base, mount) {
            (Base::Root, mount) => {
                *mount = None;
                Ok(None)
            }
            (Base::Mount, Some(mount)) => self.mount_child(std::mem::take(mount.as_mut()), depth + 1).map(Some),
            (Base::Mount, None) => Err(block_missing(block, "mount")),
        }
    }
}

fn depth_check(depth: usize) -> Result<(), Refusal> {
    match depth < NESTING_MAX {
        true => Ok(()),
        false => Err(Refusal::new(400, format!("objects nest deeper than {NESTING_MAX} levels"))
            .hint("make the inner ones first and refer to them by id")),
    }
}

fn number_refuse(id: ObjectId) -> Result<(), Refusal> {
    match id {
        0 => Ok(()),
        _ => {
            Err(Refusal::new(400, "invalid data type").hint("a new object gets its id from the service; leave it out"))
        }
    }
}

fn no_driver() -> Refusal {
    Refusal::new(501, "no driver found for this object type").hint("say which kind it is")
}

fn block_check(there: bool, kind: &str) -> Result<(), Refusal> {
    if there { Ok(()) } else { Err(block_missing("object", kind)) }
}

fn block_missing(of: &str, block: &str) -> Refusal {
    Refusal::new(400, "invalid data type").hint(format!("the {of} has no block '{block}'"))
}

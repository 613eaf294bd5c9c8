//! Objects by what people call them: a number, or the name of a container.

use crate::failure::{Failure, exit};
use crate::near::nearest;
use serde::Serialize;
use slipway_api::node::{Attach, Container, ContainerKey, Mount, NodeClient, ObjectId};

/// One object of a node.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Object {
    Attach(Box<Attach>),
    Mount(Box<Mount>),
    Container(Box<Container>),
}

impl Object {
    /// `attachment`, `mount` or `container`.
    pub(crate) fn noun(&self) -> &'static str {
        match self {
            Self::Attach(_) => "attachment",
            Self::Mount(_) => "mount",
            Self::Container(_) => "container",
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> ObjectId {
        match self {
            Self::Attach(attach) => attach.id,
            Self::Mount(mount) => mount.id,
            Self::Container(container) => container.id,
        }
    }
}

/// Everything that a node has at one moment, or nearly: three questions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Everything {
    pub(crate) attaches: Vec<Attach>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) containers: Vec<Container>,
}

impl Everything {
    pub(crate) async fn read(client: &NodeClient) -> Result<Self, Failure> {
        let mut all = Self {
            attaches: client.attach_list().await?,
            mounts: client.mount_list().await?,
            containers: client.container_list().await?,
        };
        all.attaches.sort_by_key(|attach| attach.id);
        all.mounts.sort_by_key(|mount| mount.id);
        all.containers.sort_by_key(|container| container.id);
        Ok(all)
    }

    /// The numbers of the objects that stand directly on this one.
    pub(crate) fn parents(&self, id: ObjectId) -> Vec<ObjectId> {
        let attaches = self.attaches.iter().filter(|attach| attach_child(attach) == Some(id)).map(|attach| attach.id);
        let mounts = self.mounts.iter().filter(|mount| mount_children(mount).contains(&id)).map(|mount| mount.id);
        let containers = self
            .containers
            .iter()
            .filter(|container| container.mount.as_ref().is_some_and(|mount| mount.id == id))
            .map(|container| container.id);
        attaches.chain(mounts).chain(containers).collect()
    }

    /// Whether somebody asked for this object itself, and not only for one that stands on it.
    pub(crate) fn is_asked_for(&self, id: ObjectId, refs: u64) -> bool {
        refs > self.parents(id).len() as u64
    }
}

fn attach_child(attach: &Attach) -> Option<ObjectId> {
    Some(attach.loopback.as_ref()?.mount.as_ref()?.id)
}

fn mount_children(mount: &Mount) -> Vec<ObjectId> {
    let attach = mount.attach.iter().map(|block| block.attach.id);
    let bind = mount.bind.iter().filter_map(|block| Some(block.mount.as_ref()?.id));
    let lower = mount.overlay.iter().flat_map(|block| block.lower.iter().map(|lower| lower.id));
    attach.chain(bind).chain(lower).collect()
}

/// The container that this names: by its number if it is one, else by its name.
pub(crate) fn container_pick<'a>(containers: &'a [Container], text: &str) -> Option<&'a Container> {
    let by_id = text.parse::<ObjectId>().ok().and_then(|id| containers.iter().find(|container| container.id == id));
    by_id.or_else(|| containers.iter().find(|container| !container.name.is_empty() && container.name == text))
}

/// The container that this names, or which one may have been meant.
pub(crate) async fn container_find(client: &NodeClient, text: &str) -> Result<Container, Failure> {
    let containers = client.container_list().await?;
    match container_pick(&containers, text) {
        Some(container) => Ok(container.clone()),
        None => Err(container_missing(&containers, text)),
    }
}

fn container_missing(containers: &[Container], text: &str) -> Failure {
    let near =
        nearest(text, containers.iter().map(|container| container.name.as_str()).filter(|name| !name.is_empty()));
    let next = match near {
        Some(near) => format!("did you mean '{near}'? 'slipway node ps -a' lists them"),
        None => "'slipway node ps -a' lists them".into(),
    };
    Failure::new(exit::NOT_FOUND, format!("there is no container {text} on this node")).next(next)
}

/// Whatever this names.
pub(crate) fn object_pick(all: &Everything, text: &str) -> Result<Object, Failure> {
    if let Some(container) = container_pick(&all.containers, text) {
        return Ok(Object::Container(Box::new(container.clone())));
    }
    let Ok(id) = text.parse::<ObjectId>() else { return Err(container_missing(&all.containers, text)) };
    let attach =
        all.attaches.iter().find(|attach| attach.id == id).map(|attach| Object::Attach(Box::new(attach.clone())));
    let mount = || all.mounts.iter().find(|mount| mount.id == id).map(|mount| Object::Mount(Box::new(mount.clone())));
    attach.or_else(mount).ok_or_else(|| {
        Failure::new(exit::NOT_FOUND, format!("there is nothing with the number {id} on this node"))
            .next("'slipway node ps -a' and 'slipway node ls' list what there is")
    })
}

/// How to ask for a container that is known.
pub(crate) fn key(container: &Container) -> ContainerKey {
    ContainerKey::Id(container.id)
}

/// What people call it.
pub(crate) fn called(container: &Container) -> String {
    match container.name.is_empty() {
        true => container.id.to_string(),
        false => container.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Everything, Object, container_pick, object_pick};
    use serde_json::from_str;

    fn node() -> Everything {
        Everything {
            attaches: vec![from_str(r#"{"id":1,"kind":"loopback","refs":2,"loopback":{"path":"/a"}}"#).unwrap()],
            mounts: vec![
                from_str(r#"{"id":2,"kind":"attach","refs":1,"attach":{"attach":{"id":1},"fs_type":"ext4"}}"#).unwrap(),
                from_str(r#"{"id":3,"kind":"overlay","refs":1,"overlay":{"lower":[{"id":2}]}}"#).unwrap(),
            ],
            containers: vec![
                from_str(r#"{"id":4,"name":"web","command":"x","mount":{"id":3}}"#).unwrap(),
                from_str(r#"{"id":5,"name":"4","command":"x","mount":{"id":9}}"#).unwrap(),
            ],
        }
    }

    #[test]
    fn who_stands_on_what_is_seen() {
        let all = node();
        for (id, parents) in [(1, vec![2]), (2, vec![3]), (3, vec![4]), (4, vec![])] {
            assert_eq!(all.parents(id), parents, "{id}");
        }
        assert!(all.is_asked_for(1, 2) && !all.is_asked_for(2, 1));
    }

    #[test]
    fn numbers_go_before_names() {
        let all = node();
        assert_eq!(container_pick(&all.containers, "web").unwrap().id, 4);
        assert_eq!(container_pick(&all.containers, "4").unwrap().id, 4);
        assert!(container_pick(&all.containers, "").is_none());
        assert!(matches!(object_pick(&all, "2").unwrap(), Object::Mount(_)));
        assert!(object_pick(&all, "8").unwrap_err().what.contains("number 8"));
        assert!(object_pick(&all, "wbe").unwrap_err().next.unwrap().contains("'web'"));
    }
}

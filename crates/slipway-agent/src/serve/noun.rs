//! What the three types have in common for a request: how each is checked, made, found and shown.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use slipway_api::node::{Attach, AttachKind, Container, Mount, MountKind, ObjectId};
use slipway_node::access::Caller;
use slipway_node::{Draft, Host, Refusal, What, Which, schema};
use std::collections::BTreeMap;
use std::sync::Arc;

/// An attachment, a mount or a container.
pub(crate) trait Noun: Clone + Serialize + DeserializeOwned + Send + 'static {
    /// In paths, messages and logs.
    const NAME: &'static str;

    /// Holds a body against its schema.
    fn check(body: &Value) -> Result<(), Refusal>;
    /// Fills in what a caller means who does not say it.
    fn settle(&mut self, _: &Caller) {}
    fn labels(&mut self) -> &mut BTreeMap<String, String>;
    fn what(self) -> What;
    fn draft(self) -> Result<Draft, Refusal>;
    fn make(self, host: &Arc<Host>) -> Result<Self, Refusal>;
    fn get(host: &Host, id: ObjectId) -> Result<Self, Refusal>;
    /// One line for the log.
    fn made_log(&self, caller: &Caller);
}

/// What has kinds, and is removed by number alone.
pub(crate) trait Kinded: Noun {
    fn kinds() -> Vec<&'static str>;
    fn kind(&self) -> &'static str;
    fn all(host: &Host) -> Vec<Self>;
    fn delete(host: &Host, id: ObjectId, force: bool) -> Result<Self, Refusal>;
}

impl Noun for Attach {
    const NAME: &'static str = "attach";

    fn check(body: &Value) -> Result<(), Refusal> {
        schema::attach_check(body)
    }

    fn labels(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.labels
    }

    fn what(self) -> What {
        What::Attach(Box::new(self))
    }

    fn draft(self) -> Result<Draft, Refusal> {
        Draft::attach(self)
    }

    fn make(self, host: &Arc<Host>) -> Result<Self, Refusal> {
        host.attach_create(self)
    }

    fn get(host: &Host, id: ObjectId) -> Result<Self, Refusal> {
        host.attach(id)
    }

    fn made_log(&self, caller: &Caller) {
        tracing::info!(id = self.id, kind = self.kind(), device = self.device_file, %caller, "attached");
    }
}

impl Kinded for Attach {
    fn kinds() -> Vec<&'static str> {
        AttachKind::ALL.iter().map(|kind| kind.as_str()).collect()
    }

    fn kind(&self) -> &'static str {
        self.kind.map_or("", AttachKind::as_str)
    }

    fn all(host: &Host) -> Vec<Self> {
        host.attaches()
    }

    fn delete(host: &Host, id: ObjectId, force: bool) -> Result<Self, Refusal> {
        host.attach_delete(id, force)
    }
}

impl Noun for Mount {
    const NAME: &'static str = "mount";

    fn check(body: &Value) -> Result<(), Refusal> {
        schema::mount_check(body)
    }

    fn labels(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.labels
    }

    fn what(self) -> What {
        What::Mount(Box::new(self))
    }

    fn draft(self) -> Result<Draft, Refusal> {
        Draft::mount(self)
    }

    fn make(self, host: &Arc<Host>) -> Result<Self, Refusal> {
        host.mount_create(self)
    }

    fn get(host: &Host, id: ObjectId) -> Result<Self, Refusal> {
        host.mount(id)
    }

    fn made_log(&self, caller: &Caller) {
        tracing::info!(id = self.id, kind = self.kind(), at = self.mountpoint, %caller, "mounted");
    }
}

impl Kinded for Mount {
    fn kinds() -> Vec<&'static str> {
        MountKind::ALL.iter().map(|kind| kind.as_str()).collect()
    }

    fn kind(&self) -> &'static str {
        self.kind.map_or("", MountKind::as_str)
    }

    fn all(host: &Host) -> Vec<Self> {
        host.mounts()
    }

    fn delete(host: &Host, id: ObjectId, force: bool) -> Result<Self, Refusal> {
        host.mount_delete(id, force)
    }
}

impl Noun for Container {
    const NAME: &'static str = "container";

    fn check(body: &Value) -> Result<(), Refusal> {
        schema::container_check(body)
    }

    fn settle(&mut self, caller: &Caller) {
        self.privileged.get_or_insert(caller.is_local_root);
    }

    fn labels(&mut self) -> &mut BTreeMap<String, String> {
        &mut self.labels
    }

    fn what(self) -> What {
        What::Container(Box::new(self))
    }

    fn draft(self) -> Result<Draft, Refusal> {
        Draft::container(self)
    }

    fn make(self, host: &Arc<Host>) -> Result<Self, Refusal> {
        // It was settled; what was not is not privileged.
        host.container_create(self, false)
    }

    fn get(host: &Host, id: ObjectId) -> Result<Self, Refusal> {
        host.container(&Which::Id(id))
    }

    fn made_log(&self, caller: &Caller) {
        let error = self.error.as_ref().map(|error| error.text.as_str());
        let state = self.state.as_str();
        tracing::info!(id = self.id, name = self.name, state, error, %caller, "container made");
    }
}

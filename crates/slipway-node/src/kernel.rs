//! What the node's rules ask of a kernel. Two implementations: the one of this machine, and the one in memory that the tests break.

use crate::object::{Driver, Proof, What};
use crate::refusal::DriverError;
use slipway_api::node::{ObjectId, StepError};
use std::collections::BTreeMap;
use std::time::Duration;

/// A device or mount to be made.
#[derive(Clone, Debug)]
pub struct Make {
    /// The object's number: all that is made carries it, so that it can be found without our notes.
    pub id: ObjectId,
    /// Its description, secrets included, nested objects left empty.
    pub what: What,
    /// What it stands on, in the order of the description.
    pub on: Vec<Proof>,
}

/// Something of ours that a kernel has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The object's number, as it stands in the kernel.
    pub id: ObjectId,
    /// Which driver made it.
    pub driver: Driver,
    /// How it can be removed.
    pub proof: Proof,
}

/// Makes, removes and finds devices and mounts. Calls may block for long; each is made on a thread of its own.
pub trait Kernel: Send + Sync + 'static {
    /// Makes one object. An error leaves nothing of it behind.
    ///
    /// # Errors
    /// What the system, or the request, did not allow.
    fn make(&self, make: &Make) -> Result<Proof, DriverError>;

    /// How much longer than other calls making this may take, because it moves much and its request says how long that may be.
    fn time_more(&self, what: &What) -> Duration {
        let _ = what;
        Duration::ZERO
    }

    /// Removes one object, of which perhaps only a part was made. That it is not there is success; what is no longer ours is not touched.
    ///
    /// # Errors
    /// Busy with its holders; then it is as it was. Else what the system said.
    fn undo(&self, id: ObjectId, driver: Driver, proof: Option<&Proof>) -> Result<(), DriverError>;

    /// Everything that carries our mark, and nothing else.
    ///
    /// # Errors
    /// When the kernel's lists cannot be read.
    fn found(&self) -> Result<Vec<Found>, DriverError>;

    /// Whether a thing that cannot carry a mark, since it was not made here, is still there.
    fn is_there(&self, driver: Driver, proof: &Proof) -> bool {
        let _ = (driver, proof);
        false
    }

    /// What is wrong at this moment with things that are there, such as a server that is away. Asked often, so it only looks at what is known.
    fn troubles(&self) -> BTreeMap<ObjectId, StepError> {
        BTreeMap::new()
    }
}

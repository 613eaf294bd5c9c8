//! A kernel in memory: devices and mounts, what stands on what, things of others, and calls that fail or crash.

use slipway_node::{Driver, DriverError, Found, Kernel, Make, Proof, What};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What happens at the next calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The call refuses.
    Refuse,
    /// The service dies before the call has an effect.
    CrashBefore,
    /// The service dies when the call has had its effect.
    CrashAfter,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    /// Object number → driver and what it stands on. What others made has no number of ours: it is beside.
    pub ours: BTreeMap<u64, (Driver, Vec<u64>)>,
    pub others: BTreeMap<u64, bool>,
    pub calls: usize,
    pub fault: Option<(usize, Fault)>,
    pub crashed: bool,
    /// Held open by somebody outside.
    pub held: std::collections::BTreeSet<u64>,
}

/// Clones share the table, as services after each other share a kernel.
#[derive(Clone, Default)]
pub(crate) struct Simulated(pub(crate) Arc<Mutex<Table>>);

fn refused(status: u16, errno: &str) -> DriverError {
    let mut error = DriverError::other("simulated", "as planned");
    error.status = status;
    error.error.errno = Some(errno.to_owned());
    error
}

impl Simulated {
    fn call<T>(&self, act: impl FnOnce(&mut Table) -> Result<T, DriverError>) -> Result<T, DriverError> {
        let mut table = self.0.lock().unwrap();
        // A service that has died makes no more calls.
        if table.crashed {
            return Err(refused(500, "CRASHED"));
        }
        table.calls += 1;
        let fault = table.fault.filter(|(at, _)| *at == table.calls).map(|(_, fault)| fault);
        match fault {
            Some(Fault::Refuse) => Err(refused(500, "EIO")),
            Some(Fault::CrashBefore) => {
                table.crashed = true;
                Err(refused(500, "CRASHED"))
            }
            Some(Fault::CrashAfter) => {
                let _ = act(&mut table);
                table.crashed = true;
                Err(refused(500, "CRASHED"))
            }
            None => act(&mut table),
        }
    }
}

fn number(proof: &Proof) -> u64 {
    let name = if proof.device.is_empty() { &proof.mountpoint } else { &proof.device };
    name.rsplit('/').next().unwrap().parse().unwrap()
}

fn proof(id: u64, driver: Driver) -> Proof {
    match driver {
        Driver::Attach(_) => Proof { device: format!("/dev/sim/{id}"), ..Proof::default() },
        Driver::Mount(_) => Proof { mountpoint: format!("/run/sim/{id}"), ..Proof::default() },
    }
}

impl Kernel for Simulated {
    fn make(&self, make: &Make) -> Result<Proof, DriverError> {
        let driver = match &make.what {
            What::Attach(attach) => Driver::Attach(attach.kind.unwrap()),
            What::Mount(mount) => Driver::Mount(mount.kind.unwrap()),
            What::Container(_) => panic!("a container is no object of the kernel"),
        };
        self.call(|table| {
            let on: Vec<u64> = make.on.iter().map(number).collect();
            for below in &on {
                assert!(table.ours.contains_key(below), "{} is made on {below}, which is not there", make.id);
            }
            assert!(table.ours.insert(make.id, (driver, on)).is_none(), "{} is made twice", make.id);
            Ok(proof(make.id, driver))
        })
    }

    fn undo(&self, id: u64, driver: Driver, _: Option<&Proof>) -> Result<(), DriverError> {
        self.call(|table| {
            if table.held.contains(&id) || table.ours.values().any(|(_, on)| on.contains(&id)) {
                return Err(refused(409, "EBUSY"));
            }
            if let Some((made, _)) = table.ours.remove(&id) {
                assert_eq!(made, driver);
            }
            Ok(())
        })
    }

    fn found(&self) -> Result<Vec<Found>, DriverError> {
        let table = self.0.lock().unwrap();
        Ok(table
            .ours
            .iter()
            .map(|(id, (driver, _))| Found { id: *id, driver: *driver, proof: proof(*id, *driver) })
            .collect())
    }
}

//! What a server has to offer.

use crate::{RemoteReader, Stretch, TransferError};
use std::sync::Arc;

/// Where the bytes of an export come from. The methods may wait for a network; they are called on threads that may. (A trait, so that
/// the protocol can be tested against a source that fails and waits when it is told to.)
pub trait NbdSource: Send + Sync + 'static {
    /// The size in bytes.
    fn size(&self) -> u64;
    /// Fills `buf` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When they cannot be had, or are not what they should be.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), TransferError>;
    /// What is a hole in a range, and what is not: in order, without gap.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Stretch>, TransferError>;
}

impl NbdSource for RemoteReader {
    fn size(&self) -> u64 {
        Self::size(self)
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), TransferError> {
        Self::read_at(self, offset, buf)
    }

    fn extents(&self, offset: u64, len: u64) -> Result<Vec<Stretch>, TransferError> {
        Self::extents(self, offset, len)
    }
}

/// One disk that clients can ask for.
#[derive(Clone)]
pub struct NbdExport {
    /// Its names. A client that names none gets the first export.
    pub names: Vec<String>,
    /// What `nbdinfo` shows of it.
    pub description: String,
    /// Its bytes.
    pub source: Arc<dyn NbdSource>,
}

/// The disks of a server; cheap to clone.
#[derive(Clone)]
pub struct NbdExports(Arc<Vec<NbdExport>>);

impl NbdExports {
    /// These disks; the first is the default one.
    pub fn new(exports: Vec<NbdExport>) -> Self {
        Self(Arc::new(exports))
    }

    /// The disk of this name.
    pub(super) fn find(&self, name: &str) -> Option<&NbdExport> {
        match name {
            "" => self.0.first(),
            _ => self.0.iter().find(|export| export.names.iter().any(|known| known == name)),
        }
    }

    /// The first name of each.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|export| export.names.first()).map(String::as_str)
    }
}

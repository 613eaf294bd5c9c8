use crate::TransferError;
use slipway_chunk::SparseRead;
use slipway_disk::SparseFile;
use std::io;
use std::path::Path;

/// An image being read, once from front to back.
pub type Reading = Box<dyn SparseRead + Send>;

type Reopen = Box<dyn FnMut() -> io::Result<Reading> + Send>;

/// Where a push takes its image from.
pub struct Source {
    name: String,
    size: Option<u64>,
    opens: Opens,
}

enum Opens {
    Again(Reopen),
    Once(Option<Reading>),
}

impl Source {
    /// A regular file or a block device, with its holes.
    ///
    /// # Errors
    /// As [`SparseFile::open`].
    pub fn path(path: &Path) -> io::Result<Self> {
        let first = SparseFile::open(path)?;
        let (size, path) = (first.size(), path.to_owned());
        let name = path.display().to_string();
        let mut first = Some(first);
        let reopen = move || -> io::Result<Reading> {
            match first.take() {
                Some(first) => Ok(Box::new(first)),
                None => Ok(Box::new(SparseFile::open(&path)?)),
            }
        };
        Ok(Self::again(name, Some(size), reopen))
    }

    /// What can be opened more than once, such as a compressed file. `size` is that of the raw image, if known.
    pub fn again(
        name: impl Into<String>,
        size: Option<u64>,
        reopen: impl FnMut() -> io::Result<Reading> + Send + 'static,
    ) -> Self {
        Self { name: name.into(), size, opens: Opens::Again(Box::new(reopen)) }
    }

    /// What can be read only once, such as standard input.
    pub fn once(name: impl Into<String>, size: Option<u64>, reading: Reading) -> Self {
        Self { name: name.into(), size, opens: Opens::Once(Some(reading)) }
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The raw image's size in bytes, if known before it is read.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    pub(crate) fn is_repeatable(&self) -> bool {
        matches!(self.opens, Opens::Again(_))
    }

    /// Begins to read, or `None` when that is not possible again.
    pub(crate) fn open(&mut self) -> Result<Option<Reading>, TransferError> {
        match &mut self.opens {
            Opens::Once(reading) => Ok(reading.take()),
            Opens::Again(reopen) => match reopen() {
                Ok(reading) => Ok(Some(reading)),
                Err(source) => Err(TransferError::io("opening", &self.name, source)),
            },
        }
    }
}

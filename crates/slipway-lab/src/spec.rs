//! What a guest is made of.

use crate::net::GuestNet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// What is wanted of a guest; [`GuestSpec::new`] has the defaults, and fields are changed from there.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    /// Its file system.
    pub root: Root,
    /// Its memory in MiB. Pages that it does not touch cost nothing.
    pub memory_mib: u32,
    /// Kernel modules to load before the first command, with what they need: "nbd", "squashfs".
    pub modules: Vec<String>,
    /// Folders of this machine that it sees.
    pub shares: Vec<Share>,
    /// For [`Root::Host`]: folders whose files lie over this machine's, the first one on top.
    pub layers: Vec<PathBuf>,
    /// Its network beyond loopback.
    pub net: Option<Arc<GuestNet>>,
    /// Its place in that, below [`GuestNet::seats`]; no two guests at a time have the same.
    pub seat: u8,
    /// More words for its kernel.
    pub kernel_words: Vec<String>,
    /// Shell lines that its init runs before it is ready; the first that fails stops the boot.
    pub setup: String,
    /// A program that then takes the place of the guest's init, such as a real systemd; commands go on being taken beside it.
    pub init: Option<String>,
    /// How long it may take to be ready: much more than the 1.5 to 3 s that it takes on a machine that does nothing else.
    pub boot_limit: Duration,
}

/// The file system that a guest has.
#[derive(Clone, Debug)]
pub enum Root {
    /// This machine's files, read-only, below an overlay in the guest's memory: all programs that are installed here run there. Files
    /// that change here after the boot belong into a [`Share`], because an overlay does not expect changes below it.
    Host,
    /// An initramfs with busybox and these files and nothing else, not moved out of: what `pivot_root` refuses to work on.
    Initramfs(Vec<GuestFile>),
}

/// A file of an initramfs.
#[derive(Clone, Debug)]
pub struct GuestFile {
    /// Where: "/usr/bin/slipway-agent".
    pub path: PathBuf,
    /// The permission bits.
    pub mode: u32,
    /// The content.
    pub bytes: Vec<u8>,
}

impl GuestFile {
    /// A file of this machine that may be run there; a program must be static.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn program(from: &Path, path: &str) -> Result<Self, crate::LabError> {
        let bytes = std::fs::read(from).map_err(crate::LabError::io("reading", from.display().to_string()))?;
        Ok(Self { path: path.into(), mode: 0o755, bytes })
    }
}

/// A folder of this machine in the guest. What either side writes there the other sees, as root of the guest or as the user who runs
/// the test; sockets and locks do not work across, and device files are each side's own.
#[derive(Clone, Debug)]
pub struct Share {
    /// The folder here.
    pub host: PathBuf,
    /// Where in the guest; the folder is made.
    pub guest: PathBuf,
    /// The guest may write.
    pub writable: bool,
}

impl GuestSpec {
    /// A guest with this file system, 512 MiB and nothing else.
    pub fn new(root: Root) -> Self {
        Self {
            root,
            memory_mib: 512,
            modules: Vec::new(),
            shares: Vec::new(),
            layers: Vec::new(),
            net: None,
            seat: 0,
            kernel_words: Vec::new(),
            setup: String::new(),
            init: None,
            boot_limit: Duration::from_secs(90),
        }
    }

    /// The same with these modules.
    pub fn with_modules(mut self, modules: &[&str]) -> Self {
        self.modules.extend(modules.iter().map(|name| (*name).to_owned()));
        self
    }

    /// The same on a network, in its first seat.
    pub fn with_net(self, net: &Arc<GuestNet>) -> Self {
        self.with_seat(net, 0)
    }

    /// The same on a network, in this seat.
    pub fn with_seat(mut self, net: &Arc<GuestNet>, seat: u8) -> Self {
        self.net = Some(net.clone());
        self.seat = seat;
        self
    }

    /// The same with lines for its init.
    pub fn with_setup(mut self, lines: &str) -> Self {
        self.setup.push_str(lines);
        self.setup.push('\n');
        self
    }
}

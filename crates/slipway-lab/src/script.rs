//! What a guest's init does: make the file system, load modules, and then run what comes over the command channel.

use crate::LabError;
use crate::cpio::Archive;
use crate::kernel::Kernel;
use crate::spec::{GuestFile, GuestSpec, Root, Share};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A static busybox: the only program that an initramfs has by itself.
const BUSYBOX: &str = "/bin/busybox";
/// Where the guest sees the folder of the command channel.
pub(crate) const LAB: &str = "/lab";
/// What each line of the guest on the channel begins with; the kernel's own early lines come the same way.
pub(crate) const MARK: &str = "slipway-lab:";

/// The command loop. A command is a file `N.sh`; a line with N starts it; what it prints lies in `N.out` and `N.err`, written through to
/// this machine before its exit code is told. An empty line says nothing, but wakes who slept through another. When the channel ends, so
/// does the guest.
const LOOP: &str = r#"
exec 3<>/dev/ttyS0
$B stty raw -echo <&3
echo "@MARK@ up" >&3
while read -r n <&3; do
  [ -n "$n" ] || continue
  [ "$n" = off ] && break
  (
    cd /
    $SH @LAB@/$n.sh >@LAB@/$n.out 2>@LAB@/$n.err </dev/null 3<&-
    code=$?
    $B sync @LAB@/$n.out @LAB@/$n.err
    echo "@MARK@ done $n $code" >&3
  ) &
done
$B poweroff -f
"#;

/// The init of a guest, and the initramfs that holds it if there is one.
pub(crate) struct Boot {
    pub(crate) init: String,
    pub(crate) initramfs: Option<Vec<u8>>,
}

/// Writes init and initramfs for a guest whose command folder is `folder`.
pub(crate) fn boot_make(spec: &GuestSpec, kernel: &Kernel, folder: &Path) -> Result<Boot, LabError> {
    if !Path::new(BUSYBOX).exists() {
        return Err(LabError::Missing { what: BUSYBOX.into(), package: "busybox-static" });
    }
    let mut init = String::from("#!/bin/busybox sh\nB=/bin/busybox\nset -e\ntrap '$B poweroff -f' EXIT\n");
    let archive = match &spec.root {
        Root::Host => {
            init.push_str(&host_root(kernel, &spec.layers));
            None
        }
        Root::Initramfs(files) => {
            init.push_str(INITRAMFS_ROOT);
            Some(initramfs(spec, kernel, files, &mut init)?)
        }
    };
    init.push_str("hostname guest\nip link set lo up\n");
    if let Some(net) = &spec.net {
        let _ = writeln!(init, "ip addr add {}/24 dev vec0\nip link set vec0 up", net.guest_address(spec.seat));
    }
    share_mount(&mut init, &Share { host: folder.into(), guest: LAB.into(), writable: true });
    for share in &spec.shares {
        share_mount(&mut init, share);
    }
    if archive.is_none() && !spec.modules.is_empty() {
        let _ = writeln!(init, "/sbin/modprobe -a {}", spec.modules.join(" "));
    }
    // Not in this shell: busybox takes its own applets for programs of the same name.
    let setup = folder.join("setup.sh");
    std::fs::write(&setup, &spec.setup).map_err(LabError::io("writing", setup.display().to_string()))?;
    let _ = writeln!(init, "$SH -e {LAB}/setup.sh </dev/null\nset +e");
    let commands = LOOP.replace("@MARK@", MARK).replace("@LAB@", LAB);
    match &spec.init {
        // What fails to become it ends the guest, by the trap.
        Some(program) => {
            let _ = writeln!(init, "(\n{commands}\n) &\nexec $B env -i PATH=$PATH {program}");
        }
        None => init.push_str(&commands),
    }
    let initramfs = archive.map(|mut archive| {
        archive.file("/init", 0o755, init.as_bytes());
        archive.finish()
    });
    Ok(Boot { init, initramfs })
}

/// This machine's files come read-only by hostfs; an overlay in memory on top becomes the root.
fn host_root(kernel: &Kernel, layers: &[PathBuf]) -> String {
    let mut mounts = String::new();
    let mut lower = String::new();
    for (number, layer) in layers.iter().enumerate() {
        // Each is a mount of its own: an overlay refuses a lower folder that lies in another one.
        let at = format!("/tmp/layer{number}");
        share_mount(&mut mounts, &Share { host: layer.clone(), guest: at.clone().into(), writable: false });
        lower.push_str(&format!("{at}:"));
    }
    let modules = kernel.modules.display();
    format!(
        r#"$B mount -t proc proc /proc
$B insmod {modules}/kernel/fs/overlayfs/overlay.ko
$B mount -t tmpfs -o size=75% lab /tmp
$B mkdir /tmp/upper /tmp/work /tmp/root
{mounts}$B mount -t overlay -o lowerdir={lower}/,upperdir=/tmp/upper,workdir=/tmp/work lab /tmp/root
$B umount /proc
cd /tmp/root
$B mkdir -p .old
$B pivot_root . .old
cd /
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t tmpfs -o mode=755 run /run
$B mount -t tmpfs tmp /tmp
$B mount -t devtmpfs dev /dev
$B mkdir -p /dev/pts /dev/shm /run/lock
$B mount -t devpts devpts /dev/pts
$B mount -t tmpfs shm /dev/shm
$B umount -l /.old
$B rmdir /.old
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
SH=/bin/sh
mkdir -p /lib/modules
ln -sfn {modules} /lib/modules/$(uname -r)
"#
    )
}

const INITRAMFS_ROOT: &str = r#"$B mkdir -p /bin /sbin /usr/bin /usr/sbin /etc /root /tmp /mnt
$B --install -s
$B mkdir -p /proc /sys /dev /run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
mount -t tmpfs -o mode=755 run /run
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
SH="/bin/busybox sh"
"#;

fn initramfs(spec: &GuestSpec, kernel: &Kernel, files: &[GuestFile], init: &mut String) -> Result<Archive, LabError> {
    let mut archive = Archive::default();
    let read = |path: &Path| std::fs::read(path).map_err(LabError::io("reading", path.display().to_string()));
    archive.file(BUSYBOX, 0o755, &read(Path::new(BUSYBOX))?);
    for module in kernel.modules_with_needs(&spec.modules)? {
        let at = format!("/lib/modules/{}", module.rsplit('/').next().unwrap_or(&module));
        archive.file(&at, 0o644, &read(&kernel.modules.join(&module))?);
        let _ = writeln!(init, "insmod {at}");
    }
    for file in files {
        archive.file(&file.path.to_string_lossy(), file.mode, &file.bytes);
    }
    Ok(archive)
}

fn share_mount(init: &mut String, share: &Share) {
    let (host, guest) = (quoted(&share.host), quoted(&share.guest));
    let mode = if share.writable { "rw" } else { "ro" };
    // hostfs takes its options as the path; "ro" is a flag of the mount, not one of them.
    let _ = writeln!(init, "$B mkdir -p {guest}\n$B mount -t hostfs -o {mode} -o {host} none {guest}");
}

/// A path as one word of the shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.to_string_lossy().replace('\'', r"'\''"))
}

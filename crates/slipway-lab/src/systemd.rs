//! A Debian with systemd as the root of a container, and systemd as the first process of a guest.

use crate::{Base, GuestSpec, LabError, Share, packages_unpack};

const PACKAGES: &[&str] =
    &["systemd", "dbus", "base-files", "base-passwd", "bash", "dash", "coreutils", "util-linux", "mount"];

/// The packages of a small Debian with systemd, at `/srv/root` for [`SYSTEMD_ROOT`].
///
/// # Errors
/// When apt does not get them.
pub fn systemd_share() -> Result<Share, LabError> {
    let host = packages_unpack(PACKAGES, Base::Nothing)?;
    Ok(Share { host, guest: "/srv/root".into(), writable: false })
}

/// Shell lines that make a system of them at `/run/c/root`, under an overlay whose changes are at `/run/c/up`.
pub const SYSTEMD_ROOT: &str = r#"
mkdir -p /run/c; mount -t tmpfs t /run/c; mkdir -p /run/c/up /run/c/work /run/c/root
mount -t overlay -o lowerdir=/srv/root,upperdir=/run/c/up,workdir=/run/c/work c /run/c/root
cd /run/c/root
cp usr/share/base-passwd/passwd.master etc/passwd; cp usr/share/base-passwd/group.master etc/group
echo 'messagebus:x:100:100::/nonexistent:/usr/sbin/nologin' >> etc/passwd; echo 'messagebus:x:100:' >> etc/group
for g in systemd-journal:101 systemd-network:102; do echo "${g%:*}:x:${g#*:}:" >> etc/group; done
: > etc/machine-id; : > etc/fstab
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
"#;

/// The same guest with this machine's systemd as its first process; what units this machine has enabled are not, and what only looks for hardware
/// does not run. Commands are taken before it is up: [`SYSTEMD_UP`] waits.
pub fn with_systemd(spec: GuestSpec) -> GuestSpec {
    let mut spec = spec.with_setup(FIRST);
    // By its own words, since it would not look at the kernel's if it took the guest for a container.
    spec.init = Some("/lib/systemd/systemd --unit=lab.target".into());
    spec
}

/// Shell lines that wait until it takes orders.
pub const SYSTEMD_UP: &str = "until systemctl is-active -q lab.target 2>/dev/null; do sleep 0.1; done";

const FIRST: &str = r#"
rm -f /.dockerenv; : > /etc/fstab; rm -f /etc/machine-id; echo 0123456789abcdef0123456789abcdef > /etc/machine-id
rm -rf /etc/systemd/system; mkdir -p /etc/systemd/system
for unit in systemd-udevd systemd-udev-trigger systemd-random-seed systemd-modules-load systemd-binfmt lvm2-monitor kmod-static-nodes; do
  ln -s /dev/null /etc/systemd/system/$unit.service
done
cat > /etc/systemd/system/lab.target <<'UNIT'
[Unit]
Description=Where a test begins
UNIT
"#;

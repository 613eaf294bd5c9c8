//! A Debian that boots with systemd and has a shell, as the images that the examples speak of.

use super::house::{Place, run};
use slipway_lab::{Base, packages_unpack};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};

const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "dbus",
    "base-files",
    "base-passwd",
    "bash",
    "dash",
    "coreutils",
    "util-linux",
    "mount",
];

/// What makes packages that were only unpacked a system: users, and a unit that counts the times that it was booted. What it could do without is
/// left out, because each process costs much in this kind of guest.
const TREE: &str = r#"
cp -a --reflink=auto "$PACKAGES" tree; cd tree
rm -rf usr/share/doc usr/share/locale usr/share/man usr/share/info usr/lib/udev/hwdb.d
cp usr/share/base-passwd/passwd.master etc/passwd; cp usr/share/base-passwd/group.master etc/group
echo 'messagebus:x:100:100::/nonexistent:/usr/sbin/nologin' >> etc/passwd; echo 'messagebus:x:100:' >> etc/group
for g in systemd-journal:101 systemd-network:102; do echo "${g%:*}:x:${g#*:}:" >> etc/group; done
: > etc/machine-id; : > etc/fstab; mkdir -p var/log/journal; echo "the image's" > etc/mark
cat > etc/systemd/system/count.service <<'UNIT'
[Service]
Type=oneshot
ExecStart=/bin/sh -c 'echo booted >> /var/booted'
UNIT
mkdir -p etc/systemd/system/multi-user.target.wants
ln -s ../count.service etc/systemd/system/multi-user.target.wants/count.service
ln -sf /lib/systemd/system/multi-user.target etc/systemd/system/default.target
for unit in systemd-sysusers systemd-sysctl systemd-modules-load systemd-remount-fs systemd-update-utmp systemd-update-utmp-runlevel \
    systemd-tmpfiles-setup-dev modprobe@configfs modprobe@dm_mod modprobe@drm modprobe@fuse modprobe@loop console-getty; do
  ln -s /dev/null etc/systemd/system/$unit.service
done
cd ..
mksquashfs tree debian.sqfs -comp zstd -Xcompression-level 1 -quiet -noappend -no-progress
truncate -s 256M debian.ext4; mke2fs -q -t ext4 -d tree debian.ext4
mkdir images; cp debian.sqfs images/; truncate -s 128M images.ext4; mke2fs -q -t ext4 -d images images.ext4
rm -rf tree images
"#;

/// `debian.sqfs`, `debian.ext4`, and `images.ext4` with the first one in it.
pub struct Images(Place);

impl Images {
    /// Tests that run beside each other have the same ones.
    pub fn get() -> Arc<Self> {
        static MADE: Mutex<Weak<Images>> = Mutex::new(Weak::new());
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(images) = made.upgrade() {
            return images;
        }
        let place = Place::new();
        let mut command = Command::new("sh");
        command.args(["-ec", TREE]).current_dir(place.dir.path());
        command.env("PACKAGES", packages_unpack(PACKAGES, Base::Nothing).unwrap());
        run(command, b"").expect(0);
        let images = Arc::new(Self(place));
        *made = Arc::downgrade(&images);
        images
    }

    pub fn folder(&self) -> PathBuf {
        self.0.dir.path().to_owned()
    }

    pub fn path(&self, name: &str) -> String {
        self.0.path(name).display().to_string()
    }
}

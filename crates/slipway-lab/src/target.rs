//! The kernel's own iSCSI target (LIO) in a guest.

/// Modules of [`iscsi_target`], and of the disks and file systems that come of it.
pub const ISCSI_TARGET_MODULES: &[&str] = &["sd_mod", "target_core_file", "iscsi_target_mod", "ext4", "md5"];

/// Shell lines that make a target: units 0, 1 and 5 of 16 MiB from `/run/diskN`, with ext4 on the first two, at 127.0.0.1:3260, for every initiator
/// and without authentication.
pub fn iscsi_target(iqn: &str) -> String {
    TARGET.replace("@IQN@", iqn)
}

const TARGET: &str = r#"
mount -t configfs none /sys/kernel/config
T=/sys/kernel/config/target/core; G=/sys/kernel/config/target/iscsi/@IQN@/tpgt_1
mkdir -p $G/np/127.0.0.1:3260
for n in 0 1 5; do
  truncate -s 16M /run/disk$n; [ $n = 5 ] || mke2fs -q -F -t ext4 /run/disk$n
  mkdir -p $T/fileio_$n/disk$n $G/lun/lun_$n
  echo "fd_dev_name=/run/disk$n,fd_dev_size=16777216" > $T/fileio_$n/disk$n/control
  echo 1 > $T/fileio_$n/disk$n/enable
  ln -s $T/fileio_$n/disk$n $G/lun/lun_$n/disk
done
echo 0 > $G/attrib/authentication; echo 1 > $G/attrib/generate_node_acls; echo 0 > $G/attrib/demo_mode_write_protect
echo 1 > $G/enable
"#;

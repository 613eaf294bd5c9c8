//! The kernel's own iSCSI target (LIO) in a guest.

/// Modules of [`iscsi_target`], and of the disks and file systems that come of it.
pub const ISCSI_TARGET_MODULES: &[&str] = &["sd_mod", "target_core_file", "iscsi_target_mod", "ext4", "md5"];

/// Shell lines that make a target: units 0, 1 and 5 of 16 MiB from `/run/diskN`, with ext4 on the first two, at 127.0.0.1:3260, for every initiator
/// and without authentication.
pub fn iscsi_target(iqn: &str) -> String {
    let files =
        "for n in 0 1 5; do truncate -s 16M /run/disk$n; [ $n = 5 ] || mke2fs -q -F -t ext4 /run/disk$n; done\n";
    files.to_owned() + &iscsi_target_of(iqn, &[(0, "/run/disk0"), (1, "/run/disk1"), (5, "/run/disk5")])
}

/// Shell lines that make a target with units of files that are there, at 127.0.0.1:3260, for every initiator and without authentication. There may
/// be several of them.
pub fn iscsi_target_of(iqn: &str, units: &[(u32, &str)]) -> String {
    let begin = BEGIN.replace("@IQN@", iqn);
    let units = units.iter().map(|(unit, file)| UNIT.replace("@UNIT@", &unit.to_string()).replace("@FILE@", file));
    begin + &units.collect::<String>() + END
}

const BEGIN: &str = r"
[ -e /sys/kernel/config/target ] || mount -t configfs none /sys/kernel/config
T=/sys/kernel/config/target/core; G=/sys/kernel/config/target/iscsi/@IQN@/tpgt_1
mkdir -p $G/np/127.0.0.1:3260
";

/// Each file is a store of its own number: that of the units so far.
const UNIT: &str = r#"
S=$T/fileio_$(ls $T | grep fileio_ | wc -l)/disk
mkdir -p $S $G/lun/lun_@UNIT@
echo "fd_dev_name=@FILE@,fd_dev_size=$(stat -c %s @FILE@)" > $S/control
echo 1 > $S/enable
ln -s $S $G/lun/lun_@UNIT@/disk
"#;

const END: &str = r"
echo 0 > $G/attrib/authentication; echo 1 > $G/attrib/generate_node_acls; echo 0 > $G/attrib/demo_mode_write_protect
echo 1 > $G/enable
";

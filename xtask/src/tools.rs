//! Programs that tests and demo need: installed by name where we may, named where we may not.

use crate::run::{is_root, run};
use anyhow::{Result, bail};
use std::path::Path;
use std::process::Command;

/// A program, and the Debian package that has it.
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    pub(crate) package: &'static str,
}

pub(crate) const fn tool(program: &'static str, package: &'static str) -> Tool {
    Tool { program, package }
}

/// What the tests need.
pub(crate) const TEST_TOOLS: &[Tool] = &[
    tool("gcc", "build-essential"),
    tool("mke2fs", "e2fsprogs"),
    tool("debugfs", "e2fsprogs"),
    tool("mkfs.xfs", "xfsprogs"),
    tool("mkfs.btrfs", "btrfs-progs"),
    tool("mkfs.vfat", "dosfstools"),
    tool("mksquashfs", "squashfs-tools"),
    tool("mkfs.erofs", "erofs-utils"),
    tool("sgdisk", "gdisk"),
    tool("losetup", "mount"),
    tool("xz", "xz-utils"),
    tool("zstd", "zstd"),
    tool("gzip", "gzip"),
    tool("zip", "zip"),
    tool("cpio", "cpio"),
    tool("curl", "curl"),
    tool("strace", "strace"),
    tool("linux.uml", "user-mode-linux"),
    tool("setpriv", "util-linux"),
    tool("diff", "diffutils"),
    tool("systemd-analyze", "systemd"),
    tool("busybox", "busybox-static"),
    tool("modprobe", "kmod"),
    tool("ip", "iproute2"),
    tool("nbd-client", "nbd-client"),
    tool("nbdinfo", "libnbd-bin"),
    tool("qemu-img", "qemu-utils"),
    tool("ceph-mon", "ceph-mon"),
    tool("ceph-osd", "ceph-osd"),
    tool("ceph", "ceph-common"),
    tool("mandoc", "mandoc"),
    tool("script", "bsdutils"),
    tool("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
];

/// What only all of the tests need.
pub(crate) const ALL_TOOLS: &[Tool] = &[tool("radosgw", "radosgw"), tool("s3cmd", "s3cmd")];

/// What every measure needs; a measure names more.
pub(crate) const BENCH_TOOLS: &[Tool] =
    &[tool("/usr/bin/time", "time"), tool("mke2fs", "e2fsprogs"), tool("debugfs", "e2fsprogs")];

/// What the demo needs.
pub(crate) const DEMO_TOOLS: &[Tool] =
    &[tool("gcc", "build-essential"), tool("mke2fs", "e2fsprogs"), tool("debugfs", "e2fsprogs")];

/// Where a program is, looking also where Debian keeps the administrator's programs.
pub(crate) fn find(program: &str) -> Option<std::path::PathBuf> {
    if program.starts_with('/') {
        return Path::new(program).exists().then(|| program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|file| file.exists())
}

/// A command of a program that [`tools_need`] has seen.
pub(crate) fn command(program: &str) -> Command {
    Command::new(find(program).unwrap_or_else(|| program.into()))
}

/// Installs what is missing as root; else says which packages to install.
pub(crate) fn tools_need(tools: &[Tool]) -> Result<()> {
    let missing = || {
        let mut packages: Vec<_> = tools.iter().filter(|t| find(t.program).is_none()).map(|t| t.package).collect();
        packages.dedup();
        packages
    };
    let packages = missing();
    if packages.is_empty() {
        return Ok(());
    }
    if !is_root() || find("apt-get").is_none() {
        bail!("these packages are missing: {0}\nnext: sudo apt-get install {0}", packages.join(" "));
    }
    eprintln!("installing {}", packages.join(" "));
    run(Command::new("apt-get").args(["update", "-qq"]))?;
    let install = ["install", "-y", "-qq", "--no-install-recommends"];
    run(Command::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(install).args(&packages))?;
    match missing() {
        left if left.is_empty() => Ok(()),
        left => bail!("apt-get installed {} but the programs are not there", left.join(" ")),
    }
}

//! The packaged unit of the node service is what systemd takes, and keeps containers alive.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

const UNIT: &str = include_str!("../../../packaging/systemd/slipway-agent.service");

#[test]
fn the_unit_is_sound_and_leaves_containers_alone() {
    let lines: Vec<&str> = UNIT.lines().filter(|line| !line.starts_with('#')).collect();
    for line in
        ["Type=notify", "KillMode=process", "Delegate=yes", "Restart=always", "ExecStart=/usr/bin/slipway-agent serve"]
    {
        assert!(lines.contains(&line), "{line}");
    }
    // Each of these gives the service a mount namespace or rights that its containers would inherit.
    for option in [
        "Private",
        "Protect",
        "Restrict",
        "ReadOnly",
        "ReadWrite",
        "Inaccessible",
        "Bind",
        "Root",
        "SystemCall",
        "NoNewPrivileges",
        "CapabilityBounding",
        "DynamicUser",
        "MountFlags",
        "TemporaryFileSystem",
        "RuntimeDirectory=",
    ] {
        assert!(!lines.iter().any(|line| line.starts_with(option)), "{option}");
    }
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("slipway-agent.service");
    // The program is not installed here; its place is all that is changed.
    std::fs::write(&copy, UNIT.replace("/usr/bin/slipway-agent ", concat!(env!("CARGO_BIN_EXE_slipway-agent"), " ")))
        .unwrap();
    let checked = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&copy)
        .output()
        .expect("systemd-analyze is installed; 'cargo xtask test' names its package");
    let said = String::from_utf8_lossy(&checked.stderr);
    let ours: Vec<_> = said.lines().filter(|line| line.contains("slipway-agent")).collect();
    assert!(checked.status.success() && ours.is_empty(), "{said}");
}

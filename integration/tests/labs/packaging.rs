//! The unit file.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use vnet_integration::Scene;
use vnet_integration::binaries::{binaries, workspace};
use vnet_integration::process;
use vnet_integration::suite::Lab;

pub(crate) const LABS: &[Lab] = &[
    Lab::new("packaging::systemd_accepts_the_unit", systemd_accepts_the_unit)
        .needs(&["systemd-analyze"])
        .unprivileged(),
    Lab::new("packaging::the_unit_keeps_namespaces_visible", unit_keeps_namespaces_visible).unprivileged(),
];

/// systemd's measure of exposure in tenths, for a service that makes namespaces: what it was when last looked at.
const EXPOSURE_MAX: &str = "75";

fn systemd_accepts_the_unit(scene: &Scene) -> Result<()> {
    let unit = fs::read_to_string(workspace().join("systemd/vnetd.service"))?;
    // The program that it names need not be installed here.
    let installed = unit.replace("/usr/bin/vnetd", &binaries()?.vnetd.to_string_lossy());
    ensure!(installed != unit, "the unit starts /usr/bin/vnetd");
    let file = scene.folder().join("vnetd.service");
    fs::write(&file, installed)?;
    let limit = Duration::from_secs(60);
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&file);
    let output = process::output(&mut verify, limit)?.ok()?;
    ensure!(output.stderr.trim().is_empty(), "systemd-analyze verify: {}", output.stderr);
    let mut security = Command::new("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", "--threshold", EXPOSURE_MAX]).arg(&file);
    process::output(&mut security, limit)?.ok()?;
    Ok(())
}

/// Each of these options gives the service a mount namespace of its own, and `ip netns` on the host would not see
/// the labs' namespaces.
fn unit_keeps_namespaces_visible(_scene: &Scene) -> Result<()> {
    const PRIVATE: &[&str] = &[
        "PrivateTmp",
        "PrivateDevices",
        "PrivateMounts",
        "PrivateUsers",
        "PrivateNetwork",
        "ProtectSystem",
        "ProtectHome",
        "ProtectKernelTunables",
        "ProtectKernelModules",
        "ProtectKernelLogs",
        "ProtectControlGroups",
        "ProtectProc",
        "ProcSubset",
        "ReadOnlyPaths",
        "ReadWritePaths",
        "InaccessiblePaths",
        "ExecPaths",
        "NoExecPaths",
        "TemporaryFileSystem",
        "BindPaths",
        "BindReadOnlyPaths",
        "RootDirectory",
        "RootImage",
        "MountAPIVFS",
        "DynamicUser",
        "ProtectHostname",
    ];
    let unit = fs::read_to_string(workspace().join("systemd/vnetd.service"))?;
    let set: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, value)| PRIVATE.contains(name) && !matches!(*value, "no" | "false"))
        .map(|(name, _)| name)
        .collect();
    ensure!(set.is_empty(), "the unit sets {set:?}");
    for needed in ["Type=notify", "KillMode=process", "Delegate=yes", "WatchdogSec=", "LimitNOFILE="] {
        ensure!(unit.lines().any(|line| line.starts_with(needed)), "the unit lacks {needed}");
    }
    Ok(())
}

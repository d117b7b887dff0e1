//! The daemon's switches for what makes packets faster and must not make them otherwise.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::lab::Daemon;
use crate::process;
use crate::wait::PATIENCE;

/// Each with what switches it off.
pub const OFF: &[(&str, &str)] = &[
    ("VNETD_OFFLOADS", "none"),
    ("VNETD_OFFLOAD", "off"),
    ("VNETD_COALESCE", "false"),
    ("VNETD_SPIN", "0"),
    ("VNETD_PAUSE", "0"),
];

/// Options that make nothing faster.
const OTHERS: &[&str] = &[
    "VNETD_SOCKET",
    "VNETD_STATE_DIR",
    "VNETD_METRICS",
    "VNETD_WORKERS",
    "VNETD_FLOWS_MAX",
    "VNETD_NIC_FLOWS_MAX",
    "VNETD_SESSIONS_MAX",
    "VNETD_LOG_FORMAT",
    "VNETD_LOG",
    "VNETD_EXIT_WITH_LAST_LAB",
];

/// A daemon with all of them off.
#[must_use]
pub fn all_off(daemon: Daemon) -> Daemon {
    OFF.iter().fold(daemon, |daemon, (name, value)| daemon.env(name, value))
}

/// That every option of the daemon is known here as one or the other, so that a new switch is switched off too.
///
/// # Errors
/// One is not, or the daemon has none of that name any more.
pub fn expect_known(daemon: &Daemon) -> Result<()> {
    let program = daemon.command().get_program().to_owned();
    let help = process::output(Command::new(program).arg("--help"), PATIENCE)?.ok()?.stdout;
    let mut found: Vec<&str> = Vec::new();
    for part in help.split("[env: ").skip(1) {
        let (name, _) = part.split_once('=').context("an environment variable without its value")?;
        ensure!(
            OTHERS.contains(&name) || OFF.iter().any(|(switch, _)| *switch == name),
            "{name} is not among the switches, nor among the other options"
        );
        found.push(name);
    }
    for (switch, _) in OFF {
        ensure!(found.contains(switch), "the daemon has no option {switch}");
    }
    Ok(())
}

//! Calling other programs.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use vnet_integration::{binaries, process};

/// The cargo that runs this program, to be called again in the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(binaries::workspace());
    command
}

/// Whether a program is there.
pub(crate) fn is_present(program: &str) -> bool {
    process::find_program(program).is_some()
}

/// Runs a command to its end with its output shown; whether it succeeded.
///
/// # Errors
/// It could not be started, or did not end in time (it is killed with its children then).
pub(crate) fn run(command: &mut Command, limit: Duration) -> Result<bool> {
    Ok(process::lines(command, limit, |line| println!("{line}"))?.success())
}

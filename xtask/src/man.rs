//! `cargo xtask man`: man pages, made by the programs' own command lines.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use crate::command::{cargo, run};

/// What `cargo xtask man` takes.
#[derive(Args)]
pub(crate) struct ManArguments {
    /// The folder to write to; made if it is missing
    folder: PathBuf,
}

const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Writes the pages; whether all of them were written.
///
/// # Errors
/// A program could not be built or run.
pub(crate) fn write(arguments: &ManArguments) -> Result<bool> {
    for (package, example) in [("vnetctl", "vnetctl-man"), ("vnetd", "vnetd-man")] {
        let mut command = cargo();
        command.args(["run", "--quiet", "--package", package, "--example", example, "--"]);
        command.arg(&arguments.folder);
        if !run(&mut command, LIMIT)? {
            return Ok(false);
        }
    }
    Ok(true)
}

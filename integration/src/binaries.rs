//! Finding `vnetd` and `vnetctl` beside the test program, built once.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process;

/// The two programs under test.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// The daemon.
    pub vnetd: PathBuf,
    /// The CLI.
    pub vnetctl: PathBuf,
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package lies one folder below the workspace")
}

/// The programs of the profile that this test program was built with; the first call builds them.
///
/// # Errors
/// They do not build.
pub fn binaries() -> Result<Binaries> {
    static BUILT: OnceLock<Result<Binaries, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            let release = !cfg!(debug_assertions);
            build(release).map_err(|error| format!("{error:#}"))
        })
        .clone()
        .map_err(anyhow::Error::msg)
}

/// Builds both programs and says where they are.
///
/// # Errors
/// They do not build.
pub fn build(release: bool) -> Result<Binaries> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(workspace())
        .args(["build", "--quiet", "--locked", "-p", "vnetd", "-p", "vnetctl"])
        .args(["--message-format", "json-render-diagnostics"]);
    if release {
        command.arg("--release");
    }
    let output = process::output(&mut command, Duration::from_secs(30 * 60))?.ok()?;
    let executables: Vec<PathBuf> = output
        .stdout
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message.get("executable")?.as_str()?)))
        .collect();
    let find = |name: &str| {
        executables
            .iter()
            .find(|file| file.file_name().is_some_and(|file| file == name))
            .cloned()
            .with_context(|| format!("the build made no {name}"))
    };
    let binaries = Binaries { vnetd: find("vnetd")?, vnetctl: find("vnetctl")? };
    if !binaries.vnetd.is_file() || !binaries.vnetctl.is_file() {
        bail!("the build left no programs where it said");
    }
    Ok(binaries)
}

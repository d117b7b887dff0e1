//! Programs that Debian has no package of: built by cargo once, and kept in the user's cache.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process;

/// Building one from its sources, with everything that it depends on, on a busy machine.
const INSTALL_LIMIT: Duration = Duration::from_secs(1800);

/// A program of a crate, at one version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The crate.
    pub package: &'static str,
    /// Its version: others may behave otherwise.
    pub version: &'static str,
    /// The program.
    pub program: &'static str,
}

/// Cloudflare's WireGuard in userspace.
pub const BORINGTUN: Tool = Tool { package: "boringtun-cli", version: "0.7.1", program: "boringtun-cli" };

/// Mullvad's, which grew out of it.
pub const GOTATUN: Tool = Tool { package: "gotatun-cli", version: "0.10.2", program: "gotatun" };

/// All of them.
pub const TOOLS: &[Tool] = &[BORINGTUN, GOTATUN];

impl Tool {
    /// The folder of its own that it is installed to.
    fn root(&self) -> PathBuf {
        cache().join(format!("{}-{}", self.package, self.version))
    }

    /// Where it lies once it is installed.
    pub fn path(&self) -> PathBuf {
        self.root().join("bin").join(self.program)
    }

    /// Builds it unless it is there, and says where it lies.
    ///
    /// # Errors
    /// cargo cannot fetch or build it.
    pub fn install(&self) -> Result<PathBuf> {
        let program = self.path();
        if !program.is_file() {
            let mut install = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            install.args(["install", "--quiet", "--locked", "--version", self.version, self.package]);
            install.arg("--root").arg(self.root());
            process::output(&mut install, INSTALL_LIMIT)?.ok().with_context(|| self.package)?;
            ensure!(program.is_file(), "{} has no program {}", self.package, self.program);
        }
        Ok(program)
    }
}

/// By XDG's rules.
fn cache() -> PathBuf {
    let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = of("XDG_CACHE_HOME").or_else(|| of("HOME").map(|home| home.join(".cache")));
    cache.unwrap_or_else(std::env::temp_dir).join("vnetd-tests")
}

/// Where this program lies, if it is one of [`TOOLS`] and installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let tool = TOOLS.iter().find(|tool| tool.program == program)?;
    Some(tool.path()).filter(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_a_place_of_its_own() {
        let older = Tool { version: "0.6.0", ..BORINGTUN };
        assert_ne!(BORINGTUN.path(), older.path());
        assert!(GOTATUN.path().ends_with("gotatun-cli-0.10.2/bin/gotatun"));
        assert_eq!(find("no-such-program"), None);
    }
}

//! tcpdump in a namespace, into the scene's folder.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use crate::process::{self, Running};
use crate::wait::PATIENCE;

/// A running capture.
pub struct Capture {
    file: PathBuf,
    running: Running,
}

impl Capture {
    /// Starts one on an interface of a namespace (`any` for all) and returns when it listens.
    ///
    /// # Errors
    /// tcpdump does not start.
    pub fn start(namespace: &str, interface: &str, filter: &str, file: &Path) -> Result<Capture> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", namespace, "tcpdump", "-i", interface, "-s", "0", "-U", "-n"])
            // As root it would change to a user who cannot write there.
            .args(["--immediate-mode", "-Z", "root", "-w"])
            .arg(file)
            .arg(filter);
        let mut running = Running::start(&mut command)?;
        running.wait_for("listening on", PATIENCE)?;
        Ok(Capture { file: file.to_owned(), running })
    }

    /// Ends it and gives what it took.
    ///
    /// # Errors
    /// tcpdump does not end.
    pub fn stop(self) -> Result<Captured> {
        self.running.stop(Signal::SIGINT, PATIENCE)?;
        Ok(Captured { file: self.file })
    }
}

/// A capture file.
pub struct Captured {
    file: PathBuf,
}

impl Captured {
    /// The packets that match a filter, one line each as tcpdump prints them.
    ///
    /// # Errors
    /// tcpdump cannot read the file, or refuses the filter.
    pub fn packets(&self, filter: &str) -> Result<Vec<String>> {
        // With -v a packet takes several lines: continuations are indented.
        let text = self.text(filter)?;
        Ok(text.lines().filter(|line| !line.starts_with(char::is_whitespace)).map(str::to_owned).collect())
    }

    /// What tcpdump prints of the packets that match a filter.
    ///
    /// # Errors
    /// tcpdump cannot read the file, or refuses the filter.
    pub fn text(&self, filter: &str) -> Result<String> {
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-v", "-r"]).arg(&self.file).arg(filter);
        Ok(process::output(&mut command, Duration::from_secs(60))?.ok()?.stdout)
    }

    /// When each packet arrived, in seconds since 1970.
    ///
    /// # Errors
    /// tcpdump cannot read the file, or prints something else.
    pub fn times(&self) -> Result<Vec<f64>> {
        let mut command = Command::new("tcpdump");
        command.args(["-n", "-tt", "-r"]).arg(&self.file);
        let text = process::output(&mut command, Duration::from_secs(60))?.ok()?.stdout;
        text.lines()
            .map(|line| {
                let time = line.split(' ').next().unwrap_or_default();
                time.parse().with_context(|| format!("no time in {line:?}"))
            })
            .collect()
    }

    /// How many packets match a filter.
    ///
    /// # Errors
    /// As [`Captured::packets`].
    pub fn count(&self, filter: &str) -> Result<usize> {
        Ok(self.packets(filter)?.len())
    }

    /// Whether these bytes occur anywhere in it.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn contains(&self, bytes: &[u8]) -> Result<bool> {
        let content = std::fs::read(&self.file).with_context(|| self.file.display().to_string())?;
        Ok(content.windows(bytes.len()).any(|window| window == bytes))
    }
}

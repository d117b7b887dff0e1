//! What every verb has: where the daemon is, which lab is meant, how to print.

use std::io::Write;
use std::path::PathBuf;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use vnet_api::{LabSummary, RUNTIME_SOCKET, SYSTEM_SOCKET};

use crate::cli::Global;
use crate::client::{Client, segment};
use crate::output::{Format, Style, to_yaml};

/// A list, in Azure's envelope.
#[derive(Serialize, Deserialize)]
pub(crate) struct List<T> {
    pub(crate) value: Vec<T>,
}

/// The global flags, resolved.
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) format: Format,
    pub(crate) style: Style,
    lab: Option<String>,
}

/// The system's socket where it exists or the user is root, else the user's own.
fn default_socket() -> PathBuf {
    let system = PathBuf::from(SYSTEM_SOCKET);
    if system.exists() || rustix::process::geteuid().is_root() {
        return system;
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) => PathBuf::from(directory).join(RUNTIME_SOCKET),
        None => system,
    }
}

impl Context {
    pub(crate) fn new(global: Global) -> Context {
        let socket = global
            .socket
            .or_else(|| std::env::var_os("VNETD_SOCKET").map(PathBuf::from))
            .unwrap_or_else(default_socket);
        Context {
            client: Client::new(socket),
            format: global.output,
            style: Style::of_stdout(),
            lab: global.lab,
        }
    }

    /// The lab that is meant: the one named, or the only one there is.
    pub(crate) async fn lab(&self) -> anyhow::Result<String> {
        if let Some(lab) = &self.lab {
            return Ok(lab.clone());
        }
        let mut labs: List<LabSummary> = self.client.get("/v1/labs").await?;
        match labs.value.len() {
            0 => bail!("no lab runs; bring one up with: vnetctl up FILE"),
            1 => Ok(labs.value.remove(0).name),
            count => {
                let names: Vec<String> = labs.value.into_iter().map(|lab| lab.name).collect();
                bail!("{count} labs run: {}; choose one with --lab LAB", names.join(", "))
            }
        }
    }

    /// The lab named on the command line, if one was.
    pub(crate) fn named_lab(&self) -> Option<&str> {
        self.lab.as_deref()
    }

    /// The lab's path in the API, with `rest` behind it.
    pub(crate) async fn lab_path(&self, rest: &str) -> anyhow::Result<String> {
        Ok(format!("/v1/labs/{}{rest}", segment(&self.lab().await?)))
    }

    /// Prints data in the format that was asked for: `table` makes the text for people.
    pub(crate) fn print<T: Serialize>(
        &self,
        data: &T,
        table: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self.format {
            Format::Table => table(data),
            Format::Json => serde_json::to_string_pretty(data)?,
            Format::Yaml => to_yaml(data)?,
        };
        say(&text)
    }
}

/// Writes a text to standard output, with one newline at its end.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.trim_end_matches('\n').as_bytes())?;
    stdout.write_all(b"\n")?;
    Ok(stdout.flush()?)
}

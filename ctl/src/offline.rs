//! Answers without a daemon: for the state that a fresh `up` of the file converges to.

use std::path::Path;

use vnet_fabric::Snapshot;

use crate::context::Context;
use crate::output::{Format, Style};
use crate::topology;

/// The file's snapshot. Says on standard error what the answers hold for.
pub(crate) fn converge(file: &Path, context: &Context) -> anyhow::Result<Snapshot> {
    let source = topology::read(file)?;
    let (_, snapshot) = vnet_fabric::converge(&source.loaded.topology);
    if context.format == Format::Table {
        let note = format!("{}: for the state that a fresh up converges to", file.display());
        eprintln!("{}", Style::of_stderr().faint(note));
    }
    Ok(snapshot)
}

//! Answers without a daemon: for the state that a fresh `up` of the file converges to.

use std::path::Path;

use vnet_fabric::Snapshot;
use vnet_fabric::effective::EffectivePeering;

use crate::context::Context;
use crate::output::{Format, Style};
use crate::topology;

/// The file's snapshot. Says on standard error what the answers hold for.
pub(crate) fn converge(file: &Path, context: &Context) -> anyhow::Result<Snapshot> {
    let source = topology::read(file)?;
    note(file, context);
    Ok(vnet_fabric::converge(&source.loaded.topology).1)
}

/// The file's peerings, as [`converge`] does.
pub(crate) fn peerings(file: &Path, context: &Context) -> anyhow::Result<Vec<EffectivePeering>> {
    let source = topology::read(file)?;
    note(file, context);
    let (state, _) = vnet_fabric::converge(&source.loaded.topology);
    Ok(vnet_fabric::effective::peerings(&source.loaded.topology, &state))
}

fn note(file: &Path, context: &Context) {
    if context.format == Format::Table {
        let note = format!("{}: for the state that a fresh up converges to", file.display());
        crate::output::tell(format_args!("{}", Style::of_stderr().faint(note)));
    }
}

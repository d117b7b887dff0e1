//! Cases of a conformance suite: a topology, and what Azure says of its NICs and subnets.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vnet_config::Topology;
use vnet_dataplane::Nanos;
use vnet_fabric::Snapshot;
use vnet_fabric::control::{Event, State};
use vnet_fabric::effective::{effective_nsg, effective_routes};
use vnet_fabric::trace::Certainty;

use crate::compare::{Comparison, compare_nsg, compare_routes};

/// What `case.json` in a case's folder holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Case {
    /// What the case shows, in a sentence.
    pub title: String,
    /// Where the tables come from: a page of the documentation with its date, or a capture with its month.
    pub source: String,
    /// Stated by Microsoft, seen in a capture, or worked out from what is documented.
    pub certainty: Certainty,
    /// Topologies that are applied one after the other; `topology.yaml` where none is named.
    #[serde(default = "first_topology")]
    pub topologies: Vec<String>,
    /// Whether the topologies after the first change the lab as Azure takes single requests: changed ranges wait for a sync.
    #[serde(default)]
    pub as_azure: bool,
    /// The tables, at least one.
    pub tables: Vec<Table>,
}

fn first_topology() -> Vec<String> {
    vec!["topology.yaml".to_owned()]
}

/// One answer of Azure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Table {
    /// What was asked.
    pub kind: TableKind,
    /// About what: VM, `VM/NIC` or `VNET/SUBNET`.
    pub target: String,
    /// The file with the answer, beside `case.json`.
    pub file: String,
}

/// What was asked of Azure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TableKind {
    /// `az network nic show-effective-route-table -o json`.
    EffectiveRoutes,
    /// `az network nic list-effective-nsg -o json`.
    EffectiveNsg,
}

/// What is in force after topologies were applied one after the other, those behind the first `as_azure` takes requests if
/// so; none where there is no topology.
pub fn compile(topologies: impl IntoIterator<Item = Topology>, as_azure: bool) -> Option<Snapshot> {
    let mut state = State::default();
    let mut last = None;
    for topology in topologies {
        let topology = Arc::new(topology);
        let next = Arc::clone(&topology);
        let event = if as_azure && last.is_some() { Event::ApplyAsAzure(next) } else { Event::Apply(next) };
        state.step(event, Nanos::ZERO);
        last = Some(topology);
    }
    last.map(|topology| vnet_fabric::compile(&topology, &state))
}

/// Holds one table against what this program answers.
///
/// # Errors
/// The text is no answer of Azure, or the topology has no such target; in one sentence.
pub fn score(snapshot: &Snapshot, table: &Table, azure: &str) -> Result<Comparison, String> {
    let unreadable = |error: crate::compare::ReadError| format!("{}: {error}", table.file);
    match table.kind {
        TableKind::EffectiveRoutes => {
            let here = effective_routes(snapshot, &table.target).map_err(|error| error.to_string())?;
            compare_routes(azure, &here).map_err(unreadable)
        }
        TableKind::EffectiveNsg => {
            let here = effective_nsg(snapshot, &table.target).map_err(|error| error.to_string())?;
            compare_nsg(azure, &here).map_err(unreadable)
        }
    }
}

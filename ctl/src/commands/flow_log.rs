//! `flow-log`: what Azure's virtual network flow logs sum up to.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;
use vnet_analysis::flow_log::{self, Flow, Totals};

use super::compare::read;
use crate::context::Context;
use crate::output::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct FlowLog {
    /// Flow logs of version 4 as Azure stores them; - for standard input.
    #[arg(required = true, value_name = "FILE")]
    logs: Vec<PathBuf>,
}

#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    flow: Flow,
    #[serde(flatten)]
    totals: Totals,
}

#[derive(Serialize)]
struct Report {
    value: Vec<Row>,
    total: Totals,
}

impl FlowLog {
    pub(crate) fn run(&self, context: &Context) -> anyhow::Result<u8> {
        let mut sums: BTreeMap<Flow, Totals> = BTreeMap::new();
        let mut total = Totals::default();
        for log in &self.logs {
            let found = flow_log::sum(&read(log)?)
                .with_context(|| format!("{} cannot be summed up", log.display()))?;
            for (flow, totals) in found {
                total.add(&totals);
                sums.entry(flow).or_default().add(&totals);
            }
        }
        let value = sums.into_iter().map(|(flow, totals)| Row { flow, totals }).collect();
        context.print(&Report { value, total }, table)?;
        Ok(0)
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new(&[
        "Rule",
        "Direction",
        "Protocol",
        "Source",
        "Destination",
        "Begun",
        "Ended",
        "Denied",
        "Packets",
        "Bytes",
    ]);
    for Row { flow, totals } in &report.value {
        table.row([
            flow.rule.clone(),
            format!("{:?}", flow.direction),
            flow.protocol.to_string(),
            std::net::SocketAddr::new(flow.source, flow.source_port).to_string(),
            std::net::SocketAddr::new(flow.destination, flow.destination_port).to_string(),
            totals.begun.to_string(),
            totals.ended.to_string(),
            totals.denied.to_string(),
            totals.packets().to_string(),
            totals.bytes().to_string(),
        ]);
    }
    let total = &report.total;
    format!(
        "{}\n\n{} packets, {} bytes: {} packets and {} bytes sent, {} packets and {} bytes received.",
        table.render("No flow is logged."),
        total.packets(),
        total.bytes(),
        total.packets_sent,
        total.bytes_sent,
        total.packets_received,
        total.bytes_received
    )
}

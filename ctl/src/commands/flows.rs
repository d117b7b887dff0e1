//! `flows`: the live flows.

use std::net::IpAddr;

use vnet_api::{FlowEntry, FlowReport, FlowVerdict, RunsIn};

use crate::context::Context;
use crate::output::{Table, bytes, duration};

#[derive(Debug, clap::Args)]
pub(crate) struct Flows {
    /// At most so many, the busiest first.
    #[arg(long, default_value_t = 100, value_name = "N")]
    limit: usize,
}

impl Flows {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let path = context.lab_path(&format!("/flows?limit={}", self.limit)).await?;
        let report: FlowReport = context.client.get(&path).await?;
        context.print(&report, table)?;
        Ok(0)
    }
}

fn endpoint(address: IpAddr, port: u16) -> String {
    match (address, port) {
        (address, 0) => address.to_string(),
        (IpAddr::V4(address), port) => format!("{address}:{port}"),
        (IpAddr::V6(address), port) => format!("[{address}]:{port}"),
    }
}

fn way(flow: &FlowEntry) -> String {
    let mut way = match &flow.reason {
        Some(reason) => return reason.clone(),
        None if flow.via.is_empty() => format!("to {}", flow.to),
        None => format!("to {} via {}", flow.to, flow.via.join(", ")),
    };
    if let Some(leaves) = &flow.leaves_as {
        let source = endpoint(leaves.source, leaves.source_port);
        let destination = endpoint(leaves.destination, leaves.destination_port);
        way.push_str(&format!(", as {source} -> {destination}"));
    }
    way
}

fn table(report: &FlowReport) -> String {
    let mut table = Table::new(&[
        "From",
        "Protocol",
        "Source",
        "Destination",
        "Verdict",
        "Way",
        "State",
        "Runs in",
        "Packets",
        "Bytes",
        "Idle",
    ]);
    for flow in &report.value {
        let verdict = match flow.verdict {
            FlowVerdict::Allow => "Allow",
            FlowVerdict::Deny => "Deny",
        };
        table.row([
            flow.from.clone(),
            flow.protocol.clone(),
            endpoint(flow.source, flow.source_port),
            endpoint(flow.destination, flow.destination_port),
            verdict.to_owned(),
            way(flow),
            flow.state.clone(),
            match flow.runs_in {
                RunsIn::Kernel => "kernel",
                RunsIn::Userspace => "userspace",
            }
            .to_owned(),
            flow.packets.to_string(),
            bytes(flow.bytes),
            duration(flow.idle_ms),
        ]);
    }
    let mut text = table.render("No flow is alive.");
    let left_out = report.total.saturating_sub(report.value.len());
    if left_out > 0 {
        text.push_str(&format!("\n{left_out} more; see --limit."));
    }
    text
}

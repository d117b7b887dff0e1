//! `effective-routes`: as `az network nic show-effective-route-table`.

use std::path::PathBuf;

use vnet_fabric::effective::{self, EffectiveRoutes as Report};

use crate::client::query;
use crate::context::Context;
use crate::offline;
use crate::output::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct EffectiveRoutes {
    /// VM, VM/NIC, VNET/SUBNET, firewall or gateway.
    target: String,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl EffectiveRoutes {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let report: Report = match &self.file {
            Some(file) => effective::effective_routes(&offline::converge(file, context)?, &self.target)?,
            None => {
                let query = query([("target", Some(self.target))]);
                let path = context.lab_path(&format!("/effective-routes{query}")).await?;
                context.client.get(&path).await?
            }
        };
        context.print(&report, table)?;
        Ok(0)
    }
}

fn table(report: &Report) -> String {
    let mut table = Table::new(&["Source", "State", "Address Prefix", "Next Hop Type", "Next Hop IP"]);
    for route in &report.value {
        let prefixes = route.address_prefix.join(" ");
        let addresses = route.next_hop_ip_address.join(" ");
        table.row([&route.source, &route.state, &prefixes, &route.next_hop_type, &addresses]);
    }
    table.render("No route is in force here.")
}

//! `next-hop`: as `az network watcher show-next-hop`.

use std::net::IpAddr;
use std::path::PathBuf;

use vnet_fabric::effective::{self, NextHopAnswer};

use crate::client::query;
use crate::context::Context;
use crate::offline;
use crate::output::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct NextHop {
    /// The VM.
    #[arg(long)]
    vm: String,
    /// Its NIC; the primary one if none is named.
    #[arg(long)]
    nic: Option<String>,
    /// Where to.
    #[arg(long, value_name = "ADDRESS")]
    dest_ip: IpAddr,
    /// From which of its addresses.
    #[arg(long, value_name = "ADDRESS")]
    source_ip: Option<IpAddr>,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl NextHop {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let answer: NextHopAnswer = match &self.file {
            Some(file) => {
                let target =
                    self.nic.as_ref().map_or_else(|| self.vm.clone(), |nic| format!("{}/{nic}", self.vm));
                effective::next_hop(
                    &offline::converge(file, context)?,
                    &target,
                    self.dest_ip,
                    self.source_ip,
                )?
            }
            None => {
                let query = query([
                    ("vm", Some(self.vm)),
                    ("nic", self.nic),
                    ("destIp", Some(self.dest_ip.to_string())),
                    ("sourceIp", self.source_ip.map(|address| address.to_string())),
                ]);
                context.client.get(&context.lab_path(&format!("/next-hop{query}")).await?).await?
            }
        };
        context.print(&answer, table)?;
        Ok(0)
    }
}

fn table(answer: &NextHopAnswer) -> String {
    // A column without a value is left out, as Azure's CLI does.
    let Some(address) = &answer.next_hop_ip_address else {
        let mut table = Table::new(&["NextHopType", "RouteTableId"]);
        table.row([&answer.next_hop_type, &answer.route_table_id]);
        return table.render("");
    };
    let mut table = Table::new(&["NextHopIpAddress", "NextHopType", "RouteTableId"]);
    table.row([address, &answer.next_hop_type, &answer.route_table_id]);
    table.render("")
}

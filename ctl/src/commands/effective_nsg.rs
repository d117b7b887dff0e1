//! `effective-nsg`: as `az network nic list-effective-nsg`.

use std::path::PathBuf;

use vnet_fabric::effective::{self, EffectiveNsgList, ResourceId};

use crate::client::query;
use crate::context::Context;
use crate::offline;
use crate::output::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct EffectiveNsg {
    /// VM or VM/NIC.
    target: String,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl EffectiveNsg {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let report: EffectiveNsgList = match &self.file {
            Some(file) => effective::effective_nsg(&offline::converge(file, context)?, &self.target)?,
            None => {
                let query = query([("target", Some(self.target))]);
                let path = context.lab_path(&format!("/effective-nsg{query}")).await?;
                context.client.get(&path).await?
            }
        };
        context.print(&report, table)?;
        Ok(0)
    }
}

/// NIC, subnet and group stand in the first row of their group only, as in Azure's table.
fn table(report: &EffectiveNsgList) -> String {
    let mut table = Table::new(&["NIC", "Subnet", "NSG", "Rule Name", "Protocol", "Direction", "Access"]);
    for group in &report.value {
        let name =
            |resource: &Option<ResourceId>| resource.as_ref().map_or("-", |resource| &resource.id).to_owned();
        let mut head = [
            name(&group.association.network_interface),
            name(&group.association.subnet),
            group.network_security_group.id.clone(),
        ];
        for rule in &group.effective_security_rules {
            let [nic, subnet, nsg] = std::mem::take(&mut head);
            table.row([&nic, &subnet, &nsg, &rule.name, &rule.protocol, &rule.direction, &rule.access]);
        }
    }
    table.render("No network security group guards it.")
}

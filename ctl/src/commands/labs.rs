//! `labs`: which labs run.

use vnet_api::LabSummary;

use crate::context::{Context, List};
use crate::output::{Format, Table};

#[derive(Debug, clap::Args)]
pub(crate) struct Labs {}

impl Labs {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let labs: List<LabSummary> = if context.client.is_served().await {
            context.client.get("/v1/labs").await?
        } else {
            if context.format == Format::Table {
                crate::output::tell(format_args!(
                    "No vnetd listens on {}.",
                    context.client.socket().display()
                ));
            }
            List { value: Vec::new() }
        };
        context.print(&labs, |labs| {
            let mut table = Table::new(&["Name", "ProvisioningState", "Networks", "Machines", "File"]);
            for lab in &labs.value {
                let networks = lab.virtual_networks.to_string();
                let machines = lab.machines.to_string();
                table.row([&lab.name, &lab.provisioning_state, &networks, &machines, &lab.origin]);
            }
            table.render("No lab runs.")
        })?;
        Ok(0)
    }
}

//! `drops`: what was dropped, and why.

use vnet_api::DropReport;

use crate::context::Context;
use crate::output::{Table, duration};

#[derive(Debug, clap::Args)]
pub(crate) struct Drops {}

impl Drops {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let path = context.lab_path("/drops").await?;
        let report: DropReport = context.client.get(&path).await?;
        context.print(&report, table)?;
        Ok(0)
    }
}

fn table(report: &DropReport) -> String {
    let mut table = Table::new(&["From", "Reason", "Packets", "Last packet", "Dropped by", "Ago"]);
    for drop in &report.value {
        let ago = drop.last_ms_ago.map_or_else(|| "-".to_owned(), duration);
        let last = drop.last.clone().unwrap_or_else(|| "-".to_owned());
        let rule = drop.rule.clone().unwrap_or_else(|| "-".to_owned());
        table.row([drop.vm.clone(), drop.reason.clone(), drop.packets.to_string(), last, rule, ago]);
    }
    table.render("Nothing was dropped.")
}

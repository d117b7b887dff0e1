//! `matrix`: who reaches whom, and by which way.

use std::path::PathBuf;

use vnet_api::{MatrixReport, Service};
use vnet_fabric::path::PathVerdict;

use crate::client::query;
use crate::context::Context;
use crate::offline;
use crate::output::Table;

#[derive(Debug, clap::Args)]
pub(crate) struct Matrix {
    /// tcp/PORT, udp/PORT or icmp.
    #[arg(default_value = "icmp")]
    service: Service,
    /// Answer for this file, without a daemon.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Matrix {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let report = match &self.file {
            Some(file) => MatrixReport::of(&offline::converge(file, context)?, self.service),
            None => {
                let query = query([("service", Some(self.service.to_string()))]);
                context.client.get(&context.lab_path(&format!("/matrix{query}")).await?).await?
            }
        };
        context.print(&report, table)?;
        Ok(0)
    }
}

fn way(appliances: &[String]) -> String {
    if appliances.is_empty() { "direct".to_owned() } else { appliances.join(", ") }
}

fn table(report: &MatrixReport) -> String {
    let mut table = Table::new(&["From", "To", "Verdict", "Way", "Decided By"]);
    for pair in &report.value {
        let (verdict, way) = match (pair.verdict, pair.asymmetric) {
            (PathVerdict::Allow, false) => ("Allow".to_owned(), way(&pair.via)),
            (PathVerdict::Allow, true) => {
                ("Allow".to_owned(), format!("{}; back {}", way(&pair.via), way(&pair.via_reverse)))
            }
            (PathVerdict::Deny, _) => {
                let reason = pair.reason.as_deref().unwrap_or("Deny");
                (reason.to_owned(), if pair.via.is_empty() { "-".to_owned() } else { way(&pair.via) })
            }
        };
        let rule = pair.rule.as_deref().unwrap_or("-");
        table.row([pair.from.as_str(), &pair.to, &verdict, &way, rule]);
    }
    let reached = report.value.iter().filter(|pair| pair.verdict == PathVerdict::Allow).count();
    let total = report.value.len();
    let text = table.render("The lab has no two machines.");
    if total == 0 {
        text
    } else {
        format!("{text}\n\n{reached} of {total} pairs reach each other by {}.", report.service)
    }
}

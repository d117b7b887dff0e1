//! `logs`: what a machine's `run:` commands printed.

use vnet_api::LogReport;

use crate::client::segment;
use crate::context::Context;
use crate::output::Format;

#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// The machine.
    vm: String,
}

impl Logs {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let path = context.lab_path(&format!("/machines/{}/logs", segment(&self.vm))).await?;
        let report: LogReport = context.client.get(&path).await?;
        if report.text.is_empty() && context.format == Format::Table {
            crate::output::tell(format_args!("{} has printed nothing.", report.vm));
        } else {
            context.print(&report, |report| report.text.clone())?;
        }
        Ok(0)
    }
}

//! `down`: remove a lab, or all of them and what a crash left.

use anyhow::bail;
use hyper::Method;
use vnet_api::{ApplyEvent, DownReport};

use crate::client::segment;
use crate::context::Context;
use crate::output::{count, duration};
use crate::{daemon, events};

#[derive(Debug, clap::Args)]
pub(crate) struct Down {
    /// Every lab, and what a crash left of others.
    #[arg(long)]
    all: bool,
}

impl Down {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        // A daemon that was killed has left its labs: only a daemon can take them down.
        daemon::ensure(&context.client).await?;
        let path = match self.all {
            true => "/v1/labs".to_owned(),
            false => format!("/v1/labs/{}", segment(&context.lab().await?)),
        };
        let ApplyEvent::Removed(report) =
            events::follow(&context.client, Method::DELETE, &path, None).await?
        else {
            bail!("vnetd answers a removal with something else");
        };
        context.print(&report, text)?;
        Ok(0)
    }
}

fn text(report: &DownReport) -> String {
    let mut parts = Vec::new();
    if !report.labs.is_empty() {
        parts.push(format!("Removed {} ({}).", report.labs.join(", "), duration(report.ms)));
    }
    if !report.leftovers.is_empty() {
        let what = count(report.leftovers.len(), "leftover");
        parts.push(format!("Removed {what}: {}.", report.leftovers.join(", ")));
    }
    if parts.is_empty() {
        parts.push("Nothing was there to be removed.".to_owned());
    }
    parts.join("\n")
}

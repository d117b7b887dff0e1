//! `gateway fail`: an instance of a gateway fails, as Azure's do.

use hyper::Method;
use vnet_api::{FailRequest, Failover};

use crate::client::segment;
use crate::context::Context;
use crate::output::duration;

/// Arguments of `gateway fail`.
#[derive(Debug, clap::Args)]
pub(crate) struct Fail {
    /// The gateway.
    name: String,
    /// Maintenance: an interruption of 10 to 15 seconds, and not of 1 to 3 minutes.
    #[arg(long)]
    planned: bool,
    /// The instance, 0 or 1, of an active-active gateway.
    #[arg(long, value_name = "N")]
    instance: Option<u16>,
}

impl Fail {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let path = context.lab_path(&format!("/gateways/{}/fail", segment(&self.name))).await?;
        let request = FailRequest { planned: self.planned, instance: self.instance };
        let failover: Failover = context.client.send(Method::POST, &path, &request).await?;
        context.print(&failover, |failover| {
            let Failover { gateway, instance, interruption_ms, .. } = failover;
            let time = duration(*interruption_ms);
            format!("instance {instance} of {gateway} carries nothing for {time}")
        })?;
        Ok(0)
    }
}

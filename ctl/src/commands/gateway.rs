//! `gateway status`, `gateway config`, `vpn-config`: tunnels and the configuration of their peers.

use clap::{Subcommand, ValueEnum};
use vnet_api::{GatewayReport, PeerConfig, TunnelState};

use super::gateway_fail::Fail;
use crate::client::segment;
use crate::context::Context;
use crate::output::{Table, bytes, duration};

#[derive(Debug, clap::Args)]
pub(crate) struct Gateway {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Tunnels and how they stand, and why one is not connected.
    Status,
    /// The configuration that the device at a connection's other end needs, with its private key.
    Config(Config),
    /// Let an instance of a gateway fail: its tunnels are down for as long as in Azure, times provisioning.timeScale.
    Fail(Fail),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// The connection.
    connection: String,
    /// For wg setconf, for wg-quick, or as data.
    #[arg(long, value_enum, default_value = "wg-quick", value_name = "FORMAT")]
    format: PeerFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PeerFormat {
    Wg,
    WgQuick,
    Json,
}

impl PeerFormat {
    fn name(self) -> &'static str {
        match self {
            PeerFormat::Wg => "wg",
            PeerFormat::WgQuick => "wg-quick",
            PeerFormat::Json => "json",
        }
    }
}

impl Gateway {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        match self.verb {
            Verb::Status => status(context).await,
            Verb::Config(config) => config.run(context).await,
            Verb::Fail(fail) => fail.run(context).await,
        }
    }
}

impl Config {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let name = self.format.name();
        let connection = segment(&self.connection);
        let path = context.lab_path(&format!("/connections/{connection}/peer-config?format={name}")).await?;
        let config: PeerConfig = context.client.get(&path).await?;
        context.print(&config, |config| config.text.clone())?;
        Ok(0)
    }
}

async fn status(context: &Context) -> anyhow::Result<u8> {
    let path = context.lab_path("/gateways").await?;
    let report: GatewayReport = context.client.get(&path).await?;
    context.print(&report, table)?;
    Ok(0)
}

fn table(report: &GatewayReport) -> String {
    let mut table = Table::new(&[
        "Gateway",
        "Connection",
        "Tunnel",
        "State",
        "Local",
        "Remote",
        "Handshake",
        "Egress",
        "Ingress",
        "Mb/s",
        "Queue",
    ]);
    let mut reasons = Vec::new();
    for tunnel in &report.value {
        let state = match tunnel.state {
            TunnelState::Connected => "Connected",
            TunnelState::Connecting => "Connecting",
            TunnelState::NotConnected => "NotConnected",
            TunnelState::Unknown => "Unknown",
        };
        table.row([
            tunnel.gateway.clone(),
            tunnel.connection.clone(),
            tunnel.tunnel.clone(),
            state.to_owned(),
            tunnel.local.to_string(),
            tunnel.remote.to_string(),
            tunnel.handshake_ms_ago.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", duration(ms))),
            bytes(tunnel.egress_bytes),
            bytes(tunnel.ingress_bytes),
            tunnel.throughput_mbps.map_or_else(|| "-".to_owned(), |rate| rate.to_string()),
            format!("{:.1} ms", tunnel.queueing_delay_us as f64 / 1e3),
        ]);
        if let Some(why) = &tunnel.why {
            reasons.push(format!("{}, {}: {why}", tunnel.gateway, tunnel.connection));
        }
    }
    let mut text = table.render("The lab has no tunnel.");
    if !reasons.is_empty() {
        text.push_str(&format!("\n\n{}", reasons.join("\n")));
    }
    text
}

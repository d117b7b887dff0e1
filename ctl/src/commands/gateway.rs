//! `gateway status`, `gateway config`, `vpn-config`, `gateway bgp`: tunnels, the configuration of their peers, and routes.

use clap::{Subcommand, ValueEnum};
use vnet_api::{BgpPeerReport, GatewayReport, GatewayRouteReport, PeerConfig, TunnelState};

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
    /// The BGP peers of a gateway, what it has learned of them and what it tells them, as `az network vnet-gateway` lists them.
    Bgp(Bgp),
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
            Verb::Bgp(bgp) => bgp.run(context).await,
        }
    }
}

#[derive(Debug, clap::Args)]
struct Bgp {
    /// The gateway.
    name: String,
    /// Its peers and how the sessions stand, as `list-bgp-peer-status`: what is shown if nothing else is asked for.
    #[arg(long, group = "what")]
    peers: bool,
    /// What it has learned, and its own, as `list-learned-routes`.
    #[arg(long, group = "what")]
    learned: bool,
    /// What it tells its peers, as `list-advertised-routes`.
    #[arg(long, group = "what")]
    advertised: bool,
    /// Only what this peer is told.
    #[arg(long, value_name = "ADDRESS", requires = "advertised")]
    peer: Option<std::net::IpAddr>,
}

impl Bgp {
    async fn run(self, context: &Context) -> anyhow::Result<u8> {
        let gateway = format!("/gateways/{}", segment(&self.name));
        if self.learned || self.advertised {
            let list = match (self.learned, self.peer) {
                (true, _) => "learned-routes".to_owned(),
                (false, None) => "advertised-routes".to_owned(),
                (false, Some(peer)) => format!("advertised-routes?peer={peer}"),
            };
            let path = context.lab_path(&format!("{gateway}/{list}")).await?;
            let report: GatewayRouteReport = context.client.get(&path).await?;
            context.print(&report, routes)?;
        } else {
            let path = context.lab_path(&format!("{gateway}/bgp-peers")).await?;
            let report: BgpPeerReport = context.client.get(&path).await?;
            context.print(&report, peers)?;
        }
        Ok(0)
    }
}

fn peers(report: &BgpPeerReport) -> String {
    let mut table = Table::new(&[
        "Neighbor",
        "ASN",
        "State",
        "ConnectedDuration",
        "RoutesReceived",
        "MessagesSent",
        "MessagesReceived",
    ]);
    let mut reasons = Vec::new();
    for peer in &report.value {
        table.row([
            peer.neighbor.to_string(),
            peer.asn.to_string(),
            format!("{:?}", peer.state),
            peer.connected_duration.clone(),
            peer.routes_received.to_string(),
            peer.messages_sent.to_string(),
            peer.messages_received.to_string(),
        ]);
        if let Some(why) = &peer.last_error {
            reasons.push(format!("{}: {why}", peer.neighbor));
        }
    }
    let mut text = table.render("The gateway has no BGP peer.");
    if !reasons.is_empty() {
        text.push_str(&format!("\n\n{}", reasons.join("\n")));
    }
    text
}

fn routes(report: &GatewayRouteReport) -> String {
    let mut table = Table::new(&["Network", "NextHop", "Origin", "SourcePeer", "AsPath", "Weight"]);
    let address = |address: Option<std::net::IpAddr>| address.map_or_else(String::new, |one| one.to_string());
    for route in &report.value {
        table.row([
            route.network.clone(),
            address(route.next_hop),
            route.origin.clone(),
            address(route.source_peer),
            route.as_path.clone(),
            route.weight.to_string(),
        ]);
    }
    table.render("No routes.")
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

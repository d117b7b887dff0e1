//! What is happening in a lab: flows, drops, gateways, logs.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What happens to a flow's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum FlowVerdict {
    /// Delivered or sealed into a tunnel.
    Allow,
    /// Dropped.
    Deny,
}

/// Addresses and ports of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowEndpoints {
    /// Source address.
    pub source: IpAddr,
    /// Source port or ICMP identifier.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port or ICMP identifier.
    pub destination_port: u16,
}

/// Who carries a flow's packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum RunsIn {
    /// The daemon.
    #[default]
    Userspace,
    /// A program in the kernel, by what the daemon has decided.
    Kernel,
}

/// What to capture, and how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaptureRequest {
    /// A VM, a NIC as `web/eth0`, a peering as `hub/spoke`, or a connection.
    pub target: String,
    /// Ends after so many packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Ends after so many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// One direction of a flow, as the flow table holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowEntry {
    /// Where its packets come in: `web/eth0`, `hub-vpn`, `internet`.
    pub from: String,
    /// Where they leave; empty for a dropped flow.
    pub to: String,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, or `proto-N`.
    pub protocol: String,
    /// Source address.
    pub source: IpAddr,
    /// Source port or ICMP identifier.
    pub source_port: u16,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port or ICMP identifier.
    pub destination_port: u16,
    /// Its addresses and ports as it leaves, where they were translated on the way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaves_as: Option<FlowEndpoints>,
    /// What happens to it.
    pub verdict: FlowVerdict,
    /// Why it is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Appliances on the way, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub via: Vec<String>,
    /// The rule that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// `new`, `established`, `closing`, `denied`.
    pub state: String,
    /// IP packets, segments counted singly.
    pub packets: u64,
    /// Bytes of those packets.
    pub bytes: u64,
    /// Time since the last packet, in milliseconds.
    pub idle_ms: u64,
    /// Who carries its packets at present.
    #[serde(default)]
    pub runs_in: RunsIn,
}

/// The live flows of a lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlowReport {
    /// At most as many as were asked for, busiest first.
    pub value: Vec<FlowEntry>,
    /// How many there are.
    pub total: usize,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DropCount {
    /// The machine or port that the packets came from.
    pub vm: String,
    /// One of the closed list.
    pub reason: String,
    /// IP packets since the lab came up.
    pub packets: u64,
    /// The last such packet, `tcp 10.3.0.4:40000 -> 10.1.0.4:22`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<String>,
    /// The rule, route or check that dropped that packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// How long ago that was, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms_ago: Option<u64>,
}

/// The drops of a lab since it came up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DropReport {
    /// By machine and reason; zero counts left out.
    pub value: Vec<DropCount>,
}

/// Where a tunnel stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TunnelState {
    /// A session is up.
    Connected,
    /// A handshake is under way, or never succeeded.
    Connecting,
    /// Nothing is tried.
    NotConnected,
    /// Not known yet.
    Unknown,
}

/// One end of one tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TunnelStatus {
    /// The gateway, or the site whose device this end is.
    pub gateway: String,
    /// The connection.
    pub connection: String,
    /// Number of the tunnel within the connection, from 0.
    pub tunnel: String,
    /// Where it stands.
    pub state: TunnelState,
    /// Why it is not connected, in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// This end's public endpoint.
    pub local: SocketAddr,
    /// The other end's public endpoint.
    pub remote: SocketAddr,
    /// Time since the last handshake, in milliseconds; none if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handshake_ms_ago: Option<u64>,
    /// Bytes of IP packets sent through the tunnel.
    pub egress_bytes: u64,
    /// Bytes of IP packets received through the tunnel.
    pub ingress_bytes: u64,
    /// The SKU's or the file's rate, in megabits a second; none if unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput_mbps: Option<u64>,
    /// The SKU's bound on packets a second, for the algorithms that the sides have agreed on; none if unbounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets_per_second: Option<u64>,
    /// How long a packet waits for rates at present, in microseconds.
    #[serde(default)]
    pub queueing_delay_us: u64,
}

/// The tunnels of a lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct GatewayReport {
    /// Both ends of each tunnel that the daemon runs.
    pub value: Vec<TunnelStatus>,
}

/// Which instance of a gateway is to fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FailRequest {
    /// Maintenance, which interrupts for a shorter time than a failure.
    #[serde(default)]
    pub planned: bool,
    /// The instance, from 0; 0 where none is given, which is the active one of an active-standby gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<u16>,
}

/// A failure of a gateway's instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// The gateway.
    pub gateway: String,
    /// The instance, from 0.
    pub instance: u16,
    /// Whether it is maintenance.
    pub planned: bool,
    /// Milliseconds from now for which the instance carries nothing.
    pub interruption_ms: u64,
}

/// How a peer's configuration is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ConfigFormat {
    /// For `wg setconf`.
    Wg,
    /// For `wg-quick`.
    #[default]
    WgQuick,
    /// As data.
    Json,
}

/// The configuration that the device at a connection's other end needs. It carries its private key: this is the
/// one answer that shows a secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PeerConfig {
    /// The connection.
    pub connection: String,
    /// The text to put into a file; JSON text for format json.
    pub text: String,
}

impl std::fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerConfig").field("connection", &self.connection).finish_non_exhaustive()
    }
}

/// What a VM's `run:` commands printed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogReport {
    /// The VM.
    pub vm: String,
    /// Both outputs, interleaved as written; invalid UTF-8 replaced.
    pub text: String,
}

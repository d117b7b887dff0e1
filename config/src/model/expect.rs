//! What the lab is expected to do: each entry is proved with real packets.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One expectation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Expectation {
    /// Who sends: names of machines or hosts, addresses, or `tag:NAME`. Every pair of `from` and `to` is proved.
    #[schemars(length(min = 1))]
    pub from: Vec<String>,
    /// Who receives, as `from`.
    #[schemars(length(min = 1))]
    pub to: Vec<String>,
    /// The protocol of the probe.
    #[serde(default)]
    pub protocol: ProbeProtocol,
    /// Destination port; with tcp and udp.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub port: Option<u16>,
    /// What is expected.
    pub verdict: Verdict,
    /// Why the packet is dropped; with `deny`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = DROP_REASONS))]
    pub reason: Option<String>,
    /// Exact order of appliances on the way out; `[]` is direct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Vec<String>>,
    /// Exact order of appliances on the way back; `[]` is direct.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via_reverse: Option<Vec<String>>,
    /// Appliances that are not on the way, out or back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_via: Vec<String>,
    /// The rule that decides: GROUP/COLLECTION/RULE of a firewall policy, or NSG/RULE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The source address that the receiver sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_seen_as: Option<IpAddr>,
    /// Longest round trip, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_rtt_ms: Option<f64>,
    /// Least throughput, in Mb/s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_mbps: Option<f64>,
}

/// The protocol of a probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ProbeProtocol {
    /// TCP: a connection to `port`.
    Tcp,
    /// UDP: a datagram to `port` and its answer.
    Udp,
    /// ICMP or ICMPv6: an echo request.
    #[default]
    Icmp,
}

/// What is expected of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// It gets its answer.
    Allow,
    /// It is dropped.
    Deny,
}

/// The drop reasons that `reason` can name.
pub const DROP_REASONS: &[&str] = &[
    "NoRoute",
    "RouteNone",
    "NextHopUnreachable",
    "PeeringNotConnected",
    "PeeringAccessDenied",
    "ForwardedTrafficDenied",
    "SubnetNotPeered",
    "NsgDeny",
    "AdminRuleDeny",
    "FirewallDeny",
    "FirewallNoSession",
    "ThreatIntelDeny",
    "SpoofedSource",
    "NotForwarding",
    "NoEffectiveGateway",
    "TunnelDown",
    "PrefixNotAllowed",
    "ShaperQueueFull",
    "PolicerDrop",
    "FlowLimit",
    "SnatPortsExhausted",
    "AsymmetricReturn",
    "RoutingLoop",
    "TtlExceeded",
    "PacketTooBig",
    "FragmentOutOfOrder",
    "MulticastNotSupported",
    "ProtocolNotSupported",
    "EncryptionRequired",
    "NoHealthyBackend",
    "DdosShed",
    "Impairment",
    "Malformed",
    "ReceiverQueueFull",
    "NoListener",
    "Internal",
];

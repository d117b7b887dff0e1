//! Connections of virtual network gateways.

use std::net::IpAddr;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ipsec::{ConnectionProtocol, IpsecPolicy, TrafficSelectorPolicy},
    scalar::Secret,
};

/// A connection of a virtual network gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Connection {
    /// What it connects.
    pub connection_type: ConnectionType,
    /// The gateway that it belongs to.
    pub virtual_network_gateway1: String,
    /// The gateway at the other end, with Vnet2Vnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub virtual_network_gateway2: Option<String>,
    /// The local network gateway at the other end, with IPsec.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_network_gateway2: Option<String>,
    /// The circuit, with ExpressRoute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["id"]))]
    pub peer: Option<String>,
    /// The key that both ends share; the tunnel comes up where they are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_key: Option<Secret>,
    /// Whether routes come by BGP over the tunnel.
    #[serde(default)]
    pub enable_bgp: bool,
    /// The addresses of `bgpPeeringAddresses` that the gateway's instances speak BGP with over this connection.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway_custom_bgp_ip_addresses: Vec<CustomBgpIpAddress>,
    /// Preference of ExpressRoute connections of one gateway: of equal prefixes the one with the higher weight is taken.
    #[serde(default)]
    #[schemars(range(max = 32_000))]
    pub routing_weight: u32,
    /// Who starts the handshake.
    #[serde(default)]
    pub connection_mode: ConnectionMode,
    /// The version of IKE; the second where the gateway speaks both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_protocol: Option<ConnectionProtocol>,
    /// The IPsec and IKE policy in place of the default proposals, one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ipsec_policies: Vec<IpsecPolicy>,
    /// Whether a route-based gateway proposes pairs of prefixes in place of any to any.
    #[serde(default)]
    pub use_policy_based_traffic_selectors: bool,
    /// Pairs of prefixes that are proposed when this side starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub traffic_selector_policies: Vec<TrafficSelectorPolicy>,
    /// Seconds of silence after which the peer counts as dead; 45 where none are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 9, max = 3_600))]
    pub dpd_timeout_seconds: Option<u32>,
    /// Names of `natRules` for packets into Azure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ingress_nat_rules: Vec<String>,
    /// Names of `natRules` for packets out of Azure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub egress_nat_rules: Vec<String>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// A BGP speaker's address that one instance of a gateway uses over a connection. Short form: the address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-short" = "customBgpIpAddress"))]
pub struct CustomBgpIpAddress {
    /// The address: one of the gateway's `customBgpIpAddresses`.
    pub custom_bgp_ip_address: IpAddr,
    /// The public address whose instance is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_configuration_id: Option<String>,
}

/// What a connection connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ConnectionType {
    /// A gateway and a VPN device.
    IPsec,
    /// Two gateways.
    Vnet2Vnet,
    /// A gateway and a circuit.
    ExpressRoute,
}

/// Who starts the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ConnectionMode {
    /// Both ends.
    #[default]
    Default,
    /// This end only.
    InitiatorOnly,
    /// The other end only.
    ResponderOnly,
}

//! Route servers.

use std::net::IpAddr;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::PublicIpRef;

/// A route server: speaks BGP with appliances, and programs what it learns into virtual networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteServer {
    /// The virtual network whose RouteServerSubnet it is in.
    pub virtual_network: String,
    /// Its public address: a literal, or the name of one of `publicIPAddresses`.
    #[serde(default, rename = "publicIPAddresses", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<PublicIpRef>", extend("x-alias" = "publicIPAddress"))]
    pub public_ip_addresses: Vec<IpAddr>,
    /// Whether appliances and gateways learn each other's routes.
    #[serde(default)]
    pub allow_branch_to_branch_traffic: bool,
    /// Which of equally long prefixes it takes.
    #[serde(default)]
    pub hub_routing_preference: HubRoutingPreference,
    /// The appliances that it speaks with, by name.
    #[serde(default)]
    pub bgp_connections: IndexMap<String, RouteServerPeer>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// Which of equally long prefixes a route server takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HubRoutingPreference {
    /// That of an ExpressRoute gateway.
    #[default]
    ExpressRoute,
    /// That of a VPN gateway or an appliance.
    VpnGateway,
    /// That with the shortest AS path.
    #[serde(rename = "ASPath")]
    AsPath,
}

/// An appliance that a route server speaks with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteServerPeer {
    /// Its address.
    pub peer_ip: IpAddr,
    /// Its autonomous system number, of two bytes.
    #[schemars(range(min = 1, max = 65535))]
    pub peer_asn: u32,
}

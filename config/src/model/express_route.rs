//! ExpressRoute circuits.

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::Cidr;

/// An ExpressRoute circuit: two links between a site and Azure's edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExpressRouteCircuit {
    /// Its region; the topology's `location` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// How far it reaches.
    #[serde(default)]
    pub sku_tier: CircuitTier,
    /// How its traffic is paid for.
    #[serde(default)]
    pub sku_family: CircuitFamily,
    /// Name of the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_provider_name: Option<String>,
    /// Where it meets Azure, such as `Amsterdam`.
    pub peering_location: String,
    /// Speed in Mb/s: 50, 100, 200, 500, 1000, 2000, 5000 or 10000. Each of the two links has it, both ways.
    pub bandwidth_in_mbps: u32,
    /// Its peerings.
    #[serde(default)]
    pub peerings: CircuitPeerings,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// How far a circuit reaches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CircuitTier {
    /// The regions at its peering location.
    Local,
    /// The regions of its part of the world.
    #[default]
    Standard,
    /// Every region.
    Premium,
}

/// How a circuit's traffic is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CircuitFamily {
    /// By what leaves Azure.
    #[default]
    MeteredData,
    /// By the circuit.
    UnlimitedData,
}

/// The peerings of a circuit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitPeerings {
    /// Private peering, which virtual networks are reached by.
    #[serde(default, rename = "AzurePrivatePeering", skip_serializing_if = "Option::is_none")]
    pub azure_private_peering: Option<CircuitPeering>,
}

/// A peering of a circuit: a BGP session over each of the two links.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitPeering {
    /// Autonomous system number of the site's router.
    #[serde(rename = "peerASN")]
    #[schemars(range(min = 1))]
    pub peer_asn: u32,
    /// The /30 of the first link: the site's router has its first address, Azure the second.
    #[schemars(with = "Cidr")]
    pub primary_peer_address_prefix: IpNet,
    /// The /30 of the second link.
    #[schemars(with = "Cidr")]
    pub secondary_peer_address_prefix: IpNet,
    /// The VLAN of both links.
    #[schemars(range(min = 1, max = 4094))]
    pub vlan_id: u32,
    /// The same for IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6_peering_config: Option<Ipv6CircuitPeering>,
}

/// IPv6 over a peering of a circuit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ipv6CircuitPeering {
    /// The /126 of the first link.
    #[schemars(with = "Cidr")]
    pub primary_peer_address_prefix: IpNet,
    /// The /126 of the second link.
    #[schemars(with = "Cidr")]
    pub secondary_peer_address_prefix: IpNet,
}

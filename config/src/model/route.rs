//! Route tables.

use std::{borrow::Cow, fmt, net::IpAddr, str::FromStr};

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::scalar::parse_cidr;

/// A route table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteTable {
    /// Its region; without one it stands for a copy in each region that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The subscription that it belongs to; that of the networks that use it where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// Whether routes learned by gateways are kept out of the subnets that use the table.
    #[serde(default)]
    pub disable_bgp_route_propagation: bool,
    /// Whether routes of peerings are kept out of the subnets that use the table.
    #[serde(default, skip_serializing_if = "is_none")]
    pub disable_peering_route: DisablePeeringRoute,
    /// Its routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

fn is_none(value: &DisablePeeringRoute) -> bool {
    *value == DisablePeeringRoute::None
}

/// Whether routes of peerings are kept out of the subnets that use a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DisablePeeringRoute {
    /// They are not.
    #[default]
    None,
    /// All of them are.
    All,
}

/// A user-defined route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Its name, unique in the table.
    pub name: String,
    /// The destinations that it is for, unique in the table: a prefix or a service tag.
    pub address_prefix: RoutePrefix,
    /// Where matching packets go.
    pub next_hop_type: NextHopType,
    /// Address of the appliance; with `VirtualAppliance` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_ip_address: Option<IpAddr>,
    /// Addresses of several appliances; with `VirtualApplianceEcmp` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<RouteNextHop>,
}

impl Route {
    /// Addresses of the appliances that the route names: one, or 2 to 64 with `VirtualApplianceEcmp`.
    #[must_use]
    pub fn appliances(&self) -> &[IpAddr] {
        match (self.next_hop_type, &self.next_hop) {
            (NextHopType::VirtualAppliance, _) => self.next_hop_ip_address.as_slice(),
            (NextHopType::VirtualApplianceEcmp, Some(next_hop)) => &next_hop.next_hop_ip_addresses,
            _ => &[],
        }
    }
}

/// Several next hops of one route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteNextHop {
    /// Addresses of the appliances, 2 to 64.
    pub next_hop_ip_addresses: Vec<IpAddr>,
}

/// Where a user-defined route sends packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NextHopType {
    /// To the appliance at `nextHopIpAddress`.
    VirtualAppliance,
    /// To one of the appliances of `nextHop`, by the flow's addresses and ports.
    VirtualApplianceEcmp,
    /// To the virtual network's VPN gateway.
    VirtualNetworkGateway,
    /// Inside the virtual network.
    VnetLocal,
    /// To the Internet.
    Internet,
    /// Nowhere: the packet is dropped.
    None,
}

/// The destinations of a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RoutePrefix {
    /// A prefix of either family.
    Prefix(IpNet),
    /// A service tag.
    Tag(String),
}

impl FromStr for RoutePrefix {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let is_tag = text.starts_with(|c: char| c.is_ascii_alphabetic())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.');
        if is_tag { Ok(Self::Tag(text.to_owned())) } else { parse_cidr(text).map(Self::Prefix) }
    }
}

impl fmt::Display for RoutePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(net) => net.fmt(f),
            Self::Tag(tag) => f.write_str(tag),
        }
    }
}

super::scalar::string_type!(RoutePrefix, "RoutePrefix", "route-prefix", "A prefix, or a service tag.");

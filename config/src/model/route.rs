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
    /// Whether routes learned by gateways are kept out of the subnets that use the table.
    #[serde(default)]
    pub disable_bgp_route_propagation: bool,
    /// Its routes.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
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
}

/// Where a user-defined route sends packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum NextHopType {
    /// To the appliance at `nextHopIpAddress`.
    VirtualAppliance,
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

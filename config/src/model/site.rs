//! On-premises sites and hosts of the Internet.

use std::net::IpAddr;

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{Cidr, Secret};

/// An on-premises site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OnPremisesSite {
    /// The region that it is nearest to; the topology's `location` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its ranges.
    #[schemars(with = "Vec<Cidr>", length(min = 1), extend("x-object" = ["addressPrefixes"]))]
    pub address_space: Vec<IpNet>,
    /// Its hosts by name, a namespace each.
    #[serde(default)]
    pub hosts: IndexMap<String, SiteHost>,
    /// Its VPN device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpn_device: Option<VpnDevice>,
    /// Its ExpressRoute circuits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub express_route: Vec<SiteCircuit>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// A host of a site. Short form: its address, or a list of one of each family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-short" = "addresses"))]
pub struct SiteHost {
    /// Its addresses, one of each family at most.
    #[schemars(length(min = 1), extend("x-alias" = "address"))]
    pub addresses: Vec<IpAddr>,
    /// Free labels; `tag:NAME` in `expect` selects by them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// The VPN device of a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VpnDevice {
    /// Its public address.
    #[serde(rename = "publicIPAddress")]
    pub public_ip_address: IpAddr,
    /// Who plays the device.
    #[serde(default)]
    pub kind: VpnDeviceKind,
    /// What a builtin device without BGP routes into the tunnel; without it what the gateway would advertise.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Cidr>", extend("x-object" = ["addressPrefixes"]))]
    pub remote_address_space: Vec<IpNet>,
    /// The key that a builtin device uses; the connection's own where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_key: Option<Secret>,
    /// The BGP speaker of a builtin device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<DeviceBgp>,
}

/// The BGP speaker of a VPN device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DeviceBgp {
    /// Its autonomous system number.
    #[schemars(range(min = 1))]
    pub asn: u32,
    /// Its address, as `bgpPeeringAddress` of the local network gateway says.
    pub address: IpAddr,
}

/// Who plays a VPN device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum VpnDeviceKind {
    /// The daemon.
    #[default]
    Builtin,
    /// Programs of the user in a namespace that has the site's name.
    External,
}

/// A circuit of a site.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SiteCircuit {
    /// Name of the circuit.
    pub circuit: String,
}

/// Simulated hosts of the Internet.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Internet {
    /// Hosts by name, a namespace each.
    #[serde(default)]
    pub hosts: IndexMap<String, InternetHost>,
    /// Where packets go that no simulated host takes.
    #[serde(default)]
    pub egress: InternetEgress,
}

/// Where packets for the Internet go that no simulated host takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum InternetEgress {
    /// Nowhere.
    #[default]
    None,
    /// Out by the network of the host that runs the lab, with NAT.
    Host,
}

/// A host of the Internet. Short form: its address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-short" = "addresses"))]
pub struct InternetHost {
    /// Its addresses, one of each family at most.
    #[schemars(length(min = 1), extend("x-alias" = "address"))]
    pub addresses: Vec<IpAddr>,
    /// Names that resolve to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fqdns: Vec<String>,
    /// The region that it is nearest to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Free labels; `tag:NAME` in `expect` selects by them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

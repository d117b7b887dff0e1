//! Virtual network gateways, local network gateways and clients.

use std::net::IpAddr;

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{Cidr, PortRange, PublicIpRef};
use super::site::VpnDeviceKind;

/// A virtual network gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualNetworkGateway {
    /// The virtual network whose GatewaySubnet it is in.
    pub virtual_network: String,
    /// What it connects by.
    #[serde(default)]
    pub gateway_type: GatewayType,
    /// How tunnels select traffic.
    #[serde(default)]
    pub vpn_type: VpnType,
    /// Its SKU, which sets throughput and the number of tunnels.
    #[schemars(extend("x-object" = ["name", "tier"]))]
    pub sku: GatewaySku,
    /// Its generation; the SKU's own where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpn_gateway_generation: Option<GatewayGeneration>,
    /// Its public addresses, one, or two with `activeActive`: literals, or names of `publicIPAddresses`.
    #[serde(default, rename = "publicIPAddresses", skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<PublicIpRef>", extend("x-alias" = "publicIPAddress"))]
    pub public_ip_addresses: Vec<IpAddr>,
    /// Whether both instances carry traffic.
    #[serde(default)]
    pub active_active: bool,
    /// Whether it speaks BGP.
    #[serde(default)]
    pub enable_bgp: bool,
    /// Its BGP speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp_settings: Option<BgpSettings>,
    /// Translation of ranges over its connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nat_rules: Vec<GatewayNatRule>,
    /// Point-to-site VPN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vpn_client_configuration: Option<VpnClientConfiguration>,
    /// Throughput in Mb/s of IP bytes in place of the SKU's figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub throughput_mbps: Option<u32>,
    /// Whether an ExpressRoute gateway takes traffic of other virtual networks on its circuits.
    #[serde(default)]
    pub allow_remote_vnet_traffic: bool,
    /// Whether an ExpressRoute gateway takes traffic of virtual WANs on its circuits.
    #[serde(default)]
    pub allow_virtual_wan_traffic: bool,
    /// Name of the local network gateway that everything goes to that no other route takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["id"]))]
    pub gateway_default_site: Option<String>,
    /// Whether `natRules` change the prefixes that it learns and advertises too.
    #[serde(default)]
    pub enable_bgp_route_translation_for_nat: bool,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// What a gateway connects by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GatewayType {
    /// Encrypted tunnels.
    #[default]
    Vpn,
    /// ExpressRoute circuits.
    ExpressRoute,
}

/// How the tunnels of a VPN gateway select traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum VpnType {
    /// By routes.
    #[default]
    RouteBased,
    /// By fixed selectors.
    PolicyBased,
}

/// The generation of a VPN gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum GatewayGeneration {
    /// The first.
    Generation1,
    /// The second.
    Generation2,
}

/// The SKU of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "the names are Azure's and say all there is")]
pub enum GatewaySku {
    Basic,
    VpnGw1,
    VpnGw2,
    VpnGw3,
    VpnGw4,
    VpnGw5,
    VpnGw1AZ,
    VpnGw2AZ,
    VpnGw3AZ,
    VpnGw4AZ,
    VpnGw5AZ,
    Standard,
    HighPerformance,
    UltraPerformance,
    ErGw1AZ,
    ErGw2AZ,
    ErGw3AZ,
    ErGwScale,
}

/// A BGP speaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpSettings {
    /// Its autonomous system number.
    pub asn: u32,
    /// Its address; the instance's own where none is given for a gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp_peering_address: Option<IpAddr>,
    /// Weight added to the routes that it learns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_weight: Option<u32>,
    /// Further addresses of a gateway's instances, one entry for each instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bgp_peering_addresses: Vec<BgpPeeringAddress>,
}

/// Further addresses of the BGP speaker of one instance of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BgpPeeringAddress {
    /// The public address whose instance is meant; the entries are in the order of the public addresses without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipconfiguration_id: Option<String>,
    /// Link-local addresses of 169.254.21.0 to 169.254.22.255.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub custom_bgp_ip_addresses: Vec<IpAddr>,
}

/// A translation of ranges over a gateway's connections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayNatRule {
    /// Its name, unique at the gateway.
    pub name: String,
    /// Static or dynamic.
    #[serde(default, rename = "type")]
    pub nat_type: NatType,
    /// The way of the packets whose source it translates.
    #[serde(default)]
    pub mode: NatMode,
    /// Ranges before.
    #[schemars(length(min = 1))]
    pub internal_mappings: Vec<NatMapping>,
    /// Ranges after.
    #[schemars(length(min = 1))]
    pub external_mappings: Vec<NatMapping>,
    /// The public address whose instance translates; both instances without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_configuration_id: Option<String>,
}

/// A range of a translation. Short form: the range.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-short" = "addressSpace"))]
pub struct NatMapping {
    /// Its addresses.
    #[schemars(with = "Cidr")]
    pub address_space: IpNet,
    /// Its ports; all of them where none are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_range: Option<PortRange>,
}

/// Static or dynamic translation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NatType {
    /// Address by address.
    #[default]
    Static,
    /// Many to few, by ports.
    Dynamic,
}

/// The way of the packets whose source a rule translates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NatMode {
    /// Out of Azure.
    #[default]
    EgressSnat,
    /// Into Azure.
    IngressSnat,
}

/// Point-to-site VPN.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VpnClientConfiguration {
    /// Ranges that clients get their addresses from.
    #[schemars(with = "Vec<Cidr>", length(min = 1), extend("x-object" = ["addressPrefixes"]))]
    pub vpn_client_address_pool: Vec<IpNet>,
    /// Protocols that clients may speak; on the wire it is WireGuard whatever they are.
    #[serde(default = "open_vpn")]
    pub vpn_client_protocols: Vec<VpnClientProtocol>,
}

fn open_vpn() -> Vec<VpnClientProtocol> {
    vec![VpnClientProtocol::OpenVpn]
}

/// A protocol of point-to-site VPN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum VpnClientProtocol {
    /// IKE version 2.
    IkeV2,
    /// SSTP, 128 clients at most.
    #[serde(rename = "SSTP")]
    Sstp,
    /// OpenVPN.
    #[serde(rename = "OpenVPN")]
    OpenVpn,
}

/// A client of a gateway's point-to-site VPN.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VpnClient {
    /// Name of the gateway that it connects to.
    #[schemars(extend("x-object" = ["id"]))]
    pub gateway: String,
    /// The region that it is nearest to; the topology's `location` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its public address; one of the lab's own where it is not given.
    #[serde(default, rename = "publicIPAddress", skip_serializing_if = "Option::is_none")]
    pub public_ip_address: Option<IpAddr>,
    /// Who plays it: the daemon, or programs of the user that take `vnetctl gateway config NAME`.
    #[serde(default)]
    pub kind: VpnDeviceKind,
    /// Whether the gateway turns it away.
    #[serde(default)]
    pub revoked: bool,
    /// Free labels; `tag:NAME` in `expect` selects by them.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// What a gateway knows of a VPN device at the other end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LocalNetworkGateway {
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The device's public address.
    pub gateway_ip_address: IpAddr,
    /// Ranges behind the device.
    #[serde(default)]
    #[schemars(with = "Vec<Cidr>", extend("x-object" = ["addressPrefixes"]))]
    pub local_network_address_space: Vec<IpNet>,
    /// The device's BGP speaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp_settings: Option<BgpSettings>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

//! Virtual network gateways, local network gateways and connections.

use std::net::IpAddr;

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::scalar::{Cidr, PublicIpRef, Secret};

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
    #[schemars(with = "Vec<Cidr>")]
    pub internal_mappings: Vec<IpNet>,
    /// Ranges after.
    #[schemars(with = "Vec<Cidr>")]
    pub external_mappings: Vec<IpNet>,
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
    #[schemars(with = "Vec<Cidr>", extend("x-object" = ["addressPrefixes"]))]
    pub vpn_client_address_pool: Vec<IpNet>,
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
    pub peer: Option<String>,
    /// The key that both ends share; the tunnel comes up where they are equal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared_key: Option<Secret>,
    /// Whether routes come by BGP over the tunnel.
    #[serde(default)]
    pub enable_bgp: bool,
    /// Preference of ExpressRoute connections of one gateway.
    #[serde(default)]
    pub routing_weight: u32,
    /// Who starts the handshake.
    #[serde(default)]
    pub connection_mode: ConnectionMode,
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

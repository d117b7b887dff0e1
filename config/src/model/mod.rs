//! The topology as the rest of vnetd sees it: one shape, whatever short form the file used.
//!
//! These types are the single definition of the file's grammar. The JSON Schema is generated from them, the structural
//! check of a file walks that schema, and the decoder is their serde implementation. Short forms are described by schema
//! extensions, which [`crate::load`] applies before it decodes:
//!
//! | extension | at | meaning |
//! | --- | --- | --- |
//! | `x-short: P` | an object | a value that is no mapping stands for `{P: value}` |
//! | `x-alias: A` | a property | the file may call it `A` too |
//! | `x-object: [P, ..]` | a property | a mapping with these keys stands for the value of the first |
//! | `x-inline: P` | an object | properties of the one item of the list `P` may stand beside the object's own |
//! | `x-values: {A: B}` | an enum | `A` is another spelling of the value `B` |
//!
//! What the model has and nothing runs yet is refused by a table of its own: [`crate::PENDING`].
//!
//! Where a list is expected, a single value stands for a list of one; where a string is expected, a number is taken;
//! the values of an enum are matched without regard to case.

mod connection;
mod egress;
mod expect;
mod express_route;
mod firewall;
mod gateway;
mod ipsec;
mod machine;
mod network;
mod route;
mod route_server;
mod scalar;
mod security;
mod service_tag;
mod site;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use connection::{Connection, ConnectionMode, ConnectionType, CustomBgpIpAddress};
pub use egress::{NatGateway, NatGatewaySku, PrivateEndpoint, PublicIpAddress, PublicIpSku};
pub use expect::{DROP_REASONS, Expectation, ProbeProtocol, Verdict};
pub use express_route::{
    CircuitFamily, CircuitPeering, CircuitPeerings, CircuitTier, ExpressRouteCircuit, Ipv6CircuitPeering,
};
pub use firewall::{
    ApplicationProtocol, ApplicationProtocolType, ApplicationRule, AzureFirewall, FirewallPolicy,
    FirewallProtocol, FirewallRule, FirewallSku, FirewallSnat, IpGroup, NatRule, NetworkRule, RuleAction,
    RuleCollection, RuleCollectionGroup, RuleCollectionType, ThreatIntelMode,
};
pub use gateway::{
    BgpPeeringAddress, BgpSettings, GatewayGeneration, GatewayNatRule, GatewaySku, GatewayType,
    LocalNetworkGateway, NatMapping, NatMode, NatType, VirtualNetworkGateway, VpnClient,
    VpnClientConfiguration, VpnClientProtocol, VpnType,
};
pub use ipsec::{
    ConnectionProtocol, DhGroup, IkeEncryption, IkeIntegrity, IpsecEncryption, IpsecIntegrity, IpsecPolicy,
    PfsGroup, TrafficSelectorPolicy,
};
pub(crate) use ipsec::{data_size_kilobytes, lifetime_seconds};
pub use machine::{NetworkInterface, Restart, RunCommand, VirtualMachine};
pub use network::{
    DdosProtectionPlan, DhcpOptions, Encryption, EncryptionEnforcement, Peering,
    PrivateEndpointNetworkPolicies, Subnet, VirtualNetwork,
};
pub use route::{DisablePeeringRoute, NextHopType, Route, RouteNextHop, RoutePrefix, RouteTable};
pub use route_server::{HubRoutingPreference, RouteServer, RouteServerPeer};
pub use scalar::{
    AddressSpec, FileSource, PortRange, SERVICE_TAGS, Secret, SecretSource, SubnetRef, parse_cidr,
};
pub use security::{
    Access, ApplicationSecurityGroup, Direction, NetworkSecurityGroup, SecurityProtocol, SecurityRule,
};
pub use service_tag::{SERVICE_ENDPOINTS, ServiceEndpoint, ServiceTags};
pub use site::{
    DeviceBgp, Internet, InternetEgress, InternetHost, OnPremisesSite, SiteCircuit, SiteHost, VpnDevice,
    VpnDeviceKind,
};

/// A topology file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    /// Names the lab and its namespaces: `[a-z0-9-]`, at most 24 characters.
    pub name: String,
    /// Default region of what names none.
    #[serde(default = "default_location")]
    pub location: String,
    /// Virtual networks by name.
    #[serde(default)]
    pub virtual_networks: IndexMap<String, VirtualNetwork>,
    /// Virtual machines by name.
    #[serde(default)]
    pub virtual_machines: IndexMap<String, VirtualMachine>,
    /// Network security groups by name.
    #[serde(default)]
    pub network_security_groups: IndexMap<String, NetworkSecurityGroup>,
    /// Application security groups by name.
    #[serde(default)]
    pub application_security_groups: IndexMap<String, ApplicationSecurityGroup>,
    /// Route tables by name.
    #[serde(default)]
    pub route_tables: IndexMap<String, RouteTable>,
    /// Public addresses by name.
    #[serde(default, rename = "publicIPAddresses")]
    pub public_ip_addresses: IndexMap<String, PublicIpAddress>,
    /// NAT gateways by name.
    #[serde(default)]
    pub nat_gateways: IndexMap<String, NatGateway>,
    /// Private endpoints by name, a namespace each.
    #[serde(default)]
    pub private_endpoints: IndexMap<String, PrivateEndpoint>,
    /// What service tags stand for.
    #[serde(default)]
    pub service_tags: ServiceTags,
    /// Firewalls by name.
    #[serde(default)]
    pub azure_firewalls: IndexMap<String, AzureFirewall>,
    /// Firewall policies by name.
    #[serde(default)]
    pub firewall_policies: IndexMap<String, FirewallPolicy>,
    /// IP groups by name.
    #[serde(default)]
    pub ip_groups: IndexMap<String, IpGroup>,
    /// Virtual network gateways by name.
    #[serde(default)]
    pub virtual_network_gateways: IndexMap<String, VirtualNetworkGateway>,
    /// Local network gateways by name.
    #[serde(default)]
    pub local_network_gateways: IndexMap<String, LocalNetworkGateway>,
    /// Connections by name.
    #[serde(default)]
    pub connections: IndexMap<String, Connection>,
    /// Clients of point-to-site VPN by name, a namespace each.
    #[serde(default)]
    pub vpn_clients: IndexMap<String, VpnClient>,
    /// ExpressRoute circuits by name.
    #[serde(default)]
    pub express_route_circuits: IndexMap<String, ExpressRouteCircuit>,
    /// Route servers by name.
    #[serde(default)]
    pub route_servers: IndexMap<String, RouteServer>,
    /// DDoS protection plans by name.
    #[serde(default)]
    pub ddos_protection_plans: IndexMap<String, DdosProtectionPlan>,
    /// On-premises sites by name.
    #[serde(default)]
    pub on_premises_sites: IndexMap<String, OnPremisesSite>,
    /// Simulated hosts of the Internet.
    #[serde(default)]
    pub internet: Internet,
    /// How long things take to be made.
    #[serde(default)]
    pub provisioning: Provisioning,
    /// Latency between regions.
    #[serde(default)]
    pub regions: Regions,
    /// Disputed behaviour of Azure.
    #[serde(default)]
    pub semantics: Semantics,
    /// What `vnetctl test` proves.
    #[serde(default)]
    pub expect: Vec<Expectation>,
}

/// How long things take to be made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Provisioning {
    /// 0: at once; 1: as long as Azure takes. Of VPN gateways: to be made, and to fail over.
    #[serde(default)]
    #[schemars(range(min = 0.0))]
    pub time_scale: f64,
}

/// Latency between regions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Regions {
    /// Where the round-trip times come from.
    #[serde(default)]
    pub latency: RegionLatency,
}

/// Where the round-trip times between regions come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RegionLatency {
    /// None, or Azure's published figures.
    Preset(LatencyPreset),
    /// Round-trip times in milliseconds, by region and region; one direction is enough.
    Table(IndexMap<String, IndexMap<String, f64>>),
}

impl Default for RegionLatency {
    fn default() -> Self {
        Self::Preset(LatencyPreset::None)
    }
}

/// Round-trip times that need no table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum LatencyPreset {
    /// No delay.
    #[default]
    None,
    /// Azure's published figures.
    Default,
}

/// Disputed behaviour of Azure.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Semantics {
    /// What a cleared peering flag stops.
    #[serde(default)]
    pub peering_flags: PeeringFlags,
    /// Whether a VPN gateway shows in traceroute.
    #[serde(default)]
    pub vpn_gateway_hop: VpnGatewayHop,
    /// Whether a user's default route widens the tag VirtualNetwork to every address.
    #[serde(default)]
    pub virtual_network_tag_default_route: TagDefaultRoute,
    /// What subnets without `defaultOutboundAccess` have.
    #[serde(default)]
    pub default_outbound: DefaultOutbound,
}

/// What a cleared `allowVirtualNetworkAccess` or `allowForwardedTraffic` stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PeeringFlags {
    /// The packets themselves.
    #[default]
    Strict,
    /// Only the tag VirtualNetwork changes.
    TagOnly,
}

/// Whether a VPN gateway counts as a hop: decrements TTL and answers traceroute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum VpnGatewayHop {
    /// It does not.
    #[default]
    Invisible,
    /// It does.
    Visible,
}

/// Whether a user's route for 0.0.0.0/0 or ::/0 is part of the tag VirtualNetwork of its subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum TagDefaultRoute {
    /// It is, so that the tag holds every address.
    #[default]
    Include,
    /// It is not.
    Exclude,
}

/// Whether subnets that do not set `defaultOutboundAccess` have a way out to the Internet without an explicit one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum DefaultOutbound {
    /// They have, as networks made before Azure's change of 31 March 2026.
    #[default]
    Enabled,
    /// They have not.
    Disabled,
}

impl Topology {
    /// Whether a subnet has a way out to the Internet without an explicit one.
    #[must_use]
    pub fn default_outbound_access(&self, subnet: &Subnet) -> bool {
        subnet.default_outbound_access.unwrap_or(self.semantics.default_outbound == DefaultOutbound::Enabled)
    }

    /// The SKU of a public address: of the entry of `publicIPAddresses` that has it, else Standard.
    #[must_use]
    pub fn public_ip_sku(&self, address: std::net::IpAddr) -> PublicIpSku {
        let named = self.public_ip_addresses.values().find(|public| public.ip_address == address);
        named.map_or(PublicIpSku::default(), |public| public.sku)
    }
}

fn default_location() -> String {
    "eastus".to_owned()
}

fn default_true() -> bool {
    true
}

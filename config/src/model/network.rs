//! Virtual networks, their subnets and peerings.

use std::net::IpAddr;

use indexmap::IndexMap;
use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ServiceEndpoint, default_true, scalar::Cidr};

/// A virtual network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VirtualNetwork {
    /// Its region; the topology's `location` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Its ranges, of either family.
    #[schemars(with = "Vec<Cidr>", length(min = 1), extend("x-object" = ["addressPrefixes"]))]
    pub address_space: Vec<IpNet>,
    /// Its subnets by name.
    #[serde(default)]
    pub subnets: IndexMap<String, Subnet>,
    /// This side's half of each peering, by the name of the remote virtual network.
    #[serde(default)]
    pub peerings: IndexMap<String, Peering>,
    /// The subscription that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscription: Option<String>,
    /// The tenant that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The cloud that it belongs to, such as `AzureCloud`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud: Option<String>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
    /// What DHCP hands to the virtual machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_options: Option<DhcpOptions>,
    /// Encryption between virtual machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Minutes after which an idle flow is forgotten; Azure's own where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 4, max = 30))]
    pub flow_timeout_in_minutes: Option<u8>,
    /// Name of a DDoS protection plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["id"]))]
    pub ddos_protection_plan: Option<String>,
    /// Whether the plan protects the public addresses in the network.
    #[serde(default)]
    pub enable_ddos_protection: bool,
    /// What the network's gateways advertise in place of its ranges, and of those of spokes that these hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(with = "Vec<Cidr>", extend("x-object" = ["addressPrefixes"]))]
    pub summarized_gateway_prefixes: Vec<IpNet>,
}

/// A DDoS protection plan, which networks name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DdosProtectionPlan {
    /// Its region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Free labels.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub tags: IndexMap<String, String>,
}

/// What DHCP hands to the virtual machines of a network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DhcpOptions {
    /// Addresses of DNS servers, in order.
    #[serde(default)]
    pub dns_servers: Vec<IpAddr>,
}

/// Virtual network encryption.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Encryption {
    /// Whether it is on.
    pub enabled: bool,
    /// What happens to traffic of virtual machines that cannot encrypt.
    #[serde(default)]
    pub enforcement: EncryptionEnforcement,
}

/// What happens to traffic of virtual machines that cannot encrypt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EncryptionEnforcement {
    /// It passes in clear.
    #[default]
    AllowUnencrypted,
    /// It is dropped.
    DropUnencrypted,
}

/// A subnet. Short form: its prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-short" = "addressPrefixes"))]
pub struct Subnet {
    /// Its prefixes: one, or one of each family in a dual-stack subnet.
    #[schemars(with = "Vec<Cidr>", length(min = 1), extend("x-alias" = "addressPrefix"))]
    pub address_prefixes: Vec<IpNet>,
    /// Name of the NSG that guards the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["id"]))]
    pub network_security_group: Option<String>,
    /// Name of the route table that the subnet uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["id"]))]
    pub route_table: Option<String>,
    /// False in a private subnet: no way out to the Internet without an explicit one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_outbound_access: Option<bool>,
    /// Name of the NAT gateway that packets for the Internet leave by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-object" = ["id"]))]
    pub nat_gateway: Option<String>,
    /// Services whose public addresses are reached by the service's own route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_endpoints: Vec<ServiceEndpoint>,
    /// Which policies hold for the private endpoints of the subnet.
    #[serde(default, skip_serializing_if = "is_default")]
    pub private_endpoint_network_policies: PrivateEndpointNetworkPolicies,
}

fn is_default(policies: &PrivateEndpointNetworkPolicies) -> bool {
    *policies == PrivateEndpointNetworkPolicies::default()
}

/// Which policies hold for the private endpoints of a subnet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PrivateEndpointNetworkPolicies {
    /// None: neither security groups nor user-defined routes.
    #[default]
    Disabled,
    /// Security groups and user-defined routes.
    Enabled,
    /// Security groups.
    NetworkSecurityGroupEnabled,
    /// User-defined routes.
    RouteTableEnabled,
}

impl PrivateEndpointNetworkPolicies {
    /// Whether security groups judge packets for the subnet's private endpoints.
    #[must_use]
    pub fn applies_nsg(self) -> bool {
        matches!(self, Self::Enabled | Self::NetworkSecurityGroupEnabled)
    }

    /// Whether user-defined routes with a shorter prefix beat the private endpoints' own.
    #[must_use]
    pub fn applies_routes(self) -> bool {
        matches!(self, Self::Enabled | Self::RouteTableEnabled)
    }
}

/// One side's half of a peering.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Peering {
    /// Whether the two networks reach each other, and the tag VirtualNetwork holds the remote ranges.
    #[serde(default = "default_true")]
    pub allow_virtual_network_access: bool,
    /// Whether packets that did not originate in the remote network may enter from it.
    #[serde(default)]
    pub allow_forwarded_traffic: bool,
    /// Whether the remote network may use this network's gateways.
    #[serde(default)]
    pub allow_gateway_transit: bool,
    /// Whether this network uses the remote network's gateways.
    #[serde(default)]
    pub use_remote_gateways: bool,
    /// Whether `useRemoteGateways` is taken without a gateway on the other side.
    #[serde(default)]
    pub do_not_verify_remote_gateways: bool,
    /// False: only the subnets named below are peered.
    #[serde(default = "default_true")]
    pub peer_complete_vnets: bool,
    /// Subnets of this network that take part in a subnet peering.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_subnet_names: Vec<String>,
    /// Subnets of the remote network that take part in a subnet peering.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remote_subnet_names: Vec<String>,
    /// Whether only the IPv6 ranges are peered.
    #[serde(default, rename = "enableOnlyIPv6Peering")]
    pub enable_only_ipv6_peering: bool,
}

impl Default for Peering {
    fn default() -> Self {
        Self {
            allow_virtual_network_access: true,
            allow_forwarded_traffic: false,
            allow_gateway_transit: false,
            use_remote_gateways: false,
            do_not_verify_remote_gateways: false,
            peer_complete_vnets: true,
            local_subnet_names: Vec::new(),
            remote_subnet_names: Vec::new(),
            enable_only_ipv6_peering: false,
        }
    }
}

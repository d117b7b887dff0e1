//! Virtual networks, peerings and route tables as the topology file writes them.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;

use super::lab::Map;

/// `virtualNetworks.NAME`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Vnet {
    /// Region, where it differs from the lab's.
    pub location: Option<String>,
    /// Ranges.
    pub address_space: Prefixes,
    /// Subnets by name.
    pub subnets: Map<Subnet>,
    /// This side's halves, by remote network.
    pub peerings: Map<Peering>,
    /// Encryption between machines.
    pub encryption: Option<Encryption>,
}

/// `encryption:` of a network.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Encryption {
    /// It is on.
    pub enabled: bool,
    /// `AllowUnencrypted` or `DropUnencrypted`.
    pub enforcement: Option<String>,
}

/// A list of prefixes, or `{addressPrefixes: [...]}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Prefixes {
    /// The short form.
    List(Vec<IpNet>),
    /// REST's form.
    #[serde(rename_all = "camelCase")]
    Object {
        /// The same list.
        address_prefixes: Vec<IpNet>,
    },
}

impl Default for Prefixes {
    fn default() -> Self {
        Prefixes::List(Vec::new())
    }
}

impl Prefixes {
    /// The prefixes.
    pub fn list(&self) -> &[IpNet] {
        match self {
            Prefixes::List(list) | Prefixes::Object { address_prefixes: list } => list,
        }
    }

    /// One of them holds the address.
    pub fn hold(&self, address: IpAddr) -> bool {
        self.list().iter().any(|prefix| prefix.contains(&address))
    }
}

/// A subnet, or just its prefix.
/// A subnet, or just its prefix.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "SubnetForm")]
pub struct Subnet {
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
    /// Name of its route table.
    pub route_table: Option<String>,
    /// Name of its network security group.
    pub nsg: Option<String>,
    /// Name of its NAT gateway.
    pub nat_gateway: Option<String>,
    /// Service endpoints.
    pub service_endpoints: Vec<ServiceEndpoint>,
    /// Machines without another way out get an address of Azure's; absent: the lab's default.
    pub default_outbound_access: Option<bool>,
    /// `Disabled`, `Enabled`, `NetworkSecurityGroupEnabled`, `RouteTableEnabled`.
    pub private_endpoint_policies: Option<String>,
}

impl Subnet {
    /// Groups judge packets for the private endpoints here.
    pub fn groups_judge_endpoints(&self) -> bool {
        matches!(self.private_endpoint_policies.as_deref(), Some("Enabled" | "NetworkSecurityGroupEnabled"))
    }

    /// User-defined routes may beat those of the private endpoints here, and lead their answers.
    pub fn routes_judge_endpoints(&self) -> bool {
        matches!(self.private_endpoint_policies.as_deref(), Some("Enabled" | "RouteTableEnabled"))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SubnetForm {
    Short(IpNet),
    Long(Box<LongSubnet>),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LongSubnet {
    address_prefix: Option<IpNet>,
    #[serde(default)]
    address_prefixes: Vec<IpNet>,
    route_table: Option<String>,
    network_security_group: Option<String>,
    nat_gateway: Option<String>,
    #[serde(default)]
    service_endpoints: Vec<ServiceEndpoint>,
    default_outbound_access: Option<bool>,
    private_endpoint_network_policies: Option<String>,
}

impl From<SubnetForm> for Subnet {
    fn from(form: SubnetForm) -> Subnet {
        let long = match form {
            SubnetForm::Short(prefix) => return Subnet { prefixes: vec![prefix], ..Subnet::default() },
            SubnetForm::Long(long) => long,
        };
        Subnet {
            prefixes: long.address_prefix.into_iter().chain(long.address_prefixes).collect(),
            route_table: long.route_table,
            nsg: long.network_security_group,
            nat_gateway: long.nat_gateway,
            service_endpoints: long.service_endpoints,
            default_outbound_access: long.default_outbound_access,
            private_endpoint_policies: long.private_endpoint_network_policies,
        }
    }
}

/// A service endpoint of a subnet: `Microsoft.Storage`, or an object with locations.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum ServiceEndpoint {
    /// The short form.
    Short(String),
    /// REST's form.
    Long {
        /// `Microsoft.Storage`.
        service: String,
        /// Regions; empty: everywhere.
        #[serde(default)]
        locations: Vec<String>,
    },
}

impl ServiceEndpoint {
    /// The service tags whose prefixes it routes.
    pub fn tags(&self) -> Vec<String> {
        let tag = |service: &str| service.trim_start_matches("Microsoft.").to_owned();
        match self {
            ServiceEndpoint::Short(service) => vec![tag(service)],
            ServiceEndpoint::Long { service, locations } => {
                let everywhere = locations.is_empty() || locations.iter().any(|location| location == "*");
                if everywhere {
                    return vec![tag(service)];
                }
                locations.iter().map(|location| format!("{}.{location}", tag(service))).collect()
            }
        }
    }
}

/// One half of a peering.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Peering {
    /// Traffic between the two networks.
    pub allow_virtual_network_access: bool,
    /// Traffic that comes over this link from elsewhere.
    pub allow_forwarded_traffic: bool,
    /// Offers the own gateway.
    pub allow_gateway_transit: bool,
    /// Uses the other's gateway.
    pub use_remote_gateways: bool,
    /// False: only the listed subnets take part.
    pub peer_complete_vnets: bool,
    /// This network's subnets that take part.
    pub local_subnet_names: Vec<String>,
    /// The other network's.
    pub remote_subnet_names: Vec<String>,
    /// Only IPv6 prefixes of those subnets.
    #[serde(rename = "enableOnlyIPv6Peering")]
    pub only_v6: bool,
}

impl Default for Peering {
    fn default() -> Self {
        Peering {
            allow_virtual_network_access: true,
            allow_forwarded_traffic: false,
            allow_gateway_transit: false,
            use_remote_gateways: false,
            peer_complete_vnets: true,
            local_subnet_names: Vec::new(),
            remote_subnet_names: Vec::new(),
            only_v6: false,
        }
    }
}

/// A route table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteTable {
    /// Keeps gateway routes out.
    pub disable_bgp_route_propagation: bool,
    /// `All` keeps peerings' routes out.
    pub disable_peering_route: Option<String>,
    /// User-defined routes.
    pub routes: Vec<Route>,
}

/// A user-defined route.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Destinations: a prefix or a service tag.
    pub address_prefix: String,
    /// As in REST.
    pub next_hop_type: String,
    /// For `VirtualAppliance`.
    pub next_hop_ip_address: Option<IpAddr>,
    /// For `VirtualApplianceEcmp`.
    pub next_hop: Option<NextHops>,
}

/// `nextHop:` of a route.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NextHops {
    /// Two or more appliances.
    pub next_hop_ip_addresses: Vec<IpAddr>,
}

/// `natGateways.NAME`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NatGateway {
    /// `Standard` or `StandardV2`.
    pub sku: Option<String>,
    /// Its addresses.
    #[serde(rename = "publicIPAddresses")]
    pub publics: Vec<IpAddr>,
}

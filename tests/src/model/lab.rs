//! The topology file as the model reads it: short forms expanded, addresses given out.

use std::net::{IpAddr, Ipv4Addr};

use indexmap::IndexMap;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

pub use super::guard::{Firewall, FirewallRule, IpGroup, Many, Nsg, Policy, RuleCollection, SecurityRule};
pub use super::machine::{Nic, PrivateEndpoint, Vm};
pub use super::network::{NatGateway, Peering, Prefixes, RouteTable, Subnet, Vnet};
pub use super::site::{Connection, Gateway, Internet, LocalGateway, Site};

pub(super) type Map<T> = IndexMap<String, T>;

/// A topology with every address known.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lab {
    /// Region of what names none.
    pub location: String,
    /// Virtual networks by name.
    pub virtual_networks: Map<Vnet>,
    /// Virtual machines and, after [`Lab::read`], private endpoints by name.
    pub virtual_machines: Map<Vm>,
    /// Private endpoints by name.
    pub private_endpoints: Map<PrivateEndpoint>,
    /// NAT gateways by name.
    pub nat_gateways: Map<NatGateway>,
    /// Prefixes of service tags.
    pub service_tags: Map<Vec<IpNet>>,
    /// Network security groups by name.
    pub network_security_groups: Map<Nsg>,
    /// Route tables by name.
    pub route_tables: Map<RouteTable>,
    /// Firewalls by name.
    pub azure_firewalls: Map<Firewall>,
    /// Firewall policies by name.
    pub firewall_policies: Map<Policy>,
    /// IP groups by name.
    pub ip_groups: Map<IpGroup>,
    /// Gateways by name.
    pub virtual_network_gateways: Map<Gateway>,
    /// Local network gateways by name.
    pub local_network_gateways: Map<LocalGateway>,
    /// Connections by name.
    pub connections: Map<Connection>,
    /// On-premises sites by name.
    pub on_premises_sites: Map<Site>,
    /// The simulated internet.
    pub internet: Internet,
    /// Switches for disputed behaviour.
    pub semantics: Semantics,
    /// Public addresses that are open where no group guards them: those of SKU Basic.
    #[serde(skip)]
    pub basic: Vec<IpAddr>,
}

/// `semantics:`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Semantics {
    /// `strict` or `tagOnly`.
    pub peering_flags: Option<String>,
    /// `include` or `exclude`: a user's default route counts in the tag VirtualNetwork.
    pub virtual_network_tag_default_route: Option<String>,
    /// `invisible` or `visible`: a VPN gateway shows in traceroute.
    pub vpn_gateway_hop: Option<String>,
    /// `enabled` or `disabled`: what subnets have that don't say.
    pub default_outbound: Option<String>,
}

/// Puts the address where a named public address stands; returns those of SKU Basic.
fn resolve_public_addresses(topology: &mut Value) -> Vec<IpAddr> {
    let Some(named) = topology.get("publicIPAddresses").cloned() else { return Vec::new() };
    let address = |entry: &Value| {
        let text = entry.as_str().or_else(|| entry.get("ipAddress").and_then(Value::as_str));
        text.map(str::to_owned)
    };
    let is_basic = |entry: &&Value| {
        let sku = entry.get("sku");
        sku.and_then(|sku| sku.as_str().or_else(|| sku.get("name").and_then(Value::as_str))) == Some("Basic")
    };
    let entries = || named.as_object().into_iter().flat_map(|map| map.values());
    let basic = entries().filter(is_basic).filter_map(address).filter_map(|text| text.parse().ok()).collect();
    let resolve = |text: &mut Value| {
        let found = text.as_str().and_then(|name| named.get(name)).and_then(address);
        if let Some(found) = found {
            *text = Value::String(found);
        }
    };
    replace_public_addresses(topology, &resolve);
    basic
}

fn replace_public_addresses(value: &mut Value, resolve: &impl Fn(&mut Value)) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match (key.as_str(), field) {
                    ("publicIPAddress", field) => resolve(field),
                    ("publicIPAddresses", Value::Array(list)) => list.iter_mut().for_each(resolve),
                    (_, field) => replace_public_addresses(field, resolve),
                }
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|item| replace_public_addresses(item, resolve)),
        _ => {}
    }
}

impl Lab {
    /// Reads a topology that validation has accepted.
    ///
    /// # Errors
    /// Says what the model can't read: a form that it doesn't know.
    pub fn read(topology: &Value) -> Result<Lab, String> {
        let mut topology = topology.clone();
        let basic = resolve_public_addresses(&mut topology);
        let mut lab: Lab = serde_json::from_value(topology).map_err(|error| error.to_string())?;
        lab.basic = basic;
        let endpoints = lab.private_endpoints.iter();
        let machines: Vec<_> = endpoints.map(|(name, one)| (name.clone(), one.as_machine())).collect();
        lab.virtual_machines.extend(machines);
        lab.allocate();
        Ok(lab)
    }

    /// A network by name.
    pub fn vnet(&self, name: &str) -> &Vnet {
        &self.virtual_networks[name]
    }

    /// A network's region.
    pub fn region(&self, vnet: &str) -> &str {
        self.vnet(vnet).location.as_deref().unwrap_or(&self.location)
    }

    /// Prefixes of a service tag; the file's tags are found whatever their case.
    pub fn tag(&self, name: &str) -> Option<&[IpNet]> {
        let mut tags = self.service_tags.iter();
        tags.find(|(tag, _)| tag.eq_ignore_ascii_case(name)).map(|(_, prefixes)| prefixes.as_slice())
    }

    /// The route table of a subnet.
    pub fn table(&self, vnet: &str, subnet: &str) -> Option<&RouteTable> {
        let name = self.vnet(vnet).subnets[subnet].route_table.as_ref()?;
        Some(&self.route_tables[name.as_str()])
    }

    /// The firewall in a network.
    pub fn firewall_of(&self, vnet: &str) -> Option<(&str, &Firewall)> {
        let mut all = self.azure_firewalls.iter();
        all.find(|(_, firewall)| firewall.virtual_network == vnet)
            .map(|(name, firewall)| (name.as_str(), firewall))
    }

    /// Fixed addresses first, then the lowest free one of each family for whoever has none, in the file's order.
    fn allocate(&mut self) {
        let mut used: Vec<(String, IpAddr)> = Vec::new();
        for nic in self.virtual_machines.values().flat_map(|vm| &vm.nics) {
            used.extend(nic.addresses.iter().map(|address| (nic.place().0.to_owned(), *address)));
        }
        let vnets = &self.virtual_networks;
        for firewall in self.azure_firewalls.values_mut() {
            let vnet = &firewall.virtual_network;
            let Some(subnet) = vnets[vnet.as_str()].subnets.get("AzureFirewallSubnet") else { continue };
            let v4 = subnet.prefixes.iter().find(|prefix| matches!(prefix, IpNet::V4(_)));
            firewall.address = v4.and_then(|prefix| lowest_free(vnet, *prefix, &mut used));
            firewall.instance = v4.and_then(|prefix| lowest_free(vnet, *prefix, &mut used));
        }
        for gateway in self.virtual_network_gateways.values_mut() {
            let vnet = &gateway.virtual_network;
            let Some(subnet) = vnets[vnet.as_str()].subnets.get("GatewaySubnet") else { continue };
            let v4 = subnet.prefixes.iter().find(|prefix| matches!(prefix, IpNet::V4(_)));
            gateway.address = v4.and_then(|prefix| usable(*prefix)).map(|(_, last)| last);
        }
        let nics = self.virtual_machines.values_mut();
        let nics = nics.flat_map(|vm| vm.nics.iter_mut().map(|nic| (vm.is_private_endpoint, nic)));
        for (one_address, nic) in nics {
            let (vnet, subnet) = nic.subnet.split_once('/').expect("a NIC's subnet is VNET/SUBNET");
            for v4 in [true, false] {
                let has = nic.addresses.iter().any(|address| address.is_ipv4() == v4);
                let of_family = |prefix: &&IpNet| matches!(prefix, IpNet::V4(_)) == v4;
                let free = vnets[vnet].subnets[subnet].prefixes.iter().filter(of_family);
                let enough = has || (one_address && !nic.addresses.is_empty());
                if !enough {
                    let found = free.filter_map(|prefix| lowest_free(vnet, *prefix, &mut used)).next();
                    nic.addresses.extend(found);
                }
            }
        }
    }
}

/// Azure keeps the first four addresses of a subnet and, for IPv4, the last one.
fn lowest_free(vnet: &str, prefix: IpNet, used: &mut Vec<(String, IpAddr)>) -> Option<IpAddr> {
    let (first, last) = usable(prefix)?;
    let mut candidate = first;
    while used.iter().any(|(at, address)| at == vnet && *address == candidate) {
        if candidate == last {
            return None;
        }
        candidate = plus(candidate, 1);
    }
    used.push((vnet.to_owned(), candidate));
    Some(candidate)
}

/// First and last address of a subnet that a NIC may have; none where it is smaller than Azure allows.
pub fn usable(prefix: IpNet) -> Option<(IpAddr, IpAddr)> {
    match prefix {
        IpNet::V4(v4) if v4.prefix_len() > 29 => None,
        IpNet::V4(v4) => {
            let last = Ipv4Addr::from(u32::from(v4.broadcast()) - 1);
            Some((plus(IpAddr::V4(v4.network()), 4), IpAddr::V4(last)))
        }
        IpNet::V6(v6) => Some((plus(IpAddr::V6(v6.network()), 4), IpAddr::V6(v6.broadcast()))),
    }
}

fn plus(address: IpAddr, by: u32) -> IpAddr {
    match address {
        IpAddr::V4(v4) => IpAddr::V4((u32::from(v4) + by).into()),
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) + u128::from(by)).into()),
    }
}

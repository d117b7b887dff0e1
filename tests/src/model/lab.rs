//! The topology file as the model reads it: short forms expanded, addresses given out.

use std::net::{IpAddr, Ipv4Addr};

use indexmap::IndexMap;
use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

type Map<T> = IndexMap<String, T>;

/// A topology with every address known.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lab {
    /// Region of what names none.
    pub location: String,
    /// Virtual networks by name.
    pub virtual_networks: Map<Vnet>,
    /// Virtual machines by name.
    pub virtual_machines: Map<Vm>,
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
}

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
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "SubnetForm")]
pub struct Subnet {
    /// Its prefixes.
    pub prefixes: Vec<IpNet>,
    /// Name of its route table.
    pub route_table: Option<String>,
    /// Name of its network security group.
    pub nsg: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum SubnetForm {
    Short(IpNet),
    #[serde(rename_all = "camelCase")]
    Long {
        address_prefix: Option<IpNet>,
        #[serde(default)]
        address_prefixes: Vec<IpNet>,
        route_table: Option<String>,
        network_security_group: Option<String>,
    },
}

impl From<SubnetForm> for Subnet {
    fn from(form: SubnetForm) -> Subnet {
        match form {
            SubnetForm::Short(prefix) => Subnet { prefixes: vec![prefix], route_table: None, nsg: None },
            SubnetForm::Long { address_prefix, address_prefixes, route_table, network_security_group } => {
                Subnet {
                    prefixes: address_prefix.into_iter().chain(address_prefixes).collect(),
                    route_table,
                    nsg: network_security_group,
                }
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
}

impl Default for Peering {
    fn default() -> Self {
        Peering {
            allow_virtual_network_access: true,
            allow_forwarded_traffic: false,
            allow_gateway_transit: false,
            use_remote_gateways: false,
        }
    }
}

/// A virtual machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "VmForm")]
pub struct Vm {
    /// Its interfaces; the first is the primary one.
    pub nics: Vec<Nic>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VmForm {
    #[serde(default)]
    network_interfaces: Vec<Nic>,
    subnet: Option<String>,
    #[serde(rename = "privateIPAddress")]
    address: Option<IpAddr>,
    #[serde(default, rename = "privateIPAddresses")]
    addresses: Vec<IpAddr>,
    #[serde(default, rename = "enableIPForwarding")]
    forwarding: bool,
    network_security_group: Option<String>,
    #[serde(default)]
    application_security_groups: Vec<String>,
    #[serde(rename = "publicIPAddress")]
    public: Option<IpAddr>,
}

impl From<VmForm> for Vm {
    fn from(form: VmForm) -> Vm {
        let mut nics = form.network_interfaces;
        if let Some(subnet) = form.subnet {
            nics.push(Nic {
                subnet,
                addresses: form.address.into_iter().chain(form.addresses).collect(),
                forwarding: form.forwarding,
                nsg: form.network_security_group,
                groups: Vec::new(),
                public: form.public,
                publics: Vec::new(),
                address: None,
            });
        }
        for nic in &mut nics {
            nic.groups.extend(form.application_security_groups.iter().cloned());
            let one = nic.address.take();
            nic.addresses.extend(one);
            nic.public = nic.public.or(nic.publics.first().copied());
        }
        Vm { nics }
    }
}

/// A network interface.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Nic {
    /// `VNET/SUBNET`.
    pub subnet: String,
    /// Its own addresses; after [`Lab::read`] one of each family of the subnet at least.
    #[serde(default, rename = "privateIPAddresses")]
    pub addresses: Vec<IpAddr>,
    #[serde(default, rename = "privateIPAddress")]
    address: Option<IpAddr>,
    /// `enableIPForwarding`.
    #[serde(default, rename = "enableIPForwarding")]
    pub forwarding: bool,
    /// Name of its network security group.
    #[serde(default, rename = "networkSecurityGroup")]
    pub nsg: Option<String>,
    /// Application security groups.
    #[serde(default, rename = "applicationSecurityGroups")]
    pub groups: Vec<String>,
    /// Public address.
    #[serde(default, rename = "publicIPAddress")]
    pub public: Option<IpAddr>,
    #[serde(default, rename = "publicIPAddresses")]
    publics: Vec<IpAddr>,
}

impl Nic {
    /// The two halves of `VNET/SUBNET`.
    pub fn place(&self) -> (&str, &str) {
        self.subnet.split_once('/').expect("a NIC's subnet is VNET/SUBNET: validation has passed")
    }
}

/// A network security group.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Nsg {
    /// The user's rules, in the file's order.
    pub security_rules: Vec<SecurityRule>,
}

/// A value, or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Many {
    /// Several.
    List(Vec<Value>),
    /// One.
    One(Value),
}

impl Default for Many {
    fn default() -> Self {
        Many::List(Vec::new())
    }
}

impl Many {
    /// Each as text, numbers too.
    pub fn texts(&self) -> Vec<String> {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match self {
            Many::List(list) => list.iter().map(text).collect(),
            Many::One(one) => vec![text(one)],
        }
    }
}

/// `securityRules[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SecurityRule {
    /// Its name.
    pub name: String,
    /// 100 to 4096, smaller first.
    pub priority: u16,
    /// `Inbound` or `Outbound`.
    pub direction: String,
    /// `Allow` or `Deny`.
    pub access: String,
    /// `*`, `Tcp`, `Udp`, `Icmp`, `Esp`, `Ah`.
    pub protocol: String,
    /// One source.
    #[serde(default)]
    pub source_address_prefix: Many,
    /// Several sources.
    #[serde(default)]
    pub source_address_prefixes: Many,
    /// Sources by label.
    #[serde(default)]
    pub source_application_security_groups: Vec<String>,
    /// One destination.
    #[serde(default)]
    pub destination_address_prefix: Many,
    /// Several destinations.
    #[serde(default)]
    pub destination_address_prefixes: Many,
    /// Destinations by label.
    #[serde(default)]
    pub destination_application_security_groups: Vec<String>,
    /// One range of source ports.
    #[serde(default)]
    pub source_port_range: Many,
    /// Several.
    #[serde(default)]
    pub source_port_ranges: Many,
    /// One range of destination ports.
    #[serde(default)]
    pub destination_port_range: Many,
    /// Several.
    #[serde(default)]
    pub destination_port_ranges: Many,
}

/// A route table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RouteTable {
    /// Keeps gateway routes out.
    pub disable_bgp_route_propagation: bool,
    /// User-defined routes.
    pub routes: Vec<Route>,
}

/// A user-defined route.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Its name.
    pub name: String,
    /// Destinations.
    pub address_prefix: IpNet,
    /// As in REST.
    pub next_hop_type: String,
    /// For `VirtualAppliance`.
    pub next_hop_ip_address: Option<IpAddr>,
}

/// An Azure Firewall.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Firewall {
    /// Its network.
    pub virtual_network: String,
    /// Its policy.
    pub firewall_policy: Option<String>,
    /// Public addresses.
    #[serde(default, rename = "publicIPAddresses")]
    pub public: Vec<IpAddr>,
    /// Private address: the first free one of AzureFirewallSubnet.
    #[serde(skip)]
    pub address: Option<IpAddr>,
}

/// A firewall policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Policy {
    /// Parent.
    pub base_policy: Option<String>,
    /// Groups.
    pub rule_collection_groups: Vec<RuleCollectionGroup>,
}

/// `ruleCollectionGroups[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleCollectionGroup {
    /// Its name.
    pub name: String,
    /// 100 to 65000, smaller first.
    pub priority: u32,
    /// Collections.
    #[serde(default)]
    pub rule_collections: Vec<RuleCollection>,
}

/// `ruleCollections[]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuleCollection {
    /// Its name.
    pub name: String,
    /// 100 to 65000, smaller first.
    pub priority: u32,
    /// Filter or NAT.
    pub rule_collection_type: String,
    /// `Allow`, `Deny` or `DNAT`.
    pub action: String,
    /// Rules in written order.
    #[serde(default)]
    pub rules: Vec<FirewallRule>,
}

/// A rule of any of the three types; the fields of the others are empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FirewallRule {
    /// Its name.
    pub name: String,
    /// `NetworkRule`, `ApplicationRule`, `NatRule`.
    pub rule_type: String,
    /// `TCP`, `UDP`, `ICMP`, `Any`.
    pub ip_protocols: Vec<String>,
    /// Sources.
    pub source_addresses: Vec<String>,
    /// Sources by IP group.
    pub source_ip_groups: Vec<String>,
    /// Destinations.
    pub destination_addresses: Vec<String>,
    /// Destinations by IP group.
    pub destination_ip_groups: Vec<String>,
    /// Ports or ranges.
    pub destination_ports: Many,
}

/// An IP group.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum IpGroup {
    /// The short form.
    List(Vec<String>),
    /// REST's form.
    #[serde(rename_all = "camelCase")]
    Object {
        /// The same list.
        ip_addresses: Vec<String>,
    },
}

impl IpGroup {
    /// Addresses, prefixes and ranges.
    pub fn list(&self) -> &[String] {
        match self {
            IpGroup::List(list) | IpGroup::Object { ip_addresses: list } => list,
        }
    }
}

/// A virtual network gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Its network.
    pub virtual_network: String,
    /// `Vpn` or `ExpressRoute`.
    pub gateway_type: String,
    /// Public addresses.
    #[serde(default, rename = "publicIPAddresses")]
    pub public: Vec<IpAddr>,
}

/// A local network gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalGateway {
    /// The device's public address.
    pub gateway_ip_address: Option<IpAddr>,
    /// What lies behind it.
    #[serde(default)]
    pub local_network_address_space: Prefixes,
}

/// A connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// `IPsec` or `Vnet2Vnet`.
    pub connection_type: String,
    /// This side's gateway.
    pub virtual_network_gateway1: String,
    /// The other gateway, for `Vnet2Vnet`.
    pub virtual_network_gateway2: Option<String>,
    /// The other side, for `IPsec`.
    pub local_network_gateway2: Option<String>,
    /// Pre-shared key.
    #[serde(default)]
    pub shared_key: Value,
}

/// An on-premises site.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Site {
    /// Ranges.
    pub address_space: Prefixes,
    /// Hosts by name.
    pub hosts: Map<HostForm>,
    /// The device.
    pub vpn_device: Option<VpnDevice>,
}

/// A host's address, or an object that holds it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum HostForm {
    /// The short form.
    One(IpAddr),
    /// Several, one for each family.
    Several(Vec<IpAddr>),
    /// With a name for the field.
    Object {
        /// The address.
        address: IpAddr,
    },
    /// With a name for the list.
    Objects {
        /// The addresses.
        addresses: Vec<IpAddr>,
    },
}

impl HostForm {
    /// Its addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        match self {
            HostForm::One(address) | HostForm::Object { address } => vec![*address],
            HostForm::Several(addresses) | HostForm::Objects { addresses } => addresses.clone(),
        }
    }
}

/// A site's VPN device.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VpnDevice {
    /// Public address.
    #[serde(rename = "publicIPAddress")]
    pub public: IpAddr,
    /// What it routes into the tunnel; absent: what the gateway would advertise.
    pub remote_address_space: Option<Prefixes>,
    /// Its key, where it is not the connection's.
    #[serde(default)]
    pub shared_key: Value,
}

/// The simulated internet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Internet {
    /// Hosts by name.
    pub hosts: Map<HostForm>,
}

/// `semantics:`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Semantics {
    /// `strict` or `tagOnly`.
    pub peering_flags: Option<String>,
}

impl Lab {
    /// Reads a topology that validation has accepted.
    ///
    /// # Errors
    /// Says what the model can't read: a form that it doesn't know.
    pub fn read(topology: &Value) -> Result<Lab, String> {
        let mut lab: Lab = serde_json::from_value(topology.clone()).map_err(|error| error.to_string())?;
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
        }
        for nic in self.virtual_machines.values_mut().flat_map(|vm| &mut vm.nics) {
            let (vnet, subnet) = nic.subnet.split_once('/').expect("a NIC's subnet is VNET/SUBNET");
            for v4 in [true, false] {
                let has = nic.addresses.iter().any(|address| address.is_ipv4() == v4);
                let of_family = |prefix: &&IpNet| matches!(prefix, IpNet::V4(_)) == v4;
                let free = vnets[vnet].subnets[subnet].prefixes.iter().filter(of_family);
                if !has {
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

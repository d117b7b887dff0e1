//! A random topology as a handful of numbers: names are small integers that are taken modulo what there is, so that
//! a sketch shrinks well and stays a topology.

/// At most this many networks.
pub const NETWORKS_MAX: usize = 5;

/// A virtual network.
#[derive(Clone, Debug)]
pub struct NetworkSketch {
    /// Which kind of range: 0 in 10/8, 1 in 172.16/12, 2 in 192.168/16, 3 public.
    pub range: u8,
    /// Has IPv6 too.
    pub dual: bool,
    /// In the second region.
    pub far: bool,
    /// Has a firewall, by this policy.
    pub firewall: Option<u8>,
    /// Has a VPN gateway.
    pub gateway: bool,
    /// Wants to use the gateway of this network.
    pub uses: Option<u8>,
    /// Subnets a and b.
    pub subnets: [SubnetSketch; 2],
    /// Their machines.
    pub machines: [MachineSketch; 2],
    /// Has a machine in subnet b.
    pub second: bool,
    /// A group at the first machine's NIC.
    pub nic_group: Option<u8>,
    /// Has a range that others have too, and a machine there; only where no peering forbids it.
    pub extra: bool,
    /// VNet encryption: what is not encrypted is dropped.
    pub encryption: Option<bool>,
    /// Has a private endpoint in subnet b, guarded by groups or not.
    pub endpoint: Option<bool>,
    /// Has an ExpressRoute gateway beside the VPN gateway.
    pub express: bool,
    /// Routes of AzureFirewallSubnet and GatewaySubnet, towards networks.
    pub firewall_routes: Vec<(u8, HopSketch)>,
    /// The same for GatewaySubnet.
    pub gateway_routes: Vec<(u8, HopSketch)>,
}

/// One of a network's subnets.
#[derive(Clone, Debug)]
pub struct SubnetSketch {
    /// Route table.
    pub table: Option<u8>,
    /// Group.
    pub group: Option<u8>,
    /// NAT gateway, of the newer SKU or not.
    pub nat: Option<bool>,
    /// defaultOutboundAccess.
    pub outbound: Option<bool>,
    /// Service endpoints.
    pub services: Vec<u8>,
}

/// A machine.
#[derive(Clone, Debug)]
pub struct MachineSketch {
    /// It forwards.
    pub forwarding: bool,
    /// It can encrypt.
    pub accelerated: bool,
    /// Groups keep no TCP state at its NIC.
    pub untracked: bool,
    /// It has its network's application security group.
    pub labelled: bool,
    /// It has a public address.
    pub public: bool,
}

/// The subnets that take part in a peering.
#[derive(Clone, Debug)]
pub struct ListSketch {
    /// Of each network, as bits: a, b, AzureFirewallSubnet.
    pub subnets: [u8; 2],
    /// Only their IPv6 prefixes.
    pub only_v6: bool,
}

/// One half of a peering, or both.
#[derive(Clone, Debug)]
pub struct PeeringSketch {
    /// 0 none, 1 the first half only, 2 the second only, else both.
    pub halves: u8,
    /// allowVirtualNetworkAccess of each.
    pub access: [bool; 2],
    /// allowForwardedTraffic of each.
    pub forwarded: [bool; 2],
    /// Peers some subnets only.
    pub list: Option<ListSketch>,
}

/// A next hop.
#[derive(Clone, Debug)]
pub enum HopSketch {
    /// A machine: network, and whether it is the second one.
    Machine(u8, bool),
    /// Several machines; a hash chooses.
    Several(Vec<(u8, bool)>),
    /// The firewall of a network, or a machine there.
    Firewall(u8),
    /// An address in a network at which nothing is.
    Nobody(u8),
    /// VirtualNetworkGateway.
    Gateway,
    /// VnetLocal.
    Local,
    /// Internet.
    Internet,
    /// None.
    None,
}

/// A destination.
#[derive(Clone, Debug)]
pub enum PrefixSketch {
    /// A network's range.
    Network(u8),
    /// A network's subnet: 0 or 1.
    Subnet(u8, bool),
    /// One machine.
    Machine(u8),
    /// A site.
    Site(u8),
    /// 0.0.0.0/0.
    All,
    /// 10.0.0.0/8.
    Ten,
    /// Something wider than a network.
    Wide(u8),
    /// A service tag.
    Tag(u8),
    /// The range that several networks have.
    Extra,
}

/// A user-defined route.
#[derive(Clone, Debug)]
pub struct RouteSketch {
    /// Destinations.
    pub prefix: PrefixSketch,
    /// IPv6, where the pieces have it.
    pub six: bool,
    /// Next hop.
    pub hop: HopSketch,
}

/// A route table.
#[derive(Clone, Debug)]
pub struct TableSketch {
    /// disableBgpRoutePropagation.
    pub propagation_off: bool,
    /// disablePeeringRoute.
    pub peering_off: bool,
    /// Routes.
    pub routes: Vec<RouteSketch>,
}

/// Who a rule speaks of.
#[derive(Clone, Debug)]
pub enum SideSketch {
    /// Anybody.
    Any,
    /// The tag VirtualNetwork.
    VirtualNetwork,
    /// The tag Internet.
    Internet,
    /// A network.
    Network(u8),
    /// A machine.
    Machine(u8),
    /// A site.
    Site(u8),
    /// A service tag.
    Tag(u8),
    /// A network's application security group.
    Label(u8),
    /// A network and a machine.
    Several(u8, u8),
}

/// A security rule.
#[derive(Clone, Debug)]
pub struct RuleSketch {
    /// Inbound.
    pub inbound: bool,
    /// Allows.
    pub allow: bool,
    /// 0 any, 1 TCP, 2 UDP, 3 ICMP.
    pub protocol: u8,
    /// Source.
    pub source: SideSketch,
    /// Destination.
    pub destination: SideSketch,
    /// 0 any, else one of a few.
    pub port: u8,
}

/// A firewall rule, in a collection and group of its own numbers.
#[derive(Clone, Debug)]
pub struct FirewallRuleSketch {
    /// Group and collection, 0 to 1 each.
    pub place: (u8, u8),
    /// Protocols and ports as in [`RuleSketch`].
    pub protocol: u8,
    /// Source.
    pub source: SideSketch,
    /// Destination.
    pub destination: SideSketch,
    /// Ports.
    pub port: u8,
}

/// A firewall policy.
#[derive(Clone, Debug)]
pub struct PolicySketch {
    /// Action of each of the four collections: allows.
    pub allow: [bool; 4],
    /// Rules.
    pub rules: Vec<FirewallRuleSketch>,
    /// Ranges that see the client's own address: 0 the usual ones, 1 all, 2 none, 3 some.
    pub snat: u8,
    /// The later policy is a child of the first.
    pub child: bool,
}

/// An on-premises site.
#[derive(Clone, Debug)]
pub struct SiteSketch {
    /// The gateway's network; dropped where it has none.
    pub network: u8,
    /// 0: the whole site; 1: not the host's part; 2: a network's range too.
    pub known: u8,
    /// That network.
    pub also: u8,
    /// The device has another key.
    pub wrong_key: bool,
}

/// Gateways of two networks, connected.
#[derive(Clone, Debug)]
pub struct LinkSketch {
    /// The networks.
    pub between: (u8, u8),
    /// 0: only the first connection; 1: different keys; else both.
    pub state: u8,
}

/// A topology.
#[derive(Clone, Debug)]
pub struct Sketch {
    /// Networks.
    pub networks: Vec<NetworkSketch>,
    /// For each pair in order.
    pub peerings: Vec<PeeringSketch>,
    /// Route tables.
    pub tables: Vec<TableSketch>,
    /// Groups.
    pub groups: Vec<Vec<RuleSketch>>,
    /// Firewall policies.
    pub policies: Vec<PolicySketch>,
    /// Sites.
    pub sites: Vec<SiteSketch>,
    /// Connections between gateways.
    pub links: Vec<LinkSketch>,
    /// Readings of disputed behaviour that are not the default: what peering flags do, whether a default route
    /// counts in the tag VirtualNetwork, whether subnets have a way out.
    pub readings: [bool; 3],
}

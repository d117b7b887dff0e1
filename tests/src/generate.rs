//! Random small topologies. A sketch is a handful of numbers, so that a failing one shrinks well; it becomes a
//! topology that validation accepts by construction, as far as that is possible.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// At most this many networks.
const NETWORKS_MAX: usize = 5;

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
    /// Route tables of subnets a and b and of the firewall's subnet.
    pub tables: [Option<u8>; 2],
    /// Groups of subnets a and b.
    pub groups: [Option<u8>; 2],
    /// Has a machine in subnet b.
    pub second: bool,
    /// The machines forward.
    pub forwarding: [bool; 2],
    /// A group at the first machine's NIC.
    pub nic_group: Option<u8>,
    /// Routes of AzureFirewallSubnet and GatewaySubnet, towards networks.
    pub firewall_routes: Vec<(u8, HopSketch)>,
    /// The same for GatewaySubnet.
    pub gateway_routes: Vec<(u8, HopSketch)>,
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
}

/// A next hop.
#[derive(Clone, Debug)]
pub enum HopSketch {
    /// A machine: network, and whether it is the second one.
    Machine(u8, bool),
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
    /// Route tables, with propagation disabled or not.
    pub tables: Vec<(bool, Vec<RouteSketch>)>,
    /// Groups.
    pub groups: Vec<Vec<RuleSketch>>,
    /// Firewall policies.
    pub policies: Vec<PolicySketch>,
    /// Sites.
    pub sites: Vec<SiteSketch>,
    /// Connections between gateways.
    pub links: Vec<LinkSketch>,
}

fn hop() -> impl Strategy<Value = HopSketch> {
    prop_oneof![
        4 => (any::<u8>(), any::<bool>()).prop_map(|(network, second)| HopSketch::Machine(network, second)),
        5 => any::<u8>().prop_map(HopSketch::Firewall),
        1 => any::<u8>().prop_map(HopSketch::Nobody),
        2 => Just(HopSketch::Gateway),
        1 => Just(HopSketch::Local),
        1 => Just(HopSketch::Internet),
        1 => Just(HopSketch::None),
    ]
}

fn route() -> impl Strategy<Value = RouteSketch> {
    let prefix = prop_oneof![
        4 => any::<u8>().prop_map(PrefixSketch::Network),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(network, second)| PrefixSketch::Subnet(network, second)),
        1 => any::<u8>().prop_map(PrefixSketch::Machine),
        2 => any::<u8>().prop_map(PrefixSketch::Site),
        3 => Just(PrefixSketch::All),
        1 => Just(PrefixSketch::Ten),
        1 => any::<u8>().prop_map(PrefixSketch::Wide),
    ];
    (prefix, prop::bool::weighted(0.2), hop()).prop_map(|(prefix, six, hop)| RouteSketch { prefix, six, hop })
}

fn side() -> impl Strategy<Value = SideSketch> {
    prop_oneof![
        3 => Just(SideSketch::Any),
        2 => Just(SideSketch::VirtualNetwork),
        1 => Just(SideSketch::Internet),
        3 => any::<u8>().prop_map(SideSketch::Network),
        2 => any::<u8>().prop_map(SideSketch::Machine),
        1 => any::<u8>().prop_map(SideSketch::Site),
    ]
}

fn rule() -> impl Strategy<Value = RuleSketch> {
    (any::<bool>(), any::<bool>(), 0..4u8, side(), side(), 0..4u8).prop_map(
        |(inbound, allow, protocol, source, destination, port)| RuleSketch {
            inbound,
            allow,
            protocol,
            source,
            destination,
            port,
        },
    )
}

fn network() -> impl Strategy<Value = NetworkSketch> {
    let shape = (0..4u8, prop::bool::weighted(0.4), prop::bool::weighted(0.2), prop::option::of(any::<u8>()));
    let gateways = (prop::bool::weighted(0.4), prop::option::weighted(0.7, any::<u8>()));
    let hooks = (
        prop::array::uniform2(prop::option::weighted(0.6, any::<u8>())),
        prop::array::uniform2(prop::option::weighted(0.3, any::<u8>())),
        any::<bool>(),
        prop::array::uniform2(prop::bool::weighted(0.6)),
        prop::option::weighted(0.2, any::<u8>()),
    );
    let routes = || prop::collection::vec((any::<u8>(), hop()), 0..3);
    (shape, gateways, hooks, routes(), routes()).prop_map(
        |(shape, gateways, hooks, firewall_routes, gateway_routes)| {
            let (range, dual, far, firewall) = shape;
            let (tables, groups, second, forwarding, nic_group) = hooks;
            let (gateway, uses) = gateways;
            NetworkSketch {
                range,
                dual,
                far,
                firewall,
                gateway,
                uses,
                tables,
                groups,
                second,
                forwarding,
                nic_group,
                firewall_routes,
                gateway_routes,
            }
        },
    )
}

fn peering() -> impl Strategy<Value = PeeringSketch> {
    let flag = |weight| prop::array::uniform2(prop::bool::weighted(weight));
    (0..10u8, flag(0.95), flag(0.7)).prop_map(|(halves, access, forwarded)| PeeringSketch {
        halves,
        access,
        forwarded,
    })
}

fn policy() -> impl Strategy<Value = PolicySketch> {
    let rule = ((0..2u8, 0..2u8), 0..4u8, side(), side(), 0..4u8).prop_map(
        |(place, protocol, source, destination, port)| FirewallRuleSketch {
            place,
            protocol,
            source,
            destination,
            port,
        },
    );
    let rules = prop::collection::vec(rule, 0..6);
    (prop::array::uniform4(prop::bool::weighted(0.75)), rules, any::<bool>())
        .prop_map(|(allow, rules, child)| PolicySketch { allow, rules, child })
}

/// Topologies of two to five networks.
pub fn sketch() -> impl Strategy<Value = Sketch> {
    let site = (any::<u8>(), 0..6u8, any::<u8>(), prop::bool::weighted(0.1))
        .prop_map(|(network, known, also, wrong_key)| SiteSketch { network, known, also, wrong_key });
    let link =
        ((any::<u8>(), any::<u8>()), 0..8u8).prop_map(|(between, state)| LinkSketch { between, state });
    let table = (prop::bool::weighted(0.3), prop::collection::vec(route(), 0..5));
    (
        prop::collection::vec(network(), 2..=NETWORKS_MAX),
        prop::collection::vec(peering(), NETWORKS_MAX * (NETWORKS_MAX - 1) / 2),
        prop::collection::vec(table, 1..4),
        prop::collection::vec(prop::collection::vec(rule(), 0..4), 1..4),
        prop::collection::vec(policy(), 1..3),
        prop::collection::vec(site, 0..3),
        prop::collection::vec(link, 0..3),
    )
        .prop_map(|(networks, peerings, tables, groups, policies, sites, links)| Sketch {
            networks,
            peerings,
            tables,
            groups,
            policies,
            sites,
            links,
        })
}

impl Sketch {
    fn pick(&self, index: u8) -> usize {
        usize::from(index) % self.networks.len()
    }

    fn base(&self, network: usize) -> String {
        match self.networks[network].range {
            0 => format!("10.{}", network + 1),
            1 => format!("172.{}", network + 17),
            2 => format!("192.168.{}", network * 16),
            _ => format!("20.{}", network + 1),
        }
    }

    fn range(&self, network: usize) -> String {
        let base = self.base(network);
        if self.networks[network].range == 2 { format!("{base}.0/20") } else { format!("{base}.0.0/16") }
    }

    /// A /24 of the network.
    fn part(&self, network: usize, part: u8) -> String {
        if self.networks[network].range == 2 {
            return format!("192.168.{}", network * 16 + usize::from(part));
        }
        format!("{}.{part}", self.base(network))
    }

    fn six(&self, network: usize, part: u8) -> String {
        format!("fd00:{}:0:{part}::", network + 1)
    }

    fn machine(&self, network: usize, second: bool) -> String {
        format!("{}.4", self.part(network, u8::from(second && self.networks[network].second)))
    }

    fn has_firewall(&self, network: usize) -> bool {
        self.networks[network].firewall.is_some()
    }

    fn hop(&self, hop: &HopSketch, six: bool) -> Option<Value> {
        let appliance =
            |address: String| json!({"nextHopType": "VirtualAppliance", "nextHopIpAddress": address});
        Some(match hop {
            HopSketch::Machine(network, second) if six => {
                let network = self.pick(*network);
                let part = u8::from(*second && self.networks[network].second);
                return self.networks[network]
                    .dual
                    .then(|| appliance(format!("{}4", self.six(network, part))));
            }
            HopSketch::Firewall(_) | HopSketch::Nobody(_) if six => return None,
            HopSketch::Machine(network, second) => appliance(self.machine(self.pick(*network), *second)),
            HopSketch::Firewall(network) => {
                let network = self.pick(*network);
                let holder = (0..self.networks.len()).map(|step| (network + step) % self.networks.len());
                let firewall = holder
                    .filter(|holder| self.has_firewall(*holder))
                    .map(|holder| format!("{}.4", self.part(holder, 2)));
                appliance(firewall.into_iter().next().unwrap_or_else(|| self.machine(network, false)))
            }
            HopSketch::Nobody(network) => appliance(format!("{}.77", self.part(self.pick(*network), 0))),
            HopSketch::Gateway => json!({"nextHopType": "VirtualNetworkGateway"}),
            HopSketch::Local => json!({"nextHopType": "VnetLocal"}),
            HopSketch::Internet => json!({"nextHopType": "Internet"}),
            HopSketch::None => json!({"nextHopType": "None"}),
        })
    }

    fn prefix(&self, prefix: &PrefixSketch, six: bool) -> Option<String> {
        if six {
            let of = |network: &u8| self.networks[self.pick(*network)].dual.then(|| self.pick(*network));
            return match prefix {
                PrefixSketch::Network(network) => {
                    of(network).map(|network| format!("fd00:{}::/48", network + 1))
                }
                PrefixSketch::Subnet(network, second) => {
                    of(network).map(|network| format!("{}/64", self.six(network, u8::from(*second))))
                }
                PrefixSketch::Machine(network) => {
                    of(network).map(|network| format!("{}4/128", self.six(network, 0)))
                }
                PrefixSketch::All => Some("::/0".to_owned()),
                _ => None,
            };
        }
        Some(match prefix {
            PrefixSketch::Network(network) => self.range(self.pick(*network)),
            PrefixSketch::Subnet(network, second) => {
                format!("{}.0/24", self.part(self.pick(*network), u8::from(*second)))
            }
            PrefixSketch::Machine(network) => format!("{}/32", self.machine(self.pick(*network), false)),
            PrefixSketch::Site(site) => format!("10.{}.0.0/16", 200 + usize::from(*site) % 3),
            PrefixSketch::All => "0.0.0.0/0".to_owned(),
            PrefixSketch::Ten => "10.0.0.0/8".to_owned(),
            PrefixSketch::Wide(network) => match self.networks[self.pick(*network)].range {
                0 => "10.0.0.0/12".to_owned(),
                1 => "172.16.0.0/12".to_owned(),
                2 => "192.168.0.0/16".to_owned(),
                _ => "20.0.0.0/12".to_owned(),
            },
        })
    }

    fn route_table(&self, propagation_off: bool, routes: &[RouteSketch]) -> Value {
        let mut list: Vec<Value> = Vec::new();
        for route in routes {
            let (Some(prefix), Some(mut value)) =
                (self.prefix(&route.prefix, route.six), self.hop(&route.hop, route.six))
            else {
                continue;
            };
            if list.iter().any(|known| known["addressPrefix"] == json!(prefix)) {
                continue;
            }
            value["name"] = json!(format!("r{}", list.len()));
            value["addressPrefix"] = json!(prefix);
            list.push(value);
        }
        json!({"disableBgpRoutePropagation": propagation_off, "routes": list})
    }

    /// Tables of the reserved subnets lead only to other networks' exact ranges.
    fn reserved_table(&self, own: usize, routes: &[(u8, HopSketch)], internet: bool) -> Value {
        let mut list: Vec<Value> = Vec::new();
        if internet {
            list.push(json!({"name": "out", "addressPrefix": "0.0.0.0/0", "nextHopType": "Internet"}));
        }
        for (network, hop) in routes {
            let network = self.pick(*network);
            let Some(mut value) = self.hop(hop, false) else { continue };
            let prefix = json!(self.range(network));
            let appliance = value["nextHopType"] == "VirtualAppliance";
            if network == own || !appliance || list.iter().any(|known| known["addressPrefix"] == prefix) {
                continue;
            }
            value["name"] = json!(format!("r{}", list.len()));
            value["addressPrefix"] = prefix;
            list.push(value);
        }
        json!({"routes": list})
    }

    fn side(&self, side: &SideSketch) -> String {
        match side {
            SideSketch::Any => "*".to_owned(),
            SideSketch::VirtualNetwork => "VirtualNetwork".to_owned(),
            SideSketch::Internet => "Internet".to_owned(),
            SideSketch::Network(network) => self.range(self.pick(*network)),
            SideSketch::Machine(network) => self.machine(self.pick(*network), false),
            SideSketch::Site(site) => format!("10.{}.0.0/16", 200 + usize::from(*site) % 3),
        }
    }

    fn group(&self, rules: &[RuleSketch]) -> Value {
        let rules: Vec<Value> = rules
            .iter()
            .enumerate()
            .map(|(index, rule)| {
                let port = if rule.protocol == 3 { "*" } else { port(rule.port) };
                let protocol = ["*", "Tcp", "Udp", "Icmp"][usize::from(rule.protocol)];
                json!({
                    "name": format!("n{index}"),
                    "priority": 100 + index,
                    "direction": if rule.inbound { "Inbound" } else { "Outbound" },
                    "access": if rule.allow { "Allow" } else { "Deny" },
                    "protocol": protocol,
                    "sourceAddressPrefix": self.side(&rule.source),
                    "sourcePortRange": "*",
                    "destinationAddressPrefix": self.side(&rule.destination),
                    "destinationPortRange": port,
                })
            })
            .collect();
        json!({"securityRules": rules})
    }

    fn policy(&self, index: usize, policy: &PolicySketch) -> Value {
        let side = |side: &SideSketch| match side {
            SideSketch::VirtualNetwork | SideSketch::Internet => "*".to_owned(),
            other => self.side(other),
        };
        let mut groups = Vec::new();
        for group in 0..2u8 {
            let mut collections = Vec::new();
            for collection in 0..2u8 {
                let here = policy.rules.iter().filter(|rule| rule.place == (group, collection));
                let rules: Vec<Value> = here
                    .enumerate()
                    .map(|(number, rule)| {
                        let protocol = ["Any", "TCP", "UDP", "ICMP"][usize::from(rule.protocol)];
                        json!({
                            "name": format!("f{number}"),
                            "ruleType": "NetworkRule",
                            "ipProtocols": [protocol],
                            "sourceAddresses": [side(&rule.source)],
                            "destinationAddresses": [side(&rule.destination)],
                            "destinationPorts": [if rule.protocol == 3 { "*" } else { port(rule.port) }],
                        })
                    })
                    .collect();
                if !rules.is_empty() {
                    collections.push(json!({
                        "name": format!("c{collection}"),
                        "priority": 300 - 100 * u32::from(collection),
                        "ruleCollectionType": "FirewallPolicyFilterRuleCollection",
                        "action": if policy.allow[usize::from(2 * group + collection)] { "Allow" } else { "Deny" },
                        "rules": rules,
                    }));
                }
            }
            if !collections.is_empty() {
                groups.push(json!({"name": format!("p{index}g{group}"), "priority": 500 - 100 * u32::from(group), "ruleCollections": collections}));
            }
        }
        let mut value = json!({"ruleCollectionGroups": groups});
        if policy.child && index > 0 {
            value["basePolicy"] = json!("policy0");
        }
        value
    }

    /// The network whose gateway this one uses: it has none itself, and both halves of a peering exist.
    fn uses(&self, network: usize) -> Option<usize> {
        let hub = self.pick(self.networks[network].uses?);
        let peered = self.half(network, hub) && self.half(hub, network);
        (hub != network && !self.networks[network].gateway && self.networks[hub].gateway && peered)
            .then_some(hub)
    }

    fn peering(&self, a: usize, b: usize) -> &PeeringSketch {
        let (low, high) = (a.min(b), a.max(b));
        &self.peerings[low * (2 * NETWORKS_MAX - low - 1) / 2 + high - low - 1]
    }

    fn half(&self, local: usize, remote: usize) -> bool {
        if local == remote {
            return false;
        }
        let peering = self.peering(local, remote);
        peering.halves != 0 && peering.halves != if local < remote { 2 } else { 1 }
    }

    fn peerings_of(&self, local: usize) -> Value {
        let mut halves = Map::new();
        for remote in (0..self.networks.len()).filter(|remote| self.half(local, *remote)) {
            let peering = self.peering(local, remote);
            let side = usize::from(local > remote);
            halves.insert(
                format!("v{remote}"),
                json!({
                    "allowVirtualNetworkAccess": peering.access[side],
                    "allowForwardedTraffic": peering.forwarded[side],
                    "allowGatewayTransit": self.uses(remote) == Some(local),
                    "useRemoteGateways": self.uses(local) == Some(remote),
                }),
            );
        }
        Value::Object(halves)
    }

    fn subnet(&self, network: usize, part: u8) -> Value {
        let sketch = &self.networks[network];
        let mut prefixes = vec![format!("{}.0/24", self.part(network, part))];
        if sketch.dual {
            prefixes.push(format!("{}/64", self.six(network, part)));
        }
        let mut subnet = json!({"addressPrefixes": prefixes});
        if let Some(table) = sketch.tables[usize::from(part)] {
            subnet["routeTable"] = json!(format!("t{}", usize::from(table) % self.tables.len()));
        }
        if let Some(group) = sketch.groups[usize::from(part)] {
            subnet["networkSecurityGroup"] = json!(format!("g{}", usize::from(group) % self.groups.len()));
        }
        subnet
    }

    fn network(&self, network: usize) -> Value {
        let sketch = &self.networks[network];
        let mut ranges = vec![self.range(network)];
        if sketch.dual {
            ranges.push(format!("fd00:{}::/48", network + 1));
        }
        let mut subnets = json!({"a": self.subnet(network, 0), "b": self.subnet(network, 1)});
        if sketch.firewall.is_some() {
            subnets["AzureFirewallSubnet"] = json!({"addressPrefix": format!("{}.0/26", self.part(network, 2)), "routeTable": format!("fw{network}")});
        }
        if sketch.gateway {
            subnets["GatewaySubnet"] = json!({"addressPrefix": format!("{}.0/27", self.part(network, 3)), "routeTable": format!("gw{network}")});
        }
        json!({
            "location": if sketch.far { "westeurope" } else { "eastus" },
            "addressSpace": ranges,
            "subnets": subnets,
            "peerings": self.peerings_of(network),
        })
    }

    fn machines(&self, network: usize, into: &mut Map<String, Value>) {
        let sketch = &self.networks[network];
        for second in [false, true] {
            if second && !sketch.second {
                continue;
            }
            let part = u8::from(second);
            let mut addresses = vec![self.machine(network, second)];
            if sketch.dual {
                addresses.push(format!("{}4", self.six(network, part)));
            }
            let mut nic = json!({
                "subnet": format!("v{network}/{}", if second { "b" } else { "a" }),
                "privateIPAddresses": addresses,
                "enableIPForwarding": sketch.forwarding[usize::from(part)],
            });
            if let Some(group) = sketch.nic_group.filter(|_| !second) {
                nic["networkSecurityGroup"] = json!(format!("g{}", usize::from(group) % self.groups.len()));
            }
            into.insert(
                format!("m{network}{}", if second { "b" } else { "a" }),
                json!({"networkInterfaces": [nic]}),
            );
        }
    }

    /// Sites with the gateway that they are connected to.
    fn sites(&self) -> Vec<(usize, &SiteSketch, usize)> {
        let with_gateway = |site: &SiteSketch| {
            let first = self.pick(site.network);
            let mut around = (0..self.networks.len()).map(|step| (first + step) % self.networks.len());
            around.find(|network| self.networks[*network].gateway)
        };
        self.sites
            .iter()
            .enumerate()
            .filter_map(|(index, site)| Some((index, site, with_gateway(site)?)))
            .collect()
    }

    fn connections(&self, topology: &mut Value) {
        for (index, site, network) in self.sites() {
            let mut known = vec![if site.known == 1 {
                format!("10.{}.9.0/24", 200 + index)
            } else {
                format!("10.{}.0.0/16", 200 + index)
            }];
            let also = self.pick(site.also);
            // Where two connections lead to one prefix, a hash chooses; that is left out.
            if index == 0 && site.known == 2 && also != network && !self.networks[also].gateway {
                known.push(self.range(also));
            }
            let device = format!("198.51.100.{}", 100 + index);
            topology["localNetworkGateways"][format!("s{index}")] =
                json!({"gatewayIpAddress": device, "localNetworkAddressSpace": known});
            topology["connections"][format!("c{index}")] = json!({
                "connectionType": "IPsec", "virtualNetworkGateway1": format!("gw{network}"), "localNetworkGateway2": format!("s{index}"), "sharedKey": "k",
            });
            let mut site_value = json!({
                "addressSpace": [format!("10.{}.0.0/16", 200 + index)],
                "hosts": {format!("h{index}"): format!("10.{}.1.10", 200 + index)},
                "vpnDevice": {"publicIPAddress": device},
            });
            if site.wrong_key {
                site_value["vpnDevice"]["sharedKey"] = json!("other");
            }
            topology["onPremisesSites"][format!("s{index}")] = site_value;
        }
        let mut linked: Vec<(usize, usize)> = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            let (a, b) = (self.pick(link.between.0), self.pick(link.between.1));
            let pair = (a.min(b), a.max(b));
            if a == b || !self.networks[a].gateway || !self.networks[b].gateway || linked.contains(&pair) {
                continue;
            }
            linked.push(pair);
            let connection = |from: usize, to: usize, key: &str| {
                json!({
                    "connectionType": "Vnet2Vnet", "virtualNetworkGateway1": format!("gw{from}"),
                    "virtualNetworkGateway2": format!("gw{to}"), "sharedKey": key,
                })
            };
            topology["connections"][format!("l{index}")] = connection(a, b, "k");
            if link.state != 0 {
                topology["connections"][format!("l{index}back")] =
                    connection(b, a, if link.state == 1 { "other" } else { "k" });
            }
        }
    }

    /// The topology, as a file would hold it.
    pub fn topology(&self) -> Value {
        let mut topology = json!({
            "name": "random", "location": "eastus", "virtualNetworks": {}, "virtualMachines": {}, "networkSecurityGroups": {},
            "routeTables": {}, "azureFirewalls": {}, "firewallPolicies": {}, "virtualNetworkGateways": {},
            "localNetworkGateways": {}, "connections": {}, "onPremisesSites": {},
        });
        let mut machines = Map::new();
        for network in 0..self.networks.len() {
            let sketch = &self.networks[network];
            topology["virtualNetworks"][format!("v{network}")] = self.network(network);
            self.machines(network, &mut machines);
            if let Some(policy) = sketch.firewall {
                topology["azureFirewalls"][format!("fw{network}")] = json!({
                    "virtualNetwork": format!("v{network}"), "sku": "Standard",
                    "firewallPolicy": format!("policy{}", usize::from(policy) % self.policies.len()),
                    "publicIPAddresses": [format!("203.0.113.{}", 20 + network)],
                });
                topology["routeTables"][format!("fw{network}")] =
                    self.reserved_table(network, &sketch.firewall_routes, true);
            }
            if sketch.gateway {
                topology["virtualNetworkGateways"][format!("gw{network}")] = json!({
                    "virtualNetwork": format!("v{network}"), "gatewayType": "Vpn", "sku": "VpnGw1AZ",
                    "publicIPAddresses": [format!("198.51.100.{}", 10 + network)],
                });
                topology["routeTables"][format!("gw{network}")] =
                    self.reserved_table(network, &sketch.gateway_routes, false);
            }
        }
        topology["virtualMachines"] = Value::Object(machines);
        for (index, (propagation_off, routes)) in self.tables.iter().enumerate() {
            topology["routeTables"][format!("t{index}")] = self.route_table(*propagation_off, routes);
        }
        for (index, rules) in self.groups.iter().enumerate() {
            topology["networkSecurityGroups"][format!("g{index}")] = self.group(rules);
        }
        for (index, policy) in self.policies.iter().enumerate() {
            topology["firewallPolicies"][format!("policy{index}")] = self.policy(index, policy);
        }
        self.connections(&mut topology);
        topology
    }
}

fn port(number: u8) -> &'static str {
    ["*", "22", "443", "50-500"][usize::from(number) % 4]
}

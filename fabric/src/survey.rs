//! What questions about a whole snapshot look at: its rule sets, and all that can tell two headers apart.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use vnet_config::model::PortRange;
use vnet_dataplane::{PortId, Protocol};

use crate::decide::{DHCP, RESERVED_UDP_PORTS};
use crate::snapshot::nat::{NatKind, NatPair, NatRule, image_of_prefix};
use crate::snapshot::network::{EffectiveGateway, GatewayPath, Location, Nsg};
use crate::snapshot::routes::{NextHop, Route};
use crate::snapshot::rules::{AddressSet, RuleSet};
use crate::snapshot::{METADATA_ADDRESS, PLATFORM_ADDRESS, Snapshot};

/// A security group as one NIC or subnet has it.
#[derive(Clone, Copy, Debug)]
pub struct GroupRules<'a> {
    /// The group.
    pub name: &'a str,
    /// Rules for packets towards the NIC, in processing order.
    pub inbound: &'a RuleSet,
    /// Rules for packets from the NIC, in processing order.
    pub outbound: &'a RuleSet,
}

impl Snapshot {
    /// Every security group that guards something, once for each set of rules that it stands for: tags mean different
    /// addresses at different places.
    pub fn security_groups(&self) -> Vec<GroupRules<'_>> {
        let mut seen = Vec::new();
        let mut groups = Vec::new();
        for group in self.nics.iter().flat_map(|nic| [&nic.subnet_nsg, &nic.nic_nsg]).flatten() {
            if !seen.contains(&Arc::as_ptr(group)) {
                seen.push(Arc::as_ptr(group));
                groups.push(GroupRules {
                    name: &group.name,
                    inbound: &group.inbound,
                    outbound: &group.outbound,
                });
            }
        }
        groups
    }
}

/// What a NIC is to a decision, but for its addresses: of two NICs with equal classes whose addresses lie in the same
/// prefixes each stands for the other. Holds for the snapshot that it was asked of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NicClass {
    subnet: usize,
    forwarding: bool,
    groups: [Option<usize>; 2],
    location: Location,
    accelerated: Option<bool>,
    untracked_tcp: bool,
    /// One with a public address is like no other.
    public: Option<PortId>,
}

/// Why a network's subnet has no gateway that a user's route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoGateway {
    /// There is none, nor one of a peer that the network uses.
    None,
    /// This ExpressRoute gateway is the effective one.
    ExpressRoute(String),
    /// The subnet peering by which the network uses a peer's gateway does not list the subnet.
    NotListed,
}

/// Ports at which rules begin or end: between two neighbours no rule tells ports apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortBoundaries {
    /// First ports of classes of source ports, as rules see a flow's first packet. Holds 0.
    pub source: BTreeSet<u16>,
    /// The same of destination ports.
    pub destination: BTreeSet<u16>,
    /// The same of source ports where rules judge answers anew: an answer's destination port is the first packet's source
    /// port.
    pub source_with_answers: BTreeSet<u16>,
    /// The same of destination ports.
    pub destination_with_answers: BTreeSet<u16>,
}

/// Adds where ranges begin, and where what is behind them does.
fn mark(into: &mut BTreeSet<u16>, ranges: &[PortRange]) {
    into.extend(ranges.iter().map(|range| range.from));
    into.extend(ranges.iter().filter_map(|range| range.to.checked_add(1)));
}

/// Adds the prefixes of a rule's sets.
fn prefixes_of(rules: &RuleSet, into: &mut BTreeSet<IpNet>) {
    for rule in rules.rules() {
        for set in [&rule.source, &rule.destination] {
            if let AddressSet::Prefixes(prefixes) = set {
                into.extend(prefixes.iter().copied());
            }
        }
    }
}

impl Snapshot {
    /// The rule sets that packets between these ports can meet: the groups of the ports themselves and of every NIC that
    /// forwards, and every firewall's. No other NIC is passed by a packet that is not its own.
    fn rules_between(&self, ends: &[PortId]) -> Vec<&RuleSet> {
        let nics = self.nics.iter().filter(|nic| nic.forwarding || ends.contains(&nic.port));
        let mut groups: Vec<&Arc<Nsg>> = Vec::new();
        for group in nics.flat_map(|nic| [&nic.subnet_nsg, &nic.nic_nsg]).flatten() {
            if !groups.iter().any(|known| Arc::ptr_eq(known, group)) {
                groups.push(group);
            }
        }
        let firewalls = self.firewalls.iter().map(|firewall| &firewall.rules);
        groups.into_iter().flat_map(|group| [&group.inbound, &group.outbound]).chain(firewalls).collect()
    }

    /// What tells ports apart for packets of a protocol between these ports of the router.
    pub fn port_boundaries(&self, ends: &[PortId], protocol: Protocol) -> PortBoundaries {
        let mut found = PortBoundaries::default();
        if protocol == Protocol::UDP {
            let reserved = [DHCP.0, DHCP.1].into_iter().chain(RESERVED_UDP_PORTS);
            let edges: BTreeSet<u16> = reserved.flat_map(|port| [port, port + 1]).collect();
            // An answer's destination port is the first packet's source port, and its host looks at it too.
            found.source.extend(&edges);
            found.destination.extend(edges);
        }
        for rule in self.rules_between(ends).into_iter().flat_map(RuleSet::rules) {
            mark(&mut found.source, &rule.source_ports);
            mark(&mut found.destination, &rule.destination_ports);
        }
        for (from, to) in self.tunnels.iter().flat_map(|tunnel| tunnel.nat.rules()).flat_map(NatRule::ports) {
            let edges = [Some(from), to.checked_add(1)];
            found.source.extend(edges.into_iter().flatten());
            found.destination.extend(edges.into_iter().flatten());
        }
        found.source.insert(0);
        found.destination.insert(0);
        found.source_with_answers = found.source.union(&found.destination).copied().collect();
        found.destination_with_answers = found.source_with_answers.clone();
        found
    }

    /// Every prefix by which something in the snapshot tells addresses apart: rules, routes, ranges, holders, tunnels,
    /// translations. Two addresses that lie in the same of these are the same to every decision but for the spreading
    /// of flows over equal paths.
    pub fn address_boundaries(&self) -> BTreeSet<IpNet> {
        let mut all = self.prefix_boundaries();
        for network in &self.networks {
            all.extend(network.owners.keys().map(|ip| IpNet::from(*ip)));
        }
        self.add_images(&mut all);
        all
    }

    /// What NAT rules make of prefixes, in both directions: what tells two images apart tells the originals apart. Twice, as a way
    /// over two gateways may be translated at each.
    fn add_images(&self, all: &mut BTreeSet<IpNet>) {
        let rules: Vec<&NatRule> = self.tunnels.iter().flat_map(|tunnel| tunnel.nat.rules()).collect();
        for rule in &rules {
            all.extend(rule.internal().chain(rule.external()));
        }
        let pairs = rules.iter().filter_map(|rule| match &rule.kind {
            NatKind::Static(pairs) => Some(pairs),
            NatKind::Dynamic { .. } => None,
        });
        let pairs: Vec<NatPair> = pairs.flatten().copied().collect();
        for _ in 0..2 {
            let images: Vec<IpNet> = (pairs.iter())
                .map(|pair| (pair.internal.net, pair.external.net))
                .flat_map(|(internal, external)| [(internal, external), (external, internal)])
                .flat_map(|(from, to)| all.iter().filter_map(move |part| image_of_prefix(&from, &to, part)))
                .collect();
            all.extend(images);
        }
    }

    /// The same without the addresses of holders in networks: of two machines that are alike but for their addresses, what
    /// else tells them apart.
    pub fn prefix_boundaries(&self) -> BTreeSet<IpNet> {
        let mut all: BTreeSet<IpNet> = BTreeSet::new();
        for group in self.security_groups() {
            prefixes_of(group.inbound, &mut all);
            prefixes_of(group.outbound, &mut all);
        }
        for firewall in &self.firewalls {
            prefixes_of(&firewall.rules, &mut all);
            all.extend(firewall.snat.untranslated.iter().copied());
            all.extend(
                firewall.snat.public.iter().chain(&firewall.snat.instances).map(|ip| IpNet::from(*ip)),
            );
        }
        for subnet in &self.subnets {
            all.extend(subnet.routes.prefixes());
        }
        for network in &self.networks {
            all.extend(network.ranges.iter().copied());
            all.extend(network.peering_ranges.iter().map(|(prefix, _)| prefix));
        }
        for subnets in self.peerings.iter().filter_map(|half| half.subnets.as_ref()) {
            all.extend(subnets.local_prefixes.iter().chain(&subnets.remote_prefixes).copied());
        }
        for gateway in &self.gateways {
            all.extend(gateway.table.iter().map(|(prefix, _)| prefix));
            all.extend(gateway.client_pools.iter().copied());
            all.extend(gateway.public.iter().map(|ip| IpNet::from(*ip)));
        }
        for tunnel in &self.tunnels {
            all.extend(tunnel.accepts.iter().map(|(prefix, ())| prefix));
            all.extend([tunnel.spec.local, tunnel.spec.remote].map(IpNet::from));
        }
        for site in &self.sites {
            all.extend(site.ranges.iter().copied());
            all.extend(site.hosts.keys().map(|ip| IpNet::from(*ip)));
            all.extend(site.table.iter().map(|(prefix, _)| prefix));
        }
        all.extend(self.edge_prefixes.iter().copied());
        all.extend(self.internet_addresses.iter().chain(self.edge_owners.keys()).map(|ip| IpNet::from(*ip)));
        all.extend([PLATFORM_ADDRESS, METADATA_ADDRESS].map(IpNet::from));
        for selectors in self.tunnels.iter().filter_map(|tunnel| tunnel.selectors.as_ref()) {
            all.extend(selectors.0.iter().flat_map(|pair| pair.local.iter().chain(&pair.remote)).copied());
        }
        self.add_images(&mut all);
        all
    }

    /// What a NIC is to a decision, but for its addresses; none for a port that is no virtual machine's.
    pub fn nic_class(&self, port: PortId) -> Option<NicClass> {
        let nic = self.nics.iter().find(|nic| nic.port == port)?;
        let group = |group: &Option<Arc<Nsg>>| group.as_ref().map(|group| Arc::as_ptr(group) as usize);
        Some(NicClass {
            subnet: nic.subnet,
            forwarding: nic.forwarding,
            groups: [group(&nic.subnet_nsg), group(&nic.nic_nsg)],
            location: nic.location,
            accelerated: nic.accelerated,
            untracked_tcp: nic.untracked_tcp,
            public: (!nic.public.is_empty()).then_some(port),
        })
    }

    /// Public addresses that stand for private ones of this port.
    pub fn public_addresses(&self, port: PortId) -> Vec<IpAddr> {
        let nic = self.nics.iter().find(|nic| nic.port == port);
        nic.map(|nic| nic.public.iter().map(|(_, public)| *public).collect()).unwrap_or_default()
    }

    /// Why a user's route with next hop VirtualNetworkGateway leads nowhere from a subnet, given as network and subnet.
    pub fn without_gateway(&self, network: &str, subnet: &str) -> Option<NoGateway> {
        let here = self.networks.iter().find(|other| *other.name == *network)?;
        if let Some(name) = &here.express_route {
            return Some(NoGateway::ExpressRoute(name.to_string()));
        }
        match here.gateway {
            EffectiveGateway::None => Some(NoGateway::None),
            EffectiveGateway::Own(_) => None,
            EffectiveGateway::Remote { peering, .. } => {
                let local = self.peerings[peering].subnets.as_ref().map(|subnets| &subnets.local);
                let full = format!("{network}/{subnet}");
                let own = self.subnets.iter().position(|other| *other.name == *full);
                let listed = local.zip(own).is_none_or(|(listed, own)| listed.contains(&own));
                (!listed).then_some(NoGateway::NotListed)
            }
        }
    }

    /// Ranges of all networks and sites.
    pub fn ranges(&self) -> impl Iterator<Item = IpNet> {
        let networks = self.networks.iter().flat_map(|network| network.ranges.iter().copied());
        networks.chain(self.sites.iter().flat_map(|site| site.ranges.iter().copied()))
    }

    /// Whether flows between the same addresses may take different ways, by a hash of their addresses and ports.
    pub fn spreads_flows(&self) -> bool {
        let ecmp = |route: &Route| matches!(route.next_hop, NextHop::VirtualApplianceEcmp(_));
        let several = |path: &GatewayPath| path.tunnels.len() > 1;
        self.subnets
            .iter()
            .any(|subnet| subnet.routes.user.iter().any(|layer| layer.iter().any(|(_, route)| ecmp(route))))
            || self.gateways.iter().any(|gateway| gateway.table.iter().any(|(_, path)| several(path)))
            || self.sites.iter().any(|site| site.table.iter().any(|(_, path)| several(path)))
    }
}

//! A topology with what follows from it, as the lints ask.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use vnet_config::Topology;
use vnet_config::model::{RouteTable, Subnet, VirtualNetwork};
use vnet_fabric::Snapshot;
use vnet_fabric::effective::{EffectiveRoute, effective_routes};
use vnet_fabric::snapshot::{ApplianceKind, PortKind};

/// A topology, compiled, with its holders of addresses.
pub(super) struct Design<'a> {
    pub(super) topology: &'a Topology,
    pub(super) snapshot: Snapshot,
    holders: HashMap<(String, IpAddr), Holder>,
}

/// Who holds a private address of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A NIC, by `VM/NIC`, and whether it forwards.
    Nic {
        name: String,
        forwards: bool,
    },
    Firewall,
    /// A gateway, by its name.
    Gateway(String),
}

/// A subnet that uses a route table.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) network: &'a str,
    pub(super) subnet: &'a str,
}

impl Place<'_> {
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.network, self.subnet)
    }

    pub(super) fn path(&self) -> String {
        format!("virtualNetworks.{}.subnets.{}", self.network, self.subnet)
    }
}

/// One row of effective routes with its prefix read.
pub(super) struct Row {
    pub(super) prefix: IpNet,
    pub(super) row: EffectiveRoute,
}

impl Row {
    pub(super) fn active(&self) -> bool {
        self.row.state == "Active"
    }

    pub(super) fn is(&self, source: &str) -> bool {
        self.row.source == source
    }

    pub(super) fn peering(&self) -> bool {
        matches!(&*self.row.next_hop_type, "VNetPeering" | "VNetGlobalPeering")
    }
}

impl<'a> Design<'a> {
    pub(super) fn new(topology: &'a Topology) -> Design<'a> {
        let (_, snapshot) = vnet_fabric::converge(topology);
        let holders = holders(topology, &snapshot);
        Design { topology, snapshot, holders }
    }

    /// Every subnet with its network.
    pub(super) fn subnets(&self) -> impl Iterator<Item = (Place<'a>, &'a Subnet)> {
        let networks = self.topology.virtual_networks.iter();
        networks.flat_map(|(network, inside)| {
            inside.subnets.iter().map(move |(subnet, own)| (Place { network, subnet }, own))
        })
    }

    /// Every route table with the subnets that use it.
    pub(super) fn tables(&self) -> impl Iterator<Item = (&'a str, &'a RouteTable, Vec<Place<'a>>)> {
        self.topology.route_tables.iter().map(|(name, table)| {
            let users = self.subnets().filter(|(_, subnet)| subnet.route_table.as_ref() == Some(name));
            (name.as_str(), table, users.map(|(place, _)| place).collect())
        })
    }

    pub(super) fn network(&self, name: &str) -> Option<&'a VirtualNetwork> {
        self.topology.virtual_networks.get(name)
    }

    /// The effective routes of a subnet.
    pub(super) fn rows(&self, place: Place<'_>) -> Vec<Row> {
        let Ok(routes) = effective_routes(&self.snapshot, &place.name()) else { return Vec::new() };
        let mut rows = Vec::new();
        for row in routes.value {
            for prefix in row.address_prefix.iter().filter_map(|prefix| prefix.parse().ok()) {
                rows.push(Row { prefix, row: row.clone() });
            }
        }
        rows
    }

    /// Networks that are peered with this one, both halves there.
    pub(super) fn peers(&self, network: &str) -> impl Iterator<Item = (&'a str, &'a VirtualNetwork)> {
        let own = self.network(network);
        let halves = own.into_iter().flat_map(|own| own.peerings.keys());
        let name = network.to_owned();
        halves.filter_map(move |remote| {
            let other = self.network(remote)?;
            other.peerings.contains_key(&name).then_some((remote.as_str(), other))
        })
    }

    /// The network whose ranges hold the address, this one before its peers and those before others.
    pub(super) fn network_of(&self, from: &str, address: IpAddr) -> Option<&'a str> {
        let holds = |network: &VirtualNetwork| network.address_space.iter().any(|net| net.contains(&address));
        let own = self.topology.virtual_networks.get_key_value(from).filter(|(_, network)| holds(network));
        let own = own.map(|(name, _)| name.as_str());
        let peer = || self.peers(from).find(|(_, network)| holds(network)).map(|(name, _)| name);
        let any = || {
            let all = self.topology.virtual_networks.iter();
            all.into_iter().find(|(_, network)| holds(network)).map(|(name, _)| name.as_str())
        };
        own.or_else(peer).or_else(any)
    }

    pub(super) fn holder(&self, network: &str, address: IpAddr) -> Option<&Holder> {
        self.holders.get(&(network.to_owned(), address))
    }
}

fn holders(topology: &Topology, snapshot: &Snapshot) -> HashMap<(String, IpAddr), Holder> {
    let mut holders = HashMap::new();
    for port in snapshot.ports() {
        let (network, holder) = match &port.kind {
            PortKind::Nic { vm, nic } => {
                let Some(machine) = topology.virtual_machines.get(&**vm) else { continue };
                let Some(own) = machine.network_interfaces.iter().find(|own| *own.name == **nic) else {
                    continue;
                };
                let holder = Holder::Nic { name: port.name.to_string(), forwards: port.ip_forwarding };
                (own.subnet.virtual_network.clone(), holder)
            }
            PortKind::Appliance { kind: ApplianceKind::Firewall, name, .. } => {
                let Some(firewall) = topology.azure_firewalls.get(&**name) else { continue };
                (firewall.virtual_network.clone(), Holder::Firewall)
            }
            PortKind::Appliance { kind: ApplianceKind::Gateway, name, .. } => {
                let Some(gateway) = topology.virtual_network_gateways.get(&**name) else { continue };
                (gateway.virtual_network.clone(), Holder::Gateway(name.to_string()))
            }
            _ => continue,
        };
        for address in &port.addresses {
            holders.insert((network.clone(), address.addr()), holder.clone());
        }
    }
    holders
}

/// Whether `inner` is a longer prefix inside `outer`.
pub(super) fn strictly_inside(inner: &IpNet, outer: &IpNet) -> bool {
    outer != inner && outer.contains(inner)
}

/// Whether the two have an address in common.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn listed(words: &[String]) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

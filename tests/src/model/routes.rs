//! Effective routes of a subnet and the selection among them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::gateway;
use super::lab::Lab;
use super::peering;

/// Who made a route; the order is the rank for one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A route table.
    User,
    /// The virtual network gateway.
    Gateway,
    /// Azure itself.
    Default,
}

impl Source {
    /// As Azure prints it.
    pub fn name(self) -> &'static str {
        match self {
            Source::User => "User",
            Source::Gateway => "VirtualNetworkGateway",
            Source::Default => "Default",
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hop {
    /// Inside the network.
    VnetLocal,
    /// The internet edge.
    Internet,
    /// Nowhere.
    None,
    /// A peered network of the same region.
    Peering(String),
    /// A peered network of another region.
    GlobalPeering(String),
    /// The effective gateway.
    Gateway,
    /// Whoever holds the address.
    Appliance(IpAddr),
}

impl Hop {
    /// As Azure prints it.
    pub fn name(&self) -> &'static str {
        match self {
            Hop::VnetLocal => "VnetLocal",
            Hop::Internet => "Internet",
            Hop::None => "None",
            Hop::Peering(_) => "VNetPeering",
            Hop::GlobalPeering(_) => "VNetGlobalPeering",
            Hop::Gateway => "VirtualNetworkGateway",
            Hop::Appliance(_) => "VirtualAppliance",
        }
    }

    fn is_network(&self) -> bool {
        matches!(self, Hop::VnetLocal | Hop::Peering(_) | Hop::GlobalPeering(_))
    }
}

/// One line of an effective route table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Who made it.
    pub source: Source,
    /// Active, or Invalid.
    pub active: bool,
    /// Destinations.
    pub prefix: IpNet,
    /// Where it leads.
    pub hop: Hop,
    /// The user-defined route's name.
    pub name: Option<String>,
}

/// The four private ranges that lead nowhere unless something better is known.
const DROPPED: [&str; 4] = ["10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16"];

fn net(text: &str) -> IpNet {
    text.parse().expect("a constant prefix")
}

fn is_default(prefix: &IpNet) -> bool {
    prefix.prefix_len() == 0
}

/// The effective route table of a subnet.
pub fn effective(lab: &Lab, vnet: &str, subnet: &str) -> Vec<Row> {
    let users = user_rows(lab, vnet, subnet);
    let gateways = gateway_rows(lab, vnet, subnet);
    let networks = network_rows(lab, vnet);
    let overridden = |prefix: &IpNet| users.iter().any(|user| user.prefix == *prefix);

    let mut rows = Vec::new();
    for mut row in networks.iter().cloned() {
        row.active = !overridden(&row.prefix);
        rows.push(row);
    }
    for mut row in internet_rows(lab, vnet) {
        // A gateway's default route replaces the system's without a trace; a user's leaves it listed.
        if gateways.iter().any(|gateway| gateway.prefix == row.prefix) && !overridden(&row.prefix) {
            continue;
        }
        row.active = !overridden(&row.prefix);
        rows.push(row);
    }
    let v4_default = |row: &Row| row.prefix == net("0.0.0.0/0");
    if !users.iter().any(v4_default) && !gateways.iter().any(v4_default) {
        for mut row in none_rows(lab, vnet) {
            if overridden(&row.prefix) || networks.iter().any(|network| network.prefix == row.prefix) {
                continue;
            }
            row.active = !gateways.iter().any(|gateway| gateway.prefix == row.prefix);
            rows.push(row);
        }
    }
    for mut row in gateways {
        // Between a gateway's route and a network's the system's wins, whatever the length, and the loser is
        // not listed; that holds while the system's route is in force.
        let beaten = |network: &Row| {
            let same = network.prefix == row.prefix;
            same || (network.prefix.contains(&row.prefix) && !overridden(&network.prefix))
        };
        if networks.iter().any(beaten) {
            continue;
        }
        row.active = !overridden(&row.prefix);
        rows.push(row);
    }
    rows.extend(users);
    rows
}

fn row(source: Source, prefix: IpNet, hop: Hop) -> Row {
    Row { source, active: true, prefix, hop, name: None }
}

/// Own ranges and those of working peerings.
fn network_rows(lab: &Lab, vnet: &str) -> Vec<Row> {
    let own = lab.vnet(vnet).address_space.list().iter();
    let mut rows: Vec<Row> = own.map(|prefix| row(Source::Default, *prefix, Hop::VnetLocal)).collect();
    for remote in peering::peers(lab, vnet) {
        let global = lab.region(vnet) != lab.region(remote);
        for prefix in lab.vnet(remote).address_space.list() {
            let remote = remote.to_owned();
            let hop = if global { Hop::GlobalPeering(remote) } else { Hop::Peering(remote) };
            rows.push(row(Source::Default, *prefix, hop));
        }
    }
    rows
}

/// 0.0.0.0/0, and ::/0 where the network has IPv6.
fn internet_rows(lab: &Lab, vnet: &str) -> Vec<Row> {
    let mut rows = vec![row(Source::Default, net("0.0.0.0/0"), Hop::Internet)];
    if lab.vnet(vnet).address_space.list().iter().any(|prefix| matches!(prefix, IpNet::V6(_))) {
        rows.push(row(Source::Default, net("::/0"), Hop::Internet));
    }
    rows
}

/// The private ranges without those that a range of the network equals or holds.
fn none_rows(lab: &Lab, vnet: &str) -> Vec<Row> {
    let own = lab.vnet(vnet).address_space.list();
    let left =
        DROPPED.iter().map(|text| net(text)).filter(|range| !own.iter().any(|prefix| prefix.contains(range)));
    left.map(|range| row(Source::Default, range, Hop::None)).collect()
}

fn gateway_rows(lab: &Lab, vnet: &str, subnet: &str) -> Vec<Row> {
    if lab.table(vnet, subnet).is_some_and(|table| table.disable_bgp_route_propagation) {
        return Vec::new();
    }
    let learned = gateway::learned_by(lab, vnet);
    learned.into_iter().map(|prefix| row(Source::Gateway, prefix, Hop::Gateway)).collect()
}

fn user_rows(lab: &Lab, vnet: &str, subnet: &str) -> Vec<Row> {
    let Some(table) = lab.table(vnet, subnet) else { return Vec::new() };
    let mut rows = Vec::new();
    for route in &table.routes {
        let hop = match route.next_hop_type.as_str() {
            "VirtualAppliance" => {
                Hop::Appliance(route.next_hop_ip_address.expect("validation asks for the address"))
            }
            "VirtualNetworkGateway" => Hop::Gateway,
            "VnetLocal" => Hop::VnetLocal,
            "Internet" => Hop::Internet,
            "None" => Hop::None,
            other => panic!("validation lets no next hop type {other:?} pass"),
        };
        rows.push(Row {
            source: Source::User,
            active: true,
            prefix: route.address_prefix,
            hop,
            name: Some(route.name.clone()),
        });
    }
    rows
}

/// The route that a packet to this address takes.
pub fn select(rows: &[Row], destination: IpAddr) -> Option<&Row> {
    let candidates: Vec<&Row> =
        rows.iter().filter(|row| row.active && row.prefix.contains(&destination)).collect();
    let best = longest(candidates.iter().copied())?;
    if best.source == Source::Gateway {
        let system =
            candidates.iter().copied().filter(|row| row.source == Source::Default && row.hop.is_network());
        if let Some(network) = longest(system) {
            return Some(network);
        }
    }
    Some(best)
}

/// Longest prefix, then the better source.
pub fn longest<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<&'a Row> {
    rows.min_by_key(|row| (std::cmp::Reverse(row.prefix.prefix_len()), row.source))
}

/// What a gateway knows of the world: its subnet's table without the defaults that lead to nobody.
pub fn of_gateway(lab: &Lab, vnet: &str) -> Vec<Row> {
    let mut rows = effective(lab, vnet, "GatewaySubnet");
    rows.retain(|row| !(row.source == Source::Default && (row.hop == Hop::None || is_default(&row.prefix))));
    rows
}

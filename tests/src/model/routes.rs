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
    /// Whoever holds one of the addresses; a hash of the flow chooses.
    Appliances(Vec<IpAddr>),
    /// A service of Azure's, by the sender's private address.
    ServiceEndpoint,
    /// A private endpoint in a network.
    InterfaceEndpoint(String),
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
            Hop::Appliances(_) => "VirtualApplianceEcmp",
            Hop::ServiceEndpoint => "VirtualNetworkServiceEndpoint",
            Hop::InterfaceEndpoint(_) => "InterfaceEndpoint",
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
    let networks = network_rows(lab, vnet, subnet);
    let services = service_rows(lab, vnet, subnet);
    let overridden = |prefix: &IpNet| users.iter().any(|user| user.prefix == *prefix);
    let served = |prefix: &IpNet| services.iter().any(|service| service.prefix == *prefix);

    let mut rows = Vec::new();
    for mut row in networks.iter().cloned() {
        row.active = !overridden(&row.prefix);
        rows.push(row);
    }
    for (mut row, bound) in private_rows(lab, vnet) {
        // Its subnet's policies may let any route beat it that is not wider than the endpoint's own network.
        let wide = |user: &Row| {
            let bound = bound.as_ref().is_some_and(|bound| user.prefix.prefix_len() >= bound.prefix_len());
            bound && user.prefix.contains(&row.prefix)
        };
        row.active = !overridden(&row.prefix) && !users.iter().any(wide);
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
            let in_force = network.hop == Hop::ServiceEndpoint || !overridden(&network.prefix);
            same || (network.prefix.contains(&row.prefix) && in_force)
        };
        if networks.iter().chain(&services).any(beaten) {
            continue;
        }
        row.active = !overridden(&row.prefix);
        rows.push(row);
    }
    rows.extend(users.iter().cloned().map(|mut row| {
        row.active &= !served(&row.prefix);
        row
    }));
    rows.extend(services.iter().cloned());
    rows
}

fn row(source: Source, prefix: IpNet, hop: Hop) -> Row {
    Row { source, active: true, prefix, hop, name: None }
}

/// Own ranges and what working peerings offer.
fn network_rows(lab: &Lab, vnet: &str, subnet: &str) -> Vec<Row> {
    let own = lab.vnet(vnet).address_space.list().iter();
    let mut rows: Vec<Row> = own.map(|prefix| row(Source::Default, *prefix, Hop::VnetLocal)).collect();
    let table = lab.table(vnet, subnet);
    if table.is_some_and(|table| table.disable_peering_route.as_deref() == Some("All")) {
        return rows;
    }
    for remote in peering::peers(lab, vnet) {
        let global = lab.region(vnet) != lab.region(remote);
        for prefix in peering::routed(lab, vnet, remote) {
            let remote = remote.to_owned();
            let hop = if global { Hop::GlobalPeering(remote) } else { Hop::Peering(remote) };
            rows.push(row(Source::Default, prefix, hop));
        }
    }
    rows
}

/// A host route for each private endpoint of the network and of those with which it has a working peering; with
/// it the range that bounds which user's routes beat it, where any may.
fn private_rows(lab: &Lab, vnet: &str) -> Vec<(Row, Option<IpNet>)> {
    let mut rows = Vec::new();
    for machine in lab.virtual_machines.values().filter(|machine| machine.is_private_endpoint) {
        for nic in &machine.nics {
            let (at, subnet) = nic.place();
            let home = lab.vnet(at);
            for address in nic.addresses.iter().copied() {
                let in_reach = at == vnet
                    || peering::routed(lab, vnet, at).iter().any(|prefix| prefix.contains(&address));
                if !in_reach {
                    continue;
                }
                let range = home.address_space.list().iter().find(|range| range.contains(&address));
                let bound = range.copied().filter(|_| home.subnets[subnet].routes_judge_endpoints());
                rows.push((
                    row(Source::Default, IpNet::from(address), Hop::InterfaceEndpoint(at.to_owned())),
                    bound,
                ));
            }
        }
    }
    rows
}

/// The prefixes of the services for which the subnet has endpoints.
fn service_rows(lab: &Lab, vnet: &str, subnet: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let Some(subnet) = lab.vnet(vnet).subnets.get(subnet) else { return rows };
    for tag in subnet.service_endpoints.iter().flat_map(|endpoint| endpoint.tags()) {
        for prefix in lab.tag(&tag).into_iter().flatten() {
            if !rows.iter().any(|row| row.prefix == *prefix) {
                rows.push(row(Source::Default, *prefix, Hop::ServiceEndpoint));
            }
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
    let learned = gateway::known_in(lab, vnet, subnet);
    learned.into_iter().map(|prefix| row(Source::Gateway, prefix, Hop::Gateway)).collect()
}

/// How specific a route's destination is written; among equal prefixes the smaller rank is in force.
fn rank(destination: &str) -> u8 {
    let is_cloud = |text: &str| text.eq_ignore_ascii_case("AzureCloud");
    match destination.split_once('.') {
        _ if destination.parse::<IpNet>().is_ok() => 0,
        Some((service, _)) if is_cloud(service) => 3,
        Some(_) => 1,
        None if is_cloud(destination) => 4,
        None => 2,
    }
}

/// The prefixes that a route's destination stands for: itself, or those of a service tag.
pub fn destinations(lab: &Lab, destination: &str) -> Vec<IpNet> {
    match destination.parse() {
        Ok(prefix) => vec![prefix],
        Err(_) => lab.tag(destination).unwrap_or_default().to_vec(),
    }
}

/// What a private endpoint's answers follow: its subnet's routes, without the user's unless policies say so.
pub fn of_endpoint(lab: &Lab, vnet: &str, subnet: &str) -> Vec<Row> {
    if lab.vnet(vnet).subnets[subnet].routes_judge_endpoints() {
        return effective(lab, vnet, subnet);
    }
    let mut bare = lab.clone();
    bare.virtual_networks[vnet].subnets[subnet].route_table = None;
    effective(&bare, vnet, subnet)
}

fn user_rows(lab: &Lab, vnet: &str, subnet: &str) -> Vec<Row> {
    let Some(table) = lab.table(vnet, subnet) else { return Vec::new() };
    let mut ranked: Vec<(u8, Row)> = Vec::new();
    for route in &table.routes {
        let hop = match route.next_hop_type.as_str() {
            "VirtualAppliance" => {
                Hop::Appliance(route.next_hop_ip_address.expect("validation asks for the address"))
            }
            "VirtualApplianceEcmp" => {
                let hops = route.next_hop.as_ref().expect("validation asks for the addresses");
                Hop::Appliances(hops.next_hop_ip_addresses.clone())
            }
            "VirtualNetworkGateway" => Hop::Gateway,
            "VnetLocal" => Hop::VnetLocal,
            "Internet" => Hop::Internet,
            "None" => Hop::None,
            other => panic!("validation lets no next hop type {other:?} pass"),
        };
        for prefix in destinations(lab, &route.address_prefix) {
            let name = Some(route.name.clone());
            let row = Row { name, ..row(Source::User, prefix, hop.clone()) };
            ranked.push((rank(&route.address_prefix), row));
        }
    }
    let best = |prefix: &IpNet| {
        let same = ranked.iter().enumerate().filter(|(_, (_, row))| row.prefix == *prefix);
        same.min_by_key(|(_, (rank, _))| *rank).map(|(index, _)| index)
    };
    let is_best = |index: usize, row: &Row| best(&row.prefix) == Some(index);
    let rows = ranked.iter().enumerate();
    rows.map(|(index, (_, row))| Row { active: is_best(index, row), ..row.clone() }).collect()
}

/// The route that a packet to this address takes.
pub fn select(rows: &[Row], destination: IpAddr) -> Option<&Row> {
    let candidates: Vec<&Row> =
        rows.iter().filter(|row| row.active && row.prefix.contains(&destination)).collect();
    let services = candidates.iter().copied().filter(|row| row.hop == Hop::ServiceEndpoint);
    if let Some(service) = longest(services) {
        return Some(service);
    }
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

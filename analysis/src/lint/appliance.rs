//! Routes to appliances that nothing comes out of.

use std::net::IpAddr;

use vnet_config::model::{NextHopType, PeeringFlags, Route};
use vnet_fabric::survey::NoGateway;

use super::design::{Design, Holder, Place, listed};
use super::{DEAD_NEXT_HOP, Found};

const APPLIANCE: &str = "name the private address of a forwarding appliance in the same network or in one that is \
                         directly peered with it";
const GATEWAY: &str = "give the network a VPN gateway, or let it use that of a peer (useRemoteGateways); an ExpressRoute \
                       gateway is no next hop of a user's route";

pub(super) fn look(design: &Design<'_>, found: &mut Vec<Found>) {
    for (name, table, users) in design.tables() {
        for (index, route) in table.routes.iter().enumerate() {
            let path = format!("routeTables.{name}.routes[{index}]");
            for address in route.appliances() {
                let trouble = |place: &Place<'_>| {
                    Some(format!("its next hop {address} {}", trouble(design, *place, *address)?))
                };
                found.extend(dead(route, &users, &path, APPLIANCE, trouble));
            }
            if route.next_hop_type == NextHopType::VirtualNetworkGateway {
                let trouble = |place: &Place<'_>| gateway_trouble(design, *place);
                found.extend(dead(route, &users, &path, GATEWAY, trouble));
            }
        }
    }
}

/// Of all subnets in which a route leads nowhere those with the first reason.
fn dead(
    route: &Route,
    users: &[Place<'_>],
    path: &str,
    help: &str,
    trouble: impl Fn(&Place<'_>) -> Option<String>,
) -> Option<Found> {
    let dead: Vec<(String, String)> =
        users.iter().filter_map(|place| Some((place.name(), trouble(place)?))).collect();
    let (_, why) = dead.first()?;
    let subnets: Vec<String> =
        dead.iter().filter(|(_, other)| other == why).map(|(subnet, _)| subnet.clone()).collect();
    Some(Found {
        lint: DEAD_NEXT_HOP,
        path: path.to_owned(),
        message: format!(
            "the route '{}' drops packets from {} to {}: {why}",
            route.name,
            listed(&subnets),
            route.address_prefix
        ),
        help: help.to_owned(),
    })
}

/// Why a route to VirtualNetworkGateway leads nowhere from this subnet.
fn gateway_trouble(design: &Design<'_>, place: Place<'_>) -> Option<String> {
    let network = place.network;
    Some(match design.snapshot.without_gateway(network, place.subnet)? {
        NoGateway::None => format!("{network} has no VPN gateway, and uses none of a peer"),
        NoGateway::ExpressRoute(name) => {
            format!("the effective gateway of {network} is {name}, an ExpressRoute gateway")
        }
        NoGateway::NotListed => {
            format!(
                "the subnet peering by which {network} uses its peer's gateway does not list {}",
                place.subnet
            )
        }
    })
}

/// Why packets of this network that are handed to the address are lost.
fn trouble(design: &Design<'_>, place: Place<'_>, address: IpAddr) -> Option<String> {
    let network = place.network;
    let Some(there) = design.network_of(network, address) else {
        return Some(match site_of(design, address) {
            Some(site) => format!("is on-premises ({site}), behind a gateway"),
            None => "is in no network".to_owned(),
        });
    };
    let directly = there == network || design.peers(network).any(|(peer, _)| peer == there);
    if !directly {
        let half = design.network(network).is_some_and(|own| own.peerings.contains_key(there))
            || design.network(there).is_some_and(|own| own.peerings.contains_key(network));
        let between: Vec<&str> = design
            .peers(network)
            .map(|(peer, _)| peer)
            .filter(|peer| design.peers(peer).any(|(other, _)| other == there))
            .collect();
        return Some(match (half, between.first()) {
            (true, _) => format!("is in {there}, and the peering has one half only"),
            (false, Some(middle)) => format!("is in {there}, two peerings away (by {middle})"),
            (false, None) => format!("is in {there}, which is not peered with {network}"),
        });
    }
    if let Some(why) = kept_out(design, place, there, address) {
        return Some(why);
    }
    match design.holder(there, address) {
        Some(Holder::Firewall | Holder::Nic { forwards: true, .. }) => None,
        Some(Holder::Nic { name, .. }) => Some(format!("is {name}, whose enableIPForwarding is false")),
        Some(Holder::Gateway(name)) => Some(format!("is the gateway {name}, which is no appliance")),
        None => Some(format!("is an address of {there} that nobody holds")),
    }
}

/// Why a peering that is there keeps what a subnet sends from an address of the peer.
fn kept_out(design: &Design<'_>, place: Place<'_>, there: &str, address: IpAddr) -> Option<String> {
    let (own, other) = (design.network(place.network)?, design.network(there)?);
    let (half, reverse) = (own.peerings.get(there)?, other.peerings.get(place.network)?);
    if design.topology.semantics.peering_flags == PeeringFlags::Strict
        && !(half.allow_virtual_network_access && reverse.allow_virtual_network_access)
    {
        return Some(format!(
            "is in {there}, to which the peering lets nothing pass: allowVirtualNetworkAccess is false"
        ));
    }
    if half.peer_complete_vnets {
        return None;
    }
    let named = |list: &[String], subnet: &str| list.iter().any(|name| name == subnet);
    let holds = |subnet: &str| {
        other
            .subnets
            .get(subnet)
            .is_some_and(|subnet| subnet.address_prefixes.iter().any(|net| net.contains(&address)))
    };
    if !half.remote_subnet_names.iter().any(|subnet| holds(subnet)) {
        return Some(format!(
            "is in a subnet of {there} that the subnet peering with {} does not list",
            place.network
        ));
    }
    let takes_part =
        named(&half.local_subnet_names, place.subnet) && named(&reverse.remote_subnet_names, place.subnet);
    (!takes_part)
        .then(|| format!("is in {there}, and the subnet peering with it does not list {}", place.subnet))
}

fn site_of<'a>(design: &Design<'a>, address: IpAddr) -> Option<&'a str> {
    let topology = design.topology;
    let holds = |nets: &[ipnet::IpNet]| nets.iter().any(|net| net.contains(&address));
    let sites = topology.on_premises_sites.iter().filter(|(_, site)| holds(&site.address_space));
    let gateways = topology
        .local_network_gateways
        .iter()
        .filter(|(_, gateway)| holds(&gateway.local_network_address_space));
    sites.map(|(name, _)| name).chain(gateways.map(|(name, _)| name)).next().map(String::as_str)
}

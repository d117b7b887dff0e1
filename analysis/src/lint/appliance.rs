//! Routes to appliances that nothing comes out of.

use std::net::IpAddr;

use super::design::{Design, Holder, listed};
use super::{DEAD_NEXT_HOP, Found};

pub(super) fn look(design: &Design<'_>, found: &mut Vec<Found>) {
    for (name, table, users) in design.tables() {
        for (index, route) in table.routes.iter().enumerate() {
            for address in route.appliances() {
                let dead: Vec<(String, String)> = users
                    .iter()
                    .filter_map(|place| Some((place.name(), trouble(design, place.network, *address)?)))
                    .collect();
                let Some((_, why)) = dead.first() else { continue };
                let subnets: Vec<String> =
                    dead.iter().filter(|(_, other)| other == why).map(|(subnet, _)| subnet.clone()).collect();
                found.push(Found {
                    lint: DEAD_NEXT_HOP,
                    path: format!("routeTables.{name}.routes[{index}]"),
                    message: format!(
                        "the route '{}' drops packets from {} to {}: its next hop {address} {why}",
                        route.name,
                        listed(&subnets),
                        route.address_prefix
                    ),
                    help: "name the private address of a forwarding appliance in the same network or in one that is \
                           directly peered with it"
                        .to_owned(),
                });
            }
        }
    }
}

/// Why packets of this network that are handed to the address are lost.
fn trouble(design: &Design<'_>, network: &str, address: IpAddr) -> Option<String> {
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
    match design.holder(there, address) {
        Some(Holder::Firewall | Holder::Nic { forwards: true, .. }) => None,
        Some(Holder::Nic { name, .. }) => Some(format!("is {name}, whose enableIPForwarding is false")),
        Some(Holder::Gateway(name)) => Some(format!("is the gateway {name}, which is no appliance")),
        None => Some(format!("is an address of {there} that nobody holds")),
    }
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

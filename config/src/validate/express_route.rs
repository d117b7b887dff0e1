//! ExpressRoute circuits: their links, who is connected to them, and how many.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::{Check, Owners, bgp, overlap};
use crate::{
    diagnostic::Finding,
    limit::{self, CIRCUITS_OF_A_LOCATION},
    model::{CircuitPeering, ConnectionType},
    sku,
};

pub(crate) fn check(check: &mut Check<'_, '_>) {
    for (name, circuit) in &check.topology.express_route_circuits {
        let path = format!("expressRouteCircuits.{name}");
        let given = circuit.bandwidth_in_mbps;
        if !sku::CIRCUITS_MBPS.contains(&given) {
            let speeds: Vec<String> = sku::CIRCUITS_MBPS.iter().map(ToString::to_string).collect();
            let finding = Finding::error("circuit-bandwidth", format!("no circuit has {given} Mb/s"));
            let help = format!("write one of {}", speeds.join(", "));
            check.at(&format!("{path}.bandwidthInMbps"), finding.help(help));
        }
        if let Some(peering) = &circuit.peerings.azure_private_peering {
            private_peering(check, &format!("{path}.peerings.AzurePrivatePeering"), peering);
        }
    }
    sites(check);
    counts(check);
}

fn private_peering(check: &mut Check<'_, '_>, path: &str, peering: &CircuitPeering) {
    bgp::peer_asn(check, &format!("{path}.peerASN"), peering.peer_asn);
    links(check, path, (&peering.primary_peer_address_prefix, &peering.secondary_peer_address_prefix), true);
    if let Some(v6) = &peering.ipv6_peering_config {
        let both = (&v6.primary_peer_address_prefix, &v6.secondary_peer_address_prefix);
        links(check, &format!("{path}.ipv6PeeringConfig"), both, false);
    }
}

/// Each link has four addresses of its own.
fn links(check: &mut Check<'_, '_>, path: &str, (first, second): (&IpNet, &IpNet), is_v4: bool) {
    let length = if is_v4 { 30 } else { 126 };
    for (property, net) in [("primaryPeerAddressPrefix", first), ("secondaryPeerAddressPrefix", second)] {
        if net.prefix_len() != length || net.addr().is_ipv4() != is_v4 {
            let family = if is_v4 { "IPv4" } else { "IPv6" };
            let finding = Finding::error("circuit-link", format!("{net} is no /{length} of {family}"));
            let help =
                format!("write a /{length}: the site's router has its first address, Azure the second");
            check.at(&format!("{path}.{property}"), finding.help(help));
        }
    }
    if overlap(first, second) {
        let finding = Finding::error("circuit-links-overlap", format!("{first} and {second} overlap"));
        let at = format!("{path}.secondaryPeerAddressPrefix");
        check.at(&at, finding.help("give each link a prefix of its own"));
    }
}

/// The sites at the circuits' other ends.
fn sites(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let circuits = &topology.express_route_circuits;
    let mut taken = Owners::new();
    for (name, site) in &topology.on_premises_sites {
        for (index, entry) in site.express_route.iter().enumerate() {
            let at = format!("onPremisesSites.{name}.expressRoute[{index}].circuit");
            if !check.refers(&at, "expressRouteCircuits", circuits, &entry.circuit, "ExpressRoute circuit") {
                continue;
            }
            if let Some(first) = taken.take(entry.circuit.as_str(), || name.clone()) {
                let message = format!("the circuit '{}' ends at '{first}' already", entry.circuit);
                let finding = Finding::error("circuit-taken", message);
                check.at(&at, finding.help("give each site a circuit of its own"));
            }
        }
    }
}

/// Networks of each circuit, and circuits of each network at one location.
fn counts(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut networks: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut locations: BTreeMap<(&str, &str), BTreeSet<&str>> = BTreeMap::new();
    for connection in topology.connections.values() {
        let gateway = topology.virtual_network_gateways.get(&connection.virtual_network_gateway1);
        let circuit =
            connection.peer.as_ref().and_then(|peer| topology.express_route_circuits.get_key_value(peer));
        let (Some(gateway), Some((name, circuit))) = (gateway, circuit) else { continue };
        if connection.connection_type != ConnectionType::ExpressRoute {
            continue;
        }
        networks.entry(name).or_default().insert(&gateway.virtual_network);
        let at = (gateway.virtual_network.as_str(), circuit.peering_location.as_str());
        locations.entry(at).or_default().insert(name);
    }
    for (name, connected) in networks {
        let Some(max) = topology.express_route_circuits[name].networks_max() else { continue };
        let path = format!("expressRouteCircuits.{name}");
        check.limit(&path, name, connected.len(), &limit::networks_of_a_circuit(max));
    }
    for ((network, _), circuits) in locations {
        check.limit(
            format_args!("virtualNetworks.{network}"),
            network,
            circuits.len(),
            &CIRCUITS_OF_A_LOCATION,
        );
    }
}

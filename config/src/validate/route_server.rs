//! Route servers and the appliances that they speak with.

use super::{Check, Owners, bgp};
use crate::{
    diagnostic::Finding,
    limit::ROUTE_SERVER_PEERS,
    model::{GatewayType, RouteServer, VirtualNetwork},
};

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut networks = Owners::new();
    for (name, server) in &topology.route_servers {
        let path = format!("routeServers.{name}");
        let count = server.public_ip_addresses.len();
        if count != 1 {
            let message = format!("the route server has {count} public addresses and needs one");
            let finding = Finding::error("route-server-address", message);
            check.at_name(&path, finding.help("write publicIPAddress: one address"));
        }
        peers(check, &path, name, server);
        let at = format!("{path}.virtualNetwork");
        let all = &topology.virtual_networks;
        let network = server.virtual_network.as_str();
        if !check.refers(&at, "virtualNetworks", all, network, "virtual network") {
            continue;
        }
        if let Some(first) = networks.take(network, || name.clone()) {
            let finding = Finding::error(
                "two-route-servers",
                format!("'{network}' has the route server '{first}' already"),
            );
            check.at(&at, finding.help("a virtual network has one route server"));
        }
        place(check, &at, network, &all[network]);
        beside_gateway(check, &at, network);
        reach(check, &path, server, &all[network]);
    }
}

fn place(check: &mut Check<'_, '_>, path: &str, name: &str, network: &VirtualNetwork) {
    let base = format!("virtualNetworks.{name}.subnets.RouteServerSubnet");
    if !network.subnets.contains_key("RouteServerSubnet") && !check.is_dropped(&base) {
        let finding =
            Finding::error("route-server-subnet-missing", format!("'{name}' has no RouteServerSubnet"));
        check.at(path, finding.help(format!("add RouteServerSubnet with a /26 to the subnets of '{name}'")));
    }
}

/// A VPN gateway in the network must be active-active, with Azure's own ASN.
fn beside_gateway(check: &mut Check<'_, '_>, path: &str, network: &str) {
    let mut gateways = check.topology.virtual_network_gateways.iter();
    let vpn = gateways
        .find(|(_, gateway)| gateway.virtual_network == network && gateway.gateway_type == GatewayType::Vpn);
    let Some((name, gateway)) = vpn else { return };
    let asn = gateway.bgp_settings.as_ref().map_or(bgp::AZURE_ASN, |settings| settings.asn);
    if !gateway.active_active || asn != bgp::AZURE_ASN {
        let message =
            format!("'{name}' in the same network is not an active-active gateway with the ASN 65515");
        let finding = Finding::error("route-server-vpn-gateway", message);
        let help = format!("set activeActive: true and asn: 65515 at virtualNetworkGateways.{name}");
        check.at(path, finding.help(help));
    }
}

fn peers(check: &mut Check<'_, '_>, path: &str, name: &str, server: &RouteServer) {
    let base = format!("{path}.bgpConnections");
    check.limit(&base, name, server.bgp_connections.len(), &ROUTE_SERVER_PEERS);
    let mut taken = Owners::new();
    for (name, peer) in &server.bgp_connections {
        let at = format!("{base}.{name}");
        bgp::peer_asn(check, &format!("{at}.peerAsn"), peer.peer_asn);
        if peer.peer_ip.is_ipv6() {
            let finding = Finding::error("route-server-family", "a route server speaks IPv4 only");
            check.at(&format!("{at}.peerIp"), finding.help("write the appliance's IPv4 address"));
        }
        if let Some(first) = taken.take(peer.peer_ip, || name.clone()) {
            let message = format!("'{first}' is a connection with {} already", peer.peer_ip);
            let finding = Finding::error("route-server-peer-twice", message);
            check.at(&format!("{at}.peerIp"), finding.help("keep one of the two"));
        }
    }
}

/// An appliance is in the network or in one peered with it.
fn reach(check: &mut Check<'_, '_>, path: &str, server: &RouteServer, network: &VirtualNetwork) {
    let topology = check.topology;
    let remotes = network.peerings.keys().filter_map(|remote| topology.virtual_networks.get(remote));
    let ranges: Vec<_> = std::iter::once(network).chain(remotes).flat_map(|one| &one.address_space).collect();
    for (name, peer) in server.bgp_connections.iter().filter(|(_, peer)| peer.peer_ip.is_ipv4()) {
        if !ranges.iter().any(|net| net.contains(&peer.peer_ip)) {
            let message = format!("{} is in no network that the route server reaches", peer.peer_ip);
            let finding = Finding::warning("route-server-peer-outside", message);
            let help = "name an appliance in the route server's network, or in one peered with it";
            check.at(&format!("{path}.bgpConnections.{name}.peerIp"), finding.help(help));
        }
    }
}

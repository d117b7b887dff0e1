//! Connections of virtual network gateways.

use std::collections::HashMap;

use super::{Check, Owners, first_overlap};
use crate::{
    diagnostic::Finding,
    limit,
    model::{Connection, ConnectionType, GatewayType, VirtualNetworkGateway},
};

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut ends = Owners::new();
    for (name, connection) in &topology.connections {
        let path = format!("connections.{name}");
        one_connection(check, &path, connection);
        let gateways = connection.virtual_network_gateway2.as_ref();
        let other = gateways.or(connection.local_network_gateway2.as_ref()).or(connection.peer.as_ref());
        let key = (connection.virtual_network_gateway1.as_str(), connection.connection_type, other);
        if let Some(first) = ends.take(key, || name.clone()) {
            let finding = Finding::error("connection-twice", format!("'{first}' connects the same two ends"));
            check.at_name(&path, finding.help("one connection for each pair of ends and direction"));
        }
    }
    tunnels(check);
}

fn one_connection(check: &mut Check<'_, '_>, path: &str, connection: &Connection) {
    let gateways = &check.topology.virtual_network_gateways;
    let at = format!("{path}.virtualNetworkGateway1");
    let first = &connection.virtual_network_gateway1;
    let has_first = check.refers(&at, "virtualNetworkGateways", gateways, first, "virtual network gateway");
    if has_first && connection.enable_bgp && !gateways[first].enable_bgp {
        let finding = Finding::error("connection-bgp", format!("enableBgp is set here and not at '{first}'"));
        check.at(
            &format!("{path}.enableBgp"),
            finding.help(format!("set enableBgp: true at '{first}', or remove it here")),
        );
    }
    match connection.connection_type {
        ConnectionType::IPsec => site_to_site(check, path, connection),
        ConnectionType::Vnet2Vnet => vnet_to_vnet(check, path, connection, has_first),
        ConnectionType::ExpressRoute => to_circuit(check, path, connection),
    }
    if connection.connection_type != ConnectionType::ExpressRoute {
        if connection.shared_key.is_none() {
            let finding = Finding::error("missing-shared-key", "the connection has no sharedKey");
            check.at_name(
                path,
                finding.help("add sharedKey: a text, {env: NAME} or {file: PATH}; both ends need the same"),
            );
        }
        if connection.peer.is_some() {
            let finding =
                Finding::error("connection-end", "'peer' names a circuit; this connection has none");
            check.at(&format!("{path}.peer"), finding.help("remove it"));
        }
    }
    if has_first {
        gateway_type(check, path, connection, &gateways[first]);
        super::ipsec::check(check, path, connection, &gateways[first]);
        super::nat::used(check, path, connection, &gateways[first]);
        super::bgp::connection(check, path, connection, &gateways[first]);
    }
}

/// The gateway's type, against the connection's.
fn gateway_type(
    check: &mut Check<'_, '_>,
    path: &str,
    connection: &Connection,
    gateway: &VirtualNetworkGateway,
) {
    let wanted = match connection.connection_type {
        ConnectionType::ExpressRoute => GatewayType::ExpressRoute,
        ConnectionType::IPsec | ConnectionType::Vnet2Vnet => GatewayType::Vpn,
    };
    if gateway.gateway_type != wanted {
        let message = format!(
            "'{}' is a gateway of type {:?}; a connection of type {:?} needs {wanted:?}",
            connection.virtual_network_gateway1, gateway.gateway_type, connection.connection_type
        );
        let finding = Finding::error("connection-gateway-type", message);
        check.at(
            &format!("{path}.virtualNetworkGateway1"),
            finding.help("name a gateway of that type, or change connectionType"),
        );
    }
}

fn site_to_site(check: &mut Check<'_, '_>, path: &str, connection: &Connection) {
    let locals = &check.topology.local_network_gateways;
    match &connection.local_network_gateway2 {
        Some(local) => {
            let at = format!("{path}.localNetworkGateway2");
            check.refers(&at, "localNetworkGateways", locals, local, "local network gateway");
        }
        None => {
            let finding =
                Finding::error("connection-end", "an IPsec connection ends at a local network gateway");
            check.at_name(path, finding.help("add localNetworkGateway2"));
        }
    }
    if connection.virtual_network_gateway2.is_some() {
        let finding =
            Finding::error("connection-end", "an IPsec connection has no second virtual network gateway");
        check.at(
            &format!("{path}.virtualNetworkGateway2"),
            finding.help("remove it, or set connectionType: Vnet2Vnet"),
        );
    }
}

/// The end of an ExpressRoute connection.
fn to_circuit(check: &mut Check<'_, '_>, path: &str, connection: &Connection) {
    for (property, is_given) in [
        ("virtualNetworkGateway2", connection.virtual_network_gateway2.is_some()),
        ("localNetworkGateway2", connection.local_network_gateway2.is_some()),
        ("sharedKey", connection.shared_key.is_some()),
        ("ipsecPolicies", !connection.ipsec_policies.is_empty()),
        ("usePolicyBasedTrafficSelectors", connection.use_policy_based_traffic_selectors),
        ("trafficSelectorPolicies", !connection.traffic_selector_policies.is_empty()),
        ("connectionProtocol", connection.connection_protocol.is_some()),
        ("dpdTimeoutSeconds", connection.dpd_timeout_seconds.is_some()),
    ] {
        if is_given {
            let message = format!("'{property}' is of a tunnel; an ExpressRoute connection has none");
            let finding = Finding::error("connection-end", message);
            check.at(&format!("{path}.{property}"), finding.help("remove it"));
        }
    }
    let circuits = &check.topology.express_route_circuits;
    let Some(name) = &connection.peer else {
        let finding = Finding::error("connection-end", "an ExpressRoute connection ends at a circuit");
        check.at_name(path, finding.help("add peer: the name of a circuit"));
        return;
    };
    let at = format!("{path}.peer");
    if check.refers(&at, "expressRouteCircuits", circuits, name, "ExpressRoute circuit")
        && circuits[name].peerings.azure_private_peering.is_none()
    {
        let finding =
            Finding::error("circuit-without-peering", format!("the circuit '{name}' has no private peering"));
        let help = format!("add peerings: {{AzurePrivatePeering: ...}} to expressRouteCircuits.{name}");
        check.at(&at, finding.help(help));
    }
}

fn vnet_to_vnet(check: &mut Check<'_, '_>, path: &str, connection: &Connection, has_first: bool) {
    let topology = check.topology;
    let gateways = &topology.virtual_network_gateways;
    if connection.local_network_gateway2.is_some() {
        let finding = Finding::error("connection-end", "a Vnet2Vnet connection has no local network gateway");
        check.at(
            &format!("{path}.localNetworkGateway2"),
            finding.help("remove it, or set connectionType: IPsec"),
        );
    }
    let first = &connection.virtual_network_gateway1;
    let Some(second) = &connection.virtual_network_gateway2 else {
        let finding = Finding::error(
            "connection-end",
            "a Vnet2Vnet connection ends at a second virtual network gateway",
        );
        check.at_name(path, finding.help("add virtualNetworkGateway2"));
        return;
    };
    let at = format!("{path}.virtualNetworkGateway2");
    if !check.refers(&at, "virtualNetworkGateways", gateways, second, "virtual network gateway") || !has_first
    {
        return;
    }
    if first == second {
        let finding =
            Finding::error("connection-with-itself", format!("'{first}' cannot be connected to itself"));
        check.at(&at, finding.help("name the gateway of the other network"));
        return;
    }
    let has_reverse = topology.connections.values().any(|other| {
        other.connection_type == ConnectionType::Vnet2Vnet
            && &other.virtual_network_gateway1 == second
            && other.virtual_network_gateway2.as_ref() == Some(first)
    });
    super::ipsec::agreement(check, path, connection);
    if !has_reverse {
        let finding = Finding::warning(
            "connection-one-sided",
            format!("no connection leads back from '{second}': this one stays NotConnected"),
        );
        check.at_name(path, finding.help(format!("add a Vnet2Vnet connection from '{second}' to '{first}'")));
    }
    let ranges = |gateway: &str| {
        let network = topology.virtual_networks.get(&gateways[gateway].virtual_network);
        network.map_or(&[][..], |network| &network.address_space)
    };
    // Both directions have the same overlap: it is told once.
    let is_later = gateways.get_index_of(first) > gateways.get_index_of(second);
    if (is_later || !has_reverse)
        && gateways[first].virtual_network != gateways[second].virtual_network
        && let Some((own, other)) = first_overlap(ranges(first), ranges(second))
    {
        let message = format!("{own} and {other} of the two networks overlap, so they cannot be connected");
        let finding = Finding::error("connected-ranges-overlap", message).code("VnetAddressSpacesOverlap");
        check.at(&at, finding.help("give one of the two networks another range"));
    }
}

/// The connections of each gateway, against what its SKU takes.
fn tunnels(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for connection in topology.connections.values() {
        *counts.entry(&connection.virtual_network_gateway1).or_default() += 1;
    }
    for (name, gateway) in &topology.virtual_network_gateways {
        let Some(figures) = gateway.figures() else { continue };
        let limit = limit::tunnels(figures.tunnels_max);
        let count = counts.get(name.as_str()).copied().unwrap_or_default();
        check.limit(format_args!("virtualNetworkGateways.{name}"), name, count, &limit);
    }
}

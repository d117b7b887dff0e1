//! User routes that are for nothing, or for more than was meant.

use ipnet::IpNet;
use vnet_config::model::{NextHopType, RoutePrefix};
use vnet_fabric::snapshot::lpm::subtract;

use super::design::{Design, Holder, Place, listed, overlap, strictly_inside};
use super::{Found, HUB_RANGE_ROUTE, IGNORED_ROUTE, PROPAGATION_BEHIND_FIREWALL, VPN_GATEWAY_RELAY};

pub(super) fn look(design: &Design<'_>, found: &mut Vec<Found>) {
    for (name, table, users) in design.tables() {
        for (index, route) in table.routes.iter().enumerate() {
            let RoutePrefix::Prefix(prefix) = &route.address_prefix else { continue };
            let path = format!("routeTables.{name}.routes[{index}]");
            found.extend(ignored(design, &route.name, prefix, &users, &path));
            if route.next_hop_type == NextHopType::VirtualNetworkGateway {
                found.extend(relay(design, &route.name, prefix, &users, &path));
            }
            for appliance in route.appliances() {
                found.extend(hub_range(design, (&route.name, prefix), *appliance, &users, &path));
            }
        }
        if !table.disable_bgp_route_propagation {
            found.extend(propagation(design, name, &users));
        }
    }
}

/// A route that wins for no destination, or for none that the topology has.
fn ignored(
    design: &Design<'_>,
    route: &str,
    prefix: &IpNet,
    users: &[Place<'_>],
    path: &str,
) -> Option<Found> {
    // On GatewaySubnet a summary has a lint of its own.
    let users: Vec<&Place<'_>> = users.iter().filter(|place| place.subnet != "GatewaySubnet").collect();
    let mut never = true;
    let mut takers: Vec<String> = Vec::new();
    let mut endpoints: Vec<String> = Vec::new();
    for place in &users {
        let rows = design.rows(**place);
        let endpoint = |row: &&_| is_endpoint(row);
        let longer: Vec<IpNet> = rows
            .iter()
            .filter(|row| row.active() && strictly_inside(&row.prefix, prefix))
            .chain(rows.iter().filter(|row| row.active()).filter(endpoint))
            .map(|row| row.prefix)
            .collect();
        let rest = subtract(&[*prefix], &longer);
        never &= rest.is_empty();
        let system = rows.iter().any(|row| {
            row.active()
                && row.is("Default")
                && row.row.next_hop_type != "None"
                && strictly_inside(&row.prefix, prefix)
        });
        if !rest.is_empty() && (!system || !is_private(prefix) || reaches_something(design, &rest)) {
            return None;
        }
        let services = rows.iter().filter(|row| row.active()).filter(endpoint);
        endpoints
            .extend(services.filter(|row| overlap(&row.prefix, prefix)).map(|row| row.prefix.to_string()));
        takers.extend(longer.iter().filter(|net| overlap(net, prefix)).map(ToString::to_string));
    }
    if users.is_empty() {
        return None;
    }
    for prefixes in [&mut takers, &mut endpoints] {
        prefixes.sort();
        prefixes.dedup();
    }
    let message = if never {
        let verb = if takers.len() == 1 { "takes" } else { "take" };
        let whole =
            if takers == [prefix.to_string()] { "the whole prefix" } else { &format!("all of {prefix}") };
        let by = if endpoints == takers { "the service endpoint's " } else { "" };
        format!("the route '{route}' never wins: {by}{} {verb} {whole}", listed(&takers))
    } else {
        format!(
            "the route '{route}' is for no address that this topology has: longer routes ({}) take what {prefix} holds",
            listed(&takers)
        )
    };
    let system = "write a route for each of those prefixes: an equal prefix of a user beats the system's";
    let service =
        "no route of a user beats a service endpoint's: remove the route, or the endpoint from the subnet";
    let help = match (endpoints.is_empty(), endpoints == takers) {
        (true, _) => system.to_owned(),
        (false, true) => service.to_owned(),
        (false, false) => format!("{system}, but for {}: {service}", listed(&endpoints)),
    };
    Some(Found { lint: IGNORED_ROUTE, path: path.to_owned(), message, help })
}

fn is_endpoint(row: &super::design::Row) -> bool {
    row.row.next_hop_type == "VirtualNetworkServiceEndpoint"
}

fn is_private(prefix: &IpNet) -> bool {
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
    private.iter().filter_map(|net| net.parse::<IpNet>().ok()).any(|net| net.contains(prefix))
}

/// Whether a network, a site or anything behind a gateway lies in one of these.
fn reaches_something(design: &Design<'_>, rest: &[IpNet]) -> bool {
    let topology = design.topology;
    let networks = topology.virtual_networks.values().flat_map(|network| &network.address_space);
    let sites = topology.on_premises_sites.values().flat_map(|site| &site.address_space);
    let behind =
        topology.local_network_gateways.values().flat_map(|gateway| &gateway.local_network_address_space);
    let clients = topology
        .virtual_network_gateways
        .values()
        .filter_map(|gateway| gateway.vpn_client_configuration.as_ref())
        .flat_map(|clients| &clients.vpn_client_address_pool);
    networks.chain(sites).chain(behind).chain(clients).any(|net| rest.iter().any(|rest| overlap(net, rest)))
}

/// A spoke's route to the VPN gateway for another spoke.
fn relay(design: &Design<'_>, route: &str, prefix: &IpNet, users: &[Place<'_>], path: &str) -> Option<Found> {
    if prefix.prefix_len() == 0 {
        return None;
    }
    let topology = design.topology;
    for place in users {
        let hub = design
            .peers(place.network)
            .find(|(peer, _)| {
                design
                    .network(place.network)
                    .and_then(|own| own.peerings.get(*peer))
                    .is_some_and(|half| half.use_remote_gateways)
            })
            .map(|(peer, _)| peer);
        let Some(hub) = hub else { continue };
        let other = design.peers(hub).find(|(spoke, network)| {
            *spoke != place.network && network.address_space.iter().any(|net| overlap(net, prefix))
        });
        let gateway =
            topology.virtual_network_gateways.iter().find(|(_, gateway)| gateway.virtual_network == hub);
        if let (Some((spoke, _)), Some((gateway, _))) = (other, gateway) {
            return Some(Found {
                lint: VPN_GATEWAY_RELAY,
                path: path.to_owned(),
                message: format!(
                    "the route '{route}' sends what {} has for {spoke} through the VPN gateway {gateway}, whose throughput \
                     all of its tunnels share",
                    place.name()
                ),
                help: format!(
                    "peer {} with {spoke}, or route by a firewall or an appliance in {hub}",
                    place.network
                ),
            });
        }
    }
    None
}

/// A route for a whole range of the network that holds the gateway or the firewall.
fn hub_range(
    design: &Design<'_>,
    (route, prefix): (&str, &IpNet),
    appliance: std::net::IpAddr,
    users: &[Place<'_>],
    path: &str,
) -> Option<Found> {
    let is_range =
        |network: &str| design.network(network).is_some_and(|own| own.address_space.contains(prefix));
    let gateway = users.iter().find(|place| place.subnet == "GatewaySubnet" && is_range(place.network));
    if let Some(place) = gateway {
        return Some(Found {
            lint: HUB_RANGE_ROUTE,
            path: path.to_owned(),
            message: format!(
                "the route '{route}' on {} is for a whole range of {}, which holds the gateway itself: Microsoft warns of \
                 it, though labs have seen it work",
                place.name(),
                place.network
            ),
            help: "name the prefixes of the subnets that are to be inspected".to_owned(),
        });
    }
    let place = users.iter().find(|place| {
        let Some(hub) = design.network_of(place.network, appliance) else { return false };
        hub != place.network && is_range(hub) && design.holder(hub, appliance) == Some(&Holder::Firewall)
    })?;
    Some(Found {
        lint: HUB_RANGE_ROUTE,
        path: path.to_owned(),
        message: format!(
            "the route '{route}' of {} is for the whole range of the firewall's network: answers to the firewall's own \
             instances come back to another one",
            place.name()
        ),
        help: "name the prefixes of the hub's other subnets".to_owned(),
    })
}

/// Gateway routes that are longer than the routes to an appliance in the same table.
fn propagation(design: &Design<'_>, table: &str, users: &[Place<'_>]) -> Option<Found> {
    let special =
        ["GatewaySubnet", "AzureFirewallSubnet", "AzureFirewallManagementSubnet", "RouteServerSubnet"];
    let mut subnets = Vec::new();
    let mut prefixes: Vec<String> = Vec::new();
    for place in users.iter().filter(|place| !special.contains(&place.subnet)) {
        let rows = design.rows(*place);
        let appliance =
            |row: &&super::design::Row| row.active() && row.row.next_hop_type.starts_with("VirtualAppliance");
        let bypassing: Vec<String> = rows
            .iter()
            .filter(|row| row.active() && row.is("VirtualNetworkGateway"))
            .filter(|row| {
                rows.iter().filter(appliance).any(|broad| strictly_inside(&row.prefix, &broad.prefix))
            })
            .map(|row| row.prefix.to_string())
            .collect();
        if !bypassing.is_empty() {
            subnets.push(place.name());
            prefixes.extend(bypassing);
        }
    }
    prefixes.sort();
    prefixes.dedup();
    (!subnets.is_empty()).then(|| Found {
        lint: PROPAGATION_BEHIND_FIREWALL,
        path: format!("routeTables.{table}"),
        message: format!(
            "packets from {} to {} bypass the appliance: the gateway's routes are longer than the table's",
            listed(&subnets),
            listed(&prefixes)
        ),
        help: "set disableBgpRoutePropagation: true, or write these prefixes into the table".to_owned(),
    })
}

//! Route tables and where they may be used.

use std::net::IpAddr;

use super::{Check, Owners, overlap};
use crate::{
    diagnostic::Finding,
    model::{NextHopType, Route, RoutePrefix, RouteTable, Subnet},
};

/// Most routes of one table.
const ROUTES_MAX: usize = 400;

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, table) in &topology.route_tables {
        routes(check, name, table);
    }
    for (network_name, network) in &topology.virtual_networks {
        for (subnet_name, subnet) in &network.subnets {
            let Some(table_name) = &subnet.route_table else { continue };
            let Some(table) = topology.route_tables.get(table_name) else { continue };
            let path = format!("virtualNetworks.{network_name}.subnets.{subnet_name}.routeTable");
            match subnet_name.as_str() {
                "GatewaySubnet" => gateway_subnet(check, &path, table_name, table, subnet),
                "RouteServerSubnet" | "AzureBastionSubnet" => {
                    let finding = Finding::error(
                        "routes-on-appliance-subnet",
                        format!("{subnet_name} cannot have a route table"),
                    );
                    check.at(&path, finding.help("remove it"));
                }
                _ => own_subnet(check, &path, table, subnet),
            }
        }
    }
}

fn routes(check: &mut Check<'_, '_>, name: &str, table: &RouteTable) {
    let mut names = Owners::new();
    let mut prefixes = Owners::new();
    for (index, route) in table.routes.iter().enumerate() {
        let path = format!("routeTables.{name}.routes[{index}]");
        super::firewall::rule_name(check, &path, &route.name, &mut names);
        next_hop(check, &path, route);
        if let Some(first) = prefixes.take(&route.address_prefix, || route.name.clone()) {
            let finding = Finding::error(
                "route-prefix-twice",
                format!("'{first}' is for {} already", route.address_prefix),
            );
            check.at(
                &format!("{path}.addressPrefix"),
                finding.code("RouteConflict").help("a prefix stands once in a route table"),
            );
        }
    }
    if table.routes.len() > ROUTES_MAX {
        let finding =
            Finding::error("too-many-routes", format!("'{name}' has more than {ROUTES_MAX} routes"));
        check.at_name(&format!("routeTables.{name}.routes"), finding.help("summarise prefixes"));
    }
}

fn next_hop(check: &mut Check<'_, '_>, path: &str, route: &Route) {
    let at = format!("{path}.nextHopIpAddress");
    match (route.next_hop_type, route.next_hop_ip_address) {
        (NextHopType::VirtualAppliance, None) => {
            let finding = Finding::error(
                "appliance-without-address",
                format!("the route '{}' names no appliance", route.name),
            );
            check.at(
                &format!("{path}.nextHopType"),
                finding.help("add nextHopIpAddress: the private address of the appliance"),
            );
        }
        (NextHopType::VirtualAppliance, Some(address)) => {
            if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
                let finding =
                    Finding::error("next-hop-address", format!("{address} cannot be an appliance's address"));
                check.at(&at, finding.help("write the private address of the appliance"));
            } else if let RoutePrefix::Prefix(net) = &route.address_prefix
                && matches!(net, ipnet::IpNet::V4(_)) != address.is_ipv4()
            {
                let finding =
                    Finding::error("next-hop-family", format!("{address} is not of the family of {net}"));
                check
                    .at(&at, finding.help("an IPv4 route needs an IPv4 next hop, an IPv6 route an IPv6 one"));
            }
        }
        (other, Some(_)) => {
            let finding = Finding::error(
                "address-without-appliance",
                format!("next hop type {other:?} takes no address"),
            );
            check.at(&at, finding.help("remove nextHopIpAddress, or set nextHopType: VirtualAppliance"));
        }
        (_, None) => {}
    }
}

fn gateway_subnet(check: &mut Check<'_, '_>, path: &str, name: &str, table: &RouteTable, subnet: &Subnet) {
    if table.disable_bgp_route_propagation {
        let finding = Finding::error(
            "gateway-subnet-propagation",
            format!("'{name}' turns gateway routes off; a gateway needs them"),
        );
        check.at(path, finding.help("use a table with disableBgpRoutePropagation: false on GatewaySubnet"));
    }
    for route in &table.routes {
        let RoutePrefix::Prefix(net) = &route.address_prefix else { continue };
        if net.prefix_len() == 0 {
            let finding = Finding::error(
                "gateway-subnet-default",
                format!("'{name}' has a route for {net}, which GatewaySubnet cannot have"),
            );
            check.at(path, finding.help("name the prefixes of the spokes instead"));
        } else if subnet.address_prefixes.iter().any(|own| own.contains(net) && overlap(own, net)) {
            let finding = Finding::error(
                "gateway-subnet-itself",
                format!("'{name}' has a route for {net}, which is GatewaySubnet itself"),
            );
            check.at(path, finding.help("remove that route: it would cut the gateway off"));
        }
    }
}

fn own_subnet(check: &mut Check<'_, '_>, path: &str, table: &RouteTable, subnet: &Subnet) {
    let inside = |address: IpAddr| subnet.address_prefixes.iter().any(|net| net.contains(&address));
    if let Some(route) = table.routes.iter().find(|route| route.next_hop_ip_address.is_some_and(inside)) {
        let message = format!(
            "the route '{}' has its appliance in this subnet, whose packets it would get back",
            route.name
        );
        let finding = Finding::warning("next-hop-in-own-subnet", message);
        check.at(path, finding.help("put the appliance into a subnet without this table"));
    }
}

//! Route tables and their routes.

use std::net::IpAddr;

use super::{Check, Owners};
use crate::{
    diagnostic::Finding,
    limit::ROUTES,
    model::{NextHopType, Route, RoutePrefix, RouteTable, Subnet},
};

/// Fewest and most appliances of one route.
const APPLIANCES: std::ops::RangeInclusive<usize> = 2..=64;

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, table) in &topology.route_tables {
        routes(check, name, table);
        super::service_tag::routes(check, name, table);
    }
    for (network_name, network) in &topology.virtual_networks {
        for (subnet_name, subnet) in &network.subnets {
            let Some(table) = subnet.route_table.as_ref().and_then(|name| topology.route_tables.get(name))
            else {
                continue;
            };
            let path = format!("virtualNetworks.{network_name}.subnets.{subnet_name}.routeTable");
            own_subnet(check, &path, table, subnet);
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
        let key = route.address_prefix.to_string().to_lowercase();
        if let Some(first) = prefixes.take(key, || route.name.clone()) {
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
    check.limit(format_args!("routeTables.{name}.routes"), name, table.routes.len(), &ROUTES);
}

fn next_hop(check: &mut Check<'_, '_>, path: &str, route: &Route) {
    let is_one = route.next_hop_type == NextHopType::VirtualAppliance;
    let is_several = route.next_hop_type == NextHopType::VirtualApplianceEcmp;
    let is_wrong = |property: &str| check.is_dropped(&format!("{path}.{property}"));
    let (address_is_wrong, list_is_wrong) = (is_wrong("nextHopIpAddress"), is_wrong("nextHop"));
    if is_one && route.next_hop_ip_address.is_none() && !address_is_wrong {
        let message = format!("the route '{}' names no appliance", route.name);
        let finding = Finding::error("appliance-without-address", message);
        check.at(
            &format!("{path}.nextHopType"),
            finding.help("add nextHopIpAddress: the private address of the appliance"),
        );
    }
    if is_several && route.next_hop.is_none() && !list_is_wrong {
        let message = format!("the route '{}' names no appliances", route.name);
        let finding = Finding::error("appliance-without-address", message);
        check.at(
            &format!("{path}.nextHopType"),
            finding.help("add nextHop: {nextHopIpAddresses: [...]} with 2 to 64 private addresses"),
        );
    }
    let type_name = format!("{:?}", route.next_hop_type);
    if !is_one && route.next_hop_ip_address.is_some() {
        let message = format!("next hop type {type_name} takes no nextHopIpAddress");
        let help = if is_several {
            "list the addresses in nextHop: {nextHopIpAddresses: [...]}"
        } else {
            "remove nextHopIpAddress, or set nextHopType: VirtualAppliance"
        };
        let finding = Finding::error("address-without-appliance", message);
        check.at(&format!("{path}.nextHopIpAddress"), finding.help(help));
    }
    if !is_several && route.next_hop.is_some() {
        let message = format!("next hop type {type_name} takes no nextHop");
        let help = "remove nextHop, or set nextHopType: VirtualApplianceEcmp";
        check.at(&format!("{path}.nextHop"), Finding::error("address-without-appliance", message).help(help));
    }
    appliances(check, path, route);
}

fn appliances(check: &mut Check<'_, '_>, path: &str, route: &Route) {
    let is_several = route.next_hop_type == NextHopType::VirtualApplianceEcmp;
    let mut taken = Owners::new();
    for (index, address) in route.appliances().iter().enumerate() {
        let at = if is_several {
            format!("{path}.nextHop.nextHopIpAddresses[{index}]")
        } else {
            format!("{path}.nextHopIpAddress")
        };
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            let finding =
                Finding::error("next-hop-address", format!("{address} cannot be an appliance's address"));
            check.at(&at, finding.help("write the private address of the appliance"));
        } else if let RoutePrefix::Prefix(net) = &route.address_prefix
            && net.addr().is_ipv4() != address.is_ipv4()
        {
            let finding =
                Finding::error("next-hop-family", format!("{address} is not of the family of {net}"));
            check.at(&at, finding.help("an IPv4 route needs an IPv4 next hop, an IPv6 route an IPv6 one"));
        }
        if taken.take(*address, || at.clone()).is_some() {
            let finding = Finding::error("next-hop-twice", format!("{address} is in the list already"));
            check.at(&at, finding.help("list each appliance once"));
        }
    }
    let count = route.appliances().len();
    if is_several && route.next_hop.is_some() && !APPLIANCES.contains(&count) {
        let message = format!("the route '{}' names {count} appliances; 2 to 64 are allowed", route.name);
        let help = if count < 2 {
            "add another one, or set nextHopType: VirtualAppliance"
        } else {
            "keep 64 of them"
        };
        let at = format!("{path}.nextHop.nextHopIpAddresses");
        check.at(&at, Finding::error("next-hop-count", message).help(help));
    }
}

fn own_subnet(check: &mut Check<'_, '_>, path: &str, table: &RouteTable, subnet: &Subnet) {
    let inside = |address: &IpAddr| subnet.address_prefixes.iter().any(|net| net.contains(address));
    if let Some(route) = table.routes.iter().find(|route| route.appliances().iter().any(inside)) {
        let message = format!(
            "the route '{}' has its appliance in this subnet, whose packets it would get back",
            route.name
        );
        let finding = Finding::warning("next-hop-in-own-subnet", message);
        check.at(path, finding.help("put the appliance into a subnet without this table"));
    }
}

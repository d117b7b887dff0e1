//! Subnets with a reserved name: their size, and what may not be attached to them.

use ipnet::IpNet;

use super::{Check, overlap};
use crate::{
    diagnostic::Finding,
    model::{NextHopType, Route, RoutePrefix, RouteTable, Subnet, VirtualNetwork},
};

/// A subnet that Azure knows by its name.
struct Reserved {
    name: &'static str,
    /// Longest IPv4 prefix, where it does not hang on what is deployed in the subnet.
    length_max: Option<u8>,
    /// Whether a security group may guard it.
    takes_group: bool,
}

/// Source: learn.microsoft.com, the subnet sections of the pages on VPN Gateway, Azure Firewall, Route Server and Bastion.
const RESERVED: &[Reserved] = &[
    Reserved { name: "GatewaySubnet", length_max: None, takes_group: false },
    Reserved { name: "AzureFirewallSubnet", length_max: Some(26), takes_group: false },
    Reserved { name: "AzureFirewallManagementSubnet", length_max: Some(26), takes_group: false },
    Reserved { name: "RouteServerSubnet", length_max: Some(27), takes_group: false },
    Reserved { name: "AzureBastionSubnet", length_max: Some(26), takes_group: true },
];
/// What newer pages ask of RouteServerSubnet.
const ROUTE_SERVER_LENGTH: u8 = 26;

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (network_name, network) in &topology.virtual_networks {
        for (name, subnet) in &network.subnets {
            let path = format!("virtualNetworks.{network_name}.subnets.{name}");
            let Some(reserved) = RESERVED.iter().find(|reserved| reserved.name.eq_ignore_ascii_case(name))
            else {
                continue;
            };
            if reserved.name != name {
                let finding = Finding::warning(
                    "reserved-subnet-spelling",
                    format!("'{name}' is not '{}', and a subnet like any other", reserved.name),
                );
                let help = format!("write {}, or another name", reserved.name);
                check.at_name(&path, finding.help(help));
                continue;
            }
            size(check, &path, reserved, subnet);
            group(check, &path, reserved, subnet);
            if let Some(table_name) = &subnet.route_table
                && let Some(table) = topology.route_tables.get(table_name)
            {
                let table = Attached { name: table_name, table, network, subnet };
                attached(check, &format!("{path}.routeTable"), reserved.name, &table);
            }
        }
    }
}

/// The longest IPv4 prefix of a subnet.
fn smallest(subnet: &Subnet) -> Option<&IpNet> {
    subnet.address_prefixes.iter().filter(|net| net.addr().is_ipv4()).max_by_key(|net| net.prefix_len())
}

fn size(check: &mut Check<'_, '_>, path: &str, reserved: &Reserved, subnet: &Subnet) {
    let (Some(length_max), Some(net)) = (reserved.length_max, smallest(subnet)) else { return };
    let at = format!("{path}.addressPrefixes");
    let name = reserved.name;
    if net.prefix_len() > length_max {
        let message = format!("{name} is {net}; it needs a /{length_max} or larger");
        let finding = Finding::error("reserved-subnet-small", message).code("NetcfgInvalidSubnet");
        check.at(&at, finding.help(format!("make the subnet a /{length_max}")));
    } else if name == "RouteServerSubnet" && net.prefix_len() > ROUTE_SERVER_LENGTH {
        let message = format!("{name} is {net}; newer pages of Azure ask for a /{ROUTE_SERVER_LENGTH}");
        let finding = Finding::warning("reserved-subnet-size", message);
        check.at(&at, finding.help(format!("make the subnet a /{ROUTE_SERVER_LENGTH}")));
    }
}

fn group(check: &mut Check<'_, '_>, path: &str, reserved: &Reserved, subnet: &Subnet) {
    if reserved.takes_group || subnet.network_security_group.is_none() {
        return;
    }
    let message = format!("{} cannot have a network security group", reserved.name);
    let mut finding = Finding::error("nsg-on-appliance-subnet", message);
    if reserved.name == "GatewaySubnet" {
        finding = finding.code("NetworkSecurityGroupCannotBeAttachedToGatewaySubnet");
    }
    let help = "remove it; guard the subnets of the machines instead";
    check.at(&format!("{path}.networkSecurityGroup"), finding.help(help));
}

/// A route table where it is used.
struct Attached<'t> {
    name: &'t str,
    table: &'t RouteTable,
    network: &'t VirtualNetwork,
    subnet: &'t Subnet,
}

impl Attached<'_> {
    /// The routes of a prefix, with it.
    fn prefixes(&self) -> impl Iterator<Item = (&Route, &IpNet)> {
        self.table.routes.iter().filter_map(|route| match &route.address_prefix {
            RoutePrefix::Prefix(net) => Some((route, net)),
            RoutePrefix::Tag(_) => None,
        })
    }
}

fn attached(check: &mut Check<'_, '_>, path: &str, subnet: &str, table: &Attached<'_>) {
    match subnet {
        "GatewaySubnet" => on_gateways(check, path, table),
        "AzureFirewallSubnet" => on_firewall(check, path, table),
        "AzureFirewallManagementSubnet" => on_management(check, path, table),
        _ => {
            let finding =
                Finding::error("routes-on-appliance-subnet", format!("{subnet} cannot have a route table"));
            check.at(path, finding.help("remove it"));
        }
    }
}

fn on_gateways(check: &mut Check<'_, '_>, path: &str, attached: &Attached<'_>) {
    let name = attached.name;
    if attached.table.disable_bgp_route_propagation {
        let message = format!("'{name}' turns gateway routes off; a gateway needs them");
        let finding = Finding::error("gateway-subnet-propagation", message);
        check.at(path, finding.help("use a table with disableBgpRoutePropagation: false on GatewaySubnet"));
    }
    let public: Vec<_> = check
        .topology
        .virtual_network_gateways
        .values()
        .filter(|gateway| {
            check
                .topology
                .virtual_networks
                .get(&gateway.virtual_network)
                .is_some_and(|network| std::ptr::eq(network, attached.network))
        })
        .flat_map(|gateway| gateway.public_ip_addresses.iter().copied())
        .collect();
    for (route, net) in attached.prefixes() {
        if net.prefix_len() == 0 {
            let message = format!("'{name}' has a route for {net}, which GatewaySubnet cannot have");
            let finding = Finding::error("gateway-subnet-default", message);
            check.at(path, finding.help("name the prefixes of the spokes instead"));
            continue;
        }
        if route.next_hop_type == NextHopType::VnetLocal {
            continue;
        }
        let own = attached.subnet.address_prefixes.iter().find(|own| overlap(own, net));
        // Azure was seen to take a route for the network's whole range, though it holds GatewaySubnet too.
        let is_whole = attached.network.address_space.iter().any(|range| net.contains(range));
        if let Some(own) = own.filter(|_| !is_whole) {
            let message =
                format!("'{name}' has a route for {net}, which overlaps GatewaySubnet itself ({own})");
            let finding = Finding::error("gateway-subnet-itself", message);
            check.at(path, finding.help("remove that route: it would cut the gateway off"));
        }
        if let Some(address) = public.iter().find(|address| net.contains(*address)) {
            let message =
                format!("'{name}' has a route for {net}, which holds the gateway's public address {address}");
            let finding = Finding::error("gateway-subnet-public", message);
            check.at(path, finding.help("remove that route: it would cut the gateway off"));
        }
    }
}

fn on_firewall(check: &mut Check<'_, '_>, path: &str, attached: &Attached<'_>) {
    let name = attached.name;
    if attached.table.disable_bgp_route_propagation {
        let message =
            format!("'{name}' turns gateway routes off; the firewall needs them to reach on-premises");
        let finding = Finding::warning("firewall-subnet-propagation", message);
        check.at(path, finding.help("set disableBgpRoutePropagation: false in the table"));
    }
    if attached.network.subnets.contains_key("AzureFirewallManagementSubnet") {
        return;
    }
    let default = attached.prefixes().find(|(_, net)| net.prefix_len() == 0 && net.addr().is_ipv4());
    match default {
        Some((route, _)) if route.next_hop_type == NextHopType::Internet => {}
        Some((route, net)) => {
            let message = format!(
                "the route '{}' sends {net} elsewhere; a firewall without AzureFirewallManagementSubnet needs the Internet",
                route.name
            );
            let finding = Finding::error("firewall-subnet-default", message);
            check.at(path, finding.help("set nextHopType: Internet, or add AzureFirewallManagementSubnet"));
        }
        None => {
            let message = format!(
                "'{name}' has no route 0.0.0.0/0 to the Internet, which Azure asks for on AzureFirewallSubnet"
            );
            let finding = Finding::warning("firewall-subnet-no-default", message);
            let help = "add {name: internet, addressPrefix: 0.0.0.0/0, nextHopType: Internet}";
            check.at(path, finding.help(help));
        }
    }
}

fn on_management(check: &mut Check<'_, '_>, path: &str, attached: &Attached<'_>) {
    let name = attached.name;
    let is_default = |route: &Route| {
        let is_all = matches!(&route.address_prefix, RoutePrefix::Prefix(net) if net.prefix_len() == 0);
        is_all && route.next_hop_type == NextHopType::Internet
    };
    let fits = !attached.table.routes.is_empty() && attached.table.routes.iter().all(is_default);
    if !fits || !attached.table.disable_bgp_route_propagation {
        let message = format!(
            "'{name}' is more than a default route to the Internet, which is all that AzureFirewallManagementSubnet takes"
        );
        let help = "use a table with disableBgpRoutePropagation: true and the one route 0.0.0.0/0 to Internet, or none";
        check.at(path, Finding::error("management-subnet-routes", message).help(help));
    }
}

//! Address spaces and subnets of virtual networks.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Check, first_overlap, overlap, overlaps};
use crate::{
    diagnostic::Finding,
    model::{Subnet, VirtualNetwork},
};

/// Ranges that no virtual network may hold.
fn banned() -> [(IpNet, &'static str); 8] {
    let v4 = |a, b, c, d, length| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length));
    let v6 =
        |first, length| IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0), length));
    [
        (v4(224, 0, 0, 0, 4), "multicast"),
        (v4(255, 255, 255, 255, 32), "broadcast"),
        (v4(127, 0, 0, 0, 8), "loopback"),
        (v4(169, 254, 0, 0, 16), "link-local"),
        (v4(168, 63, 129, 16, 32), "Azure's platform address"),
        (v6(0xff00, 8), "multicast"),
        (v6(0xfe80, 10), "link-local"),
        (IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128)), "loopback"),
    ]
}

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, network) in &topology.virtual_networks {
        address_space(check, name, network);
        subnets(check, name, network);
        summaries(check, name, network);
        ddos(check, name, network);
    }
    tenants(check);
}

fn address_space(check: &mut Check<'_, '_>, name: &str, network: &VirtualNetwork) {
    let path = |index: usize| format!("virtualNetworks.{name}.addressSpace[{index}]");
    for (index, net) in network.address_space.iter().enumerate() {
        if let Some((range, what)) = banned().iter().find(|(range, _)| overlap(range, net)) {
            let finding =
                Finding::error("banned-range", format!("{net} holds addresses of {range} ({what})"));
            check.at(
                &path(index),
                finding.help("use a private range: 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or fd00::/8"),
            );
        }
    }
    for ((outer, _), (inner, index)) in
        overlaps(network.address_space.iter().enumerate().map(|(index, net)| (*net, index)))
    {
        let finding =
            Finding::error("own-ranges-overlap", format!("{inner} and {outer} of the same network overlap"));
        check.at(&path(index), finding.help(format!("remove {inner}: {outer} holds it")));
    }
}

/// What the network's gateways advertise in place of its ranges.
fn summaries(check: &mut Check<'_, '_>, name: &str, network: &VirtualNetwork) {
    let list = &network.summarized_gateway_prefixes;
    let path = format!("virtualNetworks.{name}.summarizedGatewayPrefixes");
    for ((outer, _), (inner, index)) in overlaps(list.iter().enumerate().map(|(index, net)| (*net, index))) {
        let finding =
            Finding::error("summary-overlap", format!("{inner} and {outer} of the same list overlap"));
        check.at(&format!("{path}[{index}]"), finding.help(format!("remove {inner}: {outer} holds it")));
    }
    let is_covered = |range: &&IpNet| list.iter().any(|net| net.contains(*range));
    if let Some(range) = network.address_space.iter().find(|range| !list.is_empty() && !is_covered(range)) {
        let message =
            format!("the list does not hold {range} of '{name}' itself, which is not advertised then");
        let finding = Finding::warning("summary-without-own", message);
        check.at(&path, finding.help(format!("add a prefix that holds {range}")));
    }
}

fn ddos(check: &mut Check<'_, '_>, name: &str, network: &VirtualNetwork) {
    let path = format!("virtualNetworks.{name}");
    let plans = &check.topology.ddos_protection_plans;
    match &network.ddos_protection_plan {
        // A plan may be one of another subscription: without the section there is nothing to look it up in.
        Some(plan) if !plans.is_empty() => {
            let at = format!("{path}.ddosProtectionPlan");
            check.refers(&at, "ddosProtectionPlans", plans, plan, "DDoS protection plan");
        }
        None if network.enable_ddos_protection => {
            let finding = Finding::error("ddos-without-plan", "DDoS protection needs a plan");
            check.at(
                &format!("{path}.enableDdosProtection"),
                finding.help("add ddosProtectionPlan: the name of one of ddosProtectionPlans"),
            );
        }
        _ => {}
    }
}

fn subnets(check: &mut Check<'_, '_>, name: &str, network: &VirtualNetwork) {
    let topology = check.topology;
    for (subnet_name, subnet) in &network.subnets {
        let base = format!("virtualNetworks.{name}.subnets.{subnet_name}");
        for (index, net) in subnet.address_prefixes.iter().enumerate() {
            prefix(check, &format!("{base}.addressPrefixes[{index}]"), name, network, net);
        }
        families(check, &base, subnet);
        if let Some(group) = &subnet.network_security_group {
            let path = format!("{base}.networkSecurityGroup");
            let groups = &topology.network_security_groups;
            if check.refers(&path, "networkSecurityGroups", groups, group, "network security group") {
                let place = (groups[group].location.as_deref(), groups[group].subscription.as_deref());
                same_place(check, &path, network, place, "network security group");
            }
        }
        if let Some(table) = &subnet.route_table {
            let path = format!("{base}.routeTable");
            let tables = &topology.route_tables;
            if check.refers(&path, "routeTables", tables, table, "route table") {
                let place = (tables[table].location.as_deref(), tables[table].subscription.as_deref());
                same_place(check, &path, network, place, "route table");
            }
        }
    }
    let labelled = network
        .subnets
        .iter()
        .flat_map(|(name, subnet)| subnet.address_prefixes.iter().map(move |net| (*net, name)));
    for ((outer, first), (inner, second)) in overlaps(labelled) {
        let finding = Finding::error(
            "subnets-overlap",
            format!("{inner} of '{second}' and {outer} of '{first}' overlap"),
        );
        let path = format!("virtualNetworks.{name}.subnets.{second}.addressPrefixes");
        check
            .at(&path, finding.code("NetcfgSubnetRangesOverlap").help("give each subnet a range of its own"));
    }
}

fn prefix(check: &mut Check<'_, '_>, path: &str, name: &str, network: &VirtualNetwork, net: &IpNet) {
    if !network.address_space.iter().any(|range| range.contains(net)) {
        let ranges: Vec<String> = network.address_space.iter().map(ToString::to_string).collect();
        let finding = Finding::error(
            "subnet-outside-network",
            format!("{net} is not inside the address space of '{name}'"),
        );
        let help = match first_overlap(&network.address_space, std::slice::from_ref(net)) {
            Some((range, _)) => format!("the subnet is larger than {range}: make it smaller"),
            None => format!("choose a range in {}, or add {net} to addressSpace", ranges.join(", ")),
        };
        check.at(path, finding.code("NetcfgInvalidSubnet").help(help));
    }
    let finding = match net {
        IpNet::V4(net) if net.prefix_len() > 29 => Finding::error(
            "subnet-size",
            format!("{net} is too small: Azure keeps five addresses of each subnet"),
        )
        .help("the smallest IPv4 subnet is a /29"),
        IpNet::V4(net) if net.prefix_len() < 2 => {
            Finding::error("subnet-size", format!("{net} is too large"))
                .help("the largest IPv4 subnet is a /2")
        }
        IpNet::V6(net) if net.prefix_len() != 64 => Finding::error(
            "subnet-size",
            format!("{net} is no /64: IPv6 subnets have that size and no other"),
        )
        .help(format!("write {}/64", net.network())),
        _ => return,
    };
    check.at(path, finding.code("NetcfgInvalidSubnet"));
}

fn families(check: &mut Check<'_, '_>, base: &str, subnet: &Subnet) {
    let v6 = subnet.address_prefixes.iter().filter(|net| matches!(net, IpNet::V6(_))).count();
    if v6 > 0 && v6 == subnet.address_prefixes.len() {
        let finding = Finding::error("subnet-ipv6-only", "a subnet cannot have IPv6 alone");
        check.at(&format!("{base}.addressPrefixes"), finding.help("add an IPv4 prefix beside it"));
    }
}

/// What is attached to a subnet or a NIC is in the network's region and subscription, where it names them.
pub(crate) fn same_place(
    check: &mut Check<'_, '_>,
    path: &str,
    network: &VirtualNetwork,
    (location, subscription): (Option<&str>, Option<&str>),
    kind: &str,
) {
    let region = check.region(network.location.as_deref()).to_owned();
    if let Some(location) = location.filter(|location| *location != region) {
        let message = format!("the {kind} is in {location}, the virtual network in {region}");
        let finding = Finding::error("other-region", message).code("InvalidResourceReference");
        let help = match kind {
            "NAT gateway" => format!("set location: {region} at the NAT gateway, or use another one"),
            _ => format!("use a {kind} in {region}; one without a location is in each region that uses it"),
        };
        check.at(path, finding.help(help));
    }
    if let Some(subscription) = subscription
        && network.subscription.as_deref() != Some(subscription)
    {
        let own = match &network.subscription {
            Some(own) => format!("is in {own}"),
            None => "names none".to_owned(),
        };
        let message =
            format!("the {kind} is in the subscription {subscription}, and the virtual network {own}");
        let finding = Finding::error("other-subscription", message).code("InvalidResourceReference");
        check.at(path, finding.help(format!("remove the {kind}'s subscription, or use another {kind}")));
    }
}

/// A subscription belongs to one tenant.
fn tenants(check: &mut Check<'_, '_>) {
    let mut first: HashMap<&str, (&str, &str)> = HashMap::new();
    for (name, network) in &check.topology.virtual_networks {
        let (Some(subscription), Some(tenant)) = (&network.subscription, &network.tenant) else { continue };
        let (home, by) = *first.entry(subscription).or_insert((tenant, name));
        if home != tenant {
            let message = format!(
                "the subscription {subscription} is in the tenant {home} since '{by}', not in {tenant}"
            );
            let finding = Finding::error("subscription-in-two-tenants", message);
            let path = format!("virtualNetworks.{name}.tenant");
            check.at(&path, finding.help("a subscription belongs to one tenant"));
        }
    }
}

/// Addresses of a subnet's prefix that Azure keeps for itself.
pub(crate) fn is_reserved(net: &IpNet, address: IpAddr) -> bool {
    match (net, address) {
        (IpNet::V4(net), IpAddr::V4(address)) => {
            u32::from(address) - u32::from(net.network()) < 4 || address == net.broadcast()
        }
        (IpNet::V6(net), IpAddr::V6(address)) => u128::from(address) - u128::from(net.network()) < 4,
        _ => false,
    }
}

/// How many addresses of a prefix machines can have.
pub(crate) fn usable(net: &IpNet) -> u64 {
    match net {
        IpNet::V4(net) => (1u64 << (32 - net.prefix_len())).saturating_sub(5),
        IpNet::V6(_) => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn azure_keeps_five_addresses_of_a_subnet() {
        for (net, count, first, last) in [
            ("10.0.0.0/24", 251, "10.0.0.4", "10.0.0.254"),
            ("10.0.0.0/29", 3, "10.0.0.4", "10.0.0.6"),
            ("10.0.0.0/26", 59, "10.0.0.4", "10.0.0.62"),
        ] {
            let net: IpNet = net.parse().unwrap();
            assert_eq!(usable(&net), count, "{net}");
            let mut free = net.hosts().filter(|address| !is_reserved(&net, *address));
            let (lowest, highest) = (free.next(), free.next_back());
            assert_eq!(
                (lowest, highest),
                (Some(first.parse().unwrap()), Some(last.parse().unwrap())),
                "{net}"
            );
        }
    }
}

//! What Azure counts for each region and subscription, or for each network.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Check;
use crate::{
    limit::{
        APPLICATION_GROUPS, DNS_SERVERS, NETWORKS, NICS, PEERED_ADDRESSES, PRIVATE_ADDRESSES, ROUTE_TABLES,
        SECURITY_GROUPS, SUBNETS,
    },
    model::{NetworkInterface, Subnet, SubnetRef, VirtualNetwork},
};

/// A subscription, empty where none is named, and a region.
type Place<'t> = (&'t str, &'t str);

pub(crate) fn check(check: &mut Check<'_, '_>) {
    for (name, network) in &check.topology.virtual_networks {
        check.limit(&format!("virtualNetworks.{name}.subnets"), name, network.subnets.len(), &SUBNETS);
        if let Some(options) = &network.dhcp_options {
            let path = format!("virtualNetworks.{name}.dhcpOptions.dnsServers");
            check.limit(&path, name, options.dns_servers.len(), &DNS_SERVERS);
        }
    }
    networks(check);
    shared_by_subnets(check);
    application_groups(check);
    private_addresses(check);
}

fn place<'t>(check: &Check<'t, '_>, network: &'t VirtualNetwork) -> Place<'t> {
    let region = network.location.as_deref().unwrap_or(&check.topology.location);
    (network.subscription.as_deref().unwrap_or_default(), region)
}

/// A place in a person's words.
fn shown((subscription, region): Place<'_>) -> String {
    match subscription {
        "" => region.to_owned(),
        subscription => format!("{region} of the subscription {subscription}"),
    }
}

fn networks(check: &mut Check<'_, '_>) {
    let mut networks: BTreeMap<Place<'_>, usize> = BTreeMap::new();
    for network in check.topology.virtual_networks.values() {
        *networks.entry(place(check, network)).or_default() += 1;
    }
    for (place, count) in networks {
        check.limit("virtualNetworks", &shown(place), count, &NETWORKS);
    }
    let mut nics: BTreeMap<Place<'_>, usize> = BTreeMap::new();
    for nic in check.topology.virtual_machines.values().flat_map(|machine| &machine.network_interfaces) {
        if let Some(network) = check.topology.virtual_networks.get(&nic.subnet.virtual_network) {
            *nics.entry(place(check, network)).or_default() += 1;
        }
    }
    for (place, count) in nics {
        check.limit("virtualMachines", &shown(place), count, &NICS);
    }
}

/// Route tables and security groups: one without a location stands for a copy in each place that uses it.
fn shared_by_subnets(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut tables: BTreeMap<Place<'_>, BTreeSet<&str>> = BTreeMap::new();
    let mut groups: BTreeMap<Place<'_>, BTreeSet<&str>> = BTreeMap::new();
    for (name, table) in &topology.route_tables {
        if let Some(location) = &table.location {
            let place = (table.subscription.as_deref().unwrap_or_default(), location.as_str());
            tables.entry(place).or_default().insert(name);
        }
    }
    for (name, group) in &topology.network_security_groups {
        if let Some(location) = &group.location {
            let place = (group.subscription.as_deref().unwrap_or_default(), location.as_str());
            groups.entry(place).or_default().insert(name);
        }
    }
    for network in topology.virtual_networks.values() {
        for subnet in network.subnets.values() {
            let place = place(check, network);
            tables.entry(place).or_default().extend(subnet.route_table.as_deref());
            groups.entry(place).or_default().extend(subnet.network_security_group.as_deref());
        }
    }
    for nic in topology.virtual_machines.values().flat_map(|machine| &machine.network_interfaces) {
        if let Some(network) = topology.virtual_networks.get(&nic.subnet.virtual_network) {
            groups.entry(place(check, network)).or_default().extend(nic.network_security_group.as_deref());
        }
    }
    for (place, names) in tables {
        check.limit("routeTables", &shown(place), names.len(), &ROUTE_TABLES);
    }
    for (place, names) in groups {
        check.limit("networkSecurityGroups", &shown(place), names.len(), &SECURITY_GROUPS);
    }
}

/// An application security group is in the subscription of its members; without any, in the one that is not named.
fn application_groups(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut home: HashMap<&str, &str> =
        topology.application_security_groups.keys().map(|name| (name.as_str(), "")).collect();
    for nic in topology.virtual_machines.values().flat_map(|machine| &machine.network_interfaces) {
        let network = topology.virtual_networks.get(&nic.subnet.virtual_network);
        let subscription = network.and_then(|network| network.subscription.as_deref()).unwrap_or_default();
        for group in &nic.application_security_groups {
            if let Some(home) = home.get_mut(group.as_str()) {
                *home = subscription;
            }
        }
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for subscription in home.into_values() {
        *counts.entry(subscription).or_default() += 1;
    }
    for (subscription, count) in counts {
        let owner = if subscription.is_empty() { "the subscription" } else { subscription };
        check.limit("applicationSecurityGroups", owner, count, &APPLICATION_GROUPS);
    }
}

/// The addresses that a NIC has: those that it names, and one of each other family of its subnet.
fn addresses_of(nic: &NetworkInterface, subnet: &Subnet) -> usize {
    let missing = [true, false].into_iter().filter(|is_v4| {
        subnet.address_prefixes.iter().any(|net| net.addr().is_ipv4() == *is_v4)
            && !nic.private_ip_addresses.iter().any(|address| address.is_ipv4() == *is_v4)
    });
    nic.private_ip_addresses.len() + missing.count()
}

fn private_addresses(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let find = |reference: &SubnetRef| {
        topology.virtual_networks.get(&reference.virtual_network)?.subnets.get(&reference.subnet)
    };
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for nic in topology.virtual_machines.values().flat_map(|machine| &machine.network_interfaces) {
        let count = find(&nic.subnet).map_or(0, |subnet| addresses_of(nic, subnet));
        *counts.entry(&nic.subnet.virtual_network).or_default() += count;
    }
    for endpoint in topology.private_endpoints.values() {
        *counts.entry(&endpoint.subnet.virtual_network).or_default() += 1;
    }
    let count_of = |name: &str| counts.get(name).copied().unwrap_or_default();
    for (name, network) in &topology.virtual_networks {
        let path = format!("virtualNetworks.{name}");
        check.limit(&path, name, count_of(name), &PRIVATE_ADDRESSES);
        if !network.peerings.is_empty() {
            let peers: usize = network.peerings.keys().map(|remote| count_of(remote)).sum();
            check.limit(&path, name, count_of(name) + peers, &PEERED_ADDRESSES);
        }
    }
}

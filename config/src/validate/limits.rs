//! What Azure counts for each region and subscription, or for each network.

use std::collections::{BTreeMap, HashMap};

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
        check.limit(format_args!("virtualNetworks.{name}.subnets"), name, network.subnets.len(), &SUBNETS);
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

/// How often each key is there. Equal ones mostly follow each other.
fn counted<K: Ord + Copy>(keys: impl Iterator<Item = K>) -> BTreeMap<K, usize> {
    let mut counts = BTreeMap::new();
    let mut run: Option<(K, usize)> = None;
    for key in keys {
        match &mut run {
            Some((last, count)) if *last == key => *count += 1,
            _ => {
                if let Some((last, count)) = run.replace((key, 1)) {
                    *counts.entry(last).or_default() += count;
                }
            }
        }
    }
    if let Some((last, count)) = run {
        *counts.entry(last).or_default() += count;
    }
    counts
}

fn networks(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let networks = counted(topology.virtual_networks.values().map(|network| place(check, network)));
    for (place, count) in networks {
        check.limit("virtualNetworks", &shown(place), count, &NETWORKS);
    }
    let nics = topology.virtual_machines.values().flat_map(|machine| &machine.network_interfaces);
    let homes = nics.filter_map(|nic| topology.virtual_networks.get(&nic.subnet.virtual_network));
    for (place, count) in counted(homes.map(|network| place(check, network))) {
        check.limit("virtualMachines", &shown(place), count, &NICS);
    }
}

/// Route tables and security groups: one without a location stands for a copy in each place that uses it.
fn shared_by_subnets(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let tables = topology.route_tables.iter().filter_map(|(name, table)| {
        let location = table.location.as_deref()?;
        Some(((table.subscription.as_deref().unwrap_or_default(), location), name.as_str()))
    });
    let groups = topology.network_security_groups.iter().filter_map(|(name, group)| {
        let location = group.location.as_deref()?;
        Some(((group.subscription.as_deref().unwrap_or_default(), location), name.as_str()))
    });
    let subnets = || {
        let networks = topology.virtual_networks.values();
        networks.flat_map(|network| network.subnets.values().map(move |subnet| (network, subnet)))
    };
    let tables_used = subnets()
        .filter_map(|(network, subnet)| Some((place(check, network), subnet.route_table.as_deref()?)));
    let groups_used = subnets().filter_map(|(network, subnet)| {
        Some((place(check, network), subnet.network_security_group.as_deref()?))
    });
    let nics = topology.virtual_machines.values().flat_map(|machine| &machine.network_interfaces);
    let nic_groups = nics.filter_map(|nic| {
        let group = nic.network_security_group.as_deref()?;
        Some((place(check, topology.virtual_networks.get(&nic.subnet.virtual_network)?), group))
    });
    let tables = counted(tables.chain(tables_used));
    let groups = counted(groups.chain(groups_used).chain(nic_groups));
    for (place, count) in counted(tables.keys().map(|(place, _)| *place)) {
        check.limit("routeTables", &shown(place), count, &ROUTE_TABLES);
    }
    for (place, count) in counted(groups.keys().map(|(place, _)| *place)) {
        check.limit("networkSecurityGroups", &shown(place), count, &SECURITY_GROUPS);
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
        check.limit(format_args!("virtualNetworks.{name}"), name, count_of(name), &PRIVATE_ADDRESSES);
        if !network.peerings.is_empty() {
            let peers: usize = network.peerings.keys().map(|remote| count_of(remote)).sum();
            let count = count_of(name) + peers;
            check.limit(format_args!("virtualNetworks.{name}"), name, count, &PEERED_ADDRESSES);
        }
    }
}

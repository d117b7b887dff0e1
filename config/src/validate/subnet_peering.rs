//! Peerings of some subnets of two networks.
//!
//! Source: learn.microsoft.com, "How to configure subnet peering", 12/09/2025.

use std::collections::HashSet;

use ipnet::IpNet;

use super::{Check, overlap};
use crate::{
    diagnostic::{Finding, nearest},
    limit::{SUBNETS_IN_PEERINGS, SUBNETS_PER_SIDE},
    model::{Peering, VirtualNetwork},
};

/// One half of a peering, and the networks at its ends.
#[derive(Clone, Copy)]
struct Half<'t> {
    name: &'t str,
    network: &'t VirtualNetwork,
    remote_name: &'t str,
    remote: &'t VirtualNetwork,
    peering: &'t Peering,
}

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, network) in &topology.virtual_networks {
        let mut total = 0;
        for (remote_name, peering) in &network.peerings {
            let path = format!("virtualNetworks.{name}.peerings.{remote_name}");
            if peering.peer_complete_vnets {
                complete(check, &path, peering);
            } else {
                total += peering.local_subnet_names.len();
            }
            let Some(remote) = topology.virtual_networks.get(remote_name).filter(|_| remote_name != name)
            else {
                continue;
            };
            let half = Half { name, network, remote_name, remote, peering };
            if !peering.peer_complete_vnets {
                one_half(check, &path, half);
            }
            // What the two halves disagree on is told once, at the later one.
            let is_later = topology.virtual_networks.get_index_of(remote_name)
                < topology.virtual_networks.get_index_of(name);
            if let Some(other) = remote.peerings.get(name).filter(|_| is_later) {
                both(check, &path, half, other);
            }
        }
        check.limit(format_args!("virtualNetworks.{name}.peerings"), name, total, &SUBNETS_IN_PEERINGS);
    }
}

/// Lists of subnets go with subnet peering only.
fn complete(check: &mut Check<'_, '_>, path: &str, peering: &Peering) {
    for (property, names) in [
        ("localSubnetNames", &peering.local_subnet_names),
        ("remoteSubnetNames", &peering.remote_subnet_names),
    ] {
        if !names.is_empty() {
            let message = format!("{property} is for subnet peering, and this peering is of whole networks");
            let finding = Finding::error("subnets-of-whole-peering", message);
            check.at(
                &format!("{path}.{property}"),
                finding.help("set peerCompleteVnets: false, or remove the list"),
            );
        }
    }
    if peering.enable_only_ipv6_peering {
        let message =
            "enableOnlyIPv6Peering is described for subnet peering, and this peering is of whole networks";
        let finding = Finding::warning("ipv6-only-whole-peering", message);
        check.at(
            &format!("{path}.enableOnlyIPv6Peering"),
            finding.help("set peerCompleteVnets: false and list the subnets"),
        );
    }
}

fn one_half(check: &mut Check<'_, '_>, path: &str, half: Half<'_>) {
    // What is wrong with a remote subnet is told by the half that it is local to.
    let is_mirrored = half.remote.peerings.get(half.name).is_some_and(|other| !other.peer_complete_vnets);
    let lists = [
        ("localSubnetNames", &half.peering.local_subnet_names, half.name, half.network, half.remote),
        ("remoteSubnetNames", &half.peering.remote_subnet_names, half.remote_name, half.remote, half.network),
    ];
    for (property, names, owner, network, other) in lists {
        let at = format!("{path}.{property}");
        if names.is_empty() {
            let finding = Finding::error(
                "no-peered-subnets",
                format!("the subnet peering names no subnets of '{owner}'"),
            );
            check.at_name(&at, finding.help(format!("add {property}: [...]")));
        }
        let is_told_elsewhere = is_mirrored && owner == half.remote_name;
        if !is_told_elsewhere {
            check.limit(&at, owner, names.len(), &SUBNETS_PER_SIDE);
        }
        let mut taken = HashSet::new();
        for (index, subnet) in names.iter().enumerate() {
            let at = format!("{at}[{index}]");
            if !taken.insert(subnet) {
                let finding = Finding::error("subnet-twice", format!("'{subnet}' is in the list already"));
                check.at(&at, finding.help("remove it here"));
                continue;
            }
            let only_ipv6 = half.peering.enable_only_ipv6_peering;
            if !exists(check, &at, subnet, owner, network) || is_told_elsewhere {
                continue;
            }
            participant(check, &at, subnet, (owner, network), other, only_ipv6);
        }
    }
}

fn exists(check: &mut Check<'_, '_>, at: &str, name: &str, owner: &str, network: &VirtualNetwork) -> bool {
    if network.subnets.contains_key(name) {
        return true;
    }
    if !check.is_dropped(&format!("virtualNetworks.{owner}.subnets.{name}")) {
        let message = format!("'{owner}' has no subnet '{}'", super::shown(name));
        let finding = Finding::error("unknown-reference", message).code("InvalidResourceReference");
        let help = match nearest(name, network.subnets.keys().map(String::as_str)) {
            Some(known) => format!("did you mean '{known}'?"),
            None => format!("name a subnet of '{owner}'"),
        };
        check.at(at, finding.help(help));
    }
    false
}

/// One subnet that takes part: it has the family, and its range does not occur in the other network.
fn participant(
    check: &mut Check<'_, '_>,
    at: &str,
    name: &str,
    (owner, network): (&str, &VirtualNetwork),
    other: &VirtualNetwork,
    only_ipv6: bool,
) {
    let Some(subnet) = network.subnets.get(name) else { return };
    if only_ipv6 && !subnet.address_prefixes.iter().any(|net| net.addr().is_ipv6()) {
        let message = format!("'{name}' has no IPv6 prefix, and enableOnlyIPv6Peering is set");
        let finding = Finding::error("subnet-without-ipv6", message);
        check.at(at, finding.help("give the subnet an IPv6 prefix, or remove it from the list"));
        return;
    }
    // The IPv6 prefixes of dual-stack subnets are peered by enableOnlyIPv6Peering alone.
    let prefixes = subnet.address_prefixes.iter().filter(|net| net.addr().is_ipv6() == only_ipv6);
    for prefix in prefixes {
        let ranges = network.address_space.iter().filter(|range| range.contains(prefix));
        let found = ranges.flat_map(|range| {
            other.address_space.iter().filter(move |net| overlap(range, net)).map(move |net| (range, net))
        });
        if let Some((range, net)) = found.into_iter().next() {
            let message =
                format!("'{name}' is in {range} of '{owner}', which overlaps {net} of the other network");
            let finding = Finding::error("peered-ranges-overlap", message).code("VnetAddressSpacesOverlap");
            check.at(at, finding.help("only subnets of ranges that the other network has not can be peered"));
            return;
        }
    }
}

/// What the two halves must say alike.
fn both(check: &mut Check<'_, '_>, path: &str, half: Half<'_>, other: &Peering) {
    let Half { name, remote_name, peering, .. } = half;
    if peering.peer_complete_vnets != other.peer_complete_vnets {
        let what = |complete: bool| if complete { "whole networks" } else { "subnets" };
        let message = format!(
            "this half peers {}, the half of '{remote_name}' {}",
            what(peering.peer_complete_vnets),
            what(other.peer_complete_vnets)
        );
        let finding = Finding::error("peering-types-differ", message);
        check.at_name(path, finding.help("give both halves the same peerCompleteVnets"));
        return;
    }
    if peering.enable_only_ipv6_peering != other.enable_only_ipv6_peering {
        let message = format!("enableOnlyIPv6Peering is not the same here and in '{remote_name}'");
        let finding = Finding::error("peering-types-differ", message);
        check.at_name(path, finding.help("give both halves the same enableOnlyIPv6Peering"));
    }
    if peering.peer_complete_vnets {
        return;
    }
    let pairs = [
        ("localSubnetNames", &peering.local_subnet_names, "remoteSubnetNames", &other.remote_subnet_names),
        ("remoteSubnetNames", &peering.remote_subnet_names, "localSubnetNames", &other.local_subnet_names),
    ];
    for (property, own, mirror, theirs) in pairs {
        let (own, theirs): (HashSet<&String>, HashSet<&String>) =
            (own.iter().collect(), theirs.iter().collect());
        if own != theirs {
            let mut only: Vec<&str> = own.symmetric_difference(&theirs).map(|name| name.as_str()).collect();
            only.sort_unstable();
            let message =
                format!("{property} here and {mirror} of '{remote_name}' differ in {}", only.join(", "));
            let finding = Finding::error("peered-subnets-differ", message);
            let help =
                format!("list the same subnets here and in virtualNetworks.{remote_name}.peerings.{name}");
            check.at(&format!("{path}.{property}"), finding.help(help));
        }
    }
}

/// The ranges of a remote network that a half of a peering reaches.
pub(crate) fn reached(remote: &VirtualNetwork, peering: &Peering) -> Vec<IpNet> {
    let only_ipv6 = peering.enable_only_ipv6_peering;
    if peering.peer_complete_vnets {
        let ranges = remote.address_space.iter().filter(|net| !only_ipv6 || net.addr().is_ipv6());
        return ranges.copied().collect();
    }
    let named = peering.remote_subnet_names.iter().filter_map(|name| remote.subnets.get(name));
    let prefixes = named.flat_map(|subnet| subnet.address_prefixes.iter().copied());
    prefixes.filter(|net| net.addr().is_ipv6() == only_ipv6).collect()
}

//! Pairs whose answers take another way past stateful appliances.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use vnet_config::Topology;
use vnet_config::model::{
    Access, AddressSpec, Direction, FirewallPolicy, FirewallProtocol, FirewallRule, NetworkRule,
    NetworkSecurityGroup, PortRange, ProbeProtocol, RuleAction, RuleCollection, RuleCollectionGroup,
    RuleCollectionType, SecurityProtocol, SecurityRule, ThreatIntelMode,
};
use vnet_dataplane::{PortId, Reason};
use vnet_fabric::Snapshot;
use vnet_fabric::path::{Endpoint, Outcome, ends, outcome};
use vnet_fabric::snapshot::PortKind;
use vnet_fabric::trace::Hop;

use super::design::{Design, Place};
use super::{ASYMMETRIC_PATH, Found};

/// Any port: the open variant has no rule that looks at it.
const PORT: u16 = 9;
/// Somebody on the Internet, of each family (RFC 5737, RFC 3849).
const OUTSIDE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

pub(super) fn look(design: &Design<'_>, found: &mut Vec<Found>) {
    let (_, open) = vnet_fabric::converge(&opened(design.topology));
    let edge = open.internet_edge();
    let ends: Vec<(Endpoint, Home)> = ends(&open)
        .into_iter()
        .filter(|end| end.port != edge)
        .filter_map(|end| Some((home(design, &open, &end)?, end)))
        .map(|(home, end)| (end, home))
        .collect();
    let mut said: HashSet<(String, String)> = HashSet::new();
    from_outside(&open, edge, &ends, found);
    for (from, near) in &ends {
        for (to, far) in &ends {
            let (a, b) = (near.name.clone(), far.name.clone());
            if from.name == to.name
                || said.contains(&(a.clone(), b.clone()))
                || said.contains(&(b.clone(), a.clone()))
            {
                continue;
            }
            let Ok(outcome) = outcome(&open, from, to, ProbeProtocol::Udp, Some(PORT)) else { continue };
            if let Some(message) = one_way(&open, (from, near), (to, far), &outcome) {
                said.insert((a, b));
                found.push(Found {
                    lint: ASYMMETRIC_PATH,
                    path: far.path.clone(),
                    message,
                    help: "give both subnets routes by the same appliance, or by none".to_owned(),
                });
            }
        }
    }
}

/// Machines with a public address whose answers to the Internet leave by an appliance: who asked takes them for no answers,
/// whatever the appliance makes of them.
fn from_outside(open: &Snapshot, edge: Option<PortId>, ends: &[(Endpoint, Home)], found: &mut Vec<Found>) {
    let outside = Endpoint { name: "the Internet".to_owned(), addresses: OUTSIDE.to_vec(), port: edge };
    let mut said: HashSet<&str> = HashSet::new();
    for (to, home) in ends {
        let public = to.port.is_some_and(|port| !open.public_addresses(port).is_empty());
        if !public || said.contains(&*home.name) {
            continue;
        }
        let Ok(outcome) = outcome(open, &outside, to, ProbeProtocol::Udp, Some(PORT)) else { continue };
        if outcome.arrived.is_none() || !outcome.asymmetric {
            continue;
        }
        said.insert(&home.name);
        let back: Vec<Hop> = outcome.via_reverse.iter().chain(&outcome.refused_by).copied().collect();
        found.push(Found {
            lint: ASYMMETRIC_PATH,
            path: home.path.clone(),
            message: format!(
                "the Internet reaches {} ({}) {} at its public address, and the answer leaves {}: nobody takes it for an answer",
                to.name,
                home.name,
                way(open, &outcome.via),
                way(open, &back)
            ),
            help: "publish the machine by an address of the appliance, or give its subnet a route by which answers leave \
                   for the Internet directly"
                .to_owned(),
        });
    }
}

fn way(snapshot: &Snapshot, hops: &[Hop]) -> String {
    let names: Vec<&str> = hops.iter().map(|hop| snapshot.hop_name(*hop)).collect();
    if names.is_empty() { "directly".to_owned() } else { format!("by {}", names.join(", ")) }
}

/// Where an end is: its subnet or site, and the place in the file.
struct Home {
    name: String,
    path: String,
}

/// A machine that forwards is no end: what it sends on is not its own.
fn home(design: &Design<'_>, snapshot: &Snapshot, end: &Endpoint) -> Option<Home> {
    let port = snapshot.port(end.port?)?;
    if port.ip_forwarding {
        return None;
    }
    match &port.kind {
        PortKind::Nic { vm, nic } => {
            let machine = design.topology.virtual_machines.get(&**vm)?;
            let own = machine.network_interfaces.iter().find(|own| *own.name == **nic)?;
            let (network, subnet) = (&own.subnet.virtual_network, &own.subnet.subnet);
            let place = Place { network, subnet };
            let has_table = design.network(network)?.subnets.get(subnet)?.route_table.is_some();
            let path = if has_table { format!("{}.routeTable", place.path()) } else { place.path() };
            Some(Home { name: place.name(), path })
        }
        PortKind::SiteHost { site, .. } => {
            Some(Home { name: site.to_string(), path: format!("onPremisesSites.{site}") })
        }
        _ => None,
    }
}

fn one_way(
    snapshot: &Snapshot,
    (from, near): (&Endpoint, &Home),
    (to, far): (&Endpoint, &Home),
    outcome: &Outcome,
) -> Option<String> {
    outcome.arrived?;
    let stateful = |hops: &[Hop]| -> Vec<String> {
        let kept = hops.iter().filter(|hop| !matches!(hop, Hop::Gateway(_)));
        kept.map(|hop| snapshot.hop_name(*hop).to_owned()).collect()
    };
    let return_way: Vec<Hop> = outcome.via_reverse.iter().chain(&outcome.refused_by).copied().collect();
    let (out, mut back) = (stateful(&outcome.via), stateful(&return_way));
    // An answer that is lost on the way that it should take is not asymmetric.
    let lost = outcome.reason.is_some_and(|reason| reason != Reason::AsymmetricReturn);
    let as_far = out.iter().rev().zip(&back).all(|(out, back)| out == back) && back.len() <= out.len();
    back.reverse();
    if out == back || lost && as_far {
        return None;
    }
    let half: Vec<&String> = out
        .iter()
        .filter(|name| !back.contains(name))
        .chain(back.iter().filter(|name| !out.contains(name)))
        .collect();
    let sees = match half.first() {
        Some(name) => format!("{name} sees one direction only, and drops what it has no session of"),
        None => "the appliances are passed in another order".to_owned(),
    };
    Some(format!(
        "{} ({}) reaches {} ({}) {}, and the answer comes back {}: {sees}",
        from.name,
        near.name,
        to.name,
        far.name,
        way(snapshot, &outcome.via),
        way(snapshot, &return_way)
    ))
}

/// The same design with nothing that filters, so that ways are seen which rules cut off.
fn opened(topology: &Topology) -> Topology {
    let mut open = topology.clone();
    let name = "everything-passes";
    for nic in open.virtual_machines.values_mut().flat_map(|machine| &mut machine.network_interfaces) {
        let network = topology.virtual_networks.get(&nic.subnet.virtual_network);
        let subnet = network.and_then(|network| network.subnets.get(&nic.subnet.subnet));
        let guarded = nic.network_security_group.is_some()
            || subnet.is_some_and(|subnet| subnet.network_security_group.is_some());
        // A public address without a group lets nothing in.
        let keeps = guarded && !nic.public_ip_addresses.is_empty();
        nic.network_security_group = keeps.then(|| name.to_owned());
    }
    for subnet in open.virtual_networks.values_mut().flat_map(|network| network.subnets.values_mut()) {
        subnet.network_security_group = None;
    }
    open.network_security_groups.insert(name.to_owned(), nothing_denied());
    for policy in open.firewall_policies.values_mut() {
        policy.rule_collection_groups.clear();
    }
    open.firewall_policies.insert(name.to_owned(), everything_passes());
    for firewall in open.azure_firewalls.values_mut() {
        firewall.firewall_policy = Some(name.to_owned());
    }
    open
}

fn nothing_denied() -> NetworkSecurityGroup {
    let rule = |direction| SecurityRule {
        name: format!("{direction:?}"),
        description: None,
        priority: 100,
        direction,
        access: Access::Allow,
        protocol: SecurityProtocol::Any,
        source_address_prefixes: vec![AddressSpec::Any],
        source_application_security_groups: Vec::new(),
        source_port_ranges: vec![PortRange::ANY],
        destination_address_prefixes: vec![AddressSpec::Any],
        destination_application_security_groups: Vec::new(),
        destination_port_ranges: vec![PortRange::ANY],
    };
    NetworkSecurityGroup {
        security_rules: vec![rule(Direction::Inbound), rule(Direction::Outbound)],
        ..NetworkSecurityGroup::default()
    }
}

fn everything_passes() -> FirewallPolicy {
    let rule = NetworkRule {
        name: "all".to_owned(),
        description: None,
        ip_protocols: vec![FirewallProtocol::Any],
        source_addresses: vec![AddressSpec::Any],
        source_ip_groups: Vec::new(),
        destination_addresses: vec![AddressSpec::Any],
        destination_ip_groups: Vec::new(),
        destination_fqdns: Vec::new(),
        destination_ports: vec![PortRange::ANY],
    };
    let collection = RuleCollection {
        name: "all".to_owned(),
        priority: 100,
        rule_collection_type: RuleCollectionType::Filter,
        action: RuleAction::Allow,
        rules: vec![FirewallRule::NetworkRule(rule)],
    };
    FirewallPolicy {
        threat_intel_mode: ThreatIntelMode::Off,
        rule_collection_groups: vec![RuleCollectionGroup {
            name: "all".to_owned(),
            priority: 100,
            rule_collections: vec![collection],
        }],
        ..FirewallPolicy::default()
    }
}

//! Pairs whose answers take another way past stateful appliances.

use std::collections::HashSet;

use vnet_config::Topology;
use vnet_config::model::{
    AddressSpec, FirewallPolicy, FirewallProtocol, FirewallRule, NetworkRule, PortRange, ProbeProtocol,
    RuleAction, RuleCollection, RuleCollectionGroup, RuleCollectionType, ThreatIntelMode,
};
use vnet_fabric::Snapshot;
use vnet_fabric::path::{Endpoint, Outcome, ends, outcome};
use vnet_fabric::snapshot::PortKind;
use vnet_fabric::trace::Hop;

use super::design::{Design, Place};
use super::{ASYMMETRIC_PATH, Found};

/// Any port: the open variant has no rule that looks at it.
const PORT: u16 = 9;

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
    let (out, mut back) = (stateful(&outcome.via), stateful(&outcome.via_reverse));
    back.reverse();
    // An answer that is lost for want of a route is not asymmetric.
    if out == back || (outcome.reason.is_some() && outcome.via_reverse.is_empty()) {
        return None;
    }
    let way = |hops: &[Hop]| {
        let names: Vec<&str> = hops.iter().map(|hop| snapshot.hop_name(*hop)).collect();
        if names.is_empty() { "directly".to_owned() } else { format!("by {}", names.join(", ")) }
    };
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
        way(&outcome.via),
        way(&outcome.via_reverse)
    ))
}

/// The same design with nothing that filters, so that ways are seen which rules cut off.
fn opened(topology: &Topology) -> Topology {
    let mut open = topology.clone();
    for subnet in open.virtual_networks.values_mut().flat_map(|network| network.subnets.values_mut()) {
        subnet.network_security_group = None;
    }
    for nic in open.virtual_machines.values_mut().flat_map(|machine| &mut machine.network_interfaces) {
        nic.network_security_group = None;
    }
    for policy in open.firewall_policies.values_mut() {
        policy.rule_collection_groups.clear();
    }
    let name = "everything-passes";
    open.firewall_policies.insert(name.to_owned(), everything_passes());
    for firewall in open.azure_firewalls.values_mut() {
        firewall.firewall_policy = Some(name.to_owned());
    }
    open
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

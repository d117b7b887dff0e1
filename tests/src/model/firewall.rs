//! Azure Firewall: the order of a policy's rules, and which one judges a packet.

use std::net::IpAddr;

use ipnet::IpNet;
use vnet_dataplane::Protocol;

use super::lab::{FirewallRule, Lab, Many, RuleCollection};
use super::nsg::ports_match;
use super::walk::Packet;

/// One collection with the group it stands in.
#[derive(Clone, Copy, Debug)]
pub struct Placed<'a> {
    /// The group's name.
    pub group: &'a str,
    /// The collection.
    pub collection: &'a RuleCollection,
}

/// What a collection's rules do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Destination translation.
    Nat,
    /// Network rules.
    Network,
    /// Application rules.
    Application,
}

fn kind(collection: &RuleCollection) -> Kind {
    if collection.rule_collection_type == "FirewallPolicyNatRuleCollection" {
        return Kind::Nat;
    }
    match collection.rules.first().map(|rule| rule.rule_type.as_str()) {
        Some("ApplicationRule") => Kind::Application,
        _ => Kind::Network,
    }
}

/// Every collection of a policy in the order in which they are processed: types first, in each type the
/// parent before the child, then groups by priority, then collections by priority.
pub fn order<'a>(lab: &'a Lab, policy: &str) -> Vec<(Kind, Placed<'a>)> {
    let mut lineage = vec![&lab.firewall_policies[policy]];
    while let Some(parent) = &lineage[lineage.len() - 1].base_policy {
        lineage.push(&lab.firewall_policies[parent.as_str()]);
    }
    lineage.reverse();
    let mut ordered = Vec::new();
    for wanted in [Kind::Nat, Kind::Network, Kind::Application] {
        for policy in &lineage {
            let mut groups: Vec<_> = policy.rule_collection_groups.iter().collect();
            groups.sort_by_key(|group| group.priority);
            for group in groups {
                let mut collections: Vec<_> = group.rule_collections.iter().collect();
                collections.sort_by_key(|collection| collection.priority);
                collections.retain(|collection| kind(collection) == wanted);
                let place = |collection| (wanted, Placed { group: &group.name, collection });
                ordered.extend(collections.into_iter().map(place));
            }
        }
    }
    ordered
}

/// What a firewall's network rules say of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// It passes.
    pub allowed: bool,
    /// `GROUP/COLLECTION/RULE`; absent where nothing matched.
    pub rule: Option<String>,
}

/// The first network rule that matches; without one the packet is denied.
pub fn judge(lab: &Lab, firewall: &str, packet: &Packet) -> Judgement {
    let denied = Judgement { allowed: false, rule: None };
    let Some(policy) = &lab.azure_firewalls[firewall].firewall_policy else { return denied };
    for (kind, Placed { group, collection }) in order(lab, policy) {
        if kind != Kind::Network {
            continue;
        }
        if let Some(rule) = collection.rules.iter().find(|rule| matches(lab, rule, packet)) {
            let allowed = collection.action == "Allow";
            return Judgement { allowed, rule: Some(format!("{group}/{}/{}", collection.name, rule.name)) };
        }
    }
    denied
}

fn matches(lab: &Lab, rule: &FirewallRule, packet: &Packet) -> bool {
    let protocol = rule.ip_protocols.iter().any(|wanted| match wanted.to_ascii_uppercase().as_str() {
        "ANY" => true,
        "TCP" => packet.protocol == Protocol::TCP,
        "UDP" => packet.protocol == Protocol::UDP,
        "ICMP" => packet.protocol.is_icmp(),
        _ => false,
    });
    protocol
        && side(lab, &rule.source_addresses, &rule.source_ip_groups, packet.source)
        && side(lab, &rule.destination_addresses, &rule.destination_ip_groups, packet.destination)
        && ports_match([&rule.destination_ports, &Many::default()], packet.destination_port, packet.protocol)
}

fn side(lab: &Lab, addresses: &[String], groups: &[String], address: IpAddr) -> bool {
    let grouped = groups.iter().flat_map(|group| lab.ip_groups[group.as_str()].list());
    addresses.iter().chain(grouped).any(|text| holds(text, address))
}

/// `*`, an address, a prefix, or a range of addresses.
fn holds(text: &str, address: IpAddr) -> bool {
    if text == "*" {
        return true;
    }
    if let Some((low, high)) = text.split_once('-') {
        let bound = |text: &str| text.trim().parse::<IpAddr>().ok();
        return match (bound(low), bound(high)) {
            (Some(low), Some(high)) => (low..=high).contains(&address),
            _ => false,
        };
    }
    match (text.parse::<IpNet>(), text.parse::<IpAddr>()) {
        (Ok(prefix), _) => prefix.contains(&address),
        (_, Ok(one)) => one == address,
        _ => false,
    }
}

/// Private destinations keep the client's address; any other sees the firewall's. The policy may name others.
pub fn translates(lab: &Lab, firewall: &str, destination: IpAddr) -> bool {
    const PRIVATE: [&str; 5] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];
    let policy = lab.azure_firewalls[firewall].firewall_policy.as_deref();
    let said = policy.and_then(|policy| lab.firewall_policies[policy].snat.as_ref());
    match said.map(|snat| &snat.private_ranges).filter(|ranges| !ranges.is_empty()) {
        Some(ranges) => !ranges.iter().any(|range| range.contains(&destination)),
        None => !PRIVATE.iter().any(|prefix| holds(prefix, destination)),
    }
}

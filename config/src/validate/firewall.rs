//! Firewalls, their policies and IP groups.

use super::{Check, Owners, names::shown};
use crate::{
    diagnostic::Finding,
    model::{
        AddressSpec, AzureFirewall, FirewallPolicy, FirewallProtocol, FirewallRule, FirewallSku, NetworkRule,
        RuleAction, RuleCollection, RuleCollectionType, ThreatIntelMode,
    },
};

/// Priorities of groups and collections.
const PRIORITIES: std::ops::RangeInclusive<u32> = 100..=65_000;

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut networks = Owners::new();
    for (name, firewall) in &topology.azure_firewalls {
        one(check, name, firewall, &mut networks);
    }
    for (name, policy) in &topology.firewall_policies {
        parent(check, name, policy);
        groups(check, name, policy);
    }
    for (name, group) in &topology.ip_groups {
        for (index, spec) in group.ip_addresses.iter().enumerate() {
            if matches!(spec, AddressSpec::Any | AddressSpec::Tag(_)) {
                let finding = Finding::error("ip-group-entry", format!("'{spec}' cannot be in an IP group"));
                check.at(
                    &format!("ipGroups.{name}.ipAddresses[{index}]"),
                    finding.help("write addresses, prefixes or ranges"),
                );
            }
        }
    }
}

fn one<'a>(
    check: &mut Check<'a, '_>,
    name: &str,
    firewall: &'a AzureFirewall,
    networks: &mut Owners<&'a str>,
) {
    let topology = check.topology;
    let path = format!("azureFirewalls.{name}");
    let at = format!("{path}.virtualNetwork");
    let network_name = &firewall.virtual_network;
    if check.refers(&at, "virtualNetworks", &topology.virtual_networks, network_name, "virtual network") {
        if let Some(first) = networks.take(network_name, || name.to_owned()) {
            let finding = Finding::error(
                "two-firewalls",
                format!("'{network_name}' has the firewall '{first}' already"),
            );
            check
                .at(&at, finding.help("a virtual network has one firewall; a second one needs a second hub"));
        }
        subnet(check, &at, network_name, "AzureFirewallSubnet");
        if firewall.sku == FirewallSku::Basic {
            subnet(check, &at, network_name, "AzureFirewallManagementSubnet");
        }
    }
    let Some(policy_name) = &firewall.firewall_policy else { return };
    let at = format!("{path}.firewallPolicy");
    if check.refers(&at, "firewallPolicies", &topology.firewall_policies, policy_name, "firewall policy") {
        let tier = topology.firewall_policies[policy_name].sku.unwrap_or_default();
        let fits = match tier {
            FirewallSku::Basic => firewall.sku == FirewallSku::Basic,
            FirewallSku::Standard => firewall.sku != FirewallSku::Basic,
            FirewallSku::Premium => firewall.sku == FirewallSku::Premium,
        };
        // A policy that names no tier fits whatever firewall uses it.
        if !fits && topology.firewall_policies[policy_name].sku.is_some() {
            let message = format!("the policy '{policy_name}' is {tier:?}, the firewall {:?}", firewall.sku);
            check.at(&at, Finding::error("policy-tier", message).help("give both the same tier"));
        }
    }
}

fn subnet(check: &mut Check<'_, '_>, at: &str, network: &str, subnet: &str) {
    let base = format!("virtualNetworks.{network}.subnets.{subnet}");
    let has = check.topology.virtual_networks[network].subnets.contains_key(subnet);
    if !has && !check.is_dropped(&base) {
        let finding = Finding::error("firewall-subnet-missing", format!("'{network}' has no {subnet}"));
        check.at(at, finding.help(format!("add {subnet} with a /26 to the subnets of '{network}'")));
    }
}

fn parent(check: &mut Check<'_, '_>, name: &str, policy: &FirewallPolicy) {
    let topology = check.topology;
    let Some(parent_name) = &policy.base_policy else { return };
    let at = format!("firewallPolicies.{name}.basePolicy");
    if !check.refers(&at, "firewallPolicies", &topology.firewall_policies, parent_name, "firewall policy") {
        return;
    }
    let parent = &topology.firewall_policies[parent_name];
    if let (Some(own), Some(other)) = (&policy.location, &parent.location)
        && own != other
    {
        let message = format!("'{name}' is in {own}, its parent '{parent_name}' in {other}");
        let finding = Finding::error("other-region", message).code("InvalidResourceReference");
        check.at(&at, finding.help("a policy and its parent are in one region"));
    }
    let mut ancestor = Some(parent_name);
    let mut steps = 0;
    while let Some(current) = ancestor {
        if current == name || steps > topology.firewall_policies.len() {
            let finding = Finding::error("policy-cycle", format!("'{name}' inherits from itself"));
            check.at(&at, finding.help("remove one basePolicy of the circle"));
            return;
        }
        steps += 1;
        ancestor = topology.firewall_policies.get(current).and_then(|policy| policy.base_policy.as_ref());
    }
    let rank = |mode: ThreatIntelMode| match mode {
        ThreatIntelMode::Off => 0,
        ThreatIntelMode::Alert => 1,
        ThreatIntelMode::Deny => 2,
    };
    if rank(policy.threat_intel_mode) < rank(parent.threat_intel_mode) {
        let message = format!(
            "threatIntelMode {:?} is laxer than {:?} of '{parent_name}'",
            policy.threat_intel_mode, parent.threat_intel_mode
        );
        let finding = Finding::error("threat-intel-laxer", message);
        check.at(
            &format!("firewallPolicies.{name}.threatIntelMode"),
            finding.help("a child policy may only be stricter than its parent"),
        );
    }
}

fn priority(check: &mut Check<'_, '_>, path: &str, name: &str, priority: u32, taken: &mut Owners<u32>) {
    let at = format!("{path}.priority");
    if !PRIORITIES.contains(&priority) {
        let finding =
            Finding::error("rule-priority", format!("the priority {priority} is outside 100 to 65000"));
        check.at(&at, finding.help("the lowest number comes first"));
    }
    if let Some(first) = taken.take(priority, || name.to_owned()) {
        let finding =
            Finding::error("rule-priority-twice", format!("'{first}' has the priority {priority} already"));
        check.at(&at, finding.help("give each a priority of its own"));
    }
}

/// Checks the name of a rule, route, group or collection in its list.
pub(crate) fn rule_name(check: &mut Check<'_, '_>, path: &str, name: &str, taken: &mut Owners<String>) {
    let at = format!("{path}.name");
    let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let ends = name.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
    if !(starts && ends && is_word && name.len() <= super::names::RESOURCE_NAME_CHARS_MAX) {
        let finding = Finding::error("resource-name", format!("'{}' cannot be a name here", shown(name)));
        check.at(
            &at,
            finding.code("InvalidResourceName").help("use 1 to 80 letters, digits, '.', '_' and '-'"),
        );
    }
    if taken.take(name.to_lowercase(), || path.to_owned()).is_some() {
        let finding =
            Finding::error("name-twice", format!("the list has another entry named '{}'", shown(name)));
        check.at(&at, finding.help("rename one of the two"));
    }
}

fn groups(check: &mut Check<'_, '_>, name: &str, policy: &FirewallPolicy) {
    let mut names = Owners::new();
    let mut priorities = Owners::new();
    for (index, group) in policy.rule_collection_groups.iter().enumerate() {
        let path = format!("firewallPolicies.{name}.ruleCollectionGroups[{index}]");
        rule_name(check, &path, &group.name, &mut names);
        priority(check, &path, &group.name, group.priority, &mut priorities);
        let mut collection_names = Owners::new();
        let mut collection_priorities = Owners::new();
        for (index, collection) in group.rule_collections.iter().enumerate() {
            let path = format!("{path}.ruleCollections[{index}]");
            rule_name(check, &path, &collection.name, &mut collection_names);
            priority(check, &path, &collection.name, collection.priority, &mut collection_priorities);
            rules(check, &path, collection);
        }
    }
}

fn rules(check: &mut Check<'_, '_>, path: &str, collection: &RuleCollection) {
    let is_nat = collection.rule_collection_type == RuleCollectionType::Nat;
    if is_nat != (collection.action == RuleAction::Dnat) {
        let finding = Finding::error("collection-action", "action and ruleCollectionType do not go together");
        check.at(
            &format!("{path}.action"),
            finding.help("a filter collection has Allow or Deny, a NAT collection has DNAT"),
        );
    } else if is_nat {
        check.unsupported(&format!("{path}.ruleCollectionType"), "a NAT rule collection");
        return;
    }
    let mut names = Owners::new();
    for (index, rule) in collection.rules.iter().enumerate() {
        let path = format!("{path}.rules[{index}]");
        rule_name(check, &path, rule.name(), &mut names);
        let first = &collection.rules[0];
        if std::mem::discriminant(first) != std::mem::discriminant(rule) {
            let finding = Finding::error("collection-mixed", "a collection holds rules of one type");
            check.at(&format!("{path}.ruleType"), finding.help("move the rule into a collection of its own"));
        }
        match rule {
            FirewallRule::NetworkRule(rule) => network_rule(check, &path, rule),
            FirewallRule::ApplicationRule(_) => {
                check.unsupported(&format!("{path}.ruleType"), "an application rule")
            }
            FirewallRule::NatRule(_) => check.unsupported(&format!("{path}.ruleType"), "a NAT rule"),
        }
    }
}

fn network_rule(check: &mut Check<'_, '_>, path: &str, rule: &NetworkRule) {
    let topology = check.topology;
    let sides = [
        ("source", &rule.source_addresses, &rule.source_ip_groups, true),
        (
            "destination",
            &rule.destination_addresses,
            &rule.destination_ip_groups,
            rule.destination_fqdns.is_empty(),
        ),
    ];
    for (side, addresses, ip_groups, is_needed) in sides {
        if addresses.is_empty() && ip_groups.is_empty() && is_needed {
            let finding = Finding::error("rule-without-side", format!("the rule names no {side}"));
            check.at(path, finding.help(format!("write {side}Addresses: ['*'] for everybody")));
        }
        for (index, spec) in addresses.iter().enumerate() {
            if let AddressSpec::Tag(tag) = spec {
                check.unsupported(
                    &format!("{path}.{side}Addresses[{index}]"),
                    &format!("the service tag '{tag}' in a firewall rule"),
                );
            }
        }
        for (index, group) in ip_groups.iter().enumerate() {
            check.refers(
                &format!("{path}.{side}IpGroups[{index}]"),
                "ipGroups",
                &topology.ip_groups,
                group,
                "IP group",
            );
        }
    }
    if !rule.destination_fqdns.is_empty() {
        check.unsupported(&format!("{path}.destinationFqdns"), "a name as destination of a network rule");
    }
    let has_ports = rule
        .ip_protocols
        .iter()
        .any(|protocol| matches!(protocol, FirewallProtocol::Tcp | FirewallProtocol::Udp));
    if rule.destination_ports.is_empty() && has_ports {
        let finding =
            Finding::error("rule-without-ports", "a rule for TCP or UDP names its destination ports");
        check.at(path, finding.help("write destinationPorts: ['*'] for every port"));
    }
}

//! Network security groups and application security groups.

use std::collections::{HashMap, HashSet};

use super::{Check, Owners};
use crate::{
    diagnostic::Finding,
    limit::{GROUPS_PER_NIC, GROUPS_PER_NSG, GROUPS_PER_SIDE, NICS_PER_GROUP, PREFIXES, RULES},
    model::{AddressSpec, NetworkSecurityGroup, SecurityRule},
};

/// Priorities that users may give.
const PRIORITIES: std::ops::RangeInclusive<u16> = 100..=4_096;

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let members = members(check);
    let topology = check.topology;
    for (name, group) in &topology.network_security_groups {
        rules(check, name, group, &members);
        counts(check, name, group);
    }
}

/// The network of each application security group: that of its first member. Checks members and counts them.
fn members<'t>(check: &mut Check<'t, '_>) -> HashMap<&'t str, &'t str> {
    let topology = check.topology;
    let known = &topology.application_security_groups;
    let mut first: HashMap<&str, (&str, &str)> = HashMap::new();
    let mut count: HashMap<&str, usize> = HashMap::new();
    for (machine, value) in &topology.virtual_machines {
        for (index, nic) in value.network_interfaces.iter().enumerate() {
            let base =
                format!("virtualMachines.{machine}.networkInterfaces[{index}].applicationSecurityGroups");
            check.limit(&base, machine, nic.application_security_groups.len(), &GROUPS_PER_NIC);
            let network = nic.subnet.virtual_network.as_str();
            let mut own = HashSet::new();
            for (position, group) in nic.application_security_groups.iter().enumerate() {
                let at = format!("{base}[{position}]");
                if !check.refers(&at, "applicationSecurityGroups", known, group, "application security group")
                    || !own.insert(group)
                {
                    continue;
                }
                *count.entry(group).or_default() += 1;
                if let (Some(location), Some(home)) =
                    (&known[group].location, topology.virtual_networks.get(network))
                {
                    let place = (Some(location.as_str()), None);
                    super::network::same_place(check, &at, home, place, "application security group");
                }
                let (home, by) = *first.entry(group).or_insert((network, machine));
                if home != network {
                    let message = format!(
                        "the members of '{group}' are in '{home}' since the virtual machine '{by}'; this NIC is in '{network}'"
                    );
                    let finding = Finding::error("group-in-two-networks", message);
                    let help = "use one application security group for each virtual network";
                    check.at(&at, finding.help(help));
                }
            }
        }
    }
    for group in known.keys() {
        let members = count.get(group.as_str()).copied().unwrap_or_default();
        check.limit(format_args!("applicationSecurityGroups.{group}"), group, members, &NICS_PER_GROUP);
    }
    first.into_iter().map(|(group, (network, _))| (group, network)).collect()
}

fn counts(check: &mut Check<'_, '_>, name: &str, group: &NetworkSecurityGroup) {
    let path = format!("networkSecurityGroups.{name}.securityRules");
    let rules = &group.security_rules;
    check.limit(&path, name, rules.len(), &RULES);
    let sources: usize = rules.iter().map(|rule| rule.source_address_prefixes.len()).sum();
    let destinations: usize = rules.iter().map(|rule| rule.destination_address_prefixes.len()).sum();
    check.limit(&path, name, sources.max(destinations), &PREFIXES);
    let groups: HashSet<&String> = rules
        .iter()
        .flat_map(|rule| {
            rule.source_application_security_groups
                .iter()
                .chain(&rule.destination_application_security_groups)
        })
        .collect();
    check.limit(&path, name, groups.len(), &GROUPS_PER_NSG);
}

fn rules(check: &mut Check<'_, '_>, name: &str, group: &NetworkSecurityGroup, members: &HashMap<&str, &str>) {
    let mut names = Owners::new();
    let mut priorities = Owners::new();
    for (index, rule) in group.security_rules.iter().enumerate() {
        let path = format!("networkSecurityGroups.{name}.securityRules[{index}]");
        super::firewall::rule_name(check, &path, &rule.name, &mut names);
        if !PRIORITIES.contains(&rule.priority) {
            let message = format!(
                "the priority {} is outside {} to {}",
                rule.priority,
                PRIORITIES.start(),
                PRIORITIES.end()
            );
            let finding = Finding::error("rule-priority", message).code("SecurityRuleInvalidPriority");
            check.at(&format!("{path}.priority"), finding.help("the lowest number is judged first"));
        }
        if let Some(first) = priorities.take((rule.direction, rule.priority), || rule.name.clone()) {
            let message = format!("'{first}' has the priority {} in this direction already", rule.priority);
            let finding = Finding::error("rule-priority-twice", message).code("SecurityRuleConflict");
            check.at(
                &format!("{path}.priority"),
                finding.help("each rule of a direction has a priority of its own"),
            );
        }
        let source = &rule.source_address_prefixes;
        side(check, &path, "source", source, &rule.source_application_security_groups);
        let destination = &rule.destination_address_prefixes;
        side(check, &path, "destination", destination, &rule.destination_application_security_groups);
        one_family(check, &path, rule);
        one_network(check, &path, rule, members);
        ports(check, &path, rule);
    }
}

fn side(check: &mut Check<'_, '_>, path: &str, side: &str, prefixes: &[AddressSpec], groups: &[String]) {
    let prefixes_path = format!("{path}.{side}AddressPrefixes");
    match (prefixes.is_empty(), groups.is_empty()) {
        (true, true) => {
            let finding = Finding::error("rule-without-side", format!("the rule names no {side}"));
            check.at(path, finding.help(format!("write {side}AddressPrefix: '*' for everybody")));
        }
        (false, false) => {
            let message = format!("the rule names its {side} by prefixes and by application security groups");
            check.at(&prefixes_path, Finding::error("rule-side-twice", message).help("use one of the two"));
        }
        _ => {}
    }
    for (index, spec) in prefixes.iter().enumerate() {
        let at = format!("{prefixes_path}[{index}]");
        match spec {
            AddressSpec::Tag(tag) => {
                super::service_tag::tag(check, &at, tag, Some("SecurityRuleInvalidAddressPrefix"));
            }
            AddressSpec::Range(..) => {
                let finding = Finding::error(
                    "range-in-nsg",
                    format!("{spec} is a range; a security rule takes prefixes"),
                );
                check.at(
                    &at,
                    finding.code("SecurityRuleInvalidAddressPrefix").help("write the range as prefixes"),
                );
            }
            AddressSpec::Any | AddressSpec::Prefix(_) => {}
        }
        if prefixes.len() > 1 && matches!(spec, AddressSpec::Tag(_) | AddressSpec::Any) {
            let finding =
                Finding::error("tag-in-list", format!("'{spec}' cannot stand in a list with others"));
            let help = format!("write a rule of its own with {side}AddressPrefix: '{spec}'");
            check.at(&at, finding.code("SecurityRuleParameterContainsUnsupportedValue").help(help));
        }
    }
    let known = &check.topology.application_security_groups;
    let groups_path = format!("{path}.{side}ApplicationSecurityGroups");
    for (index, group) in groups.iter().enumerate() {
        let at = format!("{groups_path}[{index}]");
        check.refers(&at, "applicationSecurityGroups", known, group, "application security group");
    }
    check.limit(&groups_path, "the rule", groups.len(), &GROUPS_PER_SIDE);
}

/// All prefixes of a rule are of one address family, both sides taken together. Azure's documentation does not name the code; it is
/// in reports of users (Azure/AKS issue 3136, hashicorp/terraform-provider-azurerm issue 12534).
fn one_family(check: &mut Check<'_, '_>, path: &str, rule: &SecurityRule) {
    let sides =
        [("source", &rule.source_address_prefixes), ("destination", &rule.destination_address_prefixes)];
    let mut prefixes = sides.into_iter().flat_map(|(side, specs)| {
        specs.iter().enumerate().filter_map(move |(index, spec)| match spec {
            AddressSpec::Prefix(prefix) => Some((side, index, prefix)),
            _ => None,
        })
    });
    let Some((_, _, first)) = prefixes.next() else { return };
    let family = |v4: bool| if v4 { "IPv4" } else { "IPv6" };
    let v4 = first.addr().is_ipv4();
    if let Some((side, index, other)) = prefixes.find(|(_, _, other)| other.addr().is_ipv4() != v4) {
        let message =
            format!("the rule names {first}, which is {}, and {other}, which is {}", family(v4), family(!v4));
        let finding = Finding::error("rule-in-two-families", message)
            .code("ResourceCannotContainAddressPrefixesFromDifferentAddressFamilies");
        let at = format!("{path}.{side}AddressPrefixes[{index}]");
        check.at(&at, finding.help("write a rule for each address family"));
    }
}

/// All application security groups of a rule have their members in one network.
fn one_network(check: &mut Check<'_, '_>, path: &str, rule: &SecurityRule, members: &HashMap<&str, &str>) {
    let sides = [
        ("source", &rule.source_application_security_groups),
        ("destination", &rule.destination_application_security_groups),
    ];
    let mut first: Option<(&str, &str)> = None;
    for (side, groups) in sides {
        for (index, group) in groups.iter().enumerate() {
            let Some(network) = members.get(group.as_str()) else { continue };
            let (home, by) = *first.get_or_insert((network, group));
            if home != *network {
                let message =
                    format!("the members of '{group}' are in '{network}', those of '{by}' in '{home}'");
                let finding = Finding::error("rule-in-two-networks", message)
                    .code("AllApplicationSecurityGroupsInSecurityRuleMustBeFromSameVnet");
                let at = format!("{path}.{side}ApplicationSecurityGroups[{index}]");
                check.at(&at, finding.help("name one of the two sides by prefixes"));
            }
        }
    }
}

fn ports(check: &mut Check<'_, '_>, path: &str, rule: &SecurityRule) {
    for (property, ports) in [
        ("sourcePortRanges", &rule.source_port_ranges),
        ("destinationPortRanges", &rule.destination_port_ranges),
    ] {
        if ports.is_empty() {
            let finding = Finding::error("rule-without-ports", format!("{property} is an empty list"));
            check.at(
                &format!("{path}.{property}"),
                finding.help("leave it out, or write '*', for every port"),
            );
        }
    }
}

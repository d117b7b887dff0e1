//! Network security groups.

use super::{Check, Owners};
use crate::{
    diagnostic::{Finding, nearest},
    model::{AddressSpec, NetworkSecurityGroup, SERVICE_TAGS, SecurityRule},
};

/// Most rules of one group.
const RULES_MAX: usize = 1_000;
/// Priorities that users may give.
const PRIORITIES: std::ops::RangeInclusive<u16> = 100..=4_096;
/// Most application security groups on one side of a rule.
const GROUPS_PER_SIDE_MAX: usize = 10;

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    for (name, group) in &topology.network_security_groups {
        rules(check, name, group);
    }
    for (name, network) in &topology.virtual_networks {
        for (subnet_name, subnet) in &network.subnets {
            let is_closed = matches!(
                subnet_name.as_str(),
                "GatewaySubnet"
                    | "AzureFirewallSubnet"
                    | "AzureFirewallManagementSubnet"
                    | "RouteServerSubnet"
            );
            if is_closed && subnet.network_security_group.is_some() {
                let path = format!("virtualNetworks.{name}.subnets.{subnet_name}.networkSecurityGroup");
                let finding = Finding::error(
                    "nsg-on-appliance-subnet",
                    format!("{subnet_name} cannot have a network security group"),
                );
                check.at(&path, finding.help("remove it; guard the subnets of the machines instead"));
            }
        }
    }
}

fn rules(check: &mut Check<'_, '_>, name: &str, group: &NetworkSecurityGroup) {
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
        ports(check, &path, rule);
    }
    if group.security_rules.len() > RULES_MAX {
        let finding = Finding::error("too-many-rules", format!("'{name}' has more than {RULES_MAX} rules"));
        check.at_name(
            &format!("networkSecurityGroups.{name}.securityRules"),
            finding.help("merge rules: each takes lists of prefixes and ports"),
        );
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
            AddressSpec::Tag(tag) => service_tag(check, &at, tag),
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
    }
    let known = &check.topology.application_security_groups;
    for (index, group) in groups.iter().enumerate() {
        let capital = if side == "source" { "source" } else { "destination" };
        let at = format!("{path}.{capital}ApplicationSecurityGroups[{index}]");
        check.refers(&at, "applicationSecurityGroups", known, group, "application security group");
    }
    if groups.len() > GROUPS_PER_SIDE_MAX {
        let finding = Finding::error(
            "too-many-groups",
            format!("a rule takes {GROUPS_PER_SIDE_MAX} application security groups as {side}"),
        );
        check.at(&format!("{path}.{side}ApplicationSecurityGroups"), finding.help("use several rules"));
    }
}

/// Other tags stand for lists of public prefixes, which the topology gives.
fn service_tag(check: &mut Check<'_, '_>, at: &str, tag: &str) {
    if SERVICE_TAGS.contains(&tag) || check.topology.service_tag_prefixes(tag).is_some() {
        return;
    }
    let finding = Finding::warning(
        "service-tag-empty",
        format!("the service tag '{tag}' has no prefixes here and matches nothing"),
    );
    let known = SERVICE_TAGS.iter().copied().chain(check.topology.service_tags.tags().map(|(name, _)| name));
    let help = match nearest(tag, known) {
        Some(known) => format!("did you mean '{known}'?"),
        None => format!(
            "add serviceTags: {{{tag}: [PREFIX, ...]}}, or {{file: PATH}} with Microsoft's published list"
        ),
    };
    check.at(at, finding.help(help));
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

//! NAT rules of VPN gateways, and the connections that use them.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Check, Owners, overlap, overlaps};
use crate::{
    diagnostic::Finding,
    limit::NAT_RULES,
    model::{
        Connection, ConnectionType, GatewayNatRule, NatMapping, NatMode, NatType, VirtualNetworkGateway,
    },
};

/// The shortest prefix of an external range of a dynamic rule.
const DYNAMIC_EXTERNAL_LENGTH: u8 = 26;

pub(crate) fn check(check: &mut Check<'_, '_>, path: &str, name: &str, gateway: &VirtualNetworkGateway) {
    let base = format!("{path}.natRules");
    check.limit(&base, name, gateway.nat_rules.len(), &NAT_RULES);
    let mut names = Owners::new();
    for (index, rule) in gateway.nat_rules.iter().enumerate() {
        let at = format!("{base}[{index}]");
        if names.take(rule.name.to_lowercase(), String::new).is_some() {
            let finding = Finding::error("name-twice", format!("'{}' names two NAT rules", rule.name));
            check.at(&format!("{at}.name"), finding.help("rename one of the two"));
        }
        if let Some(id) = &rule.ip_configuration_id {
            super::bgp::instance(check, &format!("{at}.ipConfigurationId"), gateway, id);
        }
        match rule.nat_type {
            NatType::Static => one_to_one(check, &at, rule),
            NatType::Dynamic => many_to_few(check, &at, rule),
        }
    }
    external(check, &base, name, gateway);
}

/// Ranges of a static rule stand opposite each other, of one size.
fn one_to_one(check: &mut Check<'_, '_>, path: &str, rule: &GatewayNatRule) {
    let (internal, external) = (&rule.internal_mappings, &rule.external_mappings);
    if internal.len() != external.len() {
        let message = format!("{} ranges stand before and {} after", internal.len(), external.len());
        let finding = Finding::error("nat-static-count", message);
        check.at(&format!("{path}.externalMappings"), finding.help("give each range one that it becomes"));
    }
    for (index, (before, after)) in internal.iter().zip(external).enumerate() {
        let at = format!("{path}.externalMappings[{index}].addressSpace");
        if !is_alike(&before.address_space, &after.address_space) {
            let message = format!(
                "{} and {} differ in size; a static rule translates address by address",
                before.address_space, after.address_space
            );
            let help = format!("use a range of /{}", before.address_space.prefix_len());
            check.at(&at, Finding::error("nat-static-size", message).help(help));
        }
        if ports(before) != ports(after) {
            let finding = Finding::error("nat-static-ports", "the ports before and after differ in number");
            let help = "give both sides ranges of as many ports, or none";
            check.at(&format!("{path}.externalMappings[{index}].portRange"), finding.help(help));
        }
    }
}

fn is_alike(a: &IpNet, b: &IpNet) -> bool {
    a.prefix_len() == b.prefix_len() && a.addr().is_ipv4() == b.addr().is_ipv4()
}

/// How many ports a mapping has, less one.
fn ports(mapping: &NatMapping) -> Option<u16> {
    mapping.port_range.map(|range| range.to - range.from)
}

fn many_to_few(check: &mut Check<'_, '_>, path: &str, rule: &GatewayNatRule) {
    for (index, mapping) in rule.external_mappings.iter().enumerate() {
        let net = mapping.address_space;
        if net.addr().is_ipv4() && net.prefix_len() < DYNAMIC_EXTERNAL_LENGTH {
            let message =
                format!("{net} is too large for a dynamic rule: /{DYNAMIC_EXTERNAL_LENGTH} at most");
            let finding = Finding::error("nat-dynamic-size", message);
            let at = format!("{path}.externalMappings[{index}].addressSpace");
            check.at(&at, finding.help(format!("use a /{DYNAMIC_EXTERNAL_LENGTH} or smaller")));
        }
    }
}

/// What a rule makes of addresses must not be anything else that the gateway reaches.
fn external(check: &mut Check<'_, '_>, base: &str, name: &str, gateway: &VirtualNetworkGateway) {
    let topology = check.topology;
    let all = gateway.nat_rules.iter().enumerate().flat_map(|(rule, value)| {
        let mappings = value.external_mappings.iter().enumerate();
        mappings.map(move |(index, mapping)| (mapping.address_space, (rule, index)))
    });
    let all: Vec<(IpNet, (usize, usize))> = all.collect();
    for ((outer, (first, _)), (inner, (second, index))) in overlaps(all.iter().copied()) {
        let message = format!("{inner} overlaps {outer} of '{}'", gateway.nat_rules[first].name);
        let finding = Finding::error("nat-external-overlap", message);
        let at = format!("{base}[{second}].externalMappings[{index}].addressSpace");
        check.at(&at, finding.help("give each rule external ranges of its own"));
    }
    let network = topology.virtual_networks.get(&gateway.virtual_network);
    let own = network.into_iter().flat_map(|network| &network.address_space);
    let mut taken: Vec<(&IpNet, &str)> = own.map(|net| (net, gateway.virtual_network.as_str())).collect();
    for connection in topology.connections.values() {
        // With an ingress rule the site's ranges are seen as others.
        if connection.virtual_network_gateway1 != name || !connection.ingress_nat_rules.is_empty() {
            continue;
        }
        let local = connection.local_network_gateway2.as_ref();
        let local = local.and_then(|local| topology.local_network_gateways.get_key_value(local));
        if let Some((local, value)) = local {
            taken.extend(value.local_network_address_space.iter().map(|net| (net, local.as_str())));
        }
    }
    for (net, (rule, index)) in &all {
        if let Some((other, owner)) = taken.iter().find(|(other, _)| overlap(other, net)) {
            let message = format!("{net} overlaps {other} of '{owner}', which the gateway reaches");
            let finding = Finding::error("nat-external-overlap", message);
            let at = format!("{base}[{rule}].externalMappings[{index}].addressSpace");
            check.at(&at, finding.help("choose an external range that nothing has"));
        }
    }
}

/// The rules that a connection names.
pub(crate) fn used(
    check: &mut Check<'_, '_>,
    path: &str,
    connection: &Connection,
    gateway: &VirtualNetworkGateway,
) {
    for (property, mode, names) in [
        ("ingressNatRules", NatMode::IngressSnat, &connection.ingress_nat_rules),
        ("egressNatRules", NatMode::EgressSnat, &connection.egress_nat_rules),
    ] {
        let list = format!("{path}.{property}");
        if !names.is_empty() && connection.connection_type != ConnectionType::IPsec {
            let finding = Finding::error("nat-connection-type", "NAT rules are for IPsec connections");
            check.at(&list, finding.help("remove it"));
        }
        if !names.is_empty() && connection.use_policy_based_traffic_selectors {
            let finding =
                Finding::error("nat-with-selectors", "NAT rules exclude policy-based traffic selectors");
            check.at(&list, finding.help("remove it, or usePolicyBasedTrafficSelectors"));
        }
        for (index, name) in names.iter().enumerate() {
            let at = format!("{list}[{index}]");
            match gateway.nat_rule(name) {
                None => unknown(check, &at, connection, gateway, name),
                Some(rule) => one_use(check, &at, connection, rule, mode),
            }
        }
    }
}

fn unknown(
    check: &mut Check<'_, '_>,
    path: &str,
    connection: &Connection,
    gateway: &VirtualNetworkGateway,
    name: &str,
) {
    let first = &connection.virtual_network_gateway1;
    if check.is_touched(&format!("virtualNetworkGateways.{first}")) {
        return;
    }
    let message = format!("'{first}' has no NAT rule '{}'", super::shown(name));
    let names = gateway.nat_rules.iter().map(|rule| rule.name.as_str());
    let help = match crate::diagnostic::nearest(name, names) {
        Some(known) => format!("did you mean '{known}'?"),
        None => format!("add it to natRules of virtualNetworkGateways.{first}"),
    };
    let finding = Finding::error("unknown-nat-rule", message).code("InvalidResourceReference");
    check.at(path, finding.help(help));
}

fn one_use(
    check: &mut Check<'_, '_>,
    path: &str,
    connection: &Connection,
    rule: &GatewayNatRule,
    mode: NatMode,
) {
    let name = &rule.name;
    if rule.mode != mode {
        let finding = Finding::error("nat-mode", format!("'{name}' is a rule of mode {:?}", rule.mode));
        check.at(path, finding.help(format!("name a rule of mode {mode:?}, or move it to the other list")));
    }
    let topology = check.topology;
    if rule.nat_type == NatType::Dynamic {
        let uses = |one: &&Connection| {
            one.virtual_network_gateway1 == connection.virtual_network_gateway1
                && one.ingress_nat_rules.iter().chain(&one.egress_nat_rules).any(|used| used == name)
        };
        let first = topology.connections.iter().find(|(_, one)| uses(one));
        if let Some((first, _)) = first.filter(|(_, one)| !std::ptr::eq(*one, connection)) {
            let message = format!("the dynamic rule '{name}' is used by '{first}' already");
            let finding = Finding::error("nat-dynamic-shared", message);
            check.at(path, finding.help("give each connection a dynamic rule of its own"));
        }
    }
    let local = connection.local_network_gateway2.as_ref();
    let local = local.and_then(|name| topology.local_network_gateways.get(name));
    let address = local.and_then(|local| local.bgp_settings.as_ref()?.bgp_peering_address);
    if let Some(address) = address.filter(|address| connection.enable_bgp && holds(rule, *address)) {
        let message = format!("'{name}' translates the peer's BGP address {address}");
        let finding = Finding::error("nat-bgp-address", message);
        check.at(path, finding.help("give the peer a BGP address outside the ranges of NAT rules"));
    }
}

fn holds(rule: &GatewayNatRule, address: IpAddr) -> bool {
    let mut mappings = rule.internal_mappings.iter().chain(&rule.external_mappings);
    mappings.any(|mapping| mapping.address_space.contains(&address))
}

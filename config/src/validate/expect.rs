//! The list of expectations: that what it speaks of exists.

use std::{collections::HashSet, net::IpAddr};

use super::Check;
use crate::{
    diagnostic::{Finding, nearest},
    model::{Expectation, ProbeProtocol, Topology, Verdict},
};

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let places = Places::of(topology);
    for (index, expectation) in topology.expect.iter().enumerate() {
        let path = format!("expect[{index}]");
        for (property, names) in [("from", &expectation.from), ("to", &expectation.to)] {
            for (position, name) in names.iter().enumerate() {
                end(check, &format!("{path}.{property}[{position}]"), &places, name);
            }
        }
        let no_names = Vec::new();
        let lists = [
            ("via", expectation.via.as_ref()),
            ("viaReverse", expectation.via_reverse.as_ref()),
            ("notVia", Some(&expectation.not_via)),
        ];
        for (property, names) in lists {
            for (position, name) in names.unwrap_or(&no_names).iter().enumerate() {
                appliance(check, &format!("{path}.{property}[{position}]"), &places, name);
            }
        }
        sense(check, &path, expectation);
        if let Some(rule) = &expectation.rule {
            rule_exists(check, &format!("{path}.rule"), &places, rule);
        }
    }
}

/// Names that expectations may use.
struct Places<'t> {
    hosts: HashSet<&'t str>,
    appliances: HashSet<&'t str>,
    tags: HashSet<&'t str>,
    rules: HashSet<String>,
}

impl<'t> Places<'t> {
    fn of(topology: &'t Topology) -> Self {
        let machines = topology.virtual_machines.iter().map(|(name, machine)| (name, &machine.tags));
        let sites = topology
            .on_premises_sites
            .values()
            .flat_map(|site| &site.hosts)
            .map(|(name, host)| (name, &host.tags));
        let endpoints = topology.private_endpoints.iter().map(|(name, endpoint)| (name, &endpoint.tags));
        let internet = topology.internet.hosts.iter().map(|(name, host)| (name, &host.tags));
        let clients = topology.vpn_clients.iter().map(|(name, client)| (name, &client.tags));
        let all: Vec<_> = machines.chain(sites).chain(endpoints).chain(internet).chain(clients).collect();
        let firewalls = topology.azure_firewalls.keys();
        let gateways = topology.virtual_network_gateways.keys();
        let machines = topology.virtual_machines.keys();
        Self {
            hosts: all.iter().map(|(name, _)| name.as_str()).collect(),
            appliances: firewalls.chain(gateways).chain(machines).map(String::as_str).collect(),
            tags: all
                .iter()
                .flat_map(|(_, tags)| tags.iter())
                .flat_map(|(key, value)| [key.as_str(), value.as_str()])
                .collect(),
            rules: rules_of(topology),
        }
    }
}

fn end(check: &mut Check<'_, '_>, at: &str, places: &Places<'_>, name: &str) {
    if name.parse::<IpAddr>().is_ok() || places.hosts.contains(name) {
        return;
    }
    let (finding, help) = match name.strip_prefix("tag:") {
        Some(tag) if places.tags.contains(tag) => return,
        Some(tag) => (
            Finding::error("unknown-reference", format!("nothing has the tag '{tag}'")),
            nearest(tag, places.tags.iter().copied()).map(|known| format!("did you mean 'tag:{known}'?")),
        ),
        None => (
            Finding::error("unknown-reference", format!("there is no virtual machine or host '{name}'")),
            nearest(name, places.hosts.iter().copied()).map(|known| format!("did you mean '{known}'?")),
        ),
    };
    let is_dropped = check.is_dropped(&format!("virtualMachines.{name}"))
        || check.is_dropped(&format!("internet.hosts.{name}"));
    if !is_dropped {
        check.at(
            at,
            finding.help(help.unwrap_or_else(|| {
                "write the name of a machine or host, an address, or tag:NAME".to_owned()
            })),
        );
    }
}

fn appliance(check: &mut Check<'_, '_>, at: &str, places: &Places<'_>, name: &str) {
    let sections = ["azureFirewalls", "virtualNetworkGateways", "virtualMachines"];
    let is_dropped = sections.iter().any(|section| check.is_dropped(&format!("{section}.{name}")));
    if places.appliances.contains(name) || is_dropped {
        return;
    }
    let finding = Finding::error(
        "unknown-reference",
        format!("there is no firewall, gateway or virtual machine '{name}'"),
    );
    let help =
        nearest(name, places.appliances.iter().copied()).map(|known| format!("did you mean '{known}'?"));
    check.at(at, finding.maybe_help(help));
}

fn sense(check: &mut Check<'_, '_>, path: &str, expectation: &Expectation) {
    let has_ports = expectation.protocol != ProbeProtocol::Icmp;
    if has_ports && expectation.port.is_none() {
        let finding = Finding::error("expect-port", "a TCP or UDP probe needs a port");
        check.at(&format!("{path}.protocol"), finding.help("add port: NUMBER"));
    }
    if !has_ports && expectation.port.is_some() {
        let finding = Finding::error("expect-port", "an ICMP probe has no port");
        check.at(&format!("{path}.port"), finding.help("remove it, or set protocol: tcp or udp"));
    }
    if expectation.verdict == Verdict::Allow && expectation.reason.is_some() {
        let finding = Finding::error(
            "expect-reason",
            "a reason says why a packet is dropped; this one is expected to pass",
        );
        check.at(&format!("{path}.reason"), finding.help("remove it, or set verdict: deny"));
    }
    if expectation.verdict == Verdict::Deny {
        let measured =
            [("maxRttMs", expectation.max_rtt_ms.is_some()), ("minMbps", expectation.min_mbps.is_some())];
        for (property, _) in measured.iter().filter(|(_, is_given)| *is_given) {
            let finding = Finding::error("expect-measure", "what is denied cannot be measured");
            check.at(&format!("{path}.{property}"), finding.help("remove it, or set verdict: allow"));
        }
    }
}

/// Rules of the file by the names that a trace gives them.
fn rules_of(topology: &Topology) -> HashSet<String> {
    let mut rules = HashSet::new();
    for group in topology.firewall_policies.values().flat_map(|policy| &policy.rule_collection_groups) {
        for collection in &group.rule_collections {
            let names = collection.rules.iter().map(|rule| rule.name());
            rules.extend(names.map(|name| format!("{}/{}/{name}", group.name, collection.name)));
        }
    }
    for (name, group) in &topology.network_security_groups {
        for rule in &group.security_rules {
            rules.insert(format!("{name}/{}", rule.name));
            rules.insert(format!("{name}/securityRules/{}", rule.name));
        }
    }
    rules
}

fn rule_exists(check: &mut Check<'_, '_>, at: &str, places: &Places<'_>, rule: &str) {
    // Built-in rules and routes are named by what they do, and are not in the file.
    let is_built_in = rule.split('/').any(|part| part == "defaultSecurityRules")
        || !rule.contains('/')
        || rule.contains(' ');
    if is_built_in || places.rules.contains(rule) || may_be_lost(check, rule) {
        return;
    }
    let finding = Finding::error("unknown-reference", format!("there is no rule '{rule}'"));
    let help = match nearest(rule, places.rules.iter().map(String::as_str)) {
        Some(name) => format!("did you mean '{name}'?"),
        None => "write GROUP/COLLECTION/RULE of a firewall policy, or NSG/RULE".to_owned(),
    };
    check.at(at, finding.help(help));
}

/// Whether the rule may be one that is in the file, and was left out because it is wrong in itself.
fn may_be_lost(check: &Check<'_, '_>, rule: &str) -> bool {
    let group = rule.split('/').next().unwrap_or_default();
    let path = format!("networkSecurityGroups.{group}");
    if check.topology.network_security_groups.contains_key(group) {
        return check.is_touched(&format!("{path}.securityRules"));
    }
    check.is_dropped(&path) || check.is_touched("firewallPolicies")
}

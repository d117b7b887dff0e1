//! Names: the lab's, those of resources, and those that become namespaces and hostnames.

use indexmap::IndexMap;

use super::{Check, Owners};
use crate::{diagnostic::Finding, model::VpnDeviceKind};

/// Longest name of a lab: namespaces and devices carry it.
pub(crate) const LAB_NAME_CHARS_MAX: usize = 24;
/// Longest name of a namespace's owner: it is the hostname inside (RFC 1123).
pub(crate) const HOST_NAME_CHARS_MAX: usize = 63;
/// Longest name of an Azure resource.
pub(crate) const RESOURCE_NAME_CHARS_MAX: usize = 80;
/// Names of namespaces that every lab has.
const TAKEN: &[&str] = &["fabric", "internet", "platform"];

pub(crate) fn check(check: &mut Check<'_, '_>) {
    lab(check);
    let topology = check.topology;
    resources(check, "virtualNetworks", &topology.virtual_networks);
    resources(check, "networkSecurityGroups", &topology.network_security_groups);
    resources(check, "applicationSecurityGroups", &topology.application_security_groups);
    resources(check, "routeTables", &topology.route_tables);
    resources(check, "publicIPAddresses", &topology.public_ip_addresses);
    resources(check, "natGateways", &topology.nat_gateways);
    resources(check, "privateEndpoints", &topology.private_endpoints);
    resources(check, "azureFirewalls", &topology.azure_firewalls);
    resources(check, "firewallPolicies", &topology.firewall_policies);
    resources(check, "ipGroups", &topology.ip_groups);
    resources(check, "virtualNetworkGateways", &topology.virtual_network_gateways);
    resources(check, "localNetworkGateways", &topology.local_network_gateways);
    resources(check, "connections", &topology.connections);
    resources(check, "vpnClients", &topology.vpn_clients);
    resources(check, "expressRouteCircuits", &topology.express_route_circuits);
    resources(check, "routeServers", &topology.route_servers);
    resources(check, "ddosProtectionPlans", &topology.ddos_protection_plans);
    resources(check, "onPremisesSites", &topology.on_premises_sites);
    for (name, network) in &topology.virtual_networks {
        resources(check, &format!("virtualNetworks.{name}.subnets"), &network.subnets);
    }
    hosts(check);
}

fn lab(check: &mut Check<'_, '_>) {
    let name = &check.topology.name;
    let is_legal = !name.is_empty()
        && name.len() <= LAB_NAME_CHARS_MAX
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if !is_legal {
        let finding = Finding::error("lab-name", format!("'{}' cannot name a lab", shown(name)));
        let help = format!("use 1 to {LAB_NAME_CHARS_MAX} of a-z, 0-9 and -, not at the ends");
        check.at("name", finding.code("InvalidResourceName").help(help));
    }
}

fn resources<T>(check: &mut Check<'_, '_>, section: &str, entries: &IndexMap<String, T>) {
    let mut taken = Owners::new();
    for name in entries.keys() {
        let path = || format!("{section}.{name}");
        let starts = name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let ends = name.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let is_word = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'));
        if !(starts && ends && is_word && name.len() <= RESOURCE_NAME_CHARS_MAX) {
            let finding =
                Finding::error("resource-name", format!("'{}' cannot name a resource", shown(name)));
            let help = "use 1 to 80 letters, digits, '.', '_' and '-'; begin with a letter or digit, end with one or with '_'";
            check.at_name(&path(), finding.code("InvalidResourceName").help(help));
        }
        if let Some(first) = taken.take(name.to_lowercase(), || name.clone()) {
            let finding = Finding::error(
                "name-case",
                format!("'{name}' and '{first}' are one name to Azure, which ignores case"),
            );
            check.at_name(&path(), finding.help("rename one of the two"));
        }
    }
}

/// What becomes a namespace, or is addressed by its bare name, shares one space of names.
fn hosts(check: &mut Check<'_, '_>) {
    let topology = check.topology;
    let mut all: Vec<(String, &str, bool)> = Vec::new();
    all.extend(
        topology.virtual_machines.keys().map(|name| (format!("virtualMachines.{name}"), name.as_str(), true)),
    );
    all.extend(
        topology
            .private_endpoints
            .keys()
            .map(|name| (format!("privateEndpoints.{name}"), name.as_str(), true)),
    );
    all.extend(topology.vpn_clients.keys().map(|name| (format!("vpnClients.{name}"), name.as_str(), true)));
    for (site, value) in &topology.on_premises_sites {
        all.extend(
            value
                .hosts
                .keys()
                .map(|name| (format!("onPremisesSites.{site}.hosts.{name}"), name.as_str(), true)),
        );
        if value.vpn_device.as_ref().is_some_and(|device| device.kind == VpnDeviceKind::External) {
            all.push((format!("onPremisesSites.{site}"), site, true));
        }
    }
    all.extend(
        topology.internet.hosts.keys().map(|name| (format!("internet.hosts.{name}"), name.as_str(), true)),
    );
    all.extend(
        topology.azure_firewalls.keys().map(|name| (format!("azureFirewalls.{name}"), name.as_str(), false)),
    );
    let gateways = topology.virtual_network_gateways.keys();
    all.extend(gateways.map(|name| (format!("virtualNetworkGateways.{name}"), name.as_str(), false)));
    let servers = topology.route_servers.keys();
    all.extend(servers.map(|name| (format!("routeServers.{name}"), name.as_str(), false)));

    let mut taken = Owners::new();
    for (path, name, is_host) in all {
        if is_host && !is_host_name(name) {
            let finding = Finding::error("host-name", format!("'{}' cannot be a hostname", shown(name)));
            let help = format!("use 1 to {HOST_NAME_CHARS_MAX} letters, digits and -, not - at the ends");
            check.at_name(&path, finding.code("InvalidResourceName").help(help));
        }
        if TAKEN.contains(&name) {
            let finding = Finding::error("name-taken", format!("'{name}' is a namespace that every lab has"));
            check.at_name(&path, finding.code("ReservedResourceName").help("use another name"));
        }
        if let Some(first) = taken.take(name.to_lowercase(), || path.clone()) {
            let finding = Finding::error("name-taken", format!("the name '{name}' is taken by {first}"));
            check.at_name(
                &path,
                finding.help("machines, hosts, firewalls and gateways share one space of names: rename one"),
            );
        }
    }
}

fn is_host_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= HOST_NAME_CHARS_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// A name for a message: short, and without what a terminal would act on.
pub(crate) fn shown(name: &str) -> String {
    let mut short: String = name.chars().take(40).map(|c| if c.is_control() { '?' } else { c }).collect();
    if name.chars().nth(40).is_some() {
        short.push('…');
    }
    short
}

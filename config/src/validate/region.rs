//! Locations: that they are Azure's regions.

use super::Check;
use crate::{
    diagnostic::{Finding, nearest},
    model::RegionLatency,
    regions::{region, regions},
};

/// The cloud whose regions are known.
const PUBLIC_CLOUD: &str = "AzureCloud";

pub(crate) fn check(check: &mut Check<'_, '_>) {
    let mut places: Vec<(String, &str)> = vec![("location".to_owned(), check.topology.location.as_str())];
    collect(check, &mut places);
    for (path, location) in places {
        known(check, &path, location);
    }
    clouds(check);
    latency_table(check);
}

/// Azure's clouds, as its tools name them.
const CLOUDS: &[&str] = &[PUBLIC_CLOUD, "AzureChinaCloud", "AzureUSGovernment"];

fn clouds(check: &mut Check<'_, '_>) {
    for (name, network) in &check.topology.virtual_networks {
        let Some(cloud) = &network.cloud else { continue };
        if CLOUDS.iter().any(|known| known.eq_ignore_ascii_case(cloud)) {
            continue;
        }
        let message = format!("'{}' is no cloud of Azure that is known here", super::shown(cloud));
        let help = match nearest(cloud, CLOUDS.iter().copied()) {
            Some(known) => format!("did you mean '{known}'?"),
            None => format!("one of {}", CLOUDS.join(", ")),
        };
        let finding = Finding::warning("unknown-cloud", message);
        check.at(&format!("virtualNetworks.{name}.cloud"), finding.help(help));
    }
}

fn collect<'t>(check: &Check<'t, '_>, places: &mut Vec<(String, &'t str)>) {
    let topology = check.topology;
    macro_rules! located {
        ($($section:literal: $entries:expr),* $(,)?) => {$(
            for (name, entry) in &$entries {
                if let Some(location) = &entry.location {
                    places.push((format!("{}.{name}.location", $section), location));
                }
            }
        )*};
    }
    for (name, network) in &topology.virtual_networks {
        let is_public = network.cloud.as_ref().is_none_or(|cloud| cloud.eq_ignore_ascii_case(PUBLIC_CLOUD));
        if let Some(location) = network.location.as_ref().filter(|_| is_public) {
            places.push((format!("virtualNetworks.{name}.location"), location));
        }
    }
    located! {
        "networkSecurityGroups": topology.network_security_groups,
        "applicationSecurityGroups": topology.application_security_groups,
        "routeTables": topology.route_tables,
        "publicIPAddresses": topology.public_ip_addresses,
        "natGateways": topology.nat_gateways,
        "firewallPolicies": topology.firewall_policies,
        "ipGroups": topology.ip_groups,
        "localNetworkGateways": topology.local_network_gateways,
        "vpnClients": topology.vpn_clients,
        "expressRouteCircuits": topology.express_route_circuits,
        "ddosProtectionPlans": topology.ddos_protection_plans,
        "onPremisesSites": topology.on_premises_sites,
        "internet.hosts": topology.internet.hosts,
    }
}

pub(crate) fn known(check: &mut Check<'_, '_>, path: &str, location: &str) {
    if region(location).is_some() {
        return;
    }
    let message = format!("'{}' is no region of Azure that is known here", super::shown(location));
    let help = match nearest(location, regions().iter().map(|region| region.name)) {
        Some(name) => format!("did you mean '{name}'?"),
        None => "write a region's name, such as eastus or westeurope".to_owned(),
    };
    check.at(path, Finding::warning("unknown-region", message).help(help));
}

fn latency_table(check: &mut Check<'_, '_>) {
    let RegionLatency::Table(table) = &check.topology.regions.latency else { return };
    let mut names: Vec<(String, &str)> = Vec::new();
    for (from, row) in table {
        names.push((format!("regions.latency.{from}"), from));
        names.extend(row.keys().map(|to| (format!("regions.latency.{from}.{to}"), to.as_str())));
        for (to, milliseconds) in row.iter().filter(|(_, value)| !value.is_finite() || **value < 0.0) {
            let finding = Finding::error("latency-value", format!("{milliseconds} ms is no round-trip time"));
            check.at(&format!("regions.latency.{from}.{to}"), finding.help("write 0 or more milliseconds"));
        }
    }
    for (path, name) in names {
        known(check, &path, name);
    }
}

//! What virtual networks are joined with, and what they show to the Internet.

use indexmap::IndexMap;
use vnet_config::model::VirtualNetwork;

use super::design::{Design, listed};
use super::{DEV_PROD_CONNECTED, Found, NO_DDOS_PLAN};

pub(super) fn look(design: &Design<'_>, found: &mut Vec<Found>) {
    for (name, network) in &design.topology.virtual_networks {
        for (remote, other) in
            network.peerings.keys().filter_map(|remote| Some((remote, design.network(remote)?)))
        {
            if environment(network) == Some(Environment::Development)
                && environment(other) == Some(Environment::Production)
            {
                found.push(Found {
                    lint: DEV_PROD_CONNECTED,
                    path: format!("virtualNetworks.{name}.peerings.{remote}"),
                    message: format!("{name} is tagged as development, and peered with {remote}, tagged as production"),
                    help: "connect development with development only, and let what both need pass a firewall in a hub"
                        .to_owned(),
                });
            }
        }
        let public = public(design, name);
        if network.ddos_protection_plan.is_none() && !public.is_empty() {
            found.push(Found {
                lint: NO_DDOS_PLAN,
                path: format!("virtualNetworks.{name}"),
                message: format!(
                    "{name} has public addresses ({}) and no DDoS protection plan",
                    listed(&public)
                ),
                help: "name a plan: ddosProtectionPlan".to_owned(),
            });
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Environment {
    Development,
    Production,
}

fn environment(network: &VirtualNetwork) -> Option<Environment> {
    let tagged = |tags: &IndexMap<String, String>| {
        let known = |name: &str| name.eq_ignore_ascii_case("env") || name.eq_ignore_ascii_case("environment");
        tags.iter().find(|(name, _)| known(name)).map(|(_, value)| value.to_ascii_lowercase())
    };
    match tagged(&network.tags)?.as_str() {
        "dev" | "development" => Some(Environment::Development),
        "prod" | "production" => Some(Environment::Production),
        _ => None,
    }
}

/// Who in the network has a public address.
fn public(design: &Design<'_>, network: &str) -> Vec<String> {
    let topology = design.topology;
    let machines = topology.virtual_machines.iter().filter(|(_, machine)| {
        machine
            .network_interfaces
            .iter()
            .any(|nic| nic.subnet.virtual_network == network && !nic.public_ip_addresses.is_empty())
    });
    let firewalls = topology.azure_firewalls.iter().filter(|(_, firewall)| {
        firewall.virtual_network == network && !firewall.public_ip_addresses.is_empty()
    });
    let gateways = topology
        .virtual_network_gateways
        .iter()
        .filter(|(_, gateway)| gateway.virtual_network == network && !gateway.public_ip_addresses.is_empty());
    let names = machines
        .map(|(name, _)| name)
        .chain(firewalls.map(|(name, _)| name))
        .chain(gateways.map(|(name, _)| name));
    names.cloned().collect()
}

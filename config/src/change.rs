//! What Azure would refuse of a change from one valid topology to another.

use indexmap::IndexMap;
use ipnet::IpNet;

use crate::{
    diagnostic::Finding,
    model::{SubnetRef, Topology, VirtualNetwork},
};

/// What Azure would refuse of the change from `before` to `after`, each with its path in `after`, in the file's order: a new
/// range for a subnet that stays in use, another region, another subscription for a network that stays peered.
///
/// Only resources that both topologies have are judged: what goes and what comes is made in an order that Azure takes.
#[must_use]
pub fn refused_changes(before: &Topology, after: &Topology) -> Vec<(String, Finding)> {
    let mut found = Vec::new();
    for (name, network) in &after.virtual_networks {
        let Some(earlier) = before.virtual_networks.get(name) else { continue };
        moved(&mut found, name, (before, earlier), (after, network));
        for (subnet_name, subnet) in &network.subnets {
            let Some(old) = earlier.subnets.get(subnet_name) else { continue };
            // A range beside the present ones changes nothing for what is deployed.
            let gone = old.address_prefixes.iter().find(|net| !subnet.address_prefixes.contains(net));
            if let Some(gone) = gone
                && let Some(user) = user_of(before, after, name, subnet_name)
            {
                in_use(&mut found, (name, subnet_name), gone, &user);
            }
        }
    }
    located(&mut found, (before, after));
    found
}

fn in_use(found: &mut Vec<(String, Finding)>, (network, subnet): (&str, &str), gone: &IpNet, user: &str) {
    let message = format!("{gone} of '{network}/{subnet}' cannot be taken away: {user} is in the subnet");
    let finding = Finding::error("subnet-in-use", message)
        .code("InUseSubnetCannotBeUpdated")
        .azure_rule("CHANGE-SUBNET-IN-USE");
    let help = format!("put {user} elsewhere, apply, and change the range then");
    found.push((format!("virtualNetworks.{network}.subnets.{subnet}.addressPrefixes"), finding.help(help)));
}

/// Something that is in the subnet before and after.
fn user_of(before: &Topology, after: &Topology, network: &str, subnet: &str) -> Option<String> {
    let is_here = |place: &SubnetRef| place.virtual_network == network && place.subnet == subnet;
    let machine = after.virtual_machines.iter().find(|(name, machine)| {
        let earlier = before.virtual_machines.get(*name);
        let has = |machine: &crate::model::VirtualMachine| {
            machine.network_interfaces.iter().any(|nic| is_here(&nic.subnet))
        };
        has(machine) && earlier.is_some_and(has)
    });
    if let Some((name, _)) = machine {
        return Some(format!("the virtual machine '{name}'"));
    }
    let endpoint = after.private_endpoints.iter().find(|(name, endpoint)| {
        let earlier = before.private_endpoints.get(*name);
        is_here(&endpoint.subnet) && earlier.is_some_and(|earlier| is_here(&earlier.subnet))
    });
    if let Some((name, _)) = endpoint {
        return Some(format!("the private endpoint '{name}'"));
    }
    let firewall = |topology: &Topology, name: &str| {
        topology.azure_firewalls.get(name).is_some_and(|firewall| firewall.virtual_network == network)
    };
    let gateway = |topology: &Topology, name: &str| {
        let gateway = topology.virtual_network_gateways.get(name);
        gateway.is_some_and(|gateway| gateway.virtual_network == network)
    };
    match subnet {
        "AzureFirewallSubnet" | "AzureFirewallManagementSubnet" => {
            let mut names = after.azure_firewalls.keys();
            let name = names.find(|name| firewall(before, name) && firewall(after, name))?;
            Some(format!("the firewall '{name}'"))
        }
        "GatewaySubnet" => {
            let mut names = after.virtual_network_gateways.keys();
            let name = names.find(|name| gateway(before, name) && gateway(after, name))?;
            Some(format!("the gateway '{name}'"))
        }
        "RouteServerSubnet" => {
            let server = |topology: &Topology, name: &str| {
                topology.route_servers.get(name).is_some_and(|server| server.virtual_network == network)
            };
            let mut names = after.route_servers.keys();
            let name = names.find(|name| server(before, name) && server(after, name))?;
            Some(format!("the route server '{name}'"))
        }
        _ => None,
    }
}

/// A network stays in its region, and in its subscription while it is peered.
fn moved(
    found: &mut Vec<(String, Finding)>,
    name: &str,
    (before, earlier): (&Topology, &VirtualNetwork),
    (after, later): (&Topology, &VirtualNetwork),
) {
    let regions = [
        earlier.location.as_deref().unwrap_or(&before.location),
        later.location.as_deref().unwrap_or(&after.location),
    ];
    if regions[0] != regions[1] {
        found.push(another_region(&format!("virtualNetworks.{name}"), regions));
    }
    let stays_peered = earlier.peerings.keys().any(|remote| later.peerings.contains_key(remote));
    if earlier.subscription != later.subscription && stays_peered {
        let message = format!("'{name}' cannot move to another subscription while it is peered");
        let finding = Finding::error("network-move-peered", message).azure_rule("CHANGE-SUBSCRIPTION");
        let help = "remove its peerings, apply, and change the subscription then";
        found.push((format!("virtualNetworks.{name}.subscription"), finding.help(help)));
    }
}

fn another_region(path: &str, [before, after]: [&str; 2]) -> (String, Finding) {
    let message = format!("it is in {before} and cannot move to {after}");
    let finding = Finding::error("other-region-than-before", message)
        .code("InvalidResourceLocation")
        .azure_rule("CHANGE-REGION");
    (format!("{path}.location"), finding.help("remove it, apply, and add it in the other region then"))
}

/// Other resources with a region of their own. One that names none is where it is used.
fn located(found: &mut Vec<(String, Finding)>, (before, after): (&Topology, &Topology)) {
    fn each<T>(
        found: &mut Vec<(String, Finding)>,
        section: &str,
        (before, after): (&IndexMap<String, T>, &IndexMap<String, T>),
        location: impl Fn(&T) -> Option<&String>,
    ) {
        for (name, entry) in after {
            let earlier = before.get(name).and_then(&location);
            if let (Some(earlier), Some(later)) = (earlier, location(entry))
                && earlier != later
            {
                found.push(another_region(&format!("{section}.{name}"), [earlier, later]));
            }
        }
    }
    macro_rules! sections {
        ($($section:literal: $field:ident),* $(,)?) => {
            $(each(found, $section, (&before.$field, &after.$field), |entry| entry.location.as_ref());)*
        };
    }
    sections! {
        "networkSecurityGroups": network_security_groups,
        "applicationSecurityGroups": application_security_groups,
        "routeTables": route_tables,
        "publicIPAddresses": public_ip_addresses,
        "natGateways": nat_gateways,
        "firewallPolicies": firewall_policies,
        "ipGroups": ip_groups,
        "localNetworkGateways": local_network_gateways,
        "expressRouteCircuits": express_route_circuits,
        "ddosProtectionPlans": ddos_protection_plans,
    }
}

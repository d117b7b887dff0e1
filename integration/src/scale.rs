//! A hub-and-spoke design of any size, as large as Azure allows without a network manager: what scale is measured and
//! tested with.

use std::fmt::Write as _;

/// Peerings that Azure gives one virtual network.
const PEERINGS_MAX: usize = 500;
/// Hubs that the address plan has room for: each group of a hub and its spokes is a /12 of 10.0.0.0/8.
const HUBS_MAX: usize = 16;
/// Where the route that [`topology_with_route`] changes leads.
const CHANGED_PREFIX: &str = "192.0.2.0/24";

/// A topology of `networks` virtual networks with a machine each: `hub0`, `hub1`, ... peered with each other, and as
/// many spokes as are left, `spoke0-1`, `spoke0-2`, ..., each peered with its hub. A network's machine is called
/// `vm-NETWORK`.
///
/// Azure's limit of 500 peerings for a network decides the number of hubs: 1,000 networks have two, each with 499 spokes
/// and a peering with the other hub. Each hub has a firewall, by which spokes reach each other and the other hub's
/// spokes; a security group on every spoke lets in what comes from the virtual network. Without latency.
///
/// # Panics
/// With no network, or more than the address plan has room for (7,760).
pub fn topology(networks: usize) -> String {
    topology_with_route(networks, "None")
}

/// As [`topology`], with a next hop type (such as `None` or `Internet`) of one route in the table that the first hub's
/// spokes share: an apply from one to another changes nothing else.
///
/// # Panics
/// As [`topology`].
pub fn topology_with_route(networks: usize, next_hop_type: &str) -> String {
    let hubs = hubs(networks);
    let spokes = networks - hubs;
    let spokes_of = |hub: usize| spokes / hubs + usize::from(hub < spokes % hubs);
    let mut text = String::from("name: scale\nregions: {latency: none}\nvirtualNetworks:\n");
    let mut machines = String::from("virtualMachines:\n");
    // Writing to a string cannot fail.
    for hub in 0..hubs {
        let _ = add_hub(&mut text, hub, hubs, spokes_of(hub));
        let _ = writeln!(machines, "  vm-hub{hub}: {{subnet: hub{hub}/shared}}");
        for spoke in 1..=spokes_of(hub) {
            let _ = add_spoke(&mut text, hub, spoke);
            let _ = writeln!(machines, "  vm-spoke{hub}-{spoke}: {{subnet: spoke{hub}-{spoke}/app}}");
        }
    }
    text.push_str(&machines);
    text.push_str("routeTables:\n");
    for hub in 0..hubs {
        let _ = add_route_tables(&mut text, hub, hubs, next_hop_type);
    }
    text.push_str(GROUP_AND_POLICY);
    text.push_str("azureFirewalls:\n");
    for hub in 0..hubs {
        let _ = writeln!(
            text,
            "  fw{hub}: {{virtualNetwork: hub{hub}, sku: Standard, firewallPolicy: base, publicIPAddresses: [203.0.113.{}]}}",
            hub + 1
        );
    }
    text
}

/// The fewest hubs whose peerings suffice.
fn hubs(networks: usize) -> usize {
    // A hub has a peering with each other hub and each of its spokes.
    (1..=HUBS_MAX)
        .find(|hubs| networks >= *hubs && (networks - hubs).div_ceil(*hubs) + hubs - 1 <= PEERINGS_MAX)
        .unwrap_or_else(|| panic!("the address plan has no room for {networks} networks"))
}

fn add_hub(text: &mut String, hub: usize, hubs: usize, spokes: usize) -> std::fmt::Result {
    let first = 16 * hub;
    writeln!(
        text,
        "  hub{hub}:
    addressSpace: [10.{first}.0.0/24]
    subnets:
      AzureFirewallSubnet: {{addressPrefix: 10.{first}.0.0/26, routeTable: hub{hub}}}
      shared: 10.{first}.0.64/26
    peerings:"
    )?;
    for other in (0..hubs).filter(|other| *other != hub) {
        writeln!(text, "      hub{other}: {{allowForwardedTraffic: true}}")?;
    }
    for spoke in 1..=spokes {
        writeln!(text, "      spoke{hub}-{spoke}: {{allowForwardedTraffic: true}}")?;
    }
    Ok(())
}

fn add_spoke(text: &mut String, hub: usize, spoke: usize) -> std::fmt::Result {
    let (second, third) = (16 * hub + spoke / 256, spoke % 256);
    writeln!(
        text,
        "  spoke{hub}-{spoke}:
    addressSpace: [10.{second}.{third}.0/24]
    subnets: {{app: {{addressPrefix: 10.{second}.{third}.0/24, routeTable: spokes{hub}, networkSecurityGroup: app}}}}
    peerings: {{hub{hub}: {{allowForwardedTraffic: true}}}}"
    )
}

/// Spokes send everything private to their hub's firewall; it sends to the other hubs' spokes by the others' firewalls.
fn add_route_tables(text: &mut String, hub: usize, hubs: usize, next_hop_type: &str) -> std::fmt::Result {
    writeln!(
        text,
        "  spokes{hub}:
    routes:
      - {{name: private, addressPrefix: 10.0.0.0/8, nextHopType: VirtualAppliance, nextHopIpAddress: 10.{}.0.4}}",
        16 * hub
    )?;
    if hub == 0 {
        writeln!(
            text,
            "      - {{name: changed, addressPrefix: {CHANGED_PREFIX}, nextHopType: {next_hop_type}}}"
        )?;
    }
    writeln!(text, "  hub{hub}:\n    routes:")?;
    writeln!(text, "      - {{name: internet, addressPrefix: 0.0.0.0/0, nextHopType: Internet}}")?;
    for other in (0..hubs).filter(|other| *other != hub) {
        let first = 16 * other;
        writeln!(
            text,
            "      - {{name: group{other}, addressPrefix: 10.{first}.0.0/12, nextHopType: VirtualAppliance, nextHopIpAddress: 10.{first}.0.4}}"
        )?;
    }
    Ok(())
}

const GROUP_AND_POLICY: &str = "networkSecurityGroups:
  app:
    securityRules:
      - {name: allow-web, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: VirtualNetwork, sourcePortRange: \"*\", destinationAddressPrefix: \"*\", destinationPortRange: 443}
      - {name: allow-ping, priority: 110, direction: Inbound, access: Allow, protocol: Icmp, sourceAddressPrefix: 10.0.0.0/8, sourcePortRange: \"*\", destinationAddressPrefix: \"*\", destinationPortRange: \"*\"}
      - {name: deny-rest, priority: 4096, direction: Inbound, access: Deny, protocol: \"*\", sourceAddressPrefix: \"*\", sourcePortRange: \"*\", destinationAddressPrefix: \"*\", destinationPortRange: \"*\"}
firewallPolicies:
  base:
    ruleCollectionGroups:
      - name: east-west
        priority: 200
        ruleCollections:
          - {name: private, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{name: any, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: [10.0.0.0/8], destinationAddresses: [10.0.0.0/8], destinationPorts: [\"*\"]}]}
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_networks_and_machines_as_asked_for() {
        for networks in [1, 2, 100, 500, 501, 502, 1_000, 4_000] {
            let text = topology(networks);
            assert_eq!(text.matches("\n    addressSpace:").count(), networks);
            assert_eq!(text.matches("\n  vm-").count(), networks);
        }
    }

    #[test]
    fn hubs_are_as_few_as_the_peerings_allow() {
        assert_eq!([1, 501, 502, 1_000, 1_001].map(hubs), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn the_route_is_the_only_difference() {
        let (none, internet) = (topology_with_route(10, "None"), topology_with_route(10, "Internet"));
        let differing = none.lines().zip(internet.lines()).filter(|(a, b)| a != b).count();
        assert_eq!((differing, none.lines().count()), (1, internet.lines().count()));
    }
}

//! The topologies that are measured. None shapes or delays anything, where its section does not measure just that.

use std::fmt::Write;

/// Two peered virtual networks, a machine in each.
pub(crate) const PEERING: &str = "\
name: bench
virtualNetworks:
  left: {addressSpace: [10.1.0.0/16], subnets: {app: 10.1.0.0/24}, peerings: {right: {}}}
  right: {addressSpace: [10.2.0.0/16], subnets: {app: 10.2.0.0/24}, peerings: {left: {}}}
virtualMachines:
  client: {subnet: left/app, privateIPAddress: 10.1.0.4}
  server: {subnet: right/app, privateIPAddress: 10.2.0.4}
";

/// Two networks that only a tunnel joins, a machine in each.
pub(crate) const VPN: &str = "\
name: bench
virtualNetworks:
  hub: {addressSpace: [10.0.0.0/16], subnets: {shared: 10.0.2.0/24, GatewaySubnet: 10.0.255.0/27}}
  west: {addressSpace: [10.50.0.0/16], subnets: {data: 10.50.0.0/24, GatewaySubnet: 10.50.255.0/27}}
virtualMachines:
  client: {subnet: hub/shared, privateIPAddress: 10.0.2.5}
  server: {subnet: west/data, privateIPAddress: 10.50.0.4}
virtualNetworkGateways:
  hub-vpn: {virtualNetwork: hub, gatewayType: Vpn, sku: VpnGw5AZ, vpnGatewayGeneration: Generation2, throughputMbps: 100000, publicIPAddresses: [198.51.100.10]}
  west-vpn: {virtualNetwork: west, gatewayType: Vpn, sku: VpnGw5AZ, vpnGatewayGeneration: Generation2, throughputMbps: 100000, publicIPAddresses: [198.51.100.20]}
connections:
  hub-to-west: {connectionType: Vnet2Vnet, virtualNetworkGateway1: hub-vpn, virtualNetworkGateway2: west-vpn, sharedKey: bench}
  west-to-hub: {connectionType: Vnet2Vnet, virtualNetworkGateway1: west-vpn, virtualNetworkGateway2: hub-vpn, sharedKey: bench}
";

/// Two spokes that reach each other by the hub's firewall. All its `rules` but the last name single hosts that are not
/// there; the last allows the spokes.
pub(crate) fn firewall(rules: usize) -> String {
    let mut text = "\
name: bench
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {AzureFirewallSubnet: 10.0.1.0/26}
    peerings: {left: {allowForwardedTraffic: true}, right: {allowForwardedTraffic: true}}
  left:
    addressSpace: [10.1.0.0/16]
    subnets: {app: {addressPrefix: 10.1.0.0/24, routeTable: via-fw}}
    peerings: {hub: {allowForwardedTraffic: true}}
  right:
    addressSpace: [10.2.0.0/16]
    subnets: {app: {addressPrefix: 10.2.0.0/24, routeTable: via-fw}}
    peerings: {hub: {allowForwardedTraffic: true}}
virtualMachines:
  client: {subnet: left/app, privateIPAddress: 10.1.0.4}
  server: {subnet: right/app, privateIPAddress: 10.2.0.4}
routeTables:
  via-fw: {routes: [{name: private, addressPrefix: 10.0.0.0/8, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}]}
azureFirewalls:
  fw: {virtualNetwork: hub, sku: Standard, firewallPolicy: base, publicIPAddresses: [203.0.113.20]}
firewallPolicies:
  base:
    ruleCollectionGroups:
      - name: all
        priority: 200
        ruleCollections:
          - name: all
            priority: 100
            ruleCollectionType: FirewallPolicyFilterRuleCollection
            action: Allow
            rules:
"
    .to_owned();
    for number in 1..rules {
        let (high, low) = (number / 250, number % 250 + 1);
        let port = 1024 + number % 60_000;
        let _ = writeln!(
            text,
            "              - {{name: r{number}, ruleType: NetworkRule, ipProtocols: [TCP], sourceAddresses: \
             [10.{}.{high}.{low}/32], destinationAddresses: [10.200.{high}.{low}/32], destinationPorts: [\"{port}\"]}}",
            100 + number % 50
        );
    }
    text += "              - {name: spokes, ruleType: NetworkRule, ipProtocols: [TCP, UDP], sourceAddresses: \
             [10.0.0.0/8], destinationAddresses: [10.0.0.0/8], destinationPorts: [\"*\"]}\n";
    text
}

/// Two peered networks with a pair of machines under security groups of so many rules at both ends, and a pair under
/// none. All rules but one each way deny hosts that are not there.
pub(crate) fn security_groups(rules: usize) -> String {
    let mut text = "\
name: bench
virtualNetworks:
  left: {addressSpace: [10.1.0.0/16], subnets: {app: 10.1.0.0/24, guarded: {addressPrefix: 10.1.1.0/24, networkSecurityGroup: many}}, peerings: {right: {}}}
  right: {addressSpace: [10.2.0.0/16], subnets: {app: 10.2.0.0/24, guarded: {addressPrefix: 10.2.1.0/24, networkSecurityGroup: many}}, peerings: {left: {}}}
virtualMachines:
  client: {subnet: left/app, privateIPAddress: 10.1.0.4}
  server: {subnet: right/app, privateIPAddress: 10.2.0.4}
  guarded-client: {subnet: left/guarded, privateIPAddress: 10.1.1.4}
  guarded-server: {subnet: right/guarded, privateIPAddress: 10.2.1.4}
networkSecurityGroups:
  many:
    securityRules:
"
    .to_owned();
    let last = rules / 2;
    for (direction, letter) in [("Inbound", 'i'), ("Outbound", 'o')] {
        for number in 1..=last {
            let (access, source) = if number == last {
                ("Allow", "\"*\"".to_owned())
            } else {
                ("Deny", format!("10.{}.{}.{}/32", 100 + number % 50, number / 250, number % 250 + 1))
            };
            let port = if number == last { "\"*\"".to_owned() } else { (1024 + number).to_string() };
            let _ = writeln!(
                text,
                "      - {{name: {letter}{number}, priority: {}, direction: {direction}, access: {access}, protocol: \
                 \"*\", sourceAddressPrefix: {source}, sourcePortRange: \"*\", destinationAddressPrefix: \"*\", \
                 destinationPortRange: {port}}}",
                100 + number
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_accepted(text: &str) {
        let loaded = vnet_config::load(text, "bench.yaml", None);
        assert!(loaded.is_ok(), "{:?}", loaded.err());
    }

    #[test]
    fn what_is_measured_is_accepted() {
        for text in [PEERING.to_owned(), VPN.to_owned(), firewall(10_000), security_groups(1_000)] {
            is_accepted(&text);
        }
    }
}

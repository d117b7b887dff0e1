//! What an explanation says beside the verdict: borders, doubtful rules, appliances of one direction, the right tunnel.

mod common;

use std::collections::BTreeSet;

use common::*;
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::Protocol;
use vnet_fabric::path::{Direction, Endpoint, PathVerdict, outcome};
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::trace::{Certainty, StepKind};
use vnet_fabric::{Step, Verdict, decide, path};

/// Two regions, two zones; the arguments are the file's latency and a route of `a`.
fn regions(latency: &str, route: &str) -> Snapshot {
    lab(&format!(
        "
name: regions
location: eastus
virtualNetworks:
  a:
    addressSpace: [10.0.0.0/16]
    subnets: {{s: {{addressPrefix: 10.0.0.0/24, routeTable: t}}, nva: 10.0.9.0/24}}
    peerings: {{b: {{allowForwardedTraffic: true}}}}
  b: {{location: westeurope, addressSpace: [10.1.0.0/16], subnets: {{s: 10.1.0.0/24}}, peerings: {{a: {{allowForwardedTraffic: true}}}}}}
virtualMachines:
  one: {{subnet: a/s, zone: 1}}
  two: {{subnet: a/s, zone: 2}}
  far: {{subnet: b/s}}
  nva: {{subnet: a/nva, zone: 1, enableIPForwarding: true}}
routeTables: {{t: {{routes: [{route}]}}}}
regions: {{latency: {latency}}}
"
    ))
}

#[test]
fn borders_are_named_with_their_latency() {
    let snapshot = regions("default", "");
    let crossing = |to: &str| {
        let report = path(&snapshot, "one", to, ProbeProtocol::Icmp, None).unwrap();
        let reverse = report.reverse.unwrap();
        let text = |legs: &[vnet_fabric::trace::Crossing]| -> Vec<String> {
            legs.iter()
                .map(|border| format!("{} > {} {:?}", border.from, border.to, border.one_way_ms))
                .collect()
        };
        // What a border takes is no part of the verdict.
        assert_eq!(report.certainty, Certainty::Documented);
        (text(&report.forward.crossings), text(&reverse.crossings), report.rtt_ms)
    };
    let zones = |from: u8, to: u8| vec![format!("eastus zone {from} > eastus zone {to} Some(0.5)")];
    assert_eq!(crossing("two"), (zones(1, 2), zones(2, 1), 1.0));
    let (out, back, rtt) = crossing("far");
    assert_eq!(out, ["eastus zone 1 > westeurope Some(41.5)"]);
    assert_eq!(back, ["westeurope > eastus zone 1 Some(42.5)"]);
    assert!((rtt - 84.0).abs() < 1e-9, "{rtt}");
    let report = path(&snapshot, "one", "far", ProbeProtocol::Icmp, None).unwrap();
    let step = report.forward.steps.iter().find(|step| step.kind == StepKind::Crossing).unwrap();
    assert_eq!(step.text, "from eastus zone 1 to westeurope: 41.5 ms one way");
    assert_eq!(step.rule.as_ref().unwrap().azure_rule, "LATENCY-REGION");
}

#[test]
fn a_border_without_latency_is_named_all_the_same() {
    let snapshot = regions("none", "");
    let report = path(&snapshot, "one", "far", ProbeProtocol::Icmp, None).unwrap();
    let border = &report.forward.crossings[0];
    assert_eq!(
        (border.from.as_str(), border.to.as_str(), border.one_way_ms),
        ("eastus zone 1", "westeurope", None)
    );
    assert!(path(&snapshot, "one", "nva", ProbeProtocol::Icmp, None).unwrap().forward.crossings.is_empty());
}

#[test]
fn an_appliance_that_sees_one_direction_is_named() {
    let route =
        "{name: far, addressPrefix: 10.1.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}";
    let snapshot = regions("none", route);
    let report = path(&snapshot, "one", "far", ProbeProtocol::Icmp, None).unwrap();
    assert_eq!((report.verdict, report.asymmetric), (PathVerdict::Allow, true));
    let one_way: Vec<_> = report.one_way.iter().map(|one| (one.appliance.as_str(), one.passed)).collect();
    assert_eq!(one_way, [("nva", Direction::Forward)]);
    let back = path(&snapshot, "far", "one", ProbeProtocol::Icmp, None).unwrap();
    assert_eq!((back.one_way[0].appliance.as_str(), back.one_way[0].passed), ("nva", Direction::Reverse));
}

/// A machine with a public address behind a default route to a firewall, in a spoke that a gateway's routes lead to directly.
const BEHIND_FIREWALL: &str = "
name: behind
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {GatewaySubnet: 10.0.255.0/27, AzureFirewallSubnet: 10.0.1.0/26}
    peerings: {s: {allowGatewayTransit: true}}
  s:
    addressSpace: [10.1.0.0/16]
    subnets: {a: {addressPrefix: 10.1.0.0/24, routeTable: r, networkSecurityGroup: n}}
    peerings: {hub: {allowForwardedTraffic: true, useRemoteGateways: true}}
routeTables:
  r:
    disableBgpRoutePropagation: true
    routes: [{name: d, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}]
networkSecurityGroups:
  n:
    securityRules:
      - {name: any, priority: 100, direction: Inbound, access: Allow, protocol: '*', sourceAddressPrefix: '*',
         sourcePortRange: '*', destinationAddressPrefix: '*', destinationPortRange: '*'}
virtualMachines: {a: {subnet: s/a, publicIPAddress: 203.0.113.10}}
azureFirewalls: {fw: {virtualNetwork: hub, sku: Standard, firewallPolicy: base, publicIPAddresses: [203.0.113.20]}}
firewallPolicies:
  base:
    ruleCollectionGroups:
      - name: g
        priority: 200
        ruleCollections:
          - {name: web, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow,
             rules: [{name: all, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: ['*'],
                      destinationAddresses: ['*'], destinationPorts: ['*']}]}
virtualNetworkGateways: {gw: {virtualNetwork: hub, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}
localNetworkGateways: {hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}}
connections: {c: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}
onPremisesSites:
  hq: {addressSpace: [192.168.0.0/16], hosts: {pc: 192.168.1.10}, vpnDevice: {publicIPAddress: 198.51.100.200}}
internet: {hosts: {example: {address: 203.0.113.80}}}
";

#[test]
fn the_appliance_that_drops_an_answer_is_part_of_its_way() {
    let snapshot = lab(BEHIND_FIREWALL);
    for (from, via) in [("example", &[][..]), ("pc", &["gw"])] {
        let report = path(&snapshot, from, "a", ProbeProtocol::Tcp, Some(443)).unwrap();
        assert_eq!(report.reason.as_deref(), Some("FirewallNoSession"), "{from}");
        assert!(report.asymmetric, "{from}");
        assert_eq!(
            (report.via.as_slice(), report.via_reverse.len()),
            (&via.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()[..], 0)
        );
        assert_eq!(report.return_dropped_by.as_deref(), Some("fw"), "{from}");
        let reverse = report.one_way.iter().find(|one| one.passed == Direction::Reverse).unwrap();
        assert_eq!(reverse.appliance, "fw");
    }
}

#[test]
fn an_answer_that_is_lost_on_the_way_of_its_question_is_not_asymmetric() {
    // No route of the receiver's leads back: the answer goes no other way, it goes none.
    let chain = "
name: chain
virtualNetworks:
  h: {addressSpace: [10.0.0.0/16], subnets: {n: 10.0.9.0/24}, peerings: {s1: {}, s2: {}}}
  s1: {addressSpace: [10.1.0.0/16], subnets: {a: {addressPrefix: 10.1.0.0/24, routeTable: r}}, peerings: {h: {allowForwardedTraffic: true}}}
  s2: {addressSpace: [10.2.0.0/16], subnets: {a: 10.2.0.0/24}, peerings: {h: {allowForwardedTraffic: true}}}
routeTables: {r: {routes: [{name: x, addressPrefix: 10.2.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}]}}
virtualMachines: {nva: {subnet: h/n, enableIPForwarding: true}, m1: {subnet: s1/a}, m2: {subnet: s2/a}}
";
    let report = path(&lab(chain), "m1", "m2", ProbeProtocol::Tcp, Some(80)).unwrap();
    assert!(report.forward.arrives);
    assert_eq!((report.reason.as_deref(), report.asymmetric), (Some("RouteNone"), false));
    assert!(report.one_way.is_empty() && report.return_dropped_by.is_none());
    // Nor is one that the appliance of both ways drops: here the spoke that asked takes nothing forwarded.
    let back = "routeTables: {r2: {routes: [{name: x, addressPrefix: 10.1.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}]}, r:";
    let refusing = chain
        .replace("routeTables: {r:", back)
        .replace("subnets: {a: 10.2.0.0/24}", "subnets: {a: {addressPrefix: 10.2.0.0/24, routeTable: r2}}")
        .replacen("peerings: {h: {allowForwardedTraffic: true}}", "peerings: {h: {}}", 1);
    let report = path(&lab(&refusing), "m1", "m2", ProbeProtocol::Tcp, Some(80)).unwrap();
    assert!(report.forward.arrives);
    assert_eq!((report.reason.as_deref(), report.asymmetric), (Some("ForwardedTrafficDenied"), false));
}

#[test]
fn a_machine_that_talks_to_itself_needs_no_rule() {
    let denied = BEHIND_FIREWALL.replace("access: Allow, protocol: '*'", "access: Deny, protocol: '*'");
    let snapshot = lab(&denied);
    for (from, to) in [("a", "a"), ("a", "10.1.0.4"), ("pc", "pc"), ("example", "example")] {
        let report = path(&snapshot, from, to, ProbeProtocol::Tcp, Some(80)).unwrap();
        assert_eq!(
            (report.verdict, report.asymmetric, report.rule),
            (PathVerdict::Allow, false, None),
            "{from}"
        );
        let steps: Vec<&str> = report.forward.steps.iter().map(|step| step.text.as_str()).collect();
        assert!(matches!(steps[..], [step] if step.contains("loopback")), "{steps:?}");
        assert!(report.reverse.unwrap().arrives);
    }
    // By its public address it asks the edge.
    let report = path(&snapshot, "a", "203.0.113.10", ProbeProtocol::Tcp, Some(80)).unwrap();
    assert!(report.forward.steps.len() > 1);
}

#[test]
fn an_outcome_says_the_same_without_words() {
    let route =
        "{name: far, addressPrefix: 10.1.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.9.4}";
    let snapshot = regions("default", route);
    for (from, to) in [("one", "two"), ("one", "far"), ("far", "two"), ("two", "nva")] {
        let report = path(&snapshot, from, to, ProbeProtocol::Tcp, Some(443)).unwrap();
        let ends = (Endpoint::resolve(&snapshot, from).unwrap(), Endpoint::resolve(&snapshot, to).unwrap());
        let outcome = outcome(&snapshot, &ends.0, &ends.1, ProbeProtocol::Tcp, Some(443)).unwrap();
        let names = |hops: &[vnet_fabric::Hop]| -> Vec<String> {
            hops.iter().map(|hop| snapshot.hop_name(*hop).to_owned()).collect()
        };
        assert_eq!(names(&outcome.via), report.via);
        assert_eq!(names(&outcome.via_reverse), report.via_reverse);
        assert_eq!(outcome.asymmetric, report.asymmetric);
        assert_eq!(outcome.certainty, report.certainty);
        assert_eq!(outcome.rtt_ns as f64 / 1e6, report.rtt_ms);
        assert_eq!(outcome.reason.is_none(), report.verdict == PathVerdict::Allow);
    }
}

#[test]
fn of_equal_tunnels_the_one_that_is_taken_is_named() {
    let snapshot = lab("
name: equal
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: 10.0.0.0/24, GatewaySubnet: 10.0.255.0/27}}}
virtualMachines: {m: {subnet: v/s}}
virtualNetworkGateways: {gw: {virtualNetwork: v, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}
localNetworkGateways:
  left: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}
  right: {gatewayIpAddress: 198.51.100.201, localNetworkAddressSpace: [192.168.0.0/16]}
connections:
  first: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: left, sharedKey: k}
  second: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: right, sharedKey: k}
onPremisesSites:
  hq: {addressSpace: [192.168.0.0/17], hosts: {pc: 192.168.1.10}, vpnDevice: {publicIPAddress: 198.51.100.200}}
  branch: {addressSpace: [192.168.128.0/17], hosts: {pc2: 192.168.128.10}, vpnDevice: {publicIPAddress: 198.51.100.201}}
");
    let mut taken = BTreeSet::new();
    for port in 1..32 {
        let probe = packet(Protocol::TCP, "10.0.0.4", "192.168.1.10", port);
        let mut steps: Vec<Step> = Vec::new();
        let decision = decide(&snapshot, &Vec::new(), common::port(&snapshot, "m/eth0"), &probe, &mut steps);
        let Verdict::Seal(tunnel) = decision.verdict else { panic!("{decision:?}") };
        let connection = snapshot.tunnel(tunnel).unwrap().connection.to_string();
        let step = steps.iter().find(|step| step.kind == StepKind::Tunnel).unwrap();
        let named = &step.rule.as_ref().unwrap().name;
        assert_eq!(*named, format!("192.168.0.0/16 behind connection {connection}"));
        let decided = snapshot.rule(decision.decided_by.unwrap()).unwrap();
        assert_eq!(decided.reference.name, *named);
        taken.insert(connection);
    }
    assert_eq!(taken.len(), 2, "flows are shared");
}

//! Subnet peering: routes, what passes, families, gateways.

mod common;

use std::sync::Arc;

use common::*;
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::Nanos;
use vnet_fabric::control::PeeringSyncLevel;
use vnet_fabric::effective::peerings;
use vnet_fabric::snapshot::Snapshot;
use vnet_fabric::{Event, State, compile, path};

/// The networks of the documentation's worked example: both have 10.1.0.0/16.
const EXAMPLE: &str = "
name: subnets
virtualNetworks:
  a:
    addressSpace: [10.1.0.0/16, 10.0.0.0/16]
    subnets: {s1: 10.1.1.0/24, s2: 10.1.2.0/24, s4: 10.0.1.0/24}
    peerings: {c: {peerCompleteVnets: false, localSubnetNames: [s4], remoteSubnetNames: [s5]}}
  c:
    addressSpace: [10.1.0.0/16, 10.6.0.0/16]
    subnets: {s1: 10.1.1.0/24, s5: 10.6.1.0/24, s6: 10.6.2.0/24}
    peerings: {a: {peerCompleteVnets: false, localSubnetNames: [s5], remoteSubnetNames: [s4]}}
virtualMachines:
  a1: {subnet: a/s1, privateIPAddress: 10.1.1.4}
  a2: {subnet: a/s2, privateIPAddress: 10.1.2.4}
  a4: {subnet: a/s4, privateIPAddress: 10.0.1.4, enableIPForwarding: true}
  c1: {subnet: c/s1, privateIPAddress: 10.1.1.4}
  c5: {subnet: c/s5, privateIPAddress: 10.6.1.4, enableIPForwarding: true}
  c6: {subnet: c/s6, privateIPAddress: 10.6.2.4}
";

/// Why a ping fails, and on which way; nothing where it passes.
fn reason(snapshot: &Snapshot, from: &str, to: &str) -> String {
    let report = path(snapshot, from, to, ProbeProtocol::Icmp, None).unwrap();
    let way = if report.forward.arrives && report.reason.is_some() { " back" } else { "" };
    format!("{}{way}", report.reason.unwrap_or_default())
}

fn peering_rows(snapshot: &Snapshot, subnet: &str) -> Vec<String> {
    let mut rows = routes(snapshot, subnet);
    rows.retain(|row| row.contains("Peering"));
    rows
}

#[test]
fn listed_subnets_alone_pass() {
    let snapshot = lab(EXAMPLE);
    let table = [
        ("a4", "c5", ""),
        ("c5", "a4", ""),
        ("a2", "c5", "SubnetNotPeered"),
        ("a1", "c5", "SubnetNotPeered"),
        ("c6", "a4", "SubnetNotPeered"),
        ("a4", "c6", "RouteNone"),
        ("a2", "c6", "RouteNone"),
        ("a4", "a1", ""),
        ("c5", "c6", ""),
    ];
    for (from, to, expected) in table {
        assert_eq!(reason(&snapshot, from, to), expected, "{from} -> {to}");
    }
    let ping = packet(vnet_dataplane::Protocol::ICMP, "10.1.2.4", "10.6.1.4", 7);
    assert_eq!(azure_rule(&snapshot, &send(&snapshot, "a2/eth0", &ping)), "PEERING-SUBNETS");
}

#[test]
fn every_subnet_has_routes_to_the_listed_remote_ones() {
    let snapshot = lab(EXAMPLE);
    for subnet in ["a/s1", "a/s2", "a/s4"] {
        assert_eq!(peering_rows(&snapshot, subnet), ["Default Active 10.6.1.0/24 VNetPeering"], "{subnet}");
    }
    for subnet in ["c/s1", "c/s5", "c/s6"] {
        assert_eq!(peering_rows(&snapshot, subnet), ["Default Active 10.0.1.0/24 VNetPeering"], "{subnet}");
    }
}

#[test]
fn ranges_that_take_no_part_may_overlap() {
    let snapshot = lab(EXAMPLE);
    // Each network's own 10.1.1.4 answers in it.
    for (from, own) in [("a2/eth0", "a1/eth0"), ("c6/eth0", "c1/eth0")] {
        let source = if from == "a2/eth0" { "10.1.2.4" } else { "10.6.2.4" };
        let decision = send(&snapshot, from, &packet(vnet_dataplane::Protocol::ICMP, source, "10.1.1.4", 7));
        assert_eq!(delivered(&snapshot, &decision), own);
    }
    // Who asks by name for the other network's learns who gets it.
    let got = |from, to| path(&snapshot, from, to, ProbeProtocol::Icmp, None).unwrap().delivered_to;
    assert_eq!(got("a2", "c1").as_deref(), Some("a1"));
    assert_eq!(got("a2", "a1"), None);
    assert_eq!(got("a2", "10.1.1.4"), None);
    let whole =
        EXAMPLE.replace("peerCompleteVnets: false, localSubnetNames: [s4], remoteSubnetNames: [s5]", "");
    assert!(vnet_config::load(&whole, "whole.yaml", None).is_err());
}

#[test]
fn an_appliance_forwards_for_subnets_that_are_not_listed() {
    // s2 sends by the appliance a4, in a listed subnet; c5's answers come back by it.
    let text = |flags: &str| {
        let routed = EXAMPLE.replace("s2: 10.1.2.0/24", "s2: {addressPrefix: 10.1.2.0/24, routeTable: t}");
        let half = "{peerCompleteVnets: false, localSubnetNames: [s5]";
        format!(
            "{}
routeTables:
  t: {{routes: [{{name: r, addressPrefix: 10.6.1.0/24, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}}]}}
",
            routed.replace(half, &format!("{half}{flags}"))
        )
    };
    let way = |flags: &str| path(&lab(&text(flags)), "a2", "c5", ProbeProtocol::Icmp, None).unwrap().forward;
    let denied = way("");
    assert_eq!(denied.reason.as_deref(), Some("ForwardedTrafficDenied"));
    let said = denied.steps.last().map(|step| step.text.clone()).unwrap();
    assert!(said.contains("10.1.2.4 is in none of the subnets that a peers with c"), "{said}");
    assert_eq!(denied.rule.unwrap().azure_rule, "PEERING-FORWARDED");
    assert!(way(", allowForwardedTraffic: true").arrives);
}

#[test]
fn an_appliance_must_be_in_a_listed_subnet() {
    let text = |next_hop: &str| {
        let routed = EXAMPLE.replace("s4: 10.0.1.0/24", "s4: {addressPrefix: 10.0.1.0/24, routeTable: t}");
        format!(
            "{}
routeTables:
  t: {{routes: [{{name: r, addressPrefix: 10.9.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: {next_hop}}}]}}
",
            routed.replace("c6: {subnet: c/s6, privateIPAddress: 10.6.2.4}", "c6: {subnet: c/s6, privateIPAddress: 10.6.2.4, enableIPForwarding: true}")
        )
    };
    let sent = |next_hop: &str| {
        let snapshot = lab(&text(next_hop));
        let ping = packet(vnet_dataplane::Protocol::ICMP, "10.0.1.4", "10.9.0.1", 7);
        let decision = send(&snapshot, "a4/eth0", &ping);
        match decision.verdict {
            vnet_fabric::Verdict::Drop(reason) => reason.name().to_owned(),
            _ => delivered(&snapshot, &decision),
        }
    };
    assert_eq!(sent("10.6.1.4"), "c5/eth0");
    assert_eq!(sent("10.6.2.4"), "NextHopUnreachable");
}

#[test]
fn a_subnet_peering_is_of_one_family() {
    let text = |flag: &str| {
        let half = |local: &str, remote: &str| {
            format!(
                "{{peerCompleteVnets: false, {flag}localSubnetNames: [{local}], remoteSubnetNames: [{remote}]}}"
            )
        };
        format!(
            "
name: dual
virtualNetworks:
  a: {{addressSpace: [10.0.0.0/16, 'fd00:1::/48'], subnets: {{s: [10.0.0.0/24, 'fd00:1::/64']}}, peerings: {{b: {}}}}}
  b: {{addressSpace: [10.1.0.0/16, 'fd00:2::/48'], subnets: {{t: [10.1.0.0/24, 'fd00:2::/64']}}, peerings: {{a: {}}}}}
virtualMachines:
  a1: {{subnet: a/s, privateIPAddresses: [10.0.0.4, 'fd00:1::4']}}
  b1: {{subnet: b/t, privateIPAddresses: [10.1.0.4, 'fd00:2::4']}}
",
            half("s", "t"),
            half("t", "s")
        )
    };
    let four = lab(&text(""));
    assert_eq!(peering_rows(&four, "a/s"), ["Default Active 10.1.0.0/24 VNetPeering"]);
    assert_eq!(reason(&four, "10.0.0.4", "10.1.0.4"), "");
    assert_ne!(reason(&four, "fd00:1::4", "fd00:2::4"), "");
    let six = lab(&text("enableOnlyIPv6Peering: true, "));
    assert_eq!(peering_rows(&six, "a/s"), ["Default Active fd00:2::/64 VNetPeering"]);
    assert_eq!(reason(&six, "fd00:1::4", "fd00:2::4"), "");
    assert_eq!(reason(&six, "10.0.0.4", "10.1.0.4"), "RouteNone");
}

#[test]
fn listed_subnets_alone_use_the_remote_gateway() {
    let text = "
name: transit
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {shared: 10.0.2.0/24, GatewaySubnet: 10.0.255.0/27}
    peerings: {s: {allowGatewayTransit: true, peerCompleteVnets: false, localSubnetNames: [shared], remoteSubnetNames: [in]}}
  s:
    addressSpace: [10.1.0.0/16]
    subnets:
      in: 10.1.0.0/24
      out: 10.1.1.0/24
      forced: {addressPrefix: 10.1.2.0/24, routeTable: t}
    peerings: {hub: {useRemoteGateways: true, peerCompleteVnets: false, localSubnetNames: [in], remoteSubnetNames: [shared]}}
routeTables:
  t: {routes: [{name: r, addressPrefix: 192.168.0.0/16, nextHopType: VirtualNetworkGateway}]}
virtualMachines: {m: {subnet: s/in}, n: {subnet: s/out}, f: {subnet: s/forced}}
virtualNetworkGateways:
  vpn: {virtualNetwork: hub, gatewayType: Vpn, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}
localNetworkGateways:
  hq: {gatewayIpAddress: 198.51.100.20, localNetworkAddressSpace: [192.168.0.0/16]}
connections:
  c: {connectionType: IPsec, virtualNetworkGateway1: vpn, localNetworkGateway2: hq, sharedKey: k}
onPremisesSites:
  hq:
    addressSpace: [192.168.0.0/16]
    hosts: {pc: {address: 192.168.1.10}}
    vpnDevice: {publicIPAddress: 198.51.100.20, sharedKey: k}
";
    let file = topology(text);
    let (mut state, _) = vnet_fabric::converge(&file);
    let tunnels: Vec<String> = state.tunnels.keys().cloned().collect();
    for tunnel in tunnels {
        state.step(Event::TunnelUp { tunnel }, Nanos::ZERO);
    }
    let snapshot = compile(&file, &state);
    let gateway_rows = |subnet: &str| {
        routes(&snapshot, subnet).iter().filter(|row| row.starts_with("VirtualNetworkGateway")).count()
    };
    assert_eq!((gateway_rows("s/in"), gateway_rows("s/out")), (1, 0));
    assert_eq!(reason(&snapshot, "m", "pc"), "");
    assert_eq!(reason(&snapshot, "pc", "m"), "");
    assert_eq!(reason(&snapshot, "n", "pc"), "RouteNone");
    // A user's route leads over the peering all the same.
    assert_eq!(reason(&snapshot, "f", "pc"), "SubnetNotPeered");
    // The device has learned the listed prefix and no more.
    assert_eq!(reason(&snapshot, "pc", "n"), "NoRoute");
}

#[test]
fn changed_lists_wait_for_a_sync() {
    let before = Arc::new(topology(EXAMPLE));
    let after = EXAMPLE
        .replace("localSubnetNames: [s5]", "localSubnetNames: [s5, s6]")
        .replace("remoteSubnetNames: [s5]", "remoteSubnetNames: [s5, s6]");
    let after = Arc::new(topology(&after));
    let mut state = State::default();
    state.step(Event::ApplyAsAzure(before), Nanos::ZERO);
    state.step(Event::ApplyAsAzure(after.clone()), Nanos::ZERO);
    let level = |state: &State| peerings(&after, state)[0].peering_sync_level;
    assert_eq!(level(&state), PeeringSyncLevel::RemoteNotInSync);
    assert_eq!(reason(&compile(&after, &state), "a4", "c6"), "RouteNone");
    assert_eq!(reason(&compile(&after, &state), "c6", "a4"), "SubnetNotPeered");
    state.step(Event::PeeringSync { local: "c".into(), remote: "a".into() }, Nanos::ZERO);
    assert_eq!(level(&state), PeeringSyncLevel::FullyInSync);
    assert_eq!(reason(&compile(&after, &state), "a4", "c6"), "");
}

#[test]
fn a_private_endpoint_answers_as_its_subnet_does() {
    let text = format!(
        "{EXAMPLE}
privateEndpoints:
  listed: {{subnet: c/s5, privateIPAddress: 10.6.1.9}}
  other: {{subnet: c/s6, privateIPAddress: 10.6.2.9}}
"
    );
    let snapshot = lab(&text);
    assert_eq!(reason(&snapshot, "a4", "listed"), "");
    assert_eq!(reason(&snapshot, "a2", "listed"), "SubnetNotPeered");
    assert_eq!(routes(&snapshot, "a/s4").iter().filter(|row| row.contains("10.6.2.9")).count(), 0);
}

//! Which routes a subnet has, which of them wins, and what is listed.

mod common;

use common::*;
use vnet_dataplane::{Protocol, Reason};
use vnet_fabric::effective::next_hop;
use vnet_fabric::snapshot::Snapshot;

/// Network `v` 10.0.0.0/16 with gateway, peered with `p` 10.2.0.0/16; the arguments are the gateway's prefixes and user routes.
fn network(prefixes: &str, routes: &str) -> Snapshot {
    lab(&format!(
        "
name: routes
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets: {{s: {{addressPrefix: 10.0.0.0/24, routeTable: t}}, nva: 10.0.100.0/24, GatewaySubnet: 10.0.255.0/27}}
    peerings: {{p: {{}}}}
  p: {{addressSpace: [10.2.0.0/16], subnets: {{s: 10.2.0.0/24}}, peerings: {{v: {{}}}}}}
virtualMachines: {{m: {{subnet: v/s}}, nva: {{subnet: v/nva, enableIPForwarding: true}}, far: {{subnet: p/s}}}}
routeTables: {{t: {{routes: [{routes}]}}}}
virtualNetworkGateways: {{gw: {{virtualNetwork: v, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}}}
localNetworkGateways: {{hq: {{gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [{prefixes}]}}}}
connections: {{c: {{connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}}}
onPremisesSites: {{hq: {{addressSpace: [192.168.0.0/16], hosts: {{pc: 192.168.1.10}}, vpnDevice: {{publicIPAddress: 198.51.100.200}}}}}}
"
    ))
}

fn to_nva(name: &str, prefix: &str) -> String {
    format!(
        "{{name: {name}, addressPrefix: {prefix}, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.100.4}}"
    )
}

fn hop(snapshot: &Snapshot, destination: &str) -> String {
    let hop = next_hop(snapshot, "m", destination.parse().unwrap(), None).unwrap();
    format!("{} {}", hop.next_hop_type, hop.next_hop_ip_address.unwrap_or_default()).trim_end().to_owned()
}

#[test]
fn a_next_hop_is_told_only_from_an_address_that_the_machine_holds() {
    let snapshot = lab("
name: two
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: 10.0.0.0/24, t: {addressPrefix: 10.0.1.0/24, routeTable: t}}}}
virtualMachines: {m: {networkInterfaces: [{subnet: v/s}, {subnet: v/t}]}, n: {subnet: v/s}}
routeTables: {t: {routes: [{name: r, addressPrefix: 8.8.0.0/16, nextHopType: None}]}}
");
    let from = |source: &str| {
        next_hop(&snapshot, "m", "8.8.8.8".parse().unwrap(), Some(source.parse().unwrap()))
            .map(|hop| hop.next_hop_type)
            .map_err(|error| error.to_string())
    };
    assert_eq!(from("10.0.0.4").as_deref(), Ok("Internet"));
    assert_eq!(from("10.0.1.4").as_deref(), Ok("None"));
    // Another's address, and nobody's.
    for wrong in ["10.0.0.5", "192.0.2.1"] {
        let error = from(wrong).unwrap_err();
        assert!(error.starts_with("SourceIpDoesNotMatchNicIp"), "{error}");
    }
}

#[test]
fn an_isolated_network_has_six_routes() {
    let snapshot = lab("
name: isolated
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: 10.0.0.0/24}}}
");
    assert_eq!(
        routes(&snapshot, "v/s"),
        [
            "Default Active 10.0.0.0/16 VnetLocal",
            "Default Active 0.0.0.0/0 Internet",
            "Default Active 10.0.0.0/8 None",
            "Default Active 100.64.0.0/10 None",
            "Default Active 172.16.0.0/12 None",
            "Default Active 192.168.0.0/16 None",
        ]
    );
}

#[test]
fn ranges_of_the_network_replace_reserved_ones() {
    let snapshot = lab("
name: reserved
virtualNetworks:
  equal: {addressSpace: [192.168.0.0/16], subnets: {s: 192.168.0.0/24}}
  around: {addressSpace: [172.0.0.0/8], subnets: {s: 172.0.0.0/24}}
");
    let equal = routes(&snapshot, "equal/s");
    assert!(equal.contains(&"Default Active 192.168.0.0/16 VnetLocal".to_owned()));
    assert!(!equal.contains(&"Default Active 192.168.0.0/16 None".to_owned()));
    let around = routes(&snapshot, "around/s");
    assert!(!around.iter().any(|row| row.contains("172.16.0.0/12")));
}

#[test]
fn a_peers_wider_range_leaves_the_reserved_route_in_doubt() {
    let lab = |range: &str, subnet: &str| {
        lab(&format!(
            "
name: reserved
virtualNetworks:
  a: {{addressSpace: [10.0.0.0/16], subnets: {{s: 10.0.0.0/24}}, peerings: {{b: {{}}}}}}
  b: {{addressSpace: [{range}], subnets: {{s: {subnet}}}, peerings: {{a: {{}}}}}}
virtualMachines: {{ma: {{subnet: a/s}}, mb: {{subnet: b/s}}}}
"
        ))
    };
    let ask = |range: &str, subnet: &str| {
        let report =
            vnet_fabric::path(&lab(range, subnet), "ma", "mb", vnet_config::model::ProbeProtocol::Icmp, None);
        let report = report.unwrap();
        let doubtful: Vec<String> = report.doubtful.into_iter().map(|rule| rule.azure_rule).collect();
        (report.reason, report.certainty, doubtful)
    };
    use vnet_fabric::trace::Certainty;
    let doubt = vec!["ROUTE-RESERVED-PEER".to_owned()];
    assert_eq!(ask("172.0.0.0/8", "172.16.5.0/24"), (Some("RouteNone".into()), Certainty::Inferred, doubt));
    assert_eq!(ask("172.0.0.0/8", "172.15.5.0/24"), (None, Certainty::Documented, Vec::new()));
    assert_eq!(ask("172.16.0.0/12", "172.16.5.0/24"), (None, Certainty::Documented, Vec::new()));
}

#[test]
fn the_longest_prefix_wins_then_user_gateway_system() {
    let user =
        [to_nva("a", "10.2.0.0/15"), to_nva("b", "10.2.1.0/24"), to_nva("c", "10.9.0.0/16")].join(", ");
    let snapshot = network("10.9.0.0/16, 192.168.0.0/16", &user);
    assert_eq!(hop(&snapshot, "10.2.7.9"), "VNetPeering");
    assert_eq!(hop(&snapshot, "10.2.1.9"), "VirtualAppliance 10.0.100.4");
    assert_eq!(hop(&snapshot, "10.9.1.1"), "VirtualAppliance 10.0.100.4");
    assert_eq!(hop(&snapshot, "192.168.1.1"), "VirtualNetworkGateway 198.51.100.10");
    let rows = routes(&snapshot, "m");
    assert!(rows.contains(
        &"VirtualNetworkGateway Invalid 10.9.0.0/16 VirtualNetworkGateway 198.51.100.10".to_owned()
    ));
    assert!(rows.contains(&"Default Invalid 192.168.0.0/16 None".to_owned()));
}

#[test]
fn gateway_routes_inside_the_network_and_its_peers_are_absent() {
    let snapshot = network("10.2.7.0/24, 10.2.0.0/16, 10.9.0.0/16", "");
    assert_eq!(hop(&snapshot, "10.2.7.9"), "VNetPeering");
    let rows = routes(&snapshot, "m");
    assert_eq!(rows.iter().filter(|row| row.starts_with("VirtualNetworkGateway")).count(), 1);
    assert!(rows.contains(&"Default Active 10.2.0.0/16 VNetPeering".to_owned()));
}

#[test]
fn a_users_default_route_removes_the_reserved_ones_and_leaves_the_systems_invalid() {
    let snapshot = network("192.168.0.0/16", &to_nva("all", "0.0.0.0/0"));
    let rows = routes(&snapshot, "m");
    assert!(!rows.iter().any(|row| row.ends_with(" None")));
    assert!(rows.contains(&"Default Invalid 0.0.0.0/0 Internet".to_owned()));
    assert_eq!(hop(&snapshot, "172.20.0.1"), "VirtualAppliance 10.0.100.4");
    assert_eq!(hop(&snapshot, "192.168.1.1"), "VirtualNetworkGateway 198.51.100.10");
}

#[test]
fn a_gateways_default_route_takes_the_systems_place_unlisted() {
    let snapshot = network("0.0.0.0/0", "");
    let rows = routes(&snapshot, "m");
    assert!(!rows.iter().any(|row| row.contains("Internet") || row.ends_with(" None")));
    assert_eq!(hop(&snapshot, "8.8.8.8"), "VirtualNetworkGateway 198.51.100.10");
}

#[test]
fn a_reserved_route_under_an_equal_user_route_disappears() {
    let snapshot = network("192.168.0.0/16", &to_nva("private", "10.0.0.0/8"));
    let rows = routes(&snapshot, "m");
    assert!(!rows.iter().any(|row| row.contains("10.0.0.0/8 None")));
    assert!(rows.contains(&"User Active 10.0.0.0/8 VirtualAppliance 10.0.100.4".to_owned()));
}

#[test]
fn propagation_off_keeps_gateway_routes_out() {
    let text = "
name: propagation
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets: {s: {addressPrefix: 10.0.0.0/24, routeTable: t}, GatewaySubnet: 10.0.255.0/27}
virtualMachines: {m: {subnet: v/s}}
routeTables: {t: {disableBgpRoutePropagation: true, routes: [{name: gw, addressPrefix: 172.30.0.0/16, nextHopType: VirtualNetworkGateway}]}}
virtualNetworkGateways: {gw: {virtualNetwork: v, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}
localNetworkGateways: {hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16, 172.30.0.0/16]}}
connections: {c: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}
onPremisesSites: {hq: {addressSpace: [192.168.0.0/16], hosts: {pc: 192.168.1.10}, vpnDevice: {publicIPAddress: 198.51.100.200}}}
";
    let snapshot = lab(text);
    assert!(!routes(&snapshot, "m").iter().any(|row| row.starts_with("VirtualNetworkGateway")));
    assert_eq!(hop(&snapshot, "192.168.1.10"), "None");
    let ping = packet(Protocol::ICMP, "10.0.0.4", "192.168.1.10", 7);
    assert_eq!(dropped(&send(&snapshot, "m/eth0", &ping)), Reason::RouteNone);
    // A user's route to the gateway works all the same.
    let by_user = packet(Protocol::ICMP, "10.0.0.4", "172.30.0.1", 7);
    assert!(matches!(send(&snapshot, "m/eth0", &by_user).verdict, vnet_fabric::Verdict::Seal(_)));
}

#[test]
fn an_appliance_must_be_near() {
    let text = |next_hop: &str| {
        format!(
            "
name: near
virtualNetworks:
  h: {{addressSpace: [10.0.0.0/16], subnets: {{s: 10.0.9.0/24}}, peerings: {{s1: {{}}, s2: {{}}}}}}
  s1: {{addressSpace: [10.1.0.0/16], subnets: {{s: {{addressPrefix: 10.1.0.0/24, routeTable: t}}, n: 10.1.9.0/24}}, peerings: {{h: {{}}, s4: {{}}}}}}
  s2: {{addressSpace: [10.2.0.0/16], subnets: {{s: 10.2.9.0/24}}, peerings: {{h: {{}}}}}}
  s4: {{addressSpace: [10.4.0.0/16], subnets: {{s: 10.4.9.0/24}}}}
virtualMachines:
  m: {{subnet: s1/s}}
  own: {{subnet: s1/n, enableIPForwarding: true}}
  hub: {{subnet: h/s, enableIPForwarding: true}}
  far: {{subnet: s2/s, enableIPForwarding: true}}
  half: {{subnet: s4/s, enableIPForwarding: true}}
routeTables: {{t: {{routes: [{{name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: {next_hop}}}]}}}}
"
        )
    };
    let go = |next_hop: &str| {
        let snapshot = lab(&text(next_hop));
        let decision = send(&snapshot, "m/eth0", &packet(Protocol::TCP, "10.1.0.4", "172.16.0.1", 80));
        match decision.verdict {
            vnet_fabric::Verdict::Drop(reason) => reason.name().to_owned(),
            _ => delivered(&snapshot, &decision),
        }
    };
    assert_eq!(go("10.1.9.4"), "own/eth0");
    assert_eq!(go("10.0.9.4"), "hub/eth0");
    assert_eq!(go("10.2.9.4"), "NextHopUnreachable");
    assert_eq!(go("10.0.9.99"), "NextHopUnreachable");
    assert_eq!(go("192.168.1.1"), "NextHopUnreachable");
    assert_eq!(go("10.4.9.4"), "PeeringNotConnected");
}

#[test]
fn next_hop_none_drops() {
    let snapshot =
        network("192.168.0.0/16", "{name: stop, addressPrefix: 192.168.0.0/16, nextHopType: None}");
    let decision = send(&snapshot, "m/eth0", &packet(Protocol::TCP, "10.0.0.4", "192.168.1.10", 80));
    assert_eq!(dropped(&decision), Reason::RouteNone);
    let rule = snapshot.rule(decision.decided_by.unwrap()).unwrap();
    assert_eq!(rule.reference.name, "route t/stop (192.168.0.0/16 -> None)");
}

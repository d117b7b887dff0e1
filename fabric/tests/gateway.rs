//! Gateways, tunnels, sites, transit, and the state machine behind them.

mod common;

use std::sync::Arc;

use common::*;
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{Action, Nanos, Protocol, Reason};
use vnet_fabric::control::Effect;
use vnet_fabric::snapshot::{Snapshot, TunnelPeer, TunnelStatus};
use vnet_fabric::{Event, State, Verdict, compile, path};

fn example() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/hub-spoke.yaml")).unwrap()
}

fn reason(snapshot: &Snapshot, from: &str, to: &str) -> String {
    path(snapshot, from, to, ProbeProtocol::Icmp, None).unwrap().reason.unwrap_or_default()
}

#[test]
fn a_packet_into_a_tunnel_is_clamped_bounded_and_shaped() {
    let snapshot = lab(&example());
    let decision = send(&snapshot, "dns/eth0", &packet(Protocol::ICMP, "10.0.2.4", "192.168.1.10", 7));
    assert!(matches!(decision.verdict, Verdict::Seal(_)));
    assert!(decision.actions.contains(&Action::ClampMss { ipv4: 1360, ipv6: 1340 }));
    // A single instance has the last usable address of GatewaySubnet.
    assert!(
        decision
            .actions
            .contains(&Action::LimitMtu { mtu: 1400, answer_from: "10.0.255.30".parse().unwrap() })
    );
    let rates: Vec<u64> = decision
        .actions
        .iter()
        .filter_map(|action| if let Action::Shape(id) = action { snapshot.limiter(*id) } else { None })
        .map(|limiter| limiter.bits_per_second)
        .collect();
    assert_eq!(rates, [650_000_000, 650_000_000]);
    assert!(!decision.actions.iter().any(|action| matches!(action, Action::DecrementTtl { .. })));
    let visible = lab(&format!("{}\nsemantics: {{vpnGatewayHop: visible}}\n", example()));
    let decision = send(&visible, "dns/eth0", &packet(Protocol::ICMP, "10.0.2.4", "192.168.1.10", 7));
    assert!(
        decision
            .actions
            .contains(&Action::DecrementTtl { answer_from: Some("10.0.255.30".parse().unwrap()) })
    );
}

#[test]
fn transit_needs_the_spokes_flag() {
    let text = example();
    assert_eq!(reason(&lab(&text), "pc", "web"), "");
    let without = text.replace(
        "      hub: {allowForwardedTraffic: true, useRemoteGateways: true}",
        "      hub: {allowForwardedTraffic: true}",
    );
    let snapshot = lab(&without);
    assert_eq!(reason(&snapshot, "pc", "web"), "NoRoute");
    assert_eq!(reason(&snapshot, "db", "pc"), "RouteNone");
    // The site's range has left the tag VirtualNetwork of the spoke, too.
    assert_eq!(reason(&snapshot, "web", "pc"), "NsgDeny");
}

#[test]
fn without_bgp_the_other_network_refuses_a_spokes_packets() {
    let snapshot = lab(&example());
    let report = path(&snapshot, "web", "replica", ProbeProtocol::Icmp, None).unwrap();
    assert_eq!(report.forward.reason.as_deref(), Some("PrefixNotAllowed"));
    assert_eq!(report.rule.unwrap().azure_rule, "VPN-SOURCE");
}

#[test]
fn different_keys_never_connect() {
    let text = example().replacen(
        "virtualNetworkGateway2: west-vpn, sharedKey: example-west",
        "virtualNetworkGateway2: west-vpn, sharedKey: other",
        1,
    );
    let snapshot = lab(&text);
    assert_eq!(reason(&snapshot, "dns", "replica"), "TunnelDown");
    let status = snapshot
        .tunnels()
        .find(|tunnel| &*tunnel.name == "hub-to-west/0")
        .map(|tunnel| tunnel.status.clone());
    assert_eq!(
        status,
        Some(TunnelStatus::NotConnected("the two ends have different shared keys".to_owned()))
    );
}

#[test]
fn both_ends_of_a_tunnel_know_each_other() {
    let snapshot = lab(&example());
    assert_eq!(snapshot.tunnels().count(), 4);
    for tunnel in snapshot.tunnels() {
        let TunnelPeer::Tunnel(peer) = tunnel.peer else { panic!("{} has no peer", tunnel.name) };
        let peer = snapshot.tunnel(peer).unwrap();
        assert_eq!((peer.local, peer.remote), (tunnel.remote, tunnel.local));
        assert_eq!(peer.peer, TunnelPeer::Tunnel(tunnel.id));
        assert_eq!(peer.allowed_ips, tunnel.announced);
    }
}

#[test]
fn a_network_without_gateway_has_no_effective_one() {
    let snapshot = lab("
name: none
virtualNetworks: {v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, routeTable: t}}}}
virtualMachines: {m: {subnet: v/s}}
routeTables: {t: {routes: [{name: r, addressPrefix: 172.16.0.0/12, nextHopType: VirtualNetworkGateway}]}}
");
    let decision = send(&snapshot, "m/eth0", &packet(Protocol::TCP, "10.0.0.4", "172.16.0.1", 80));
    assert_eq!(dropped(&decision), Reason::NoEffectiveGateway);
}

#[test]
fn a_gateway_relays_spokes_by_user_routes() {
    let text = "
name: relay
virtualNetworks:
  h: {addressSpace: [10.0.0.0/16], subnets: {GatewaySubnet: 10.0.255.0/27}, peerings: {s1: {allowGatewayTransit: true}, s2: {allowGatewayTransit: true}}}
  s1: {addressSpace: [10.1.0.0/16], subnets: {s: {addressPrefix: 10.1.0.0/24, routeTable: t}}, peerings: {h: {useRemoteGateways: true}}}
  s2: {addressSpace: [10.2.0.0/16], subnets: {s: {addressPrefix: 10.2.0.0/24, routeTable: t}}, peerings: {h: {useRemoteGateways: true}}}
virtualMachines: {m1: {subnet: s1/s}, m2: {subnet: s2/s}}
routeTables: {t: {routes: [{name: one, addressPrefix: 10.1.0.0/24, nextHopType: VirtualNetworkGateway}, {name: two, addressPrefix: 10.2.0.0/24, nextHopType: VirtualNetworkGateway}]}}
virtualNetworkGateways: {gw: {virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}
";
    let snapshot = lab(text);
    // What an Azure gateway sends needs no allowForwardedTraffic.
    let report = path(&snapshot, "m1", "m2", ProbeProtocol::Icmp, None).unwrap();
    assert_eq!(
        (report.reason, report.via, report.via_reverse),
        (None, vec!["gw".to_owned()], vec!["gw".to_owned()])
    );
}

#[test]
fn tunnels_start_stop_and_report_their_state() {
    let with = Arc::new(topology(&example()));
    let mut state = State::default();
    let effects = state.step(Event::Apply(with.clone()), Nanos::ZERO);
    let started = effects.iter().filter(|effect| matches!(effect, Effect::StartTunnel { .. })).count();
    assert_eq!(started, 4);
    let down =
        Event::TunnelDown { tunnel: "hub-to-hq/0".to_owned(), reason: "no handshake for 180 s".to_owned() };
    assert_eq!(state.step(down.clone(), Nanos::ZERO).len(), 1);
    assert!(state.step(down, Nanos::ZERO).is_empty());
    assert_eq!(reason(&compile(&with, &state), "dns", "pc"), "TunnelDown");
    state.step(Event::TunnelUp { tunnel: "hub-to-hq/0".to_owned() }, Nanos::ZERO);
    assert_eq!(reason(&compile(&with, &state), "dns", "pc"), "");
    let without = example().replace("  hub-to-hq: {", "  # {");
    let effects = state.step(Event::Apply(Arc::new(topology(&without))), Nanos::ZERO);
    assert!(effects.contains(&Effect::StopTunnel { tunnel: "hub-to-hq/0".to_owned() }));
}

#[test]
fn addresses_and_handles_stay_over_applies() {
    let text = |machines: &str| {
        format!("
name: stay
virtualNetworks: {{v: {{addressSpace: [10.0.0.0/16, 'fd00::/48'], subnets: {{s: {{addressPrefixes: [10.0.0.0/24, 'fd00::/64']}}}}}}}}
virtualMachines: {{{machines}}}
")
    };
    let mut state = State::default();
    let mut apply = |machines: &str| {
        let topology = Arc::new(topology(&text(machines)));
        state.step(Event::Apply(topology.clone()), Nanos::ZERO);
        let restored: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
        compile(&topology, &restored)
    };
    let address = |snapshot: &Snapshot, name: &str| {
        let port = snapshot.port_by_name(name).unwrap();
        port.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    let first = apply("a: {subnet: v/s}, b: {subnet: v/s}");
    assert_eq!(address(&first, "a/eth0"), "10.0.0.4/24 fd00::4/64");
    assert_eq!(address(&first, "b/eth0"), "10.0.0.5/24 fd00::5/64");
    let second = apply("b: {subnet: v/s}, c: {subnet: v/s}");
    assert_eq!(address(&second, "b/eth0"), "10.0.0.5/24 fd00::5/64");
    assert_eq!(address(&second, "c/eth0"), "10.0.0.4/24 fd00::4/64");
    assert_eq!(first.port_by_name("b/eth0").unwrap().id, second.port_by_name("b/eth0").unwrap().id);
    assert_ne!(first.port_by_name("a/eth0").unwrap().id, second.port_by_name("c/eth0").unwrap().id);
    assert!(second.epoch() > first.epoch());
}

/// Hub with VPN gateway, firewall and the site `pc`; two spokes by transit. The argument is the table of GatewaySubnet.
fn inspected(routes: &str) -> Snapshot {
    lab(&format!(
        "
name: inspected
virtualNetworks:
  h:
    addressSpace: [10.0.0.0/16]
    subnets: {{GatewaySubnet: {{addressPrefix: 10.0.255.0/27, routeTable: t}}, AzureFirewallSubnet: 10.0.1.0/26, app: 10.0.2.0/24}}
    peerings: {{s1: {{allowGatewayTransit: true}}, s2: {{allowGatewayTransit: true}}}}
  s1: {{addressSpace: [10.1.0.0/16], subnets: {{s: 10.1.0.0/24}}, peerings: {{h: {{useRemoteGateways: true, allowForwardedTraffic: true}}}}}}
  s2: {{addressSpace: [10.2.0.0/16], subnets: {{s: 10.2.0.0/24}}, peerings: {{h: {{useRemoteGateways: true, allowForwardedTraffic: true}}}}}}
virtualMachines: {{m1: {{subnet: s1/s}}, m2: {{subnet: s2/s}}, hub: {{subnet: h/app}}}}
routeTables: {{t: {{routes: [{routes}]}}}}
azureFirewalls: {{fw: {{virtualNetwork: h, sku: Standard, firewallPolicy: all, publicIPAddresses: [203.0.113.20]}}}}
firewallPolicies:
  all: {{ruleCollectionGroups: [{{name: g, priority: 200, ruleCollections: [{{name: c, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{{name: r, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: ['*'], destinationAddresses: ['*'], destinationPorts: ['*']}}]}}]}}]}}
virtualNetworkGateways: {{gw: {{virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}}}
localNetworkGateways: {{hq: {{gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}}}}
connections: {{c: {{connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}}}
onPremisesSites: {{hq: {{addressSpace: [192.168.0.0/16], hosts: {{pc: 192.168.1.10}}, vpnDevice: {{publicIPAddress: 198.51.100.200}}}}}}
"
    ))
}

#[test]
fn a_gateway_sends_on_by_the_routes_of_its_subnet() {
    let to_firewall = |prefix: &str| {
        inspected(&format!(
            "{{name: r, addressPrefix: {prefix}, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}}"
        ))
    };
    let via =
        |snapshot: &Snapshot, to: &str| path(snapshot, "pc", to, ProbeProtocol::Icmp, None).unwrap().via;
    let exact = to_firewall("10.1.0.0/16");
    assert_eq!(via(&exact, "m1"), ["gw", "fw"]);
    assert_eq!(via(&exact, "m2"), ["gw"]);
    // A summary does not catch the spokes, whose peerings' routes are longer.
    assert_eq!(via(&to_firewall("10.0.0.0/8"), "m1"), ["gw"]);
    assert_eq!(via(&to_firewall("10.0.0.0/16"), "hub"), ["gw", "fw"]);
}

#[test]
fn a_user_route_leads_to_no_express_route_gateway() {
    let text = |gateways: &str| {
        format!("
name: effective
virtualNetworks:
  h: {{addressSpace: [10.0.0.0/16], subnets: {{GatewaySubnet: 10.0.255.0/27}}, peerings: {{s: {{allowGatewayTransit: true}}}}}}
  s: {{addressSpace: [10.1.0.0/16], subnets: {{s: {{addressPrefix: 10.1.0.0/24, routeTable: t}}}}, peerings: {{h: {{useRemoteGateways: true}}}}}}
virtualMachines: {{m: {{subnet: s/s}}}}
routeTables: {{t: {{routes: [{{name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualNetworkGateway}}]}}}}
virtualNetworkGateways:
  vpn: {{virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10]}}
{gateways}
localNetworkGateways: {{hq: {{gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}}}}
connections: {{c: {{connectionType: IPsec, virtualNetworkGateway1: vpn, localNetworkGateway2: hq, sharedKey: k}}}}
onPremisesSites: {{hq: {{addressSpace: [192.168.0.0/16], hosts: {{pc: 192.168.1.10}}, vpnDevice: {{publicIPAddress: 198.51.100.200}}}}}}
")
    };
    let vpn = lab(&text(""));
    let rows = routes(&vpn, "m");
    assert!(
        rows.contains(&"User Active 0.0.0.0/0 VirtualNetworkGateway 198.51.100.10".to_owned()),
        "{rows:?}"
    );
    let both = lab(&text(
        "  er: {virtualNetwork: h, gatewayType: ExpressRoute, sku: ErGw1AZ, publicIPAddresses: [198.51.100.11]}",
    ));
    let rows = routes(&both, "m");
    assert!(rows.contains(&"User Active 0.0.0.0/0 VirtualNetworkGateway None".to_owned()), "{rows:?}");
    // The VPN gateway's own routes go on.
    assert!(rows.contains(
        &"VirtualNetworkGateway Active 192.168.0.0/16 VirtualNetworkGateway 198.51.100.10".to_owned()
    ));
    let far = packet(Protocol::TCP, "10.1.0.4", "172.16.0.1", 80);
    assert_eq!(dropped(&send(&both, "m/eth0", &far)), Reason::NoEffectiveGateway);
    assert_eq!(reason(&both, "m", "pc"), "");
}

#[test]
fn a_gateway_refuses_to_learn_ranges_of_its_own_side() {
    use vnet_fabric::control::LearnedRoute;
    let topology = Arc::new(topology("
name: learned
virtualNetworks:
  h: {addressSpace: [10.0.0.0/16], subnets: {GatewaySubnet: 10.0.255.0/27, s: 10.0.0.0/24}, peerings: {s: {allowGatewayTransit: true}, other: {}}}
  s: {addressSpace: [10.1.0.0/16], subnets: {s: 10.1.0.0/24}, peerings: {h: {useRemoteGateways: true}}}
  other: {addressSpace: [10.2.0.0/16], subnets: {s: 10.2.0.0/24}, peerings: {h: {}}}
virtualNetworkGateways: {gw: {virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10], enableBgp: true}}
localNetworkGateways: {hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}}
connections: {c: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: hq, sharedKey: k}}
onPremisesSites: {hq: {addressSpace: [192.168.0.0/16], hosts: {pc: 192.168.1.10}, vpnDevice: {publicIPAddress: 198.51.100.200}}}
"));
    let mut state = State::default();
    state.step(Event::Apply(topology.clone()), Nanos::ZERO);
    let learned = ["10.0.0.0/16", "10.0.7.0/24", "10.1.3.0/24", "10.2.0.0/16", "10.0.0.0/8", "0.0.0.0/0"];
    let routes_learned = learned.map(|prefix| LearnedRoute {
        prefix: prefix.parse().unwrap(),
        connection: "c".to_owned(),
        tunnel: "c/0".to_owned(),
        peer: "192.168.255.1".parse().unwrap(),
        as_path: vec![65010],
    });
    state.step(
        Event::RoutesLearned { gateway: "gw".to_owned(), routes: routes_learned.to_vec() },
        Nanos::ZERO,
    );
    let snapshot = compile(&topology, &state);
    let gateway = |target: &str| -> Vec<String> {
        let rows =
            routes(&snapshot, target).into_iter().filter(|row| row.starts_with("VirtualNetworkGateway"));
        rows.map(|row| row.split(' ').nth(2).unwrap().to_owned()).collect()
    };
    // The peer without transit: what equals its range is learned, and loses to the peering in the gateway's own network.
    assert_eq!(gateway("h/s"), ["0.0.0.0/0", "10.0.0.0/8", "192.168.0.0/16"]);
    assert_eq!(gateway("s/s"), ["0.0.0.0/0", "10.0.0.0/8", "10.2.0.0/16", "192.168.0.0/16"]);
}

#[test]
fn transit_needs_a_connected_peering() {
    let whole = Arc::new(topology(&example()));
    let mut state = State::default();
    state.step(Event::Apply(whole), Nanos::ZERO);
    let rows = |snapshot: &Snapshot| {
        routes(snapshot, "spoke2/db").iter().filter(|row| row.starts_with("VirtualNetworkGateway")).count()
    };
    let tunnels: Vec<String> = state.tunnels.keys().cloned().collect();
    for tunnel in tunnels {
        state.step(Event::TunnelUp { tunnel }, Nanos::ZERO);
    }
    assert!(rows(&compile(state.topology().unwrap(), &state)) > 0);
    let text =
        example().replace("      spoke2: {allowForwardedTraffic: true, allowGatewayTransit: true}\n", "");
    let halved = Arc::new(topology(&text));
    state.step(Event::Apply(halved.clone()), Nanos::ZERO);
    let snapshot = compile(&halved, &state);
    assert_eq!(rows(&snapshot), 0);
    // The gateway has taken the spoke's range back, too.
    assert_eq!(reason(&snapshot, "pc", "db"), "NoRoute");
}

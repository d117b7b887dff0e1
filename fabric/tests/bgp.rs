//! What gateways tell, take and route by BGP: the reference's examples, and what a fresh lab comes to.

mod common;

use std::sync::Arc;

use common::{routes, topology};
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::Nanos;
use vnet_fabric::control::{Event, LearnedRoute, State};
use vnet_fabric::snapshot::{BgpPeer, BgpSpeaker, Snapshot};
use vnet_fabric::{compile, converge};

const CHAIN: &str = "
name: chain
virtualNetworks:
  a: {addressSpace: [10.1.0.0/16], subnets: {GatewaySubnet: 10.1.255.0/27, s: 10.1.0.0/24}}
  b: {addressSpace: [10.2.0.0/16], subnets: {GatewaySubnet: 10.2.255.0/27, s: 10.2.0.0/24}}
  c: {addressSpace: [10.3.0.0/16], subnets: {GatewaySubnet: 10.3.255.0/27, s: 10.3.0.0/24}}
virtualMachines: {va: {subnet: a/s}, vb: {subnet: b/s}, vc: {subnet: c/s}}
virtualNetworkGateways:
  ga: {virtualNetwork: a, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.1], enableBgp: true, bgpSettings: {asn: 65521}}
  gb: {virtualNetwork: b, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.2], enableBgp: true, bgpSettings: {asn: 65522}}
  gc: {virtualNetwork: c, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.3], enableBgp: true, bgpSettings: {asn: 65523}}
connections:
  ab: {connectionType: Vnet2Vnet, virtualNetworkGateway1: ga, virtualNetworkGateway2: gb, sharedKey: k, enableBgp: true}
  ba: {connectionType: Vnet2Vnet, virtualNetworkGateway1: gb, virtualNetworkGateway2: ga, sharedKey: k, enableBgp: true}
  bc: {connectionType: Vnet2Vnet, virtualNetworkGateway1: gb, virtualNetworkGateway2: gc, sharedKey: k, enableBgp: true}
  cb: {connectionType: Vnet2Vnet, virtualNetworkGateway1: gc, virtualNetworkGateway2: gb, sharedKey: k, enableBgp: true}
";

fn reason(snapshot: &Snapshot, from: &str, to: &str) -> String {
    vnet_fabric::path(snapshot, from, to, ProbeProtocol::Icmp, None).unwrap().reason.unwrap_or_default()
}

/// Prefixes of a target's effective routes that lead to a gateway.
fn gateway_routes(snapshot: &Snapshot, target: &str) -> Vec<String> {
    let rows = routes(snapshot, target).into_iter().filter(|row| row.starts_with("VirtualNetworkGateway"));
    rows.map(|row| row.split(' ').nth(2).expect("a row has a prefix").to_owned()).collect()
}

fn path(state: &State, gateway: &str, prefix: &str) -> Vec<u32> {
    let learned = state.learned[gateway].iter().find(|route| route.prefix.to_string() == prefix);
    learned.map(|route| route.as_path.clone()).unwrap_or_default()
}

/// EX-4.2 of the reference.
#[test]
fn a_chain_is_transitive_with_bgp_on_every_hop_and_not_otherwise() {
    let (state, snapshot) = converge(&topology(CHAIN));
    assert_eq!(gateway_routes(&snapshot, "a/s"), ["10.2.0.0/16", "10.2.255.30/32", "10.3.0.0/16"]);
    assert_eq!(path(&state, "ga", "10.2.0.0/16"), [65_522]);
    assert_eq!(path(&state, "ga", "10.3.0.0/16"), [65_522, 65_523]);
    assert_eq!(
        (reason(&snapshot, "vc", "va"), reason(&snapshot, "va", "vc")),
        (String::new(), String::new())
    );

    let off = CHAIN.replace(
        "virtualNetworkGateway2: gc, sharedKey: k, enableBgp: true",
        "virtualNetworkGateway2: gc, sharedKey: k",
    );
    let off = off.replace(
        "virtualNetworkGateway1: gc, virtualNetworkGateway2: gb, sharedKey: k, enableBgp: true",
        "virtualNetworkGateway1: gc, virtualNetworkGateway2: gb, sharedKey: k",
    );
    let (_, snapshot) = converge(&topology(&off));
    assert_eq!(gateway_routes(&snapshot, "a/s"), ["10.2.0.0/16", "10.2.255.30/32"]);
    assert_eq!(gateway_routes(&snapshot, "b/s"), ["10.1.0.0/16", "10.1.255.30/32", "10.3.0.0/16"]);
    assert_ne!(reason(&snapshot, "vc", "va"), "");

    let (state, snapshot) = converge(&topology(&CHAIN.replace("asn: 65523", "asn: 65521")));
    assert_eq!(
        gateway_routes(&snapshot, "c/s"),
        ["10.2.0.0/16", "10.2.255.30/32"],
        "its own AS is in the path"
    );
    assert!(path(&state, "ga", "10.3.0.0/16").is_empty());
}

const HUB: &str = "
name: hub
virtualNetworks:
  h: {addressSpace: [10.0.0.0/16], subnets: {GatewaySubnet: 10.0.255.0/27, s: 10.0.0.0/24}, peerings: {s1: {allowGatewayTransit: true}, s2: {}}}
  s1: {addressSpace: [10.1.0.0/16], subnets: {s: 10.1.0.0/24}, peerings: {h: {useRemoteGateways: true}}}
  s2: {addressSpace: [10.2.0.0/16], subnets: {s: 10.2.0.0/24}, peerings: {h: {}}}
virtualNetworkGateways:
  gw: {virtualNetwork: h, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10], enableBgp: true}
localNetworkGateways:
  x: {gatewayIpAddress: 198.51.100.201, localNetworkAddressSpace: [172.16.0.0/16]}
  y: {gatewayIpAddress: 198.51.100.202, bgpSettings: {asn: 65010, bgpPeeringAddress: 192.168.255.1}}
  z: {gatewayIpAddress: 198.51.100.203, bgpSettings: {asn: 65020, bgpPeeringAddress: 192.168.255.2}}
connections:
  x: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: x, sharedKey: k}
  y: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: y, sharedKey: k, enableBgp: true}
  z: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: z, sharedKey: k, enableBgp: true}
onPremisesSites:
  x: {addressSpace: [172.16.0.0/16], hosts: {px: 172.16.0.4}, vpnDevice: {publicIPAddress: 198.51.100.201}}
  y: {addressSpace: [192.168.0.0/16], vpnDevice: {publicIPAddress: 198.51.100.202, kind: external}}
  z: {addressSpace: [172.20.0.0/16], vpnDevice: {publicIPAddress: 198.51.100.203, kind: external}}
";

fn speaker(snapshot: &Snapshot) -> &BgpSpeaker {
    snapshot.bgp_speakers().next().expect("the gateway speaks")
}

/// All that a peer is told of these prefixes and the speaker's own.
fn told(speaker: &BgpSpeaker, peer: &BgpPeer, learned: &[&str]) -> Vec<String> {
    let own =
        speaker.originated.iter().map(|own| own.prefix).filter(|prefix| speaker.tells_own(peer, prefix));
    let learned = learned.iter().map(|prefix| prefix.parse().expect("a prefix"));
    let mut all: Vec<ipnet::IpNet> =
        own.chain(learned.filter(|prefix| speaker.passes_on(peer, prefix))).collect();
    all.sort();
    all.iter().map(ToString::to_string).collect()
}

/// EX-4.3 of the reference.
#[test]
fn a_gateway_advertises_its_side_and_its_other_connections() {
    let text = HUB.to_owned();
    let snapshot = converge(&topology(&text)).1;
    let of = |speaker: &BgpSpeaker, address: &str, learned: &[&str]| {
        told(speaker, speaker.peer(address.parse().unwrap()).expect("a peer"), learned)
    };
    let learned_of_y = ["192.168.0.0/16", "0.0.0.0/0", "10.0.0.0/8", "10.2.0.0/16"];
    // What equals the range of a network that is peered without transit is no range of its own.
    let z = ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "172.16.0.0/16", "192.168.0.0/16"];
    assert_eq!(of(speaker(&snapshot), "192.168.255.2", &learned_of_y), z);
    assert_eq!(of(speaker(&snapshot), "192.168.255.1", &[]), ["10.0.0.0/16", "10.1.0.0/16", "172.16.0.0/16"]);
    assert_eq!(speaker(&snapshot).asn, 65_515);

    let summed = text.replace(
        "h: {addressSpace: [10.0.0.0/16],",
        "h: {addressSpace: [10.0.0.0/16], summarizedGatewayPrefixes: [10.0.0.0/15],",
    );
    let snapshot = converge(&topology(&summed)).1;
    assert_eq!(of(speaker(&snapshot), "192.168.255.2", &[]), ["10.0.0.0/15", "172.16.0.0/16"]);
}

#[test]
fn a_prefix_of_a_connection_is_not_told_to_its_own_other_side() {
    let text = HUB.replace(
        "y: {gatewayIpAddress: 198.51.100.202,",
        "y: {gatewayIpAddress: 198.51.100.202, localNetworkAddressSpace: [192.168.0.0/17, 0.0.0.0/0],",
    );
    let snapshot = converge(&topology(&text)).1;
    let speaker = speaker(&snapshot);
    let of = |address: &str| told(speaker, speaker.peer(address.parse().unwrap()).unwrap(), &[]);
    assert!(!of("192.168.255.1").contains(&"192.168.0.0/17".to_owned()));
    assert!(of("192.168.255.2").contains(&"192.168.0.0/17".to_owned()));
    assert!(!of("192.168.255.2").contains(&"0.0.0.0/0".to_owned()), "no default route is told");
}

fn learn(state: &mut State, routes: &[(&str, &str)]) {
    let route = |(prefix, connection): &(&str, &str)| LearnedRoute {
        prefix: prefix.parse().unwrap(),
        connection: (*connection).to_owned(),
        tunnel: format!("{connection}/0"),
        peer: "192.168.255.1".parse().unwrap(),
        as_path: vec![65_010],
    };
    let routes = routes.iter().map(route).collect();
    state.step(Event::RoutesLearned { gateway: "gw".to_owned(), routes }, Nanos::ZERO);
}

#[test]
fn learned_routes_come_and_go_and_configured_ones_stand_before_them() {
    let model = Arc::new(topology(HUB));
    let mut state = State::default();
    state.step(Event::Apply(Arc::clone(&model)), Nanos::ZERO);
    let hosts = ["192.168.255.1/32", "192.168.255.2/32"];
    let routes_of = |state: &State, target: &str| gateway_routes(&compile(&model, state), target);
    assert_eq!(routes_of(&state, "s1/s"), ["172.16.0.0/16", hosts[0], hosts[1]]);
    let epoch = state.epoch;
    learn(&mut state, &[("192.168.0.0/16", "y"), ("192.168.0.0/16", "z"), ("172.16.0.0/16", "y")]);
    assert_eq!(state.epoch, epoch + 1);
    assert_eq!(routes_of(&state, "s1/s"), ["172.16.0.0/16", "192.168.0.0/16", hosts[0], hosts[1]]);
    let snapshot = compile(&model, &state);
    let behind = |connection: &str, prefix: &str| {
        let tunnel = snapshot.tunnels().find(|tunnel| &*tunnel.connection == connection && !tunnel.at_site);
        tunnel.unwrap().allowed_ips.contains(&prefix.parse().unwrap())
    };
    assert!(behind("y", "192.168.0.0/16") && behind("z", "192.168.0.0/16"), "both ways are used");
    assert!(!behind("x", "192.168.0.0/16"));
    // The same again changes nothing; an empty list takes everything back.
    learn(&mut state, &[("172.16.0.0/16", "y"), ("192.168.0.0/16", "z"), ("192.168.0.0/16", "y")]);
    assert_eq!(state.epoch, epoch + 1);
    learn(&mut state, &[]);
    assert_eq!(routes_of(&state, "s1/s"), ["172.16.0.0/16", hosts[0], hosts[1]]);
    // What was learned over a connection goes with it, and what comes late of it is not taken.
    learn(&mut state, &[("192.168.0.0/16", "y")]);
    let without = HUB.replace("  y: {connectionType: IPsec, virtualNetworkGateway1: gw, localNetworkGateway2: y, sharedKey: k, enableBgp: true}\n", "");
    let fewer = Arc::new(topology(&without));
    state.step(Event::Apply(Arc::clone(&fewer)), Nanos::ZERO);
    learn(&mut state, &[("192.168.0.0/16", "y")]);
    assert_eq!(gateway_routes(&compile(&fewer, &state), "s1/s"), ["172.16.0.0/16", hosts[1]]);
}

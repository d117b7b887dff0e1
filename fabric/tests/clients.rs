//! Clients of point-to-site VPN: addresses of the pool, what they reach, what networks know of them, revocation.

mod common;

use common::*;
use ipnet::IpNet;
use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{Protocol, Reason};
use vnet_fabric::effective::effective_routes;
use vnet_fabric::snapshot::{Snapshot, TunnelPeer, TunnelSpec, TunnelStatus};
use vnet_fabric::{Event, State, Verdict, path};

/// A hub with a gateway that takes clients, a spoke that uses it, one that does not, and a site behind a connection.
const TEXT: &str = "\
name: clients
location: eastus
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {GatewaySubnet: 10.0.255.0/27, shared: 10.0.2.0/24}
    peerings: {near: {allowForwardedTraffic: true, allowGatewayTransit: true}, far: {}}
  near:
    addressSpace: [10.1.0.0/16]
    subnets: {app: 10.1.0.0/24}
    peerings: {hub: {allowForwardedTraffic: true, useRemoteGateways: true}}
  far:
    addressSpace: [10.2.0.0/16]
    subnets: {app: 10.2.0.0/24}
    peerings: {hub: {allowForwardedTraffic: true}}
virtualMachines:
  dns: {subnet: hub/shared, privateIPAddress: 10.0.2.4}
  web: {subnet: near/app, privateIPAddress: 10.1.0.4}
  db: {subnet: far/app, privateIPAddress: 10.2.0.4}
virtualNetworkGateways:
  vpn: {virtualNetwork: hub, sku: VpnGw1AZ, publicIPAddresses: [198.51.100.10], vpnClientConfiguration: {vpnClientAddressPool: [172.16.201.0/24]}}
localNetworkGateways:
  hq: {gatewayIpAddress: 198.51.100.200, localNetworkAddressSpace: [192.168.0.0/16]}
connections:
  to-hq: {connectionType: IPsec, virtualNetworkGateway1: vpn, localNetworkGateway2: hq, sharedKey: k}
onPremisesSites:
  hq: {addressSpace: [192.168.0.0/16], hosts: {pc: 192.168.1.10}, vpnDevice: {publicIPAddress: 198.51.100.200}}
vpnClients:
  laptop: {gateway: vpn, location: westeurope, publicIPAddress: 203.0.113.50}
  tablet: {gateway: vpn}
  phone: {gateway: vpn, kind: external}
  lost: {gateway: vpn, revoked: true}
";

fn reason(snapshot: &Snapshot, from: &str, to: &str) -> String {
    path(snapshot, from, to, ProbeProtocol::Icmp, None).unwrap().reason.unwrap_or_default()
}

fn end<'a>(snapshot: &'a Snapshot, name: &str) -> Option<&'a TunnelSpec> {
    snapshot.tunnels().find(|spec| &*spec.name == name)
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn a_client_reaches_what_its_gateway_leads_to() {
    let snapshot = lab(TEXT);
    assert_eq!(reason(&snapshot, "laptop", "dns"), "");
    assert_eq!(reason(&snapshot, "laptop", "web"), "");
    assert_eq!(reason(&snapshot, "dns", "laptop"), "");
    assert_eq!(reason(&snapshot, "web", "tablet"), "");
    // The spoke does not use the gateway, and a static connection is nothing that clients are told.
    assert_eq!(reason(&snapshot, "laptop", "db"), "NoRoute");
    assert_eq!(reason(&snapshot, "laptop", "pc"), "NoRoute");
    let report = path(&snapshot, "laptop", "web", ProbeProtocol::Icmp, None).unwrap();
    assert_eq!(report.via, ["vpn"]);
}

#[test]
fn each_client_has_a_tunnel_and_an_address_of_its_own() {
    let snapshot = lab(TEXT);
    let gateway = end(&snapshot, "vpnClients/laptop").unwrap();
    assert_eq!(gateway.allowed_ips, nets(&["172.16.201.1/32"]));
    assert_eq!(gateway.announced, nets(&["10.0.0.0/16", "10.1.0.0/16"]));
    assert_eq!(gateway.remote.to_string(), "203.0.113.50");
    assert!(gateway.roaming && !gateway.initiates && gateway.shared_key.0.is_none());
    let client = end(&snapshot, "laptop/vpnClients/laptop").unwrap();
    assert_eq!((client.local, client.remote), (gateway.remote, gateway.local));
    assert_eq!(client.peer, TunnelPeer::Tunnel(gateway.id));
    assert!(client.initiates && !client.roaming);
    let phone = end(&snapshot, "vpnClients/phone").unwrap();
    assert_eq!(phone.peer, TunnelPeer::External("phone".into()));
    assert_eq!(phone.allowed_ips, nets(&["172.16.201.3/32"]));
    assert!(end(&snapshot, "phone/vpnClients/phone").is_none(), "the user runs it");
    let addresses: Vec<_> = snapshot.clients().map(|(_, address)| address).collect();
    assert_eq!(addresses.len(), 4);
    assert!((1..4).all(|index| !addresses[..index].contains(&addresses[index])), "{addresses:?}");
}

#[test]
fn networks_know_the_pool_as_one_route() {
    let snapshot = lab(TEXT);
    let known = |target: &str| -> Vec<String> {
        let rows = effective_routes(&snapshot, target).unwrap().value.into_iter();
        rows.filter(|row| row.source == "VirtualNetworkGateway").flat_map(|row| row.address_prefix).collect()
    };
    assert_eq!(known("dns"), ["172.16.201.0/24", "192.168.0.0/16"]);
    assert_eq!(known("web"), known("dns"));
    assert_eq!(known("db"), Vec::<String>::new());
    // An address of the pool that nobody has.
    let decision = send(&snapshot, "dns/eth0", &packet(Protocol::ICMP, "10.0.2.4", "172.16.201.200", 7));
    assert_eq!(decision.verdict, Verdict::Drop(Reason::NoRoute));
}

#[test]
fn a_client_can_use_no_other_address() {
    let snapshot = lab(TEXT);
    let ingress = end(&snapshot, "vpnClients/laptop").unwrap().ingress;
    let port = snapshot.port(ingress).unwrap().name.to_string();
    let decision = send(&snapshot, &port, &packet(Protocol::ICMP, "172.16.201.2", "10.0.2.4", 7));
    assert_eq!(decision.verdict, Verdict::Drop(Reason::PrefixNotAllowed));
    let decision = send(&snapshot, &port, &packet(Protocol::ICMP, "172.16.201.1", "10.0.2.4", 7));
    assert!(matches!(decision.verdict, Verdict::Deliver(_)));
}

#[test]
fn a_revoked_client_has_no_tunnel() {
    let snapshot = lab(TEXT);
    assert!(end(&snapshot, "vpnClients/lost").is_none());
    let own = end(&snapshot, "lost/vpnClients/lost").unwrap();
    assert_eq!(own.peer, TunnelPeer::Missing);
    assert!(matches!(&own.status, TunnelStatus::NotConnected(why) if why.contains("revoked")));
    assert_eq!(reason(&snapshot, "lost", "dns"), "TunnelDown");
    assert_eq!(reason(&snapshot, "dns", "lost"), "NoRoute");
}

#[test]
fn addresses_of_clients_stay_when_others_come_and_go() {
    let mut state = State::default();
    let addresses = |state: &State| -> Vec<(String, Vec<IpNet>)> {
        let snapshot = state.snapshot();
        let ends = snapshot.tunnels().filter(|spec| spec.roaming);
        ends.map(|spec| (spec.connection.to_string(), spec.allowed_ips.clone())).collect()
    };
    let mut apply = |text: &str| {
        state.step(Event::Apply(std::sync::Arc::new(topology(text))), vnet_dataplane::Nanos::ZERO);
        addresses(&state)
    };
    let before = apply(TEXT);
    let without =
        TEXT.replace("  laptop: {gateway: vpn, location: westeurope, publicIPAddress: 203.0.113.50}\n", "");
    let after = apply(&without);
    assert_eq!(after, before[1..], "who stays keeps its address");
    let again = apply(&format!("{without}  newcomer: {{gateway: vpn}}\n"));
    assert_eq!(again.last(), Some(&("newcomer".to_owned(), nets(&["172.16.201.1/32"]))));
}

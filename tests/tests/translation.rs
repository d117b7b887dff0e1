//! Translation by the router with real packets: bindings, their end, and the count of packets in and out.

use std::net::IpAddr;
use std::time::Duration;

use vnet_config::model::ProbeProtocol;
use vnet_dataplane::{FiveTuple, FlowState, Headers, PortId, Protocol, Reason, checksum};
use vnet_fabric::path::PathVerdict;
use vnet_fabric::{Snapshot, converge, path};
use vnet_tests::simulation::{Simulation, packet};

const SERVER: &str = "203.0.113.80";

/// A NAT gateway and a firewall on two networks; the pool of the firewall has 4,992 ports.
fn lab() -> Snapshot {
    let text = "
name: translation
virtualNetworks:
  v:
    addressSpace: [10.0.0.0/16]
    subnets: {nat: {addressPrefix: 10.0.0.0/24, natGateway: out}, plain: 10.0.1.0/24}
  hub:
    addressSpace: [10.8.0.0/16]
    subnets: {AzureFirewallSubnet: 10.8.1.0/26, app: {addressPrefix: 10.8.2.0/24, routeTable: via}}
natGateways: {out: {sku: StandardV2, publicIPAddresses: [203.0.113.1, 203.0.113.2]}}
routeTables: {via: {routes: [{name: all, addressPrefix: 0.0.0.0/0, nextHopType: VirtualAppliance, nextHopIpAddress: 10.8.1.4}]}}
azureFirewalls: {fw: {virtualNetwork: hub, firewallPolicy: p, publicIPAddresses: [203.0.113.20]}}
firewallPolicies:
  p: {ruleCollectionGroups: [{name: g, priority: 100, ruleCollections: [{name: c, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{name: r, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: ['*'], destinationAddresses: ['*'], destinationPorts: ['*']}]}]}]}
virtualMachines:
  a: {subnet: v/nat, privateIPAddress: 10.0.0.4}
  b: {subnet: v/nat, privateIPAddress: 10.0.0.5}
  plain: {subnet: v/plain, privateIPAddress: 10.0.1.4}
  app: {subnet: hub/app, privateIPAddress: 10.8.2.4}
internet: {hosts: {server: 203.0.113.80, other: 203.0.113.81}}
";
    let loaded = vnet_config::load(text, "test.yaml", None);
    let loaded = loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}"));
    converge(&loaded.topology).1
}

fn port(simulation: &Simulation, name: &str) -> PortId {
    simulation.router.snapshot().port_by_name(name).expect("the lab has this port").id
}

fn flow(protocol: Protocol, source: &str, destination: &str, ports: (u16, u16)) -> FiveTuple {
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    let destination_port = if protocol.is_icmp() { ports.0 } else { ports.1 };
    FiveTuple {
        protocol,
        source: address(source),
        destination: address(destination),
        source_port: ports.0,
        destination_port,
    }
}

/// What arrived: sound in every checksum.
fn seen(arrived: &[u8]) -> FiveTuple {
    let headers = Headers::parse(arrived).expect("a sound packet");
    assert!(headers.ipv4_checksum_holds(arrived) && checksum::transport_holds(arrived, &headers));
    headers.meta.tuple
}

fn function(simulation: &Simulation, name: &str) -> vnet_dataplane::FunctionId {
    let all = simulation.router.snapshot().functions();
    all.iter().find(|function| &*function.name == name).expect("the lab has this function").id
}

#[test]
fn every_flow_has_a_binding_of_its_own_and_answers_find_their_way() {
    let mut simulation = Simulation::new(lab());
    let edge = port(&simulation, "internet");
    let mut outside = std::collections::HashSet::new();
    for number in 0..600_u16 {
        let protocol = [Protocol::TCP, Protocol::UDP, Protocol::ICMP][usize::from(number % 3)];
        let (name, source) = [("a/eth0", "10.0.0.4"), ("b/eth0", "10.0.0.5")][usize::from(number / 3 % 2)];
        // Both machines use the same ports.
        let sent = flow(protocol, source, SERVER, (2_000 + number / 6, 443));
        let from = port(&simulation, name);
        let (at, arrived) = simulation.send(from, &packet(sent, false)).expect("it leaves");
        let translated = seen(&arrived);
        assert_eq!(at, edge);
        assert!(["203.0.113.1", "203.0.113.2"].contains(&&*translated.source.to_string()));
        assert!(translated.source_port >= 1_024);
        assert!(outside.insert(translated), "{translated} is another flow's");
        let (at, arrived) = simulation.send(edge, &packet(translated.reversed(), true)).expect("it returns");
        assert_eq!((at, seen(&arrived)), (from, sent.reversed()));
    }
    let addresses: std::collections::HashSet<IpAddr> = outside.iter().map(|tuple| tuple.source).collect();
    assert_eq!(addresses.len(), 2, "both addresses are used");
    let (entered, left) = simulation.balance();
    assert_eq!(entered, left);
}

#[test]
fn ports_run_out_and_come_back_with_the_end_of_their_sessions() {
    let mut simulation = Simulation::new(lab());
    let (from, edge) = (port(&simulation, "app/eth0"), port(&simulation, "internet"));
    let firewall = function(&simulation, "firewall/fw");
    let used = |simulation: &Simulation| simulation.router.shared().sessions().bindings(firewall);
    let mut refused = 0;
    for number in 0..5_200_u16 {
        let sent = flow(Protocol::UDP, "10.8.2.4", SERVER, (10_000 + number, 53));
        match simulation.send(from, &packet(sent, false)) {
            Ok((at, _)) => assert_eq!(at, edge),
            Err(reason) => {
                assert_eq!(reason, Reason::SnatPortsExhausted);
                refused += 1;
            }
        }
    }
    assert_eq!((used(&simulation), refused), (4_992, 208));
    let elsewhere = flow(Protocol::UDP, "10.8.2.4", "203.0.113.81", (10_000, 53));
    simulation.send(from, &packet(elsewhere, false)).expect("another destination has ports of its own");
    // UDP is forgotten after four minutes.
    simulation.pass(Duration::from_secs(300));
    assert_eq!(used(&simulation), 0);
    let again = flow(Protocol::UDP, "10.8.2.4", SERVER, (15_199, 53));
    simulation.send(from, &packet(again, false)).expect("a port is free again");
    let (entered, left) = simulation.balance();
    assert_eq!(entered, left);
}

#[test]
fn a_flow_that_slept_too_long_is_bound_anew() {
    let mut simulation = Simulation::new(lab());
    let from = port(&simulation, "a/eth0");
    let first = flow(Protocol::UDP, "10.0.0.4", SERVER, (5_000, 53));
    simulation.send(from, &packet(first, false)).expect("it leaves");
    let nat = function(&simulation, "nat/out");
    let before = simulation.router.shared().sessions().find(nat, &first).expect("a session");
    simulation.pass(Duration::from_secs(300));
    assert!(simulation.router.shared().sessions().find(nat, &first).is_none());
    let (_, arrived) = simulation.send(from, &packet(first, false)).expect("it leaves again");
    let after = simulation.router.shared().sessions().find(nat, &first).expect("a session again");
    assert_ne!(before.session, after.session);
    assert_eq!(seen(&arrived), after.reply.reversed());
    // TCP that is established lives as long as the NAT gateway says.
    let connection = flow(Protocol::TCP, "10.0.0.4", SERVER, (5_001, 443));
    let (edge, arrived) = simulation.send(from, &packet(connection, false)).expect("it leaves");
    simulation.send(edge, &packet(seen(&arrived).reversed(), true)).expect("it is answered");
    let found = simulation.router.shared().sessions().find(nat, &connection).expect("a session");
    let state = simulation.router.shared().sessions().get(found.session).expect("alive").state();
    assert_eq!(state, FlowState::Opening);
}

#[test]
fn default_outbound_access_takes_no_fragments() {
    let mut simulation = Simulation::new(lab());
    let from = port(&simulation, "plain/eth0");
    let sent = flow(Protocol::UDP, "10.0.1.4", SERVER, (5_000, 53));
    simulation.send(from, &packet(sent, false)).expect("a whole packet leaves");
    let mut fragment = packet(sent, false);
    // More fragments follow; the header's checksum is made anew.
    fragment[6] |= 0x20;
    checksum::write_ipv4_header(&mut fragment[..20]);
    assert_eq!(simulation.send(from, &fragment), Err(Reason::ProtocolNotSupported));
    let by_nat = flow(Protocol::UDP, "10.0.0.4", SERVER, (5_000, 53));
    let mut fragment = packet(by_nat, false);
    fragment[6] |= 0x20;
    checksum::write_ipv4_header(&mut fragment[..20]);
    let from = port(&simulation, "a/eth0");
    simulation.send(from, &fragment).expect("a NAT gateway takes a first fragment");
    let (entered, left) = simulation.balance();
    assert_eq!(entered, left);
}

/// Questions of `near` pass the firewall of `far`'s network, which translates towards addresses that are not private; those
/// of `far` go straight over the peering, and their answers pass the firewall.
const ONE_SIDED: &str = "
name: one-sided
virtualNetworks:
  n:
    addressSpace: [10.1.0.0/16]
    subnets: {s: {addressPrefix: 10.1.0.0/24, routeTable: via}}
    peerings: {f: {allowForwardedTraffic: true}}
  f:
    addressSpace: [20.2.0.0/16]
    subnets: {AzureFirewallSubnet: 20.2.2.0/26, s: 20.2.0.0/24}
    peerings: {n: {allowForwardedTraffic: true}}
routeTables: {via: {routes: [{name: all, addressPrefix: 20.2.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 20.2.2.4}]}}
azureFirewalls: {fw: {virtualNetwork: f, firewallPolicy: p, publicIPAddresses: [203.0.113.20]}}
firewallPolicies:
  p: {ruleCollectionGroups: [{name: g, priority: 100, ruleCollections: [{name: c, priority: 100, ruleCollectionType: FirewallPolicyFilterRuleCollection, action: Allow, rules: [{name: r, ruleType: NetworkRule, ipProtocols: [Any], sourceAddresses: ['*'], destinationAddresses: ['*'], destinationPorts: ['*']}]}]}]}
virtualMachines:
  near: {subnet: n/s, privateIPAddress: 10.1.0.4}
  far: {subnet: f/s, privateIPAddress: 20.2.0.4}
";

#[test]
fn an_answer_that_comes_from_another_address_is_none() {
    let loaded = vnet_config::load(ONE_SIDED, "test.yaml", None);
    let topology = loaded.unwrap_or_else(|diagnostics| panic!("{diagnostics}")).topology;
    let (_, snapshot) = converge(&topology);
    let instances: Vec<IpAddr> = ["20.2.2.5", "20.2.2.6"].map(|text| text.parse().unwrap()).into();
    for protocol in [ProbeProtocol::Udp, ProbeProtocol::Icmp] {
        let asked = path(&snapshot, "near", "far", protocol, None).unwrap();
        assert_eq!((asked.verdict, &asked.source_seen_as_one_of), (PathVerdict::Allow, &instances));
        let asked = path(&snapshot, "far", "near", protocol, None).unwrap();
        assert_eq!(asked.verdict, PathVerdict::Deny);
        assert_eq!(asked.reason.as_deref(), Some(Reason::AsymmetricReturn.name()));
        assert!(asked.forward.arrives && asked.source_seen_as_one_of.is_empty());
        let back = asked.reverse.unwrap();
        let last = &back.steps.last().unwrap().text;
        assert!(!back.arrives && last.starts_with("no answer to ") && last.contains("20.2.2.5"), "{last}");
    }
}

//! An impact says of every pair what two matrices say, and of live flows what their sessions make of a change.

use vnet_analysis::impact::{Effect, ImpactReport, LiveFlow, LiveState, PairChange, impact, impact_of_files};
use vnet_analysis::search::SearchProtocol;
use vnet_config::Topology;
use vnet_config::model::{PortRange, ProbeProtocol};
use vnet_dataplane::{FiveTuple, Nanos, Protocol};
use vnet_fabric::control::{Event, State};
use vnet_fabric::path::{PairReport, first_packet};
use vnet_fabric::{NoTrace, SessionOpen, Snapshot, Verdict, converge, decide, matrix};

const LAB: &str = "
name: lab
virtualNetworks:
  hub:
    addressSpace: [10.0.0.0/16]
    subnets: {AzureFirewallSubnet: 10.0.1.0/26, nva: 10.0.9.0/24}
    peerings: {one: {allowForwardedTraffic: true}, two: {allowForwardedTraffic: true}}
  one:
    addressSpace: [10.1.0.0/16]
    subnets: {app: {addressPrefix: 10.1.0.0/24, routeTable: to-two, networkSecurityGroup: guard}}
    peerings: {hub: {allowForwardedTraffic: true}}
  two:
    addressSpace: [10.2.0.0/16]
    subnets: {db: {addressPrefix: 10.2.0.0/24, routeTable: to-one}}
    peerings: {hub: {allowForwardedTraffic: true}}
virtualMachines:
  web1: {subnet: one/app}
  web2: {subnet: one/app}
  web3: {subnet: one/app}
  db: {subnet: two/db, privateIPAddress: 10.2.0.4}
  nva: {subnet: hub/nva, privateIPAddress: 10.0.9.4, enableIPForwarding: true}
networkSecurityGroups:
  guard:
    securityRules:
      - {name: out, priority: 100, direction: Outbound, access: Allow, protocol: Tcp, sourceAddressPrefix: '*', destinationAddressPrefix: 10.2.0.0/16, destinationPortRange: 5432}
      - {name: rest, priority: 200, direction: Outbound, access: Deny, protocol: Tcp, sourceAddressPrefix: '*', destinationAddressPrefix: 10.2.0.0/16, destinationPortRange: 5000-6000}
azureFirewalls: {fw: {virtualNetwork: hub, firewallPolicy: base, publicIPAddresses: [203.0.113.20]}}
firewallPolicies:
  base:
    ruleCollectionGroups:
      - name: g
        priority: 100
        ruleCollections:
          - {name: c, priority: 100, action: Allow, rules: [{name: sql, ruleType: NetworkRule, ipProtocols: [TCP], sourceAddresses: [10.1.0.0/16], destinationAddresses: [10.2.0.0/16], destinationPorts: [1000-9000]}]}
routeTables:
  to-two: {routes: [{name: r, addressPrefix: 10.2.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}]}
  to-one: {routes: [{name: r, addressPrefix: 10.1.0.0/16, nextHopType: VirtualAppliance, nextHopIpAddress: 10.0.1.4}]}
";

fn load(text: &str) -> Topology {
    vnet_config::load(text, "lab.yaml", None).unwrap_or_else(|error| panic!("{error}\n{text}")).topology
}

/// The lab with a part of its text replaced.
fn changed(from: &str, to: &str) -> Topology {
    let text = LAB.replace(from, to);
    assert_ne!(text, LAB, "{from}");
    load(&text)
}

fn changes() -> Vec<Topology> {
    vec![
        changed("destinationPortRange: 5432", "destinationPortRange: 5433"),
        changed("destinationPorts: [1000-9000]", "destinationPorts: [2000-8000]"),
        changed("nextHopIpAddress: 10.0.1.4}]}\n  to-one", "nextHopIpAddress: 10.0.9.4}]}\n  to-one"),
        changed("nextHopIpAddress: 10.0.1.4", "nextHopIpAddress: 10.0.9.4"),
        changed("peerings: {hub: {allowForwardedTraffic: true}}\n  two", "peerings: {hub: {}}\n  two"),
        changed("enableIPForwarding: true", "enableIPForwarding: false"),
        changed(", networkSecurityGroup: guard", ""),
        load(LAB),
    ]
}

fn speaks_of(change: &PairChange, pair: &PairReport, protocol: SearchProtocol, port: u16) -> bool {
    let holds = |ranges: &[PortRange], port: u16| {
        ranges.is_empty() || ranges.iter().any(|range| range.contains(port))
    };
    change.protocol == protocol
        && change.from.contains(&pair.from)
        && change.to.contains(&pair.to)
        && holds(&change.destination_ports, port)
        && holds(&change.source_ports, 49_152)
}

/// Every pair of two matrices against what the impact says of it.
fn check(old: &Topology, new: &Topology, report: &ImpactReport) -> usize {
    let ((_, before), (_, after)) = (converge(old), converge(new));
    let mut found = 0;
    for (probe, protocol, port) in [
        (ProbeProtocol::Icmp, SearchProtocol::Icmp, 0),
        (ProbeProtocol::Tcp, SearchProtocol::Tcp, 999),
        (ProbeProtocol::Tcp, SearchProtocol::Tcp, 1000),
        (ProbeProtocol::Tcp, SearchProtocol::Tcp, 5432),
        (ProbeProtocol::Tcp, SearchProtocol::Tcp, 5433),
        (ProbeProtocol::Tcp, SearchProtocol::Tcp, 9000),
        (ProbeProtocol::Udp, SearchProtocol::Udp, 53),
    ] {
        let asked = (protocol != SearchProtocol::Icmp).then_some(port);
        for (was, is) in matrix(&before, probe, asked).into_iter().zip(matrix(&after, probe, asked)) {
            assert_eq!((&was.from, &was.to), (&is.from, &is.to));
            let names = |snapshot: &Snapshot, pair: &PairReport| -> Vec<String> {
                let hops = pair.outcome.via.iter().chain(&pair.outcome.via_reverse);
                hops.map(|hop| snapshot.hop_name(*hop).to_owned()).collect()
            };
            let expected = match (was.outcome.reason.is_none(), is.outcome.reason.is_none()) {
                (true, false) => Some(Effect::Drop),
                (false, true) => Some(Effect::Allow),
                (true, true)
                    if names(&before, &was) != names(&after, &is)
                        || was.outcome.source_seen_as != is.outcome.source_seen_as =>
                {
                    Some(Effect::Reroute)
                }
                _ => None,
            };
            let said: Vec<Effect> = report
                .pairs
                .iter()
                .filter(|change| speaks_of(change, &was, protocol, port))
                .map(|change| change.effect)
                .collect();
            assert_eq!(said, Vec::from_iter(expected), "{} -> {} {protocol:?}/{port}", was.from, was.to);
            found += said.len();
        }
    }
    found
}

#[test]
fn an_impact_says_of_every_pair_what_two_matrices_say() {
    let old = load(LAB);
    let found: usize = changes().iter().map(|new| check(&old, new, &impact_of_files(&old, new))).sum();
    assert!(found > 20, "{found}");
}

#[test]
fn machines_that_nothing_tells_apart_are_named_together() {
    let report = impact_of_files(&load(LAB), &changes()[1]);
    let groups: Vec<&Vec<String>> = report.pairs.iter().map(|change| &change.from).collect();
    assert!(
        !groups.is_empty() && groups.iter().all(|group| **group == ["web1", "web2", "web3"]),
        "{groups:?}"
    );
}

#[test]
fn what_comes_and_goes_is_named() {
    let report = impact_of_files(
        &load(LAB),
        &changed("web3: {subnet: one/app}", "web4: {subnet: one/app, privateIPAddress: 10.1.0.77}"),
    );
    assert_eq!(
        (&report.removed[..], &report.added[..]),
        (&["web3/eth0".to_owned()][..], &["web4/eth0".to_owned()][..])
    );
}

/// What becomes of a connection from web1 to db that lives through the change.
fn live(new: &Topology) -> Option<Effect> {
    let old = load(LAB);
    let mut state = State::default();
    let mut apply = |topology: &Topology| {
        state.step(Event::Apply(std::sync::Arc::new(topology.clone())), Nanos::ZERO);
        vnet_fabric::compile(topology, &state)
    };
    let (before, after) = (apply(&old), apply(new));
    let port = before.port_by_name("web1/eth0").unwrap();
    let tuple = FiveTuple {
        protocol: Protocol::TCP,
        source: port.addresses[0].addr(),
        destination: "10.2.0.4".parse().unwrap(),
        source_port: 50_000,
        destination_port: 5432,
    };
    let back = before.port_by_name("db/eth0").unwrap();
    // The sessions that its first packet and the answer have opened.
    let mut sessions: Vec<SessionOpen> = Vec::new();
    for (at, tuple) in [(port.id, tuple), (back.id, tuple.reversed())] {
        let ends = ((tuple.source, tuple.source_port), (tuple.destination, tuple.destination_port));
        let packet = first_packet(tuple.protocol, ends.0, ends.1);
        let decision = decide(&before, &sessions, at, &packet, &mut NoTrace);
        assert!(matches!(decision.verdict, Verdict::Deliver(_)), "{:?}", decision.verdict);
        sessions.extend(decision.opens.iter().copied());
    }
    let flow = LiveFlow { port: port.id, tuple, answers: Some((back.id, tuple.reversed())), bytes: 9100 };
    let state = LiveState { flows: vec![flow], sessions: sessions.into_iter().collect() };
    let report = impact(&before, &after, &state);
    assert_eq!(report.flows_total, 1);
    report.flows.first().map(|flow| {
        assert_eq!((&*flow.from, flow.destination_port), ("web1/eth0", 5432));
        flow.effect
    })
}

#[test]
fn a_live_flow_keeps_its_sessions_and_loses_what_has_none() {
    let [group, firewall, one_way, other_way, forwarded, ..] = &changes()[..] else { unreachable!() };
    assert_eq!(live(&load(LAB)), None);
    // A security group's change meets new flows only.
    assert_eq!(live(group), None);
    assert_eq!(live(firewall), None);
    // The firewall judges its sessions anew.
    assert_eq!(
        live(&changed("destinationPorts: [1000-9000]", "destinationPorts: [443]")),
        Some(Effect::Drop)
    );
    // The appliance takes what it is handed, the firewall sees half of it.
    assert_eq!(live(one_way), Some(Effect::Reroute));
    assert_eq!(live(other_way), Some(Effect::Reroute));
    assert_eq!(live(forwarded), Some(Effect::Drop));
}

const WAY_OUT: &str = "
name: lab
virtualNetworks:
  v: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, networkSecurityGroup: n, natGateway: nat}}}
virtualMachines:
  b: {subnet: v/s, privateIPAddress: 10.0.0.4, publicIPAddress: 203.0.113.9}
natGateways: {nat: {publicIPAddresses: [203.0.113.7]}}
networkSecurityGroups:
  n: {securityRules: []}
internet: {hosts: {example: {addresses: [198.51.100.10]}}}
";

fn outward(from: &str, to: &str) -> ImpactReport {
    let text = WAY_OUT.replace(from, to);
    assert_ne!(text, WAY_OUT, "{from}");
    impact_of_files(&load(WAY_OUT), &load(&text))
}

fn tcp_to<'r>(report: &'r ImpactReport, host: &str) -> Vec<&'r PairChange> {
    let of = |change: &&PairChange| change.to == [host] && change.protocol == SearchProtocol::Tcp;
    report.pairs.iter().filter(of).collect()
}

#[test]
fn what_a_rule_keeps_from_the_internet_is_a_drop() {
    let deny = "securityRules: [{name: shut, priority: 100, direction: Outbound, access: Deny, protocol: '*', \
        sourceAddressPrefix: '*', destinationAddressPrefix: Internet, destinationPortRange: '*'}]";
    let report = outward("securityRules: []", deny);
    for host in ["example", "internet"] {
        let changes = tcp_to(&report, host);
        assert!(!changes.is_empty(), "{host}: {report:#?}");
        for change in changes {
            assert_eq!((change.effect, &change.from[..]), (Effect::Drop, &["b".to_owned()][..]));
            assert_eq!(change.after.rule.as_deref(), Some("n/securityRules/shut"));
        }
    }
    let covered: Vec<_> = tcp_to(&report, "internet").iter().flat_map(|c| &c.destination_addresses).collect();
    let public: std::net::IpAddr = "8.8.8.8".parse().unwrap();
    assert!(covered.iter().any(|net| net.contains(&public)), "{covered:?}");
    assert!(tcp_to(&report, "b").is_empty(), "{report:#?}");
}

#[test]
fn a_way_out_with_another_source_address_is_a_reroute_that_names_both() {
    let report = outward(", natGateway: nat", "");
    for host in ["example", "internet"] {
        let changes = tcp_to(&report, host);
        assert!(!changes.is_empty(), "{host}: {report:#?}");
        for change in changes {
            let seen =
                [&change.before, &change.after].map(|verdict| verdict.source_seen_as.unwrap().to_string());
            assert_eq!(
                (change.effect, seen),
                (Effect::Reroute, ["203.0.113.7", "203.0.113.9"].map(String::from))
            );
            assert_eq!(change.before.leaves, host == "internet");
        }
    }
}

#[test]
fn a_reroute_names_the_route_of_the_user_that_makes_it() {
    let report = impact_of_files(&load(LAB), &changes()[3]);
    let rerouted: Vec<&PairChange> = report
        .pairs
        .iter()
        .filter(|change| change.effect == Effect::Reroute && change.to == ["db"])
        .collect();
    assert!(!rerouted.is_empty(), "{report:#?}");
    for change in rerouted {
        let routes = [&change.before, &change.after].map(|verdict| verdict.route.clone().unwrap());
        assert!(routes[0].contains("10.0.1.4") && routes[1].contains("10.0.9.4"), "{routes:?}");
    }
}

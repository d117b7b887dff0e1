//! What a plan says of flows that live, against what their next packets meet once it is in force.

use std::net::IpAddr;
use std::sync::Arc;

use vnet_analysis::impact::{Effect, FlowChange, ImpactReport, impact};
use vnet_config::Topology;
use vnet_dataplane::{FiveTuple, Headers, Nanos, PortId, Protocol, Reason};
use vnet_fabric::{Event, Snapshot, State};
use vnet_tests::simulation::{Simulation, later_packet, packet};

/// A lab with a router, and what is in force there.
struct Scene {
    state: State,
    simulation: Simulation,
}

/// A conversation as its two sides know it.
#[derive(Clone, Copy, Debug)]
struct Talk {
    /// Who began it, and with what.
    from: (PortId, FiveTuple),
    /// Who got that, and as what.
    to: (PortId, FiveTuple),
    /// Whether answers came back.
    answered: bool,
}

/// Where a packet has arrived, and as what.
type Arrival = Result<(PortId, FiveTuple), Reason>;

impl Scene {
    fn up(topology: &Topology) -> Scene {
        let (state, snapshot) = vnet_fabric::converge(topology);
        Scene { state, simulation: Simulation::new(snapshot) }
    }

    fn read(text: &str) -> Topology {
        vnet_config::load(text, "lab.yaml", None).unwrap_or_else(|error| panic!("{error}\n{text}")).topology
    }

    fn next(&self, topology: &Topology) -> (State, Snapshot) {
        let mut state = self.state.clone();
        state.step(Event::Apply(Arc::new(topology.clone())), Nanos::ZERO);
        let snapshot = vnet_fabric::compile(topology, &state);
        (state, snapshot)
    }

    fn plan(&self, topology: &Topology) -> ImpactReport {
        let flows = self.simulation.live();
        impact(self.simulation.router.snapshot(), &self.next(topology).1, &flows)
    }

    fn apply(&mut self, topology: &Topology) {
        let (state, snapshot) = self.next(topology);
        self.state = state;
        self.simulation.publish(snapshot);
    }

    fn port(&self, name: &str) -> PortId {
        self.simulation.router.snapshot().port_by_name(name).unwrap_or_else(|| panic!("no port {name}")).id
    }

    fn send(&mut self, (port, _): (PortId, FiveTuple), packet: &[u8]) -> Arrival {
        let (port, arrived) = self.simulation.send(port, packet)?;
        Ok((port, Headers::parse(&arrived).expect("what arrives is sound").meta.tuple))
    }

    /// Begins a conversation: a packet, its answer, and the packet after that; nothing where the first is dropped.
    fn talk(&mut self, port: PortId, tuple: FiveTuple) -> Option<Talk> {
        let from = (port, tuple);
        let to = self.send(from, &packet(tuple, false)).ok()?;
        let back = (to.0, to.1.reversed());
        let answered = self.send(back, &packet(back.1, true)) == Ok((port, tuple.reversed()));
        if answered {
            let third = self.send(from, &later_packet(tuple, false));
            if third != Ok(to) {
                return None;
            }
        }
        Some(Talk { from, to, answered })
    }

    /// Whether the next packets of both sides come where they came before.
    fn goes_on(&mut self, talk: &Talk) -> bool {
        let forward = self.send(talk.from, &later_packet(talk.from.1, false));
        let moved = forward != Ok(talk.to);
        if forward.is_err() || talk.from.1.protocol == Protocol::TCP && moved {
            return false;
        }
        let back = (talk.to.0, talk.to.1.reversed());
        !talk.answered
            || self.send(back, &later_packet(back.1, true)) == Ok((talk.from.0, talk.from.1.reversed()))
    }
}

fn tcp(source: &str, source_port: u16, destination: &str, destination_port: u16) -> FiveTuple {
    let address = |text: &str| text.parse::<IpAddr>().unwrap_or_else(|_| panic!("{text} is an address"));
    let (source, destination) = (address(source), address(destination));
    FiveTuple { protocol: Protocol::TCP, source, destination, source_port, destination_port }
}

const GROUP: &str = "
name: lab
virtualNetworks:
  a: {addressSpace: [10.0.0.0/16], subnets: {c: {addressPrefix: 10.0.0.0/24}, s: {addressPrefix: 10.0.1.0/24, networkSecurityGroup: n}}}
networkSecurityGroups:
  n:
    flushConnection: false
    securityRules:
      - {name: ssh, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: 10.0.0.0/24, destinationAddressPrefix: '*', destinationPortRange: 22}
      - {name: no, priority: 200, direction: Inbound, access: Deny, protocol: '*', sourceAddressPrefix: '*', destinationAddressPrefix: '*', destinationPortRange: '*'}
virtualMachines:
  c: {subnet: a/c, privateIPAddress: 10.0.0.4}
  s: {subnet: a/s, privateIPAddress: 10.0.1.4}
";

const RULE: &str = "      - {name: ssh, priority: 100, direction: Inbound, access: Allow, protocol: Tcp, sourceAddressPrefix: 10.0.0.0/24, destinationAddressPrefix: '*', destinationPortRange: 22}\n";

fn edited(text: &str, edits: &[(&str, &str)]) -> Topology {
    let mut text = text.to_owned();
    for (from, to) in edits {
        assert!(text.contains(from), "{from}\n{text}");
        text = text.replace(from, to);
    }
    Scene::read(&text)
}

/// The one flow that a plan names, which a change drops.
fn dropped(report: &ImpactReport, total: usize) -> &FlowChange {
    assert_eq!((report.flows.len(), report.flows_total), (1, total), "{:#?}", report.flows);
    let flow = &report.flows[0];
    assert_eq!(
        (flow.effect, flow.before.allowed, flow.after.allowed),
        (Effect::Drop, true, false),
        "{flow:#?}"
    );
    assert!(!flow.depends_on_first_sender, "{flow:#?}");
    flow
}

/// A connection from c to s that has outlived the rule which let it in.
fn outlived(text: &str, rule: &str, port: u16) -> (Scene, Talk) {
    let mut scene = Scene::up(&Scene::read(text));
    let talk = scene.talk(scene.port("c/eth0"), tcp("10.0.0.4", 40_000, "10.0.1.4", port));
    let talk = talk.expect("the rule allows it");
    assert!(talk.answered);
    let without = edited(text, &[(rule, "")]);
    let report = scene.plan(&without);
    assert_eq!((&report.flows[..], report.flows_total), (&[][..], 1));
    scene.apply(&without);
    assert!(scene.goes_on(&talk), "it outlives its rule");
    (scene, talk)
}

#[test]
fn a_flow_that_lives_by_its_session_alone_is_seen_to_be_flushed() {
    let (mut scene, talk) = outlived(GROUP, RULE, 22);
    let flushed = edited(GROUP, &[(RULE, ""), ("flushConnection: false", "flushConnection: true")]);
    let report = scene.plan(&flushed);
    let flow = dropped(&report, 1);
    assert_eq!((&*flow.from, flow.after.reason.as_deref()), ("c/eth0", Some("NsgDeny")));
    assert_eq!(flow.after.rule.as_deref(), Some("n/securityRules/no"));
    scene.apply(&flushed);
    assert!(!scene.goes_on(&talk));
    assert_eq!(scene.plan(&flushed).flows_total, 0, "it lives no more");
}

#[test]
fn a_flow_that_lives_by_its_session_alone_is_seen_to_lose_its_route() {
    let (mut scene, talk) = outlived(GROUP, RULE, 22);
    let table = "routeTables: {rt: {routes: [{name: x, addressPrefix: 10.0.1.0/24, nextHopType: None}]}}\nnetworkSecurityGroups:";
    let nowhere = edited(
        GROUP,
        &[
            (RULE, ""),
            ("{addressPrefix: 10.0.0.0/24}", "{addressPrefix: 10.0.0.0/24, routeTable: rt}"),
            ("networkSecurityGroups:", table),
        ],
    );
    let report = scene.plan(&nowhere);
    assert_eq!(dropped(&report, 1).after.reason.as_deref(), Some("RouteNone"));
    // Whom a rule denied before and after, the route changes nothing for; the other direction loses its answers.
    let pairs: Vec<_> = report.pairs.iter().map(|pair| (&*pair.from[0], &*pair.to[0], pair.effect)).collect();
    assert!(!pairs.is_empty() && pairs.iter().all(|pair| *pair == ("s", "c", Effect::Drop)), "{pairs:?}");
    scene.apply(&nowhere);
    assert!(!scene.goes_on(&talk));
}

#[test]
fn who_began_is_known_by_the_sessions_and_not_by_the_ports() {
    let (rule, text) = (
        RULE.replace("22}", "61500}"),
        GROUP.replace("destinationPortRange: 22}", "destinationPortRange: 61500}"),
    );
    let (mut scene, talk) = outlived(&text, &rule, 61_500);
    let flushed = edited(&text, &[(&rule, ""), ("flushConnection: false", "flushConnection: true")]);
    let report = scene.plan(&flushed);
    let flow = dropped(&report, 1);
    assert_eq!(
        (&*flow.from, flow.destination_port, flow.after.reason.as_deref()),
        ("c/eth0", 61_500, Some("NsgDeny"))
    );
    scene.apply(&flushed);
    assert!(!scene.goes_on(&talk));
}

const WAY_OUT: &str = "
name: lab
virtualNetworks:
  a: {addressSpace: [10.0.0.0/16], subnets: {s: {addressPrefix: 10.0.0.0/24, networkSecurityGroup: n}}}
networkSecurityGroups: {n: {}}
natGateways: {ng: {sku: Standard, publicIPAddresses: [203.0.113.42]}}
virtualMachines:
  a: {subnet: a/s, privateIPAddress: 10.0.0.4, publicIPAddress: 203.0.113.10}
  b: {subnet: a/s, privateIPAddress: 10.0.0.5}
internet: {hosts: {example: {address: 203.0.113.80}}}
";

#[test]
fn flows_to_the_internet_count_once_and_keep_their_way() {
    let mut scene = Scene::up(&Scene::read(WAY_OUT));
    let by_own =
        scene.talk(scene.port("a/eth0"), tcp("10.0.0.4", 40_000, "203.0.113.80", 22)).expect("a's own");
    let by_default =
        scene.talk(scene.port("b/eth0"), tcp("10.0.0.5", 40_001, "203.0.113.80", 22)).expect("b's");
    assert!(by_own.answered && by_default.answered);
    let gateway = ("networkSecurityGroup: n}", "networkSecurityGroup: n, natGateway: ng}");
    let with_gateway = edited(WAY_OUT, &[gateway]);
    let report = scene.plan(&with_gateway);
    assert_eq!((&report.flows[..], report.flows_total), (&[][..], 2), "both keep their way");
    scene.apply(&with_gateway);
    let without_address = edited(WAY_OUT, &[(", publicIPAddress: 203.0.113.10", "")]);
    let report = scene.plan(&without_address);
    let flow = dropped(&report, 2);
    assert_eq!((&*flow.from, flow.after.reason.as_deref()), ("a/eth0", Some("NoListener")));
    scene.apply(&without_address);
    assert_eq!((scene.goes_on(&by_own), scene.goes_on(&by_default)), (false, true));
}

#[test]
fn a_new_group_has_no_session_of_a_flow_and_takes_the_first_sender_for_the_one_that_began() {
    let open = GROUP.replace(", networkSecurityGroup: n}", "}");
    let flow = tcp("10.0.0.4", 40_000, "10.0.1.4", 80);
    for server_first in [false, true] {
        let mut scene = Scene::up(&Scene::read(&open));
        let talk = scene.talk(scene.port("c/eth0"), flow).expect("nothing filters");
        let guarded = Scene::read(GROUP);
        let report = scene.plan(&guarded);
        assert_eq!(report.flows.len(), 1, "{:#?}", report.flows);
        assert_eq!((report.flows[0].effect, report.flows[0].depends_on_first_sender), (Effect::Drop, true));
        scene.apply(&guarded);
        if server_first {
            let back = (talk.to.0, talk.to.1.reversed());
            assert!(scene.send(back, &later_packet(back.1, true)).is_ok());
        }
        assert_eq!(scene.goes_on(&talk), server_first);
    }
}

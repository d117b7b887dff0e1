//! Real packets through the router, over random topologies: each meets what the fabric predicts, answers too,
//! and none is lost uncounted.

use std::net::IpAddr;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestRng, TestRunner};
use vnet_dataplane::{FiveTuple, Headers, PortId, Protocol, Reason};
use vnet_fabric::converge;
use vnet_fabric::trace::StepKind;
use vnet_tests::agreement::{endpoints, pairs, same_end};
use vnet_tests::fabric::{Fabric, Travel};
use vnet_tests::generate::{Features, sketch};
use vnet_tests::model::walk::{walks, walks_back};
use vnet_tests::model::{Endpoint, Lab, Packet, Way};
use vnet_tests::simulation::{Simulation, framed, packet};
use vnet_tests::subject::Subject;

/// Topologies that are walked with packets.
fn labs() -> usize {
    let usual = if std::env::var_os("VNET_NIGHTLY").is_some() { 5_000 } else { 150 };
    std::env::var("VNET_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

fn random_labs(count: usize) -> impl Iterator<Item = (Lab, Fabric)> {
    let config = Config { failure_persistence: None, ..Config::default() };
    let mut runner =
        TestRunner::new_with_rng(config.clone(), TestRng::deterministic_rng(config.rng_algorithm));
    let strategy = sketch();
    let labs = std::iter::from_fn(move || {
        let topology =
            strategy.new_tree(&mut runner).expect("a sketch can be made").current().topology(Features::BUILT);
        Some((Lab::read(&topology), Fabric::build(&topology)))
    });
    labs.filter_map(|(lab, fabric)| Some((lab.ok()?, fabric.ok()?))).take(count)
}

/// A flow of its own for every question, so that none meets the sessions of another.
fn tuple(source: IpAddr, destination: IpAddr, number: u16) -> FiveTuple {
    let icmp = if source.is_ipv4() { Protocol::ICMP } else { Protocol::ICMPV6 };
    let protocol = [icmp, Protocol::TCP, Protocol::UDP][usize::from(number % 3)];
    let source_port = 10_000 + number;
    let destination_port =
        if protocol.is_icmp() { source_port } else { [22, 443][usize::from(number / 3 % 2)] };
    FiveTuple { protocol, source, destination, source_port, destination_port }
}

fn same(fabric: &Fabric, travel: &Travel, got: &Result<(PortId, Vec<u8>), Reason>) -> bool {
    match (&travel.end, got) {
        (Ok(expected), Ok((port, arrived))) => {
            let got = Headers::parse(arrived).expect("what arrives is sound").meta.tuple;
            // Which address and port of a pool a flow gets hangs on a hash and on the flows before.
            let ends = |tuple: FiveTuple| {
                (tuple.protocol, fabric.snapshot.chosen_among(tuple.source), tuple.destination)
            };
            let translated = travel.steps.iter().any(|step| {
                matches!(step.kind, StepKind::Translate | StepKind::Firewall | StepKind::Internet)
            });
            expected == port && if translated { ends(got) == ends(travel.tuple) } else { got == travel.tuple }
        }
        (Err(expected), Err(reason)) => expected == reason,
        _ => false,
    }
}

/// The question that the model is asked of a flow.
fn question(tuple: FiveTuple) -> Packet {
    let ports = if tuple.protocol.is_icmp() { (0, 0) } else { (tuple.source_port, tuple.destination_port) };
    Packet {
        protocol: tuple.protocol,
        source: tuple.source,
        destination: tuple.destination,
        source_port: ports.0,
        destination_port: ports.1,
        opens: true,
    }
}

/// One of the model's ways ends as the packet did.
fn modelled(fabric: &Fabric, ways: &[Way], got: &Result<(PortId, Vec<u8>), Reason>) -> bool {
    let end = got.as_ref().map(|(port, _)| *port).map_err(|reason| *reason);
    ways.iter().any(|way| same_end(fabric, way, &end))
}

/// Sends a packet. One that machines send round and round ends by its TTL, which nothing but a loop takes away.
fn sent(simulation: &mut Simulation, port: PortId, packet: &[u8]) -> Result<(PortId, Vec<u8>), Reason> {
    simulation.send(port, packet).map_err(|reason| match reason {
        Reason::TtlExceeded => Reason::RoutingLoop,
        reason => reason,
    })
}

/// Sends a flow's first packet and its answer; how many packets were held against prediction and model.
fn exchange(
    simulation: &mut Simulation,
    (lab, fabric): (&Lab, &Fabric),
    from: &Endpoint,
    flow: FiveTuple,
) -> usize {
    let port = fabric.port_of(from.name());
    let (forward, back) = fabric.travel_both(port, flow, true);
    let got = sent(simulation, port, &packet(flow, false));
    assert!(same(fabric, &forward, &got), "{flow}: predicted {forward:#?}, got {got:?}\n{lab:#?}");
    let ways = walks(lab, from, question(flow), &[]);
    assert!(modelled(fabric, &ways, &got), "{flow}: the model says {ways:?}, got {got:?}\n{lab:#?}");
    let (Some(back), Ok((at, arrived))) = (back, got) else { return 1 };
    let seen = Headers::parse(&arrived).expect("what arrives is sound").meta.tuple;
    let got = sent(simulation, at, &packet(seen.reversed(), true));
    assert!(same(fabric, &back, &got), "answer to {flow}: predicted {back:#?}, got {got:?}\n{lab:#?}");
    let answers: Vec<Way> = ways.iter().filter_map(|way| walks_back(lab, way)).flatten().collect();
    assert!(
        modelled(fabric, &answers, &got),
        "answer to {flow}: the model says {answers:?}, got {got:?}\n{lab:#?}"
    );
    2
}

#[test]
fn packets_meet_what_is_predicted() {
    let (mut questions, mut packets) = (0, 0);
    for (lab, fabric) in random_labs(labs()) {
        let (_, snapshot) = converge(&fabric.topology);
        let mut simulation = Simulation::new(snapshot);
        let mut number = 0;
        for (from, _, source, destination) in pairs(&lab) {
            for _ in 0..3 {
                number += 1;
                let flow = tuple(source, destination, number);
                packets += exchange(&mut simulation, (&lab, &fabric), &from, flow);
                questions += 1;
            }
        }
        let (entered, left) = simulation.balance();
        assert_eq!(entered, left, "packets in and out of {lab:#?}");
    }
    let answers = packets - questions;
    assert!(questions > 1_000 && answers > 200, "{questions} questions, {answers} answers: too dull a test");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A packet between two addresses of the lab with some bytes changed or cut off, or nothing but noise.
fn mangled(random: &mut Random, addresses: &[IpAddr], frame: &mut Vec<u8>) {
    let pair = (addresses[random.below(addresses.len())], addresses[random.below(addresses.len())]);
    frame.clear();
    if pair.0.is_ipv4() != pair.1.is_ipv4() || random.below(10) == 0 {
        let length = random.below(120);
        frame.extend((0..length).map(|_| random.next() as u8));
        return;
    }
    frame.extend(framed(&packet(tuple(pair.0, pair.1, random.next() as u16 % 50_000), random.below(4) == 0)));
    for _ in 0..random.below(5) {
        let at = random.below(frame.len());
        frame[at] = random.next() as u8;
    }
    if random.below(4) == 0 {
        let length = random.below(frame.len() + 1);
        frame.truncate(length);
    }
}

#[test]
fn a_million_mangled_packets_are_all_accounted_for() {
    let mut random = Random(11);
    let mut total = 0;
    for (lab, fabric) in random_labs(20) {
        let addresses: Vec<IpAddr> = endpoints(&lab).iter().flat_map(|end| lab.addresses(end)).collect();
        let mut simulation = Simulation::new(fabric.snapshot);
        let ports: Vec<_> = simulation.router.snapshot().ports().map(|port| port.id).collect();
        let mut frame = Vec::new();
        for _ in 0..50_000 {
            mangled(&mut random, &addresses, &mut frame);
            let port = ports[random.below(ports.len())];
            total += 1;
            simulation.shower(port, &mut frame);
        }
        simulation.rest();
        let (entered, left) = simulation.balance();
        assert_eq!(entered, left, "packets in and out of {lab:#?}");
    }
    assert_eq!(total, 1_000_000);
}
